"""The windows of a film, as `SkyReelsV2DiffusionForcingPipeline.__call__` and `prepare_latents` lay them."""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.planning.frames import num_latent_frames


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of latent frames; all counts are latent frames."""

    index: int
    start: int
    """Where it begins in the film."""
    num_latent_frames: int
    """Its span, prefix included."""
    num_history_frames: int
    """How many of the film's last frames it is given (0 for the first)."""
    num_prefix_frames: int
    """How many of those overwrite its start: `num_history_frames` cut to a multiple of the causal block."""
    num_dropped_frames: int
    """How many at its start the film already has; they are not kept."""

    @property
    def num_kept_frames(self) -> int:
        """What it adds to the film."""
        return self.num_latent_frames - self.num_dropped_frames

    @property
    def end(self) -> int:
        """One past its last frame in the film."""
        return self.start + self.num_latent_frames


def plan_windows(
    *,
    num_frames: int,
    base_num_frames: int,
    overlap_history: int,
    causal_block_size: int = 1,
    temporal_factor: int = 4,
) -> tuple[Window, ...]:
    """Windows of a text-to-video film of `num_frames` (already of the form 4n+1) pixel frames.

    A film that fits one window has one; else every later window starts with the last `overlap_history` pixel frames'
    worth of latents. Requires latent(overlap_history) < latent(base_num_frames) when the film is long.
    """
    length = num_latent_frames(num_frames, temporal_factor)
    if num_frames <= base_num_frames:
        return (_first(length),)
    base = num_latent_frames(base_num_frames, temporal_factor)
    overlap = num_latent_frames(overlap_history, temporal_factor)
    assert overlap < base, "refused by refusals.check_overlap"
    stride = base - overlap
    windows = [_first(base)]
    while windows[-1].end < length:
        start = len(windows) * stride
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
    return tuple(windows)


def _first(span: int) -> Window:
    return Window(
        index=0, start=0, num_latent_frames=span, num_history_frames=0, num_prefix_frames=0, num_dropped_frames=0
    )
