"""What cannot be rendered, found before anything is: each check returns problems that name what would work.

The cases are those in which diffusers crashes after minutes of work, or silently leaves noise in the film.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from render_farm.errors import Problem
from render_farm.models import Family
from render_farm.planning.facts import ModelFacts
from render_farm.planning.frames import num_latent_frames, num_pixel_frames
from render_farm.planning.resolve import INPUT_COLUMNS, ResolvedJob
from render_farm.planning.schedule import most_inference_steps
from render_farm.planning.tasks import IMAGE_TASKS, INPUTS, num_given_frames
from render_farm.planning.windows import Window, plan_windows

_SEARCH_FRAMES = 400
"""How far, in pixel frames, a working frame count is looked for."""


def check(job: ResolvedJob, facts: ModelFacts) -> list[Problem]:
    """Every reason why `job` cannot be rendered with `facts`; empty when it can."""
    return [
        *_check_served(job, facts),
        *_check_size(job, facts),
        *_check_steps(job),
        *_check_inputs(job),
        *_check_windows(job, facts),
    ]


def _check_served(job: ResolvedJob, facts: ModelFacts) -> Iterator[Problem]:
    if facts.family is not Family.DIFFUSION_FORCING:
        yield Problem(
            field="model",
            message=f"{facts.name} is a {facts.family.replace('_', '-')} checkpoint; this version renders with "
            "diffusion-forcing checkpoints (df-1.3b-540p, df-14b-540p, df-14b-720p, tiny)",
        )
    elif job.task not in facts.tasks:
        yield Problem(
            field="task", message=f"{job.task} is not served by {facts.name}; {', '.join(facts.tasks)} would work"
        )
    if job.loras:
        yield Problem(field="loras", message="adapters are not applied by this version; leave it null")
    for name in ("ulysses", "ring", "cfg_parallel"):
        if (getattr(job, name) or 1) > 1:
            yield Problem(
                field=name, message=f"{getattr(job, name)} needs a render group; this version renders a segment on 1"
            )


def _check_size(job: ResolvedJob, facts: ModelFacts) -> Iterator[Problem]:
    multiple = facts.spatial_factor * facts.patch
    for name in ("height", "width"):
        value = getattr(job, name)
        if value % multiple:
            below = value // multiple * multiple
            works = f"{below} or {below + multiple}" if below else str(multiple)
            yield Problem(field=name, message=f"{value} is not a multiple of {multiple}; {works} would work")


def _check_steps(job: ResolvedJob) -> Iterator[Problem]:
    most = most_inference_steps(job.flow_shift)
    if job.num_inference_steps > most:
        yield Problem(
            field="num_inference_steps",
            message=f"{job.num_inference_steps} is too many for flow_shift {job.flow_shift:g}: two steps would get the "
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


def _check_windows(job: ResolvedJob, facts: ModelFacts) -> Iterator[Problem]:
    factor = facts.temporal_factor
    if _leaves_nothing_new(job, factor):
        most = num_pixel_frames(num_latent_frames(job.base_num_frames, factor) - 1, factor)
        yield Problem(
            field="overlap_history",
            message=f"{job.overlap_history} leaves no new frames in a window of base_num_frames "
            f"{job.base_num_frames}; "
            + (f"the most is {most}" if most else "a larger base_num_frames is needed (at least 5)"),
        )
        return
    room = list(_check_room(job, factor))
    yield from room
    if job.task in IMAGE_TASKS and job.causal_block_size > 1:
        yield Problem(
            field="causal_block_size",
            message=f"{job.causal_block_size} does not work with task {job.task}: an image is one latent frame, and "
            "would be denoised away with the rest of its block; 1 would work",
        )
    elif not room:
        yield from _check_blocks(job, _windows(job, factor), factor)


def _check_room(job: ResolvedJob, factor: int) -> Iterator[Problem]:
    """Whether the inputs' frames are whole, and leave something to render in the first window."""
    overlap = job.overlap_history
    if job.task == "v2v" and (overlap - 1) % factor:
        below = (overlap - 1) // factor * factor + 1
        yield Problem(
            field="overlap_history",
            message=f"{overlap} is not of the form {factor}n+1, so the newest frames of the video would not be seen; "
            f"{below} or {below + factor} would work",
        )
    given = num_given_frames(job.task, overlap, factor)
    least = num_pixel_frames(given + 1, factor)
    if given and job.num_frames < least:
        what = f"the {overlap} frames of overlap_history" if job.task == "v2v" else "the image"
        yield Problem(
            field="num_frames", message=f"{job.num_frames} leaves nothing to render after {what}; the least is {least}"
        )


