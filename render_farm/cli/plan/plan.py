"""`render-farm plan`: what a manifest would render, without rendering anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.plan.degrees import CfgParallel, Ring, Ulysses
from render_farm.cli.plan.stored import StoredShare, stored_shares
from render_farm.cli.runs import open_output
from render_farm.cli.terminal import Json, duration, error_line, one_line, plural, print_json, say
from render_farm.errors import InputError, InvalidJobError, ManifestError, ModelError

if TYPE_CHECKING:
    from render_farm.errors import Problem
    from render_farm.manifest.rows import Row
    from render_farm.media.limits import InputLimits
    from render_farm.planning import FilmPlan, ModelSpec
    from render_farm.planning.prices import ChoicePrice
    from render_farm.planning.prompt_length import LengthOf

ALL_FAILED, SOME_FAILED = 10, 11


@dataclass
class Totals:
    """Sums over all films of a manifest."""

    films: int = 0
    segments: int = 0
    steps: int = 0
    frames: int = 0
    video_s: float = 0.0
    refused: int = 0
    stored_segments: int = 0
    """Segments that are stored and will be used (`--output`)."""
    shared_segments: int = 0
    """Segments that are rendered for another film of the manifest."""
    done: int = 0
    """Films that need not be."""
    work: int = 0
    work_left: int = 0
    """Token passes."""
    models: dict[str, int] = field(default_factory=dict)

    def add(self, film: FilmPlan) -> None:
        """Count one more film."""
        self.films += 1
        self.segments += film.num_segments
        self.steps += sum(film.schedule(segment).num_rows for segment in range(film.num_segments))
        self.frames += film.num_frames
        self.video_s += film.num_frames / film.job.fps
        self.models[film.job.model] = self.models.get(film.job.model, 0) + 1

    def add_stored(self, film: FilmPlan, share: StoredShare) -> None:
        """Count what is stored of the film that was added last."""
        self.stored_segments += film.num_segments if share.is_done else share.num_segments
        self.shared_segments += share.num_shared
        self.done += share.is_done
        self.work += StoredShare().work_left(film)
        self.work_left += share.work_left(film)

    @property
    def exit_code(self) -> int:
        """What `render` would end with, if refused rows were all that fails."""
        if not self.refused:
            return 0
        return SOME_FAILED if self.films else ALL_FAILED


def plan(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="A Parquet file: a path or a URI.")],
    jobs: Annotated[int, typer.Option("--jobs", "-n", min=0, help="How many films to draw. All are counted.")] = 20,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 if a row cannot be rendered.")] = False,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="URI", help="Also show what is stored there already.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="GPU workers of one host, for `auto`.")] = 8,
    ulysses: Ulysses = None,
    ring: Ring = None,
    cfg_parallel: CfgParallel = None,
    as_json: Json = False,
) -> None:
    """Show every film's segments, without rendering. Rows that cannot be rendered are listed with the reason and what
    would work. Exit codes: 11 some rows are refused, 10 all are, 2 the manifest cannot be used.
    """
    from render_farm.cli.plan.plan_groups import GroupPlanner
    from render_farm.farm.run.settings import load_settings
    from render_farm.manifest.reader import load_manifest
    from render_farm.planning.prices import prices
    from render_farm.uris import shown_uri

    settings = load_settings()
    spec = SpecsOfModels(settings.model, settings.inputs)
    groups = GroupPlanner(settings, workers, {"ulysses": ulysses, "ring": ring, "cfg_parallel": cfg_parallel})
    totals = Totals()
    films: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    rows = list(load_manifest(manifest, limits=settings.manifest))
    shares: Mapping[str, StoredShare] = {}
    if output is not None:
        asked = [row.job for row in rows if row.job is not None]
        shares, notes_of_stored = stored_shares(asked, open_output(output), settings)
        spec.notes += notes_of_stored
    for row in rows:
        try:
            film = plan_row(row, spec, groups.flags)
        except InvalidJobError as error:
            totals.refused += 1
            lines = [f"{row.label}: {problem}" for problem in error.problems]
            refused.append({"row": row.number, "job_id": row.job_id[:128], "problems": lines})
            continue
        totals.add(film)
        share = shares.get(film.job.job_id, StoredShare())
        if output is not None:
            totals.add_stored(film, share)
        if totals.films > jobs:
            continue
        assert row.job is not None, "it was planned"
        costs = prices(row.job, film.spec)
        if as_json:
            described: dict[str, Any] = {
                "groups": groups.described(film),
                "prices": [asdict(price) for price in costs],
            }
            if output is not None:
                described["stored"] = asdict(share)
            films.append({**_described(film), **described})
        else:
            notes = (f"  note: {warning}" for warning in film.warnings)
            stored = [share.line(film)] if output is not None else []
            further = (f"  {line}" for line in (*groups.lines(film), *_priced(costs), *stored))
            say("\n".join([*_drawn(film), *further, *notes, ""]))
    problems = [line for entry in refused for line in entry["problems"]]
    exit_code = 2 if strict and refused else totals.exit_code
    if as_json:
        of_output = {"stored_segments", "shared_segments", "done", "work", "work_left"}
        left_out = {"models"} if output is not None else {"models"} | of_output
        sums = {name: value for name, value in vars(totals).items() if name not in left_out}
        print_json(
            {
                "manifest": shown_uri(manifest),
                "jobs": films,
                "refused": refused,
                "totals": {**sums, "models": totals.models},
            }
        )
    else:
        _print_totals(totals, jobs)
        if output is not None:
            share_left = f"{totals.work_left / totals.work:.0%} of the work is" if totals.work else "nothing is"
            shared = f"{totals.shared_segments} shared by films, " if totals.shared_segments else ""
            say(
                f"stored there: {totals.stored_segments} of {plural(totals.segments, 'segment')}, {shared}"
                f"{plural(totals.done, 'film')} done; {share_left} left"
            )
        _print_notes([*spec.notes, *problems])
    if strict and problems:
        raise ManifestError(f"{shown_uri(manifest)}: {plural(len(refused), 'row')} cannot be rendered")
    raise typer.Exit(exit_code)


class SpecsOfModels:
    """Looks each model up once. `notes` say which ones are planned with assumed defaults."""

    def __init__(self, default_model: str, limits: InputLimits) -> None:
        self.notes: list[str] = []
        self.limits = limits
        """On where models and inputs of rows may be."""
        self._default = default_model
        self._known: dict[str, ModelSpec | ModelError] = {}
        self._lengths: dict[str, LengthOf] = {}

    def of(self, model: str | None) -> ModelSpec:
        """The spec of `model`. Raises `ModelError` for a folder that holds no model, `InputError` for a place that is
        not allowed."""
        from render_farm.media.fetching.places import check_model_uri

        name = model or self._default
        if name != self._default:
            check_model_uri(name, self.limits)
        if name not in self._known:
            try:
                self._known[name] = self._look_up(name)
            except ModelError as error:
                self._known[name] = error
        found = self._known[name]
        if isinstance(found, ModelError):
            raise found
        return found

    def length_of(self, model: str | None) -> LengthOf:
        """How the tokens of a prompt are counted: by the model's own tokenizer where it is on this machine."""
        name = model or self._default
        if name not in self._lengths:
            from render_farm.engine.conditioning.token_count import lengths_by_tokenizer, local_folder

            self._lengths[name] = lengths_by_tokenizer(local_folder(name))
        return self._lengths[name]

    def _look_up(self, name: str) -> ModelSpec:
        from pathlib import Path

        from render_farm.models import (
            CUSTOM_DEFAULTS,
            CUSTOM_IMAGE_DEFAULTS,
            CUSTOM_VIDEO_DEFAULTS,
            DIFFUSION_FORCING_TASKS,
            PRESETS,
            Family,
        )
        from render_farm.planning import ModelSpec, spec_of_preset

        if name in PRESETS:
            return spec_of_preset(name)
        folder = Path(name).expanduser()
        if folder.is_dir():
            from render_farm.engine.weights.checkpoint import read_checkpoint

            return read_checkpoint(folder, name=name, dtype="float32").spec
        self.notes.append(f"model {name} was not read: planned with the defaults of custom models")
        return ModelSpec(
            name=name,
            fingerprint="",
            family=Family.DIFFUSION_FORCING,
            tasks=DIFFUSION_FORCING_TASKS,
            num_heads=0,
            dtype="float32",
            defaults=CUSTOM_DEFAULTS,
            image_defaults=CUSTOM_IMAGE_DEFAULTS,
            video_defaults=CUSTOM_VIDEO_DEFAULTS,
        )


