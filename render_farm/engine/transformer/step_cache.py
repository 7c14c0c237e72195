"""Approximate step caches: a step that hardly differs from an earlier one reuses what the layers added then.

A cache belongs to one window, so nothing of one window or film reaches another, and it keeps what each guidance branch
added by itself. Guidance mixes the branches: a step is skipped in all of them or in none, so that what is mixed is of
one age. A pass computes a span of frames, whose blocks may be at different steps: it is skipped when every block that
moves may be; a pass that brings frames in that were not there before, or that has keys and values to keep for later
passes, is always computed.

Shapes: B batch, F latent frames, S tokens, E channels of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from render_farm.engine.transformer.context import PassContext, RunLayers, StepCache, Streams
from render_farm.planning.magnitudes import Magnitudes
from render_farm.step_cache import CacheKind, StepCacheMode


class _CachedPass:
    """What a computed pass leaves for the passes after it: tensors (B S E) of its output frames."""

    def __init__(self, ctx: PassContext, *groups: Streams) -> None:
        self._start, self._stop = ctx.span.output_start, ctx.span.stop
        self._groups = groups

    def covers(self, ctx: PassContext) -> bool:
        num_branches = min(len(group) for group in self._groups)
        is_inside = self._start <= ctx.span.output_start and ctx.span.stop <= self._stop
        return is_inside and ctx.num_branches <= num_branches

    def of(self, ctx: PassContext, group: int) -> Streams:
        """The part for the output frames of another pass."""
        skipped = (ctx.span.output_start - self._start) * ctx.tokens_per_frame
        end = skipped + (ctx.span.stop - ctx.span.output_start) * ctx.tokens_per_frame
        return tuple(tensor[:, skipped:end] for tensor in self._groups[group][: ctx.num_branches])


def _outputs(hidden: Tensor, ctx: PassContext) -> Tensor:
    """The tokens of the output frames."""
    return hidden[:, (ctx.span.output_start - ctx.span.start) * ctx.tokens_per_frame :]


def _may_skip(kept: _CachedPass | None, ctx: PassContext) -> bool:
    return kept is not None and kept.covers(ctx) and not ctx.span.num_stored


class FirstBlockCache:
    """Skips the layers after the first when what the first adds has changed by less than the threshold.

    The change is mean|r - r'| / mean|r'| over the tokens of a causal block (of the window, when there are no blocks), r
    being what the first layer adds now and r' what it added when the layers were last computed; the largest of all
    blocks and branches counts. As `FirstBlockCacheConfig` of diffusers measures it.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._kept: _CachedPass | None = None
        self.num_skipped = 0

    def run(self, hidden: Tensor, num_layers: int, layers: RunLayers, ctx: PassContext) -> Streams:
        if num_layers < 2:
            return layers((hidden,), 0, num_layers)
        entered = layers((hidden,), 0, 1)
        outputs = tuple(_outputs(stream, ctx) for stream in entered)
        added = tuple(stream - _outputs(hidden, ctx) for stream in outputs)
        may_skip = _may_skip(self._kept, ctx)
        if may_skip and self._kept is not None:
            change = self._change(added, self._kept.of(ctx, 0), ctx)
            if ctx.window.group.all_agree(change < self._threshold):
                self.num_skipped += 1
                return tuple(a + b for a, b in zip(outputs, self._kept.of(ctx, 1), strict=True))
        left = layers(entered, 1, num_layers)
        rest = tuple(after - before for after, before in zip(left, outputs, strict=True))
        self._kept = _CachedPass(ctx, added, rest)
        return left

    @staticmethod
    def _change(now: Streams, before: Streams, ctx: PassContext) -> float:
        num_frames = ctx.span.block_size if ctx.span.block_size > 1 else ctx.span.stop - ctx.span.output_start
        group = ctx.window.group
        num_own = group.num_own(ctx.window.tokens_per_frame)

        def sums(states: Tensor) -> Tensor:
            """By block, padding left out."""
            blocks: Tensor = states.abs().float().unflatten(1, (-1, num_frames, ctx.tokens_per_frame))
            return blocks[:, :, :, :num_own].sum(dim=(0, 2, 3, 4))

        changes = [group.total(torch.stack((sums(new - old), sums(old)))) for new, old in zip(now, before, strict=True)]
        return max(float((difference / whole).max()) for difference, whole in changes)