def _windows(job: ResolvedJob, factor: int) -> tuple[Window, ...]:
    return plan_windows(
        num_frames=job.num_frames,
        base_num_frames=job.base_num_frames,
        overlap_history=job.overlap_history,
        causal_block_size=job.causal_block_size,
        temporal_factor=factor,
        task=job.task,
    )


def _check_blocks(
    job: ResolvedJob, windows: Iterable[Window], factor: int, *, explain: bool = True
) -> Iterator[Problem]:
    """The first window whose frames do not fall into blocks; `explain` adds what would work (a search)."""
    block = job.causal_block_size
    for window in windows:
        frames = window.num_latent_frames
        if frames % block:
            yield Problem(
                field="causal_block_size",
                message=f"{block} does not divide window {window.index}, which has {frames} latent frames: its last "
                f"{frames % block} would stay noise; {_what_works(job, factor) if explain else ''}",
            )
            return
        if window.num_prefix_frames and frames // block <= window.num_prefix_frames // block:
            yield Problem(
                field="num_frames",
                message=f"{job.num_frames} leaves window {window.index} no whole block of {block} latent frames after "
                f"the {window.num_prefix_frames} it takes over; {_what_works(job, factor) if explain else ''}",
            )
            return


def _fits(job: ResolvedJob, factor: int) -> bool:
    if _leaves_nothing_new(job, factor) or any(_check_room(job, factor)):
        return False
    return not any(_check_blocks(job, _windows(job, factor), factor, explain=False))


def _leaves_nothing_new(job: ResolvedJob, factor: int) -> bool:
    base, overlap = (num_latent_frames(n, factor) for n in (job.base_num_frames, job.overlap_history))
    return job.num_frames > job.base_num_frames and overlap >= base


def _what_works(job: ResolvedJob, factor: int) -> str:
    """The nearest frame counts that work; when none does, the window itself must change."""
    base_frames = num_latent_frames(job.base_num_frames, factor)
    long_film = job.num_frames > job.base_num_frames
    counts = _nearest_counts(job, factor)
    if counts and not (long_film and base_frames % job.causal_block_size):
        return f"num_frames {' or '.join(map(str, counts))} would work (or causal_block_size 1)"
    blocks = max(1, base_frames // job.causal_block_size)
    base = num_pixel_frames(blocks * job.causal_block_size, factor)
    counts = _nearest_counts(replace(job, base_num_frames=base), factor, include_own=True)
    if counts and job.overlap_history < base:
        return f"base_num_frames {base} with num_frames {' or '.join(map(str, counts))} would work (or " + (
            "causal_block_size 1)"
        )
    return "causal_block_size 1 would work"


def _nearest_counts(job: ResolvedJob, factor: int, *, include_own: bool = False) -> list[int]:
    own = job.num_frames
    if include_own and _fits(job, factor):
        return [own]
    below = range(own - factor, max(0, own - _SEARCH_FRAMES), -factor)
    above = range(own + factor, own + _SEARCH_FRAMES, factor)
    found = (next((n for n in counts if _fits(replace(job, num_frames=n), factor)), None) for counts in (below, above))
    return [n for n in found if n]