def plan_row(row: Row, spec: SpecsOfModels, group: Mapping[str, int] = MappingProxyType({})) -> FilmPlan:
    """Raises `InvalidJobError` for a row that cannot be rendered. `group` are degrees for jobs that name none."""
    from render_farm.errors import Problem
    from render_farm.planning import plan_film
    from render_farm.planning.film import with_notes

    if row.job is None:
        raise InvalidJobError(row.problems, job_id=row.job_id)
    given: dict[str, Any] = {name: degree for name, degree in group.items() if getattr(row.job, name) is None}
    try:
        film = plan_film(replace(row.job, **given), spec.of(row.job.model), length_of=spec.length_of(row.job.model))
    except (ModelError, InputError) as error:
        raise InvalidJobError([Problem(field="model", message=str(error))], job_id=row.job_id) from error
    if missing := _missing_inputs(film, spec.limits):
        raise InvalidJobError(missing, job_id=row.job_id)
    return with_notes(film, row.warnings)


def _missing_inputs(film: FilmPlan, limits: InputLimits) -> list[Problem]:
    """Inputs and LoRAs that are not allowed, and those on this machine that are not there. Whether others are there is
    found when the film is rendered."""
    from pathlib import Path

    from render_farm.errors import Problem
    from render_farm.media.fetching.places import check_local, check_place
    from render_farm.uris import read_address, shown_uri

    problems = []
    for name, uri in [*film.job.inputs.items(), *(("loras", lora.path) for lora in film.job.loras)]:
        try:
            check_place(uri, limits)
            address = read_address(uri)
            if address.is_local:
                check_local(uri, address.place, limits)
        except InputError as error:
            problems.append(Problem(field=name, message=str(error)))
            continue
        if address.is_local and not Path(address.place).exists():
            problems.append(Problem(field=name, message=f"{shown_uri(uri)}: not found"))
    return problems


