"""A film's plan as text: its windows along the film, and for asynchronous films the steps of every block.

segment 1 │██████████████████████··································│ frames   1-97
segment 2 │··················░░░░███████████████████···············│ frames  98-177, from 81-97

Frames from the job's image or video are drawn as taken over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from render_farm.planning.film import FilmPlan
from render_farm.planning.frames import num_pixel_frames
from render_farm.planning.schedule import StepSchedule
from render_farm.planning.windows import Window

NEW, TAKEN_OVER, EMPTY = "█", "░", "·"
_COLUMNS = 60
_MOST_WINDOWS = 16
_MOST_BLOCKS = 12


def draw_windows(plan: FilmPlan) -> list[str]:
    """One line per segment: what it renders, and what it takes over from the one before. Frames count from 1."""
    total = plan.num_frames
    label = len(f"segment {plan.num_segments}")
    digits = len(str(total))
    lines = []
    for window in plan.windows:
        first, last, taken = _pixels(plan, window)
        bar = _bar([(first, last, NEW), (taken or first, first - 1, TAKEN_OVER)], total)
        text = f"frames {first:>{digits}}-{last}" + (f", from {taken}-{first - 1}" if taken else "")
        if window.num_input_frames:
            given = num_pixel_frames(window.num_input_frames, plan.spec.temporal_factor)
            bar = _bar([(first, last, NEW), (first, first + given - 1, TAKEN_OVER)], total)
            is_video = plan.job.task == "v2v" and not window.index
            text += f", {first}-{first + given - 1} from video" if is_video else f", {first} from image"
        text += ", after a cut" if window.starts_take and window.index else ""
        text += ", towards last_image" if window.num_last_image_frames else ""
        text += f", with {' and '.join(plan.job.inputs)}" if window.has_image_channels else ""
        lines.append(f"{f'segment {window.index + 1}':<{label}} │{bar}│ {text}")
    return _shortened(lines, _MOST_WINDOWS, "segments")


def draw_shots(plan: FilmPlan) -> list[str]:
    """One line per shot: its frames, its segments, what it sets, and its prompt. Empty for a film without shots."""
    lines, first = [], 0
    for number, (shot, prompt) in enumerate(zip(plan.job.shots, plan.job.prompts, strict=False), start=1):
        own = plan.windows[first : first + shot.num_segments]
        frames = f"{_pixels(plan, own[0])[0]}-{_pixels(plan, own[-1])[1]}"
        facts = [f"frames {frames}", _names(own)]
        facts += ["cut"] if shot.starts_take and first else []
        facts += [f"seed {shot.seed}"] if shot.seed is not None else []
        facts += [f"guidance {shot.guidance_scale:g}"] if shot.guidance_scale != plan.job.guidance_scale else []
        lines.append(f"shot {number} ({', '.join(facts)}): {' '.join(prompt.split())}")
        first += shot.num_segments
    return _shortened(lines, _MOST_WINDOWS, "shots")


def draw_timeline(plan: FilmPlan) -> list[str]:
    """One line a block: in which steps of a segment it is denoised. Empty for a synchronous film.

    Segments whose windows have the same shape share one picture.
    """
    if not plan.job.ar_step:
        return []
    lines: list[str] = []
    for shape, windows in groupby(plan.windows, key=_shape):
        same = list(windows)
        schedule = plan.schedule(same[0].index)
        num_taken = shape[1] // schedule.block_size
        lines.append(f"{_names(same)}: {schedule.num_rows} steps, {_blocks_text(schedule, num_taken)}")
        lines += _shortened(list(_block_lines(schedule, num_taken)), _MOST_BLOCKS, "blocks")
    return lines


def _pixels(plan: FilmPlan, window: Window) -> tuple[int, int, int]:
    """First and last frame that the window adds, and the first that it takes over (0: none), counted from 1.

    The frames taken over are counted as `overlap_history` counts them: 5 latent frames are 17 frames.
    """
    factor = plan.spec.temporal_factor
    done = plan.num_pixel_frames_before(window.start + window.num_dropped_frames)
    last = plan.num_pixel_frames_before(window.end)
    overlap = num_pixel_frames(window.num_dropped_frames, factor)
    return done + 1, last, (done - overlap + 1 if overlap else 0)


def _bar(parts: Iterable[tuple[int, int, str]], total: int) -> str:
    """A line of `_COLUMNS` characters for `total` places, in which each part (first, last, mark) is filled."""
    cells = [EMPTY] * _COLUMNS
    for first, last, mark in parts:
        if last < first:
            continue
        left = (first - 1) * _COLUMNS // total
        right = max(last * _COLUMNS // total, left + 1)
        cells[left:right] = mark * (min(right, _COLUMNS) - left)
    return "".join(cells)


def _shape(window: Window) -> tuple[int, int]:
    return window.num_latent_frames, window.num_prefix_frames


def _names(windows: Sequence[Window]) -> str:
    first, last = windows[0].index + 1, windows[-1].index + 1
    return f"segment {first}" if first == last else f"segments {first}-{last}"


def _blocks_text(schedule: StepSchedule, num_taken: int) -> str:
    sight = "" if schedule.is_causal or schedule.block_size == 1 else " that see each other"
    blocks = f"{schedule.num_blocks} blocks of {schedule.block_size} latent frames{sight}"
    return f"{blocks}, {num_taken} of them taken over" if num_taken else blocks


def _block_lines(schedule: StepSchedule, num_taken: int) -> Iterable[str]:
    label = len(f"  block {schedule.num_blocks}")
    digits = len(str(schedule.num_rows))
    for block in range(schedule.num_blocks):
        name = f"{f'  block {block + 1}':<{label}}"
        if block < num_taken:
            yield f"{name} │{TAKEN_OVER * _COLUMNS}│ taken over"
            continue
        moved = [row for row, updates in enumerate(schedule.updates, start=1) if updates[block]]
        bar = _bar([(moved[0], moved[-1], NEW)], schedule.num_rows)
        yield f"{name} │{bar}│ steps {moved[0]:>{digits}}-{moved[-1]}"


def _shortened(lines: list[str], most: int, what: str) -> list[str]:
    if len(lines) <= most:
        return lines
    return [*lines[: most - 3], f"  ... {len(lines) - most + 1} more {what} ...", *lines[-2:]]
