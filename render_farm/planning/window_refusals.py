"""Windows that cannot be rendered: nothing new in them, frames that fall into no blocks, too long for the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from render_farm.errors import Problem
from render_farm.models import PRESETS, Family
from render_farm.planning.frames import num_latent_frames, num_pixel_frames
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import ResolvedJob
from render_farm.planning.shots import MAX_SEGMENTS
from render_farm.planning.tasks import IMAGE_TASKS, num_given_frames
from render_farm.planning.windows import Window, windows_of

SEARCH_FRAMES = 400
"""How far, in pixel frames, a working frame count is looked for."""


def check_windows(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    """What is wrong with the film's windows, each with what would work."""
    yield from _check_overlapping(job, spec) if spec.renders_windows else _check_single(job, spec)


def _check_single(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    """A film by a checkpoint without diffusion forcing: one window, all of its frames at the same step."""
    only = "only diffusion-forcing checkpoints"
    if job.base_num_frames < job.num_frames:
        yield Problem(
            field="base_num_frames",
            message=f"{job.base_num_frames} is less than num_frames {job.num_frames}, but {spec.name} renders a film "
            f"in one window; leave it null, or use a model that renders windows ({windowed_models()})",
        )
    if job.ar_step:
        yield Problem(field="ar_step", message=f"{job.ar_step} needs blocks that lag, {only} have them; 0 would work")
    if job.causal_block_size not in (1, spec.num_frame_per_block):
        yield Problem(
            field="causal_block_size",
            message=f"{job.causal_block_size} is for diffusion-forcing checkpoints; "
            f"{spec.num_frame_per_block} (the checkpoint's own) would work",
        )
        return
    if job.task == "flf2v" and job.num_frames < spec.temporal_factor + 1:
        yield Problem(
            field="num_frames",
            message=f"{job.num_frames} has no room for image and last_image; the least is {spec.temporal_factor + 1}",
        )
    yield from _check_blocks(job, windows_of(job, spec), spec)
    yield from check_positions(job, windows_of(job, spec), spec)


def windowed_models() -> str:
    return ", ".join(name for name, preset in PRESETS.items() if preset.family is Family.DIFFUSION_FORCING)


def check_positions(job: ResolvedJob, windows: Iterable[Window], spec: ModelSpec) -> Iterator[Problem]:
    """Whether the model has rotary positions for the longest window and for the size; diffusers fails in the first
    step where it has not."""
    most, longest = spec.rope_max_len, max(windows, key=lambda window: window.num_seen_frames)
    if longest.num_seen_frames > most:
        field = "num_frames" if longest.index == 0 and job.num_frames <= job.base_num_frames else "base_num_frames"
        fits = num_pixel_frames(most - longest.num_last_image_frames, spec.temporal_factor)
        yield Problem(
            field=field,
            message=f"{getattr(job, field)} is {longest.num_seen_frames} latent frames in one window, {spec.name} has "
            f"positions for {most}; the most is {fits}",
        )
    for field in ("height", "width"):
        pixels = spec.spatial_factor * spec.patch
        if getattr(job, field) > most * pixels:
            yield Problem(
                field=field,
                message=f"{getattr(job, field)} is {getattr(job, field) // pixels} patches, {spec.name} has positions "
                f"for {most}; the most is {most * pixels}",
            )


def _check_overlapping(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    factor = spec.temporal_factor
    if _leaves_nothing_new(job, spec):
        most = num_pixel_frames(num_latent_frames(job.base_num_frames, factor) - 1, factor)
        yield Problem(
            field="overlap_history",
            message=f"{job.overlap_history} leaves no new frames in a window of base_num_frames "
            f"{job.base_num_frames}; "
            + (f"the most is {most}" if most else "a larger base_num_frames is needed (at least 5)"),
        )
        return
    if too_many := list(_check_count(job, spec)):
        yield from too_many
        return
    room = list(check_room(job, spec))
    yield from room
    if job.task in IMAGE_TASKS and job.causal_block_size > 1:
        yield Problem(
            field="causal_block_size",
            message=f"{job.causal_block_size} does not work with task {job.task}: an image is one latent frame, and "
            "would be denoised away with the rest of its block; 1 would work",
        )
    elif not room:
        windows = windows_of(job, spec)
        yield from _check_blocks(job, windows, spec)
        yield from check_positions(job, windows, spec)


def _check_count(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    """Whether there are few enough windows, without laying them out."""
    factor = spec.temporal_factor
    length, base, overlap = (
        num_latent_frames(n, factor) for n in (job.num_frames, job.base_num_frames, job.overlap_history)
    )
    is_one = job.num_frames <= job.base_num_frames or not spec.renders_windows
    count = 1 if is_one else 1 + -(-(length - base) // (base - overlap))
    if count <= MAX_SEGMENTS:
        return
    most = base - -(-(length - base) // (MAX_SEGMENTS - 1))
    works = f"overlap_history {num_pixel_frames(most, factor)} or less would work" if most > 0 else ""
    yield Problem(
        field="overlap_history",
        message=f"num_frames {job.num_frames}, base_num_frames {job.base_num_frames} and overlap_history "
        f"{job.overlap_history} are {count:,} segments; the most is {MAX_SEGMENTS:,}; "
        + (works or "a larger base_num_frames is needed"),
    )


def check_room(job: ResolvedJob, spec: ModelSpec) -> Iterator[Problem]:
    """Whether the inputs' frames are whole, and leave something to render in the first window."""
    overlap, factor = job.overlap_history, spec.temporal_factor
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


def _check_blocks(
    job: ResolvedJob, windows: Iterable[Window], spec: ModelSpec, *, explain: bool = True
) -> Iterator[Problem]:
    """The first window whose frames do not fall into blocks; `explain` adds what would work (a search)."""
    block = job.causal_block_size
    for window in windows:
        frames = window.num_latent_frames
        if frames % block:
            rest = f"its last {frames % block} would stay noise" if spec.renders_windows else "diffusers fails on it"
            yield Problem(
                field="causal_block_size",
                message=f"{block} does not divide window {window.index}, which has {frames} latent frames: {rest}; "
                f"{_what_works(job, spec) if explain else ''}",
            )
            return
        if window.num_prefix_frames and frames // block <= window.num_prefix_frames // block:
            yield Problem(
                field="num_frames",
                message=f"{job.num_frames} leaves window {window.index} no whole block of {block} latent frames after "
                f"the {window.num_prefix_frames} it takes over; {_what_works(job, spec) if explain else ''}",
            )
            return


def _fits(job: ResolvedJob, spec: ModelSpec) -> bool:
    if _leaves_nothing_new(job, spec) or any(_check_count(job, spec)) or any(check_room(job, spec)):
        return False
    return not any(_check_blocks(job, windows_of(job, spec), spec, explain=False))


def _leaves_nothing_new(job: ResolvedJob, spec: ModelSpec) -> bool:
    base, overlap = (num_latent_frames(n, spec.temporal_factor) for n in (job.base_num_frames, job.overlap_history))
    return spec.renders_windows and job.num_frames > job.base_num_frames and overlap >= base


def _what_works(job: ResolvedJob, spec: ModelSpec) -> str:
    """The nearest frame counts that work; when none does, the window itself must change."""
    factor = spec.temporal_factor
    base_frames = num_latent_frames(job.base_num_frames, factor)
    long_film = spec.renders_windows and job.num_frames > job.base_num_frames
    counts = _nearest_counts(job, spec)
    if counts and not (long_film and base_frames % job.causal_block_size):
        return f"num_frames {' or '.join(map(str, counts))} would work (or causal_block_size 1)"
    blocks = max(1, base_frames // job.causal_block_size)
    base = num_pixel_frames(blocks * job.causal_block_size, factor)
    counts = _nearest_counts(replace(job, base_num_frames=base), spec, include_own=True)
    if counts and job.overlap_history < base:
        return f"base_num_frames {base} with num_frames {' or '.join(map(str, counts))} would work (or " + (
            "causal_block_size 1)"
        )
    return "causal_block_size 1 would work"


def _nearest_counts(job: ResolvedJob, spec: ModelSpec, *, include_own: bool = False) -> list[int]:
    own, factor = job.num_frames, spec.temporal_factor
    if include_own and _fits(job, spec):
        return [own]
    below = range(own - factor, max(0, own - SEARCH_FRAMES), -factor)
    above = range(own + factor, own + SEARCH_FRAMES, factor)
    found = (next((n for n in counts if _fits(replace(job, num_frames=n), spec)), None) for counts in (below, above))
    return [n for n in found if n]
