"""`slosgate profile derive`: a hardware profile for a model and a GPU that were not measured.

slosgate profile derive --model meta-llama/Llama-3.1-8B-Instruct --gpu h200 --out llama.json
slosgate profile derive --model ./my-model --gpu "NVIDIA A100-SXM4-80GB" --tp 2
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from slosgate.engines import profiles
from slosgate.planner.devices import UnknownDevice, device, short_name
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.roofline import DoesNotFit, derive
from slosgate.planner.shapes import Model, UnknownModel, known, shape

app = typer.Typer(no_args_is_help=True, help="Hardware profiles: how fast a model is on a GPU.")


@app.callback()
def profile() -> None:
    """Hardware profiles: how fast a model is on a GPU."""


@app.command("derive")
def derive_profile(
    model: Annotated[str, typer.Option(help="Folder with the model's config.json, or a known model's name.")],
    gpu: Annotated[str, typer.Option(help="GPU: short (h200), or as its driver reports it.")],
    tp: Annotated[int, typer.Option(help="Tensor-parallel GPUs that one replica spans.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="File to write; without it the profile is printed.")] = None,
) -> None:
    """Derive a profile from the model's shape and the GPU's peaks; a replica measures itself and needs none."""
    try:
        found = derived(model, gpu, tp, out.stem if out else "")
    except (UnknownModel, UnknownDevice, DoesNotFit) as error:
        typer.echo(f"slosgate: {error}", err=True)
        raise typer.Exit(2) from None
    if out is None:
        typer.echo(profiles.to_json(found).decode(), nl=False)
        return
    profiles.save(found, out)
    typer.echo(f"{out}: {found.source}")


def derived(model: str, gpu: str, tp: int, name: str = "") -> HardwareProfile:
    """The profile of a model on `tp` GPUs. Raises UnknownModel, UnknownDevice or DoesNotFit."""
    on, what = device(gpu), model_shape(model)
    plain = what.name.rstrip("/").rpartition("/")[2].lower()
    return derive(name or f"{short_name(on)}-{plain}" + (f"-tp{tp}" if tp > 1 else ""), what, on, tp)


def model_shape(model: str) -> Model:
    """The shape of the model in a folder, or of a known one. Raises UnknownModel."""
    folder = Path(model)
    if not folder.is_dir():
        return known(model)
    file = folder / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UnknownModel(f"model {model}: {file} can't be read: {error}") from None
    if not isinstance(config, dict):
        raise UnknownModel(f"model {model}: {file} should hold a JSON object")
    return shape(folder.resolve().name, config)
