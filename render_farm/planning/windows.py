"""The windows of a film, as `__call__` and `prepare_latents` of the five pipelines lay them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from render_farm.planning.frames import num_latent_frames
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import ResolvedJob
from render_farm.planning.tasks import IMAGE_TASKS, num_given_frames, num_last_image_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One window of latent frames; all counts are latent frames."""

    index: int
    start: int
    """Where it begins in the film."""
    num_latent_frames: int
    """Its span, prefix included (closing frames are not)."""
    num_history_frames: int
    """How many of the film's last frames it is given (0 for the first)."""
    num_prefix_frames: int
    """How many of the frames it is given overwrite its start: all, or the oldest of them cut to a multiple of the
    causal block."""
    num_dropped_frames: int
    """How many at its start the film already has; they are not kept."""
    num_input_frames: int = 0
    """How many the job's image or video gives it (only the first window: what the history is for the others)."""
    num_last_image_frames: int = 0
    """How many the job's last image gives it, after its own last frame; they are shown to the model, not kept."""
    has_image_channels: bool = False
    """Whether the job's images reach the model as further input channels of every frame, and as tokens (checkpoints
    without diffusion forcing)."""
    take_start: int = 0
    """The segment with which its take starts: the segments since the last cut."""
    stream_start: int = 0
    """The segment with which its stream of noise starts: that of its take, or of a shot with a seed."""

    @property
    def starts_take(self) -> bool:
        """Whether it follows a cut, or is the film's first."""
        return self.index == self.take_start

    @property
    def num_draws_before(self) -> int:
        """How many windows of its stream of noise come before it."""
        return self.index - self.stream_start

    @property
    def num_given_frames(self) -> int:
        """Frames at hand for its start, from the film or from the job's inputs."""
        return self.num_history_frames + self.num_input_frames

    @property
    def needs_inputs(self) -> bool:
        """Whether the job's inputs are needed to render it."""
        return self.num_input_frames > 0 or self.num_last_image_frames > 0 or self.has_image_channels

    @property
    def num_seen_frames(self) -> int:
        """Frames that a forward pass shows the model when it leaves none out."""
        return self.num_latent_frames + self.num_last_image_frames

    @property
    def num_kept_frames(self) -> int:
        """What it adds to the film."""
        return self.num_latent_frames - self.num_dropped_frames

    @property
    def end(self) -> int:
        """One past its last frame in the film."""
        return self.start + self.num_latent_frames


def windows_of(job: ResolvedJob, spec: ModelSpec) -> tuple[Window, ...]:
    """The windows of `job`'s film, by what its checkpoint is."""
    if not spec.renders_windows:
        return single_window(num_frames=job.num_frames, temporal_factor=spec.temporal_factor, task=job.task)
    if job.shots:
        return shot_windows(
            spans=tuple(
                (shot.num_frames, shot.starts_take, shot.seed is not None, shot.task if shot.starts_take else "t2v")
                for shot in job.shots
            ),
            base_num_frames=job.base_num_frames,
            overlap_history=job.overlap_history,
            causal_block_size=job.causal_block_size,
            temporal_factor=spec.temporal_factor,
        )
    return plan_windows(
        num_frames=job.num_frames,
        base_num_frames=job.base_num_frames,
        overlap_history=job.overlap_history,
        causal_block_size=job.causal_block_size,
        temporal_factor=spec.temporal_factor,
        task=job.task,
    )


@lru_cache(maxsize=1024)
def single_window(*, num_frames: int, temporal_factor: int = 4, task: str = "t2v") -> tuple[Window, ...]:
    """The one window of a film of `num_frames` (already of the form 4n+1) by a checkpoint without diffusion forcing."""
    return (
        Window(
            index=0,
            start=0,
            num_latent_frames=num_latent_frames(num_frames, temporal_factor),
            num_history_frames=0,
            num_prefix_frames=0,
            num_dropped_frames=0,
            has_image_channels=task in IMAGE_TASKS,
        ),
    )


