"""Shots that cannot be rendered: frames that fall into no windows or blocks, and what a take cannot have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from render_farm.errors import Problem
from render_farm.planning.frames import num_latent_frames, num_pixel_frames
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import ResolvedJob
from render_farm.planning.shots import MAX_SEGMENTS, ResolvedShot, takes
from render_farm.planning.tasks import IMAGE_TASKS
from render_farm.planning.window_refusals import (
    SEARCH_FRAMES,
    check_positions,
    check_room,
    windowed_models,
)
from render_farm.planning.windows import Window, shot_windows, windows_of


def check_shots(job: ResolvedJob, spec: ModelSpec) -> list[Problem]:
    """What is wrong with the shots of a film, each with what would work."""
    if not spec.renders_windows and len(job.shots) > 1:
        message = f"{len(job.shots)} shots need a model that renders windows ({windowed_models()}); give one shot"
        return [Problem(field="shots", message=message)]
    count = sum(shot.num_segments for shot in job.shots)
    if count > MAX_SEGMENTS:
        return [Problem(field="shots", message=f"are {count:,} segments; the most is {MAX_SEGMENTS:,}")]
    problems = [*_check_film(job), *_check_overlap(job, spec)]
    for number, shot in enumerate(job.shots, start=1):
        said = [*_check_served(shot, number, spec), *_check_guidance(job, shot), *_check_frames(job, number, spec)]
        problems += [Problem(field="shots", message=f"shot {number}: {message}") for message in said]
    if problems:
        return problems
    problems += [Problem(field="shots", message=message) for message in _check_history(job, spec)]
    if problems:
        return problems
    for number in range(1, len(job.shots) + 1):
        said = list(_check_blocks(job, number, spec))
        problems += [Problem(field="shots", message=f"shot {number}: {message}") for message in said]
    return problems or list(check_positions(job, windows_of(job, spec), spec))


def _check_film(job: ResolvedJob) -> Iterator[Problem]:
    if job.last_image and sum(shot.starts_take for shot in job.shots) > 1:
        yield Problem(field="last_image", message="closes a film without cuts; leave it null, or leave out the cuts")
    if job.causal_block_size > 1 and any(shot.task in IMAGE_TASKS for shot in job.shots):
        yield Problem(
            field="causal_block_size",
            message=f"{job.causal_block_size} does not work with the image of a shot: it is one latent frame, and "
            "would be denoised away with the rest of its block; 1 would work",
        )


def _check_overlap(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    factor = spec.temporal_factor
    base, overlap = (num_latent_frames(n, factor) for n in (job.base_num_frames, job.overlap_history))
    if overlap >= base and any(not shot.starts_take or shot.num_segments > 1 for shot in job.shots):
        most = num_pixel_frames(base - 1, factor)
        works = f"the most is {most}" if most else "a larger base_num_frames is needed (at least 5)"
        yield Problem(
            field="overlap_history",
            message=f"{job.overlap_history} leaves no new frames in a window of base_num_frames "
            f"{job.base_num_frames}; {works}",
        )


def _check_served(shot: ResolvedShot, number: int, spec: ModelSpec) -> Iterator[str]:
    if number > 1 and shot.starts_take and shot.task not in spec.tasks:
        what = "its image" if shot.task == "i2v" else "a cut without image"
        yield f"{what} needs task {shot.task}, which {spec.name} does not serve; it serves {', '.join(spec.tasks)}"


def _check_guidance(job: ResolvedJob, shot: ResolvedShot) -> Iterator[str]:
    if (shot.guidance_scale > 1) != job.guided:
        is_on, works = ("off", "more than 1") if job.guided else ("on", "1")
        yield (
            f"guidance_scale {shot.guidance_scale:g} turns guidance {is_on} in a film that starts with "
            f"{job.guidance_scale:g}: all shots have guidance or none; {works} would work"
        )


def _check_frames(job: ResolvedJob, number: int, spec: ModelSpec) -> Iterator[str]:
    """Whether they are whole latent frames, and leave something to render after what the task's inputs give."""
    shot, factor = job.shots[number - 1], spec.temporal_factor
    if not _is_whole(shot, factor):
        form = f"{factor}n+1, as the first frame of a film is alone" if shot.starts_take else f"{factor}n"
        yield f"num_frames {shot.num_frames} is not of the form {form}; {_what_works(job, number, spec)}"
        return
    for problem in _check_room(job, shot, spec):
        what = problem.message.partition("; ")[0] if problem.field == "num_frames" else problem.message
        works = f"; {_what_works(job, number, spec)}" if problem.field == "num_frames" else ""
        yield f"{problem.field} {what}{works}"


