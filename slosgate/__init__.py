"""slosgate: an OpenAI-compatible gateway that gives every LLM request a latency guarantee on vLLM, and its harness.

The five packages are links to the folders at the top of the checkout, so that nothing but `slosgate` is installed.
"""

from importlib.metadata import version

__version__ = version("slosgate")
