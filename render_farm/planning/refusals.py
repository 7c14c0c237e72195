"""What cannot be rendered, found before anything is: each check returns problems that name what would work.

The cases are those in which diffusers crashes after minutes of work, or silently leaves noise in the film.
"""

from __future__ import annotations

from collections.abc import Iterator

from render_farm.errors import Problem
from render_farm.models import DISTILLED, PRESETS
from render_farm.planning.groups import check_group
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import INPUT_COLUMNS, ResolvedJob
from render_farm.planning.schedule import most_inference_steps
from render_farm.planning.shot_refusals import check_shots
from render_farm.planning.tasks import INPUTS
from render_farm.planning.window_refusals import check_windows
from render_farm.step_cache import CacheKind, parse_cache


def check(job: ResolvedJob, spec: ModelSpec) -> list[Problem]:
    """Every reason why `job` cannot be rendered with `spec`; empty when it can."""
    return [
        *_check_served(job, spec),
        *check_group(job, spec),
        *_check_size(job, spec),
        *_check_steps(job),
        *_check_inputs(job),
        *(check_shots(job, spec) if job.shots else check_windows(job, spec)),
    ]


def _check_served(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    if job.task not in spec.tasks:
        yield Problem(field="task", message=f"{job.task} is not served by {spec.name}; {_what_serves(job.task, spec)}")
    if spec.sample_info and not spec.renders_windows:
        yield Problem(
            field="model",
            message=f"{spec.name} has a transformer that is told the frame rate (inject_sample_info), which only the "
            "diffusion-forcing pipelines do; a model_index.json that names SkyReelsV2DiffusionForcingPipeline would "
            "work if it is such a checkpoint",
        )
    cache = parse_cache(job.cache)
    if cache and cache.kind is CacheKind.MAG and spec.magnitudes is None:
        yield Problem(
            field="cache",
            message=f"mag needs the magnitudes of {spec.name}, which were not measured with these weights; "
            "`python -m render_farm.engine.calibrate FOLDER` measures them, and first_block:0.05 needs none",
        )


def _what_serves(task: str, spec: ModelSpec) -> str:
    """The tasks of the model with their inputs, and the presets for `task`."""
    own = [f"{name} ({' and '.join(INPUTS[name]) or 'no inputs'})" for name in spec.tasks]
    others = [name for name, preset in PRESETS.items() if task in preset.tasks]
    return f"it serves {', '.join(own)}; {task} is served by {', '.join(others)}"


def _check_size(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    multiple = spec.spatial_factor * spec.patch
    for name in ("height", "width"):
        value = getattr(job, name)
        if value % multiple:
            below = value // multiple * multiple
            works = f"{below} or {below + multiple}" if below else str(multiple)
            yield Problem(field=name, message=f"{value} is not a multiple of {multiple}; {works} would work")


def _check_steps(job: ResolvedJob) -> Iterator[Problem]:
    if job.sampler == DISTILLED:
        if job.num_inference_steps != len(job.step_list):
            yield Problem(
                field="num_inference_steps",
                message=f"{job.num_inference_steps} are not the {len(job.step_list)} of step_list; leave it null",
            )
        return
    if job.step_list:
        yield Problem(field="step_list", message=f"is for sampler {DISTILLED}, and sampler is {job.sampler}")
    flow_shift = min((job.flow_shift, *(shot.flow_shift for shot in job.shots)), key=most_inference_steps)
    most = most_inference_steps(flow_shift)
    if job.num_inference_steps > most:
        yield Problem(
            field="num_inference_steps",
            message=f"{job.num_inference_steps} is too many for flow_shift {flow_shift:g}: two steps would get the "
            f"same integer timestep; the most is {most}",
        )


def _check_inputs(job: ResolvedJob) -> Iterator[Problem]:
    needed = INPUTS[job.task]
    for name in INPUT_COLUMNS:
        given = getattr(job, name)
        if given and name not in needed:
            takes = " and ".join(needed) or "none"
            yield Problem(field=name, message=f"is given, but task {job.task} takes {takes}; leave it null")
        if name in needed and not given:
            yield Problem(field=name, message=f"is missing; task {job.task} needs {' and '.join(needed)}: give its URI")