def _is_whole(shot: ResolvedShot, factor: int) -> bool:
    return shot.num_frames > 0 and shot.num_frames % factor == (1 if shot.starts_take else 0)


def _check_room(job: ResolvedJob, shot: ResolvedShot, spec: ModelSpec) -> list[Problem]:
    if not shot.starts_take:
        return []
    return list(check_room(replace(job, task=shot.task, num_frames=shot.num_frames, shots=()), spec))


def _what_works(job: ResolvedJob, number: int, spec: ModelSpec) -> str:
    counts = _nearest(job, number, spec)
    return f"{counts} would work" if counts else "no number near it would work"


def _nearest(job: ResolvedJob, number: int, spec: ModelSpec) -> str:
    """The nearest frame counts with which a shot can be rendered; empty when there are none."""
    shot, factor = job.shots[number - 1], spec.temporal_factor
    rest = 1 if shot.starts_take else 0
    below = (shot.num_frames - rest) // factor * factor + rest
    counts = (range(below, 0, -factor), range(below + factor, below + SEARCH_FRAMES, factor))
    found = [next((n for n in some if _can_have(job, number, n, spec)), None) for some in counts]
    return " or ".join(str(n) for n in found if n)


def _can_have(job: ResolvedJob, number: int, num_frames: int, spec: ModelSpec) -> bool:
    """Whether a shot could have that many frames."""
    shot = replace(job.shots[number - 1], num_frames=num_frames)
    is_right = num_frames != job.shots[number - 1].num_frames and _is_whole(shot, spec.temporal_factor)
    if not is_right or _check_room(job, shot, spec):
        return False
    lends_history = shot.starts_take and number < len(job.shots) and not job.shots[number].starts_take
    if lends_history and _is_short(job, shot, spec):
        return False
    return any(_check_overlap(job, spec)) or _all_fit(job, shot, spec)


def _is_short(job: ResolvedJob, shot: ResolvedShot, spec: ModelSpec) -> bool:
    """Whether it has fewer frames than the next shot takes over."""
    factor = spec.temporal_factor
    return num_latent_frames(shot.num_frames, factor) < num_latent_frames(job.overlap_history, factor)


def _check_history(job: ResolvedJob, spec: ModelSpec) -> Iterator[str]:
    """Whether each shot that continues finds enough of its take."""
    factor, overlap = spec.temporal_factor, num_latent_frames(job.overlap_history, spec.temporal_factor)
    for take in takes(job.shots):
        shot, number = job.shots[take.start], take.start + 1
        if len(take) > 1 and _is_short(job, shot, spec):
            yield (
                f"shot {number}: num_frames {shot.num_frames} is less than the {num_pixel_frames(overlap, factor)} "
                f"frames of overlap_history {job.overlap_history} that shot {number + 1} takes over; "
                f"{_what_works(job, number, spec)}, or cut true in shot {number + 1}"
            )


def _check_blocks(job: ResolvedJob, number: int, spec: ModelSpec) -> Iterator[str]:
    """Whether the frames of its windows fall into causal blocks, and each has a block of its own."""
    shot = job.shots[number - 1]
    windows = _windows_of(job, shot, spec)
    wrong = next((window for window in windows if not _fits(window, job.causal_block_size)), None)
    if wrong is None:
        return
    counts = _nearest(job, number, spec)
    works = f"num_frames {counts} would work (or causal_block_size 1)" if counts else "causal_block_size 1 would work"
    yield (
        f"num_frames {shot.num_frames} gives it a window of {wrong.num_latent_frames} latent frames, "
        f"{wrong.num_prefix_frames} taken over, that does not fall into blocks of causal_block_size "
        f"{job.causal_block_size}; {works}"
    )


def _all_fit(job: ResolvedJob, shot: ResolvedShot, spec: ModelSpec) -> bool:
    return all(_fits(window, job.causal_block_size) for window in _windows_of(job, shot, spec))


def _fits(window: Window, block: int) -> bool:
    frames = window.num_latent_frames
    return frames % block == 0 and (not window.num_prefix_frames or frames // block > window.num_prefix_frames // block)


def _windows_of(job: ResolvedJob, shot: ResolvedShot, spec: ModelSpec) -> tuple[Window, ...]:
    """Those of one shot, whatever comes before it."""
    before = (job.base_num_frames, True, False, "t2v")
    own = (shot.num_frames, shot.starts_take, False, shot.task)
    spans = (own,) if shot.starts_take else (before, own)
    windows = shot_windows(
        spans=spans,
        base_num_frames=job.base_num_frames,
        overlap_history=job.overlap_history,
        causal_block_size=job.causal_block_size,
        temporal_factor=spec.temporal_factor,
    )
    return windows if shot.starts_take else windows[1:]