@lru_cache(maxsize=1024)
def plan_windows(
    *,
    num_frames: int,
    base_num_frames: int,
    overlap_history: int,
    causal_block_size: int = 1,
    temporal_factor: int = 4,
    task: str = "t2v",
) -> tuple[Window, ...]:
    """Windows of a film of `num_frames` (already of the form 4n+1) pixel frames.

    A film that fits one window has one; else every later window starts with the last `overlap_history` pixel frames'
    worth of latents. What the task's inputs give goes to the start of the first window and the end of the last one.
    Requires latent(overlap_history) < latent(base_num_frames) when the film is long.

    For image tasks diffusers fails on a last window that is shorter than the others, and on a last image in a long
    film: here such a window has the frames that are left, and the last image closes the last window.
    """
    length = num_latent_frames(num_frames, temporal_factor)
    base = num_latent_frames(base_num_frames, temporal_factor)
    overlap = num_latent_frames(overlap_history, temporal_factor)
    given = num_given_frames(task, overlap_history, temporal_factor)
    windows = [
        Window(
            index=0,
            start=0,
            num_latent_frames=length if num_frames <= base_num_frames else base,
            num_history_frames=0,
            num_prefix_frames=given - (given % causal_block_size if task == "v2v" else 0),
            num_dropped_frames=0,
            num_input_frames=given,
        )
    ]
    while windows[-1].end < length:
        assert overlap < base, "refused by refusals.check"
        start = len(windows) * (base - overlap)
        windows.append(
            Window(
                index=len(windows),
                start=start,
                num_latent_frames=min(length - start, base),
                num_history_frames=overlap,
                num_prefix_frames=overlap - overlap % causal_block_size,
                num_dropped_frames=overlap,
            )
        )
    windows[-1] = replace(windows[-1], num_last_image_frames=num_last_image_frames(task))
    return tuple(windows)


@lru_cache(maxsize=256)
def shot_windows(
    *,
    spans: tuple[tuple[int, bool, bool, str], ...],
    base_num_frames: int,
    overlap_history: int,
    causal_block_size: int = 1,
    temporal_factor: int = 4,
) -> tuple[Window, ...]:
    """Windows of a film of shots. A span is a shot's pixel frames, whether it starts a take, whether it starts a stream
    of noise, and the task of what it starts.

    A shot that starts a take has the windows of a film of its own. Another one starts from the last frames before it,
    and its last window is as short as its frames ask for. Requires what `plan_windows` requires, and before a shot that
    continues at least latent(overlap_history) frames of its take.
    """
    base, overlap = (num_latent_frames(n, temporal_factor) for n in (base_num_frames, overlap_history))
    windows: list[Window] = []
    take_start = stream_start = 0
    closes = spans[0][3] == "flf2v"
    for num_frames, starts_take, starts_stream, task in spans:
        first, end = len(windows), windows[-1].end if windows else 0
        if starts_take:
            take_start = first
            own = plan_windows(
                num_frames=num_frames,
                base_num_frames=base_num_frames,
                overlap_history=overlap_history,
                causal_block_size=causal_block_size,
                temporal_factor=temporal_factor,
                task="i2v" if task == "flf2v" else task,
            )
        else:
            own = _continuing(num_frames // temporal_factor, base, overlap, causal_block_size)
        stream_start = first if starts_take or starts_stream else stream_start
        windows += [
            replace(
                window,
                index=first + window.index,
                start=end + window.start,
                take_start=take_start,
                stream_start=stream_start,
            )
            for window in own
        ]
    if closes:
        windows[-1] = replace(windows[-1], num_last_image_frames=num_last_image_frames("flf2v"))
    return tuple(windows)


def _continuing(num_new: int, base: int, overlap: int, block: int) -> tuple[Window, ...]:
    """The windows of a shot that adds `num_new` latent frames, as if the film so far ended at 0."""
    assert overlap < base, "refused by refusals.check"
    return tuple(
        Window(
            index=index,
            start=done - overlap,
            num_latent_frames=min(num_new - done, base - overlap) + overlap,
            num_history_frames=overlap,
            num_prefix_frames=overlap - overlap % block,
            num_dropped_frames=overlap,
        )
        for index, done in enumerate(range(0, num_new, base - overlap))
    )


def within_take(windows: tuple[Window, ...], segment: int) -> tuple[Window, ...]:
    """The windows of a segment's take, as those of a film of its own."""
    take_start = windows[segment].take_start
    own = [window for window in windows if window.take_start == take_start]
    return tuple(
        replace(
            window,
            index=window.index - take_start,
            start=window.start - own[0].start,
            take_start=0,
            stream_start=window.stream_start - take_start,
        )
        for window in own
    )