class MagCache:
    """Skips all layers while the magnitude of what they add is known to stay.

    Each frame sums |1 - m(t) / m(t')| over the steps that it skips, t' being where it was last computed; at the
    threshold, after `max_skips` steps and in its first steps it is computed. https://arxiv.org/abs/2506.09045
    """

    def __init__(
        self,
        mode: StepCacheMode,
        magnitudes: Magnitudes,
        *,
        timesteps: Sequence[Sequence[float]],
        steps: Sequence[Sequence[int]],
        num_steps: int,
    ) -> None:
        """`timesteps` (rows x F) and `steps` (rows x F, of each frame's own `num_steps`) are those of the window."""
        self._mode, self._magnitudes = mode, magnitudes
        self._timesteps, self._steps = timesteps, steps
        self._num_retained = int(mode.retain * num_steps)
        self._row = -1
        self._computed_at: dict[int, float] = {}
        """Frame to its timestep when its layers were last computed."""
        self._errors: dict[tuple[int, int], float] = {}
        """(frame, branch) to the sum since then."""
        self._num_in_a_row = 0
        self._kept: _CachedPass | None = None
        self.num_skipped = 0

    def run(self, hidden: Tensor, num_layers: int, layers: RunLayers, ctx: PassContext) -> Streams:
        self._row += 1
        entered = _outputs(hidden, ctx)
        frames = range(ctx.span.output_start, ctx.span.stop)
        num_branches = ctx.num_branches
        if self._kept is not None and ctx.window.group.all_agree(self._skips(frames, num_branches, ctx)):
            self.num_skipped += 1
            self._num_in_a_row += 1
            return tuple(entered + added for added in self._kept.of(ctx, 0))
        left = layers((hidden,), 0, num_layers)
        self._kept = _CachedPass(ctx, tuple(stream - entered for stream in left))
        self._num_in_a_row = 0
        self._errors = {}
        self._computed_at = {frame: self._timesteps[self._row][frame] for frame in frames}
        return left

    def _skips(self, frames: range, num_branches: int, ctx: PassContext) -> bool:
        if not _may_skip(self._kept, ctx) or self._num_in_a_row >= self._mode.max_skips:
            return False
        steps = self._steps[self._row]
        if any(steps[frame] < self._num_retained for frame in frames if frame < len(steps)):
            return False
        errors = {}
        for frame in frames:
            for branch in range(ctx.window.first_branch, ctx.window.first_branch + num_branches):
                now = self._magnitudes.at(self._timesteps[self._row][frame], branch)
                ratio = now / self._magnitudes.at(self._computed_at[frame], branch)
                errors[frame, branch] = self._errors.get((frame, branch), 0.0) + abs(1.0 - ratio)
        if max(errors.values()) >= self._mode.threshold:
            return False
        self._errors = errors
        return True


class MagnitudeRecorder:
    """Skips nothing, and measures what all layers add: the mean over tokens of the ratio of its norm to the step
    before, multiplied up from the first step on. For a window whose frames all take the same steps."""

    def __init__(self) -> None:
        self.num_skipped = 0
        self.branches: list[list[float]] = []
        """The magnitudes so far, by branch, the first 1."""
        self._norms: list[Tensor] = []

    def run(self, hidden: Tensor, num_layers: int, layers: RunLayers, ctx: PassContext) -> Streams:
        left = layers((hidden,), 0, num_layers)
        entered = _outputs(hidden, ctx)
        norms = [(stream - entered).float().norm(dim=-1) for stream in left]
        if not self._norms:
            self.branches = [[1.0] for _ in norms]
        else:
            for branch, now, before in zip(self.branches, norms, self._norms, strict=True):
                branch.append(branch[-1] * (now / before).mean().item())
        self._norms = norms
        return left


def new_step_cache(
    mode: StepCacheMode | None,
    magnitudes: Magnitudes | None,
    *,
    timesteps: Tensor,
    steps: Tensor,
    num_steps: int,
) -> StepCache | None:
    """The cache of one window; None when `mode` is. `timesteps` and `steps` are (R, F)."""
    if mode is None:
        return None
    if mode.kind is CacheKind.FIRST_BLOCK:
        return FirstBlockCache(mode.threshold)
    assert magnitudes is not None, "planning refuses mag without them"
    return MagCache(mode, magnitudes, timesteps=timesteps.tolist(), steps=steps.tolist(), num_steps=num_steps)