class RowChecker:
    """What `plan` would refuse or warn of, row by row, for `manifest check`."""

    def __init__(self, default_model: str, limits: InputLimits) -> None:
        self._specs = SpecsOfModels(default_model, limits)

    @property
    def notes(self) -> list[str]:
        """Of the models."""
        return self._specs.notes

    def look_at(self, row: Row) -> tuple[tuple[Problem, ...], tuple[str, ...]]:
        """Why the row cannot be rendered, and what there is to say of it."""
        try:
            return (), plan_row(row, self._specs).warnings
        except InvalidJobError as error:
            return error.problems, ()


def _described(film: FilmPlan) -> dict[str, Any]:
    job = film.job
    return {
        "job_id": job.job_id,
        "model": job.model,
        "task": job.task,
        "num_frames": film.num_frames,
        "num_latent_frames": film.num_latent_frames,
        "height": job.height,
        "width": job.width,
        "fps": job.fps,
        "seed": job.seed,
        "segments": [
            {
                "start": window.start,
                "num_latent_frames": window.num_latent_frames,
                "num_prefix_frames": window.num_prefix_frames,
                "num_dropped_frames": window.num_dropped_frames,
                "num_kept_frames": window.num_kept_frames,
                "num_steps": film.schedule(window.index).num_rows,
                "prompt": job.prompt_of(window.index),
                **({"cut": True} if window.starts_take and window.index else {}),
            }
            for window in film.windows
        ],
        "warnings": list(film.warnings),
    }


def _drawn(film: FilmPlan) -> list[str]:
    from render_farm.planning.drawing import draw_shots, draw_timeline, draw_windows
    from render_farm.uris import shown_uri

    job = film.job
    steps = sum(film.schedule(segment).num_rows for segment in range(film.num_segments))
    mode = f"asynchronous, ar_step {job.ar_step}" if job.ar_step else "synchronous"
    if job.causal_block_size > 1:
        mode += f", {job.block_attention} attention"
    return [
        f"{job.job_id}: {job.task} with {job.model}, {film.num_frames} frames of {job.width}x{job.height} "
        f"({film.num_frames / job.fps:.1f} s at {job.fps}), {film.num_latent_frames} latent frames",
        f"  {plural(film.num_segments, 'segment')}, {plural(steps, 'step')}, {mode}, seed {job.seed}",
        *(f"  {line}" for line in draw_windows(film) + draw_timeline(film)),
        *(f"  LoRA {shown_uri(lora.path)}, weight {lora.weight:g}" for lora in job.loras),
        *(f"  {one_line(line)}" for line in draw_shots(film)),
        *(f"  prompt {number}: {one_line(prompt)}" for number, prompt in _prompts(film) if len(job.prompts) > 1),
    ]


def _priced(costs: list[ChoicePrice]) -> Iterable[str]:
    for price in costs:
        seconds = ""
        if price.gpu_s is not None:
            number = f"{price.gpu_s:,.0f}" if price.gpu_s >= 100 else f"{price.gpu_s:.3g}"
            number = "under 0.01" if price.gpu_s < 0.01 else number
            seconds = f", {number} GPU seconds (predicted)"
        name = "cost" if price is costs[0] else f"  {price.name}"
        most = "at most " if price.at_most else ""
        yield f"{name}: {most}{plural(price.num_forwards, 'forward')}{seconds}"


def _prompts(film: FilmPlan) -> Iterable[tuple[str, str]]:
    prompts = () if film.job.shots else film.job.prompts[: film.num_segments]
    for index, prompt in enumerate(prompts):
        repeats = index == len(prompts) - 1 and film.num_segments > len(prompts)
        yield (f"{index + 1}-{film.num_segments}" if repeats else f"{index + 1}"), prompt


def _print_totals(totals: Totals, num_drawn: int) -> None:
    if totals.films > num_drawn:
        say(f"... {plural(totals.films - num_drawn, 'film')} not drawn (--jobs)\n")
    models = ", ".join(f"{name} ({count})" for name, count in totals.models.items())
    say(
        f"total: {plural(totals.films, 'film')}, {plural(totals.segments, 'segment')}, {plural(totals.steps, 'step')}, "
        f"{plural(totals.frames, 'frame')}, {duration(totals.video_s)} of video"
        + (f"; models: {models}" if models else "")
        + (f"; {plural(totals.refused, 'row')} refused" if totals.refused else "")
    )


def _print_notes(lines: list[str]) -> None:
    for line in lines:
        error_line(line)
