"""Azure LLM inference trace 2024: a week of the same two services, 16.8 and 27.3 million rows.

The columns are those of 2023; timestamps carry +00:00 and up to six digits, or no fraction at all. Rows are read as
they are asked for: the first hour costs the memory of its own requests, not of the week.
"""

from __future__ import annotations

from slosgate.traces.formats import azure_2023
from slosgate.traces.formats.base import Dataset, Format

HOST = "https://azurepublicdatasettraces.blob.core.windows.net/azurellminfererencetrace"

FORMAT = Format(
    name="azure-2024",
    columns=", ".join(azure_2023.COLUMNS),
    timed=True,
    licence="CC-BY-4.0",
    citation="Stojkovic et al., DynamoLLM: Designing LLM inference clusters for performance and energy efficiency, "
    "HPCA 2025",
    read=azure_2023.read,
)
DATASETS = (
    Dataset(
        name="azure-code-2024",
        title="Azure code completion, one week from 2024-05-10, 16.8 million requests",
        format=FORMAT,
        files=("AzureLLMInferenceTrace_code_1week.csv",),
        url=f"{HOST}/AzureLLMInferenceTrace_code_1week.csv",
        megabytes=730,
    ),
    Dataset(
        name="azure-conv-2024",
        title="Azure conversation, one week from 2024-05-10, 27.3 million requests",
        format=FORMAT,
        files=("AzureLLMInferenceTrace_conv_1week.csv",),
        url=f"{HOST}/AzureLLMInferenceTrace_conv_1week.csv",
        megabytes=1200,
    ),
)
