"""`render-farm models list|info|pull`: the presets, what a job gets from them, and getting their weights."""

from __future__ import annotations

import difflib
import time
from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Annotated

import typer

from render_farm.cli.doctor.checks import gib
from render_farm.cli.terminal import Json, hint, print_json, say, table
from render_farm.errors import NotFoundError, UsageError
from render_farm.job import RenderJob
from render_farm.models import PRESETS, Preset
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.memory import MemoryEstimate, estimate_memory
from render_farm.planning.model_sizes import sizes_of_preset
from render_farm.planning.tasks import IMAGE_TASKS

if TYPE_CHECKING:
    from render_farm.storage.hub import HubFile

_GB = 1e9
_REPORT_EVERY_S = 5.0

app = typer.Typer(no_args_is_help=True, help="The models that a job can name.")


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the presets. A job may also name a folder or URI in diffusers format."""
    if as_json:
        print_json({"models": [_described(preset) for preset in PRESETS.values()]})
        return
    rows = [
        [
            preset.name,
            ", ".join(preset.tasks),
            _size(preset),
            f"{preset.defaults.width}x{preset.defaults.height}",
            _memory(preset),
            preset.hub_id or "built in",
        ]
        for preset in PRESETS.values()
    ]
    say("\n".join(table(["model", "tasks", "parameters", "size", "GPU memory", "where"], rows)))


@app.command("info")
def info(model: Annotated[str, typer.Argument(help="A preset's name.")], as_json: Json = False) -> None:
    """Show one preset and its defaults. Exit code 14 when there is none of that name."""
    preset = PRESETS.get(model.lower())
    if preset is None:
        raise _unknown(model)
    if as_json:
        print_json(_described(preset))
        return
    lines = [
        ["model", preset.name],
        ["where", preset.hub_id or "built in"],
        ["tasks", ", ".join(preset.tasks)],
        ["parameters", _size(preset)],
        ["GPU memory", f"{_memory(preset)} for a job with the defaults, by the memory model (bfloat16)"],
    ]
    if preset.num_layers:
        lines.append(["transformer", f"{preset.num_layers} layers, {preset.num_heads} heads"])
    say("\n".join(f"{name:<12} {value}" for name, value in lines))
    say("\ndefaults of columns left null:")
    text, image = asdict(preset.defaults), asdict(preset.image_defaults)
    rows = [[name, _shown(value), _shown(image[name])] for name, value in text.items()]
    say("\n".join(table(["column", "t2v, v2v", "i2v, flf2v"], rows)))


@app.command("pull")
def pull(
    model: Annotated[str, typer.Argument(help="A preset's name or a hub id.")],
    to: Annotated[str, typer.Option("--to", metavar="FOLDER|URI", help="Where to put it. Then use this as the model.")],
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit. Default: main.")] = None,
    as_json: Json = False,
) -> None:
    """Copy a model from the Hugging Face hub to a folder or URI, with checksums. Run again, it verifies the copy and
    repairs it. An interrupted pull resumes where it stopped. HF_ENDPOINT names a mirror, HF_TOKEN a token. Exit codes:
    2 the hub or the place cannot be used, 14 the hub has no such model.
    """
    from render_farm.storage.pull import pull_model

    preset = PRESETS.get(model.lower())
    if preset is None and "/" not in model:
        raise _unknown(model)
    if preset is not None and preset.hub_id is None:
        raise UsageError(f"{model} is built in", advice="nothing has to be pulled")
    progress = _PullProgress()
    report = pull_model(
        preset.hub_id if preset is not None and preset.hub_id else model,
        to,
        revision=revision,
        on_file=progress.file,
        on_bytes=progress.bytes,
    )
    if as_json:
        print_json(asdict(report))
        return
    say(
        f"{report.uri}: {report.num_files} files, {report.num_bytes / _GB:.2f} GB, commit {report.commit[:12]}; "
        f"{len(report.fetched)} fetched, the others verified"
    )


class _PullProgress:
    """Lines on stderr: each file that is fetched, and how much has arrived. Called in several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._num_bytes = 0
        self._reported_s = time.monotonic()

    def file(self, doing: str, file: HubFile) -> None:
        if doing == "fetch":
            hint(f"fetch {file.path} ({file.size / _GB:.2f} GB)")

    def bytes(self, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes += num_bytes
            if time.monotonic() - self._reported_s > _REPORT_EVERY_S:
                self._reported_s = time.monotonic()
                hint(f"  {self._num_bytes / _GB:.2f} GB have arrived")


def _unknown(model: str) -> NotFoundError:
    close = difflib.get_close_matches(model.lower(), PRESETS, n=1)
    advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(PRESETS)}"
    return NotFoundError(f"no preset is named {model}", advice=advice)


def _described(preset: Preset) -> dict[str, object]:
    needed = memory_of_defaults(preset)
    memory = None if needed is None else {"least_bytes": needed.least_bytes, "full_bytes": needed.full_bytes}
    return {**asdict(preset), "family": preset.family.value, "tasks": list(preset.tasks), "memory": memory}


def memory_of_defaults(preset: Preset) -> MemoryEstimate | None:
    """What a job that leaves every column null needs, of its first task; None for the built-in model (little)."""
    if preset.hub_id is None:
        return None
    task = preset.tasks[0]
    job = RenderJob(
        job_id="defaults",
        prompt="any",
        task=task,
        image="any" if task in IMAGE_TASKS else None,
        last_image="any" if task == "flf2v" else None,
    )
    plan = plan_film(job, spec_of_preset(preset.name))
    return estimate_memory(plan, sizes_of_preset(preset))


def _memory(preset: Preset) -> str:
    needed = memory_of_defaults(preset)
    return "little" if needed is None else gib(needed.least_bytes)


def _size(preset: Preset) -> str:
    number = preset.num_parameters
    return f"{number / 1e9:.1f} B" if number >= 1e8 else f"{number / 1e6:.1f} M"


def _shown(value: object) -> str:
    return "the checkpoint's" if value is None else repr(value) if isinstance(value, str) else str(value)
