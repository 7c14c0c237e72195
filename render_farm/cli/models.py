"""`render-farm models list|info`: the presets, and what a job that leaves a column null gets from them."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from typing import Annotated

import typer

from render_farm.cli.terminal import Json, print_json, table
from render_farm.errors import NotFoundError
from render_farm.models import PRESETS, Preset

app = typer.Typer(no_args_is_help=True, help="The models that a job can name.")


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the presets. A job may also name a folder or URI in diffusers format."""
    if as_json:
        print_json({"models": [_described(preset) for preset in PRESETS.values()]})
        return
    rows = [
        [preset.name, ", ".join(preset.tasks), _size(preset), f"{d.width}x{d.height}", preset.hub_id or "built in"]
        for preset in PRESETS.values()
        for d in [preset.defaults]
    ]
    print("\n".join(table(["model", "tasks", "parameters", "size", "where"], rows)))


@app.command("info")
def info(model: Annotated[str, typer.Argument(help="A preset's name.")], as_json: Json = False) -> None:
    """Show one preset and its defaults. Exit code 14 when there is none of that name."""
    preset = PRESETS.get(model.lower())
    if preset is None:
        close = difflib.get_close_matches(model.lower(), PRESETS, n=1)
        advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(PRESETS)}"
        raise NotFoundError(f"no preset is named {model}", advice=advice)
    if as_json:
        print_json(_described(preset))
        return
    facts = [
        ["model", preset.name],
        ["where", preset.hub_id or "built in"],
        ["tasks", ", ".join(preset.tasks)],
        ["parameters", _size(preset)],
    ]
    if preset.num_layers:
        facts.append(["transformer", f"{preset.num_layers} layers, {preset.num_heads} heads"])
    print("\n".join(f"{name:<12} {value}" for name, value in facts))
    print("\ndefaults of columns left null:")
    text, image = asdict(preset.defaults), asdict(preset.image_defaults)
    rows = [[name, _shown(value), _shown(image[name])] for name, value in text.items()]
    print("\n".join(table(["column", "t2v, v2v", "i2v, flf2v"], rows)))


def _described(preset: Preset) -> dict[str, object]:
    return {**asdict(preset), "family": preset.family.value, "tasks": list(preset.tasks)}


def _size(preset: Preset) -> str:
    number = preset.num_parameters
    return f"{number / 1e9:.1f} B" if number >= 1e8 else f"{number / 1e6:.1f} M"


def _shown(value: object) -> str:
    return "the checkpoint's" if value is None else repr(value) if isinstance(value, str) else str(value)
