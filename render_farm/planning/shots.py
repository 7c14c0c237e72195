"""A film of shots, and the segments of each.

The shots between two cuts are a *take*. A take is rendered and decoded as the film of its shots alone would be, so that
both are the same segments, bit for bit.

A shot after a cut, and the first one, has the frames of a film of its own: 4n+1. The others add a multiple of 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from render_farm.planning.frames import num_latent_frames, num_pixel_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedShot:
    """One shot of a film that no prompt list describes. Its prompt is the job's of the same number."""

    num_frames: int
    """New pixel frames. For v2v those of the first shot count the overlap with the video."""
    num_segments: int
    starts_take: bool
    """The first shot, or one after a cut."""
    seed: int | None
    """Starts another stream of noise. None: the stream continues, or starts again at a cut."""
    guidance_scale: float
    flow_shift: float
    """That of its take."""
    task: str
    """That of its take."""
    image: str | None = None
    """First frame of a take but the first, whose image is the job's."""


MAX_SEGMENTS = 2_000
"""Of one film. State, schedule and report hold a line for each; 100,000 frames in usual windows are 1,250."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSize:
    """What the windows of a film have in common."""

    base: int
    """Latent frames of a window."""
    step: int
    """Latent frames that a later window adds. At least 1, also where that is refused."""
    temporal_factor: int

    def num_segments(self, num_frames: int, *, starts_take: bool) -> int:
        """Segments of a shot with so many pixel frames. At least one, whatever is wrong with them."""
        if not starts_take:
            return max(1, -(-(num_frames // self.temporal_factor) // self.step))
        return 1 + max(0, -(-(num_latent_frames(num_frames, self.temporal_factor) - self.base) // self.step))

    def num_frames(self, *, starts_take: bool) -> int:
        """One window's worth of new pixel frames."""
        return num_pixel_frames(self.base, self.temporal_factor) if starts_take else self.step * self.temporal_factor


def is_prompt_list(shots: Sequence[ResolvedShot], size: WindowSize) -> bool:
    """Whether a list with one prompt per segment describes the film: nothing but the prompt differs between its shots,
    all of them have whole latent frames, and all but the last fill their windows."""
    factor = size.temporal_factor
    if any(shot.num_frames % factor != shot.starts_take for shot in shots):
        return False
    if sum(shot.num_segments for shot in shots) > MAX_SEGMENTS:
        return False
    if any(shot.starts_take or shot.seed is not None for shot in shots[1:]):
        return False
    if len({shot.guidance_scale for shot in shots}) > 1:
        return False
    new = [shot.num_frames // factor for shot in shots[:-1]]
    first = num_latent_frames(shots[0].num_frames, factor) - size.base
    return not new or (first >= 0 and first % size.step == 0 and not any(n % size.step for n in new[1:]))


def shot_of_segment(shots: Sequence[ResolvedShot], segment: int) -> int:
    """Which shot a segment belongs to, counted from 0. Segments beyond the film are the last shot's."""
    ends = accumulate(shot.num_segments for shot in shots)
    return next((index for index, end in enumerate(ends) if segment < end), len(shots) - 1)


def image_name(shot: int) -> str:
    """What the image of a shot, counted from 0, is called among a job's inputs."""
    return f"image of shot {shot + 1}"


def takes(shots: Sequence[ResolvedShot]) -> Iterator[range]:
    """The shots of each take, counted from 0."""
    numbers = accumulate(shot.starts_take for shot in shots)
    for _, take in groupby(enumerate(numbers), key=lambda pair: pair[1]):
        members = [index for index, _ in take]
        yield range(members[0], members[-1] + 1)
