"""The denoising loop of one window.

Shapes: B batch (1), C channels, F latent frames, h w latent height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from render_farm.engine.conditioning.conditioning import Conditioning
from render_farm.engine.denoising.cache_plan import CachePlan, plan_cache
from render_farm.engine.denoising.noise import PrefixNoise, window_noise
from render_farm.engine.denoising.sampler import FrameSampler
from render_farm.engine.denoising.step_state import StepKeeper, WindowState
from render_farm.engine.progress import OnStep, StepProgress
from render_farm.engine.transformer.attention import AttentionBackend, SelfAttention
from render_farm.engine.transformer.context import WindowContext, prompt_tokens
from render_farm.engine.transformer.group import RenderGroup, SingleRank
from render_farm.engine.transformer.kv_cache import KeyValueCache
from render_farm.engine.transformer.rope import rope_table
from render_farm.engine.transformer.span import FrameSpan
from render_farm.engine.transformer.step_cache import StepCache, new_step_cache
from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.planning import FilmPlan, StepSchedule, Window
from render_farm.step_cache import parse_cache

_ADDNOISE_UNIT = 0.001


@dataclass(frozen=True, kw_only=True)
class AttentionPolicy:
    """How a segment attends: to itself (blocks and cache) and to its prompt."""

    own: SelfAttention
    cross: AttentionBackend
    cache_budget_bytes: int
    """What keys and values of finished blocks may take."""
    kv_cache: str = "auto"
    """`auto`: they are kept when they take no more, and computed anew at every step otherwise; `on`; `off`."""


@dataclass(frozen=True, kw_only=True)
class _Prefix:
    """The first frames of a window, given by the segment before or by the job's image or video."""

    latents: Tensor
    """(B C F h w) in the model's dtype; F is 0 when there is none."""
    noise: PrefixNoise | None
    """None: they are shown clean."""
    factor: float
    timestep: int
    per_step: bool

    @property
    def num_frames(self) -> int:
        return self.latents.shape[2]

    def shown(self) -> Tensor:
        """The prefix as the model sees it, with its noise drawn (`__call__`: `addnoise_condition`)."""
        if self.noise is None:
            return self.latents
        noise = self.noise.draw(tuple(self.latents.shape)).to(self.latents)
        return self.latents * (1.0 - self.factor) + noise * self.factor


@torch.no_grad()
def render_window(
    transformer: FrameTransformer,
    plan: FilmPlan,
    segment: int,
    *,
    history: Tensor | None,
    embeddings: Mapping[str, Tensor],
    attention: AttentionPolicy,
    conditioning: Conditioning | None = None,
    group: RenderGroup | None = None,
    step_cache: StepCache | None = None,
    keeper: StepKeeper | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Denoise a segment; returns the latents (B C F h w) of its whole window, float32, on the transformer's device.

    `history` are the film's last latents so far (B C F h w); `embeddings` maps texts to (512, channels);
    `conditioning` is what the job's inputs give, for the windows that take some. With a `group`, all of its ranks make
    this call, and each returns the same. `step_cache` replaces the one that the job asks for. `keeper` holds the state
    between steps; it is not used with a step cache, which remembers more, and not to be given with a group, whose ranks
    hold a share each. Anything `on_step` raises passes through.
    """
    window, schedule = plan.windows[segment], plan.schedule(segment)
    device, dtype = transformer.device, transformer.dtype
    latents = window_noise(plan, segment).to(device)
    given = conditioning.prefix if conditioning is not None and window.num_input_frames else history
    prefix = _prefix(plan, window, given, latents.to(dtype))
    closing = _closing(window, conditioning, latents.to(dtype))
    channels = _image_channels(window, conditioning, latents.to(dtype))
    latents[:, :, : prefix.num_frames] = prefix.latents
    steps = _frame_steps(schedule)
    sampler = FrameSampler(latents, sigmas=schedule.sigmas, steps=steps, corrected=_is_corrected(plan))
    context = _window_context(transformer, plan, window, embeddings, attention, conditioning, group or SingleRank())
    timesteps = _frame_timesteps(schedule, prefix, window.num_closing_frames)
    if step_cache is None:
        step_cache = new_step_cache(
            parse_cache(plan.job.cache),
            plan.facts.magnitudes,
            timesteps=timesteps,
            steps=steps,
            num_steps=schedule.num_inference_steps,
        )
    context = replace(context, step_cache=step_cache)
    timesteps = timesteps.to(device)
    shown = prefix.shown()
    spans = window_spans(schedule, caches=context.cache is not None, num_closing=window.num_closing_frames)
    state = WindowState(latents=latents, sampler=sampler, noise=prefix.noise, cache=context.cache)
    if step_cache is not None:
        keeper = None
    begin = state.begin(keeper)
    for row, span in islice(enumerate(spans), begin, None):
        inputs = latents[:, :, span.start : span.stop].to(dtype)
        if prefix.noise is not None and span.start == 0:
            if row and prefix.per_step:
                shown = prefix.shown()
            inputs = torch.cat((shown, inputs[:, :, prefix.num_frames :]), dim=2)
        if closing is not None:
            inputs = torch.cat((inputs, closing), dim=2)
        if channels is not None:
            inputs = torch.cat((inputs, channels[:, :, span.start : span.stop]), dim=1)
        predictions = transformer(inputs, timesteps[row : row + 1, span.start : span.stop], span, context)
        first, end = _moving_frames(schedule, row)
        assert first == span.output_start
        prediction = _guided(predictions, plan.job.guidance_scale)[:, :, : end - first]
        sampler.step(prediction, row=row, start=first, stop=end)
        state.offer(keeper, row + 1)
        if on_step is not None:
            on_step(
                StepProgress(
                    segment=segment,
                    num_segments=plan.num_segments,
                    step=row + 1,
                    num_steps=schedule.num_rows,
                    num_skipped=step_cache.num_skipped if step_cache else 0,
                    kv_cache_bytes=context.cache.num_bytes if context.cache is not None else 0,
                )
            )
    return latents


def _prefix(plan: FilmPlan, window: Window, given: Tensor | None, like: Tensor) -> _Prefix:
    """The prefix of `window`: the oldest of the frames it is given, in the model's dtype."""
    count, job = window.num_prefix_frames, plan.job
    latents = like[:, :, :0]
    if window.num_given_frames:
        assert given is not None, "a later segment continues the film so far, a first one the job's inputs"
        latents = given[:, :, :count].to(like)
    noisy = count > 0 and job.addnoise_condition > 0
    return _Prefix(
        latents=latents,
        noise=PrefixNoise(seed=job.seed, segment=window.index) if noisy else None,
        factor=_ADDNOISE_UNIT * job.addnoise_condition,
        timestep=int(job.addnoise_condition) if noisy else 0,
        per_step=job.prefix_noise == "per_step",
    )


def _closing(window: Window, conditioning: Conditioning | None, like: Tensor) -> Tensor | None:
    """The last image, which the model sees after the window's own frames, in its dtype; it is never moved."""
    if not window.num_closing_frames:
        return None
    assert conditioning is not None and conditioning.closing is not None
    return conditioning.closing.to(like)


def _image_channels(window: Window, conditioning: Conditioning | None, like: Tensor) -> Tensor | None:
    """What the model is given of the images beside the latents, in its dtype."""
    if not window.has_image_channels:
        return None
    assert conditioning is not None and conditioning.image_channels is not None
    return conditioning.image_channels.to(like)


def _is_corrected(plan: FilmPlan) -> bool:
    """Whether the sampler keeps the sample it moves from. The loops of `SkyReelsV2Pipeline` and
    `SkyReelsV2ImageToVideoPipeline` give their scheduler the latents themselves, no view that they overwrite."""
    return plan.job.sampler == "corrected" or not plan.facts.renders_windows


def _window_context(
    transformer: FrameTransformer,
    plan: FilmPlan,
    window: Window,
    embeddings: Mapping[str, Tensor],
    attention: AttentionPolicy,
    conditioning: Conditioning | None,
    group: RenderGroup,
) -> WindowContext:
    """What the passes share. A key/value cache is there when blocks can be final before the window ends."""
    cache = window_cache_plan(transformer, plan, window.index, attention, group)
    keeps = group.all_agree(cache.keeps)
    texts = [plan.job.prompt_of(window.index), *([plan.job.negative_prompt] if plan.job.guided else [])]
    branches = group.own_branches(len(texts))
    texts = texts[branches]
    merge_padding = transformer.device.type == "cpu" and transformer.dtype == torch.float32
    rope = rope_table(
        transformer.rope,
        num_frames=window.num_seen_frames,
        height=plan.latent_height,
        width=plan.latent_width,
        patch=transformer.config["patch_size"],
        device=transformer.device,
    )
    return WindowContext(
        prompts=tuple(
            prompt_tokens(
                embeddings[text].unsqueeze(0).to(transformer.device, transformer.dtype), merge_padding=merge_padding
            )
            for text in texts
        ),
        first_branch=branches.start,
        rope=rope.share(group.shard),
        tokens_per_frame=plan.tokens_per_frame,
        sample_info=0 if plan.job.fps == 16 else 1,
        attention=group.attention(attention.own, plan.tokens_per_frame),
        cross_attention=attention.cross,
        caches_text_states=transformer.caches_text_states,
        cache=KeyValueCache(capacity_frames=cache.num_frames) if keeps else None,
        group=group,
        images=_image_states(window, conditioning, transformer),
    )


def _image_states(window: Window, conditioning: Conditioning | None, transformer: FrameTransformer) -> Tensor | None:
    if not window.has_image_channels:
        return None
    assert conditioning is not None and conditioning.image_states is not None
    return conditioning.image_states.to(transformer.device, transformer.dtype)


def window_cache_plan(
    transformer: FrameTransformer, plan: FilmPlan, segment: int, attention: AttentionPolicy, group: RenderGroup
) -> CachePlan:
    """Whether `render_window` keeps keys and values in this segment, and why; all ranks of a group must agree."""
    return plan_cache(
        plan,
        segment,
        asked=attention.kv_cache,
        budget_bytes=attention.cache_budget_bytes,
        transformer=transformer.config,
        bytes_per_element=transformer.dtype.itemsize,
        group=group,
    )


def _per_frame(rows: Iterable[Iterable[int]], block_size: int) -> Tensor:
    """Values of blocks (rows x blocks) as values of frames, (R, F) int64."""
    return torch.tensor([list(row) for row in rows], dtype=torch.int64).repeat_interleave(block_size, dim=1)


def _frame_steps(schedule: StepSchedule) -> Tensor:
    """The sampler's step of each frame in each row, (R, F)."""
    return (_per_frame(schedule.indices, schedule.block_size) - 1).clamp(0, schedule.num_inference_steps - 1)


def _frame_timesteps(schedule: StepSchedule, prefix: _Prefix, num_closing: int) -> Tensor:
    """The timestep of each frame in each row, (R, F); that of closing frames is 0."""
    timesteps = _per_frame(map(schedule.timestep_row, range(schedule.num_rows)), schedule.block_size)
    timesteps[:, : prefix.num_frames] = prefix.timestep
    return torch.nn.functional.pad(timesteps, (0, num_closing))


def _moving_frames(schedule: StepSchedule, row: int) -> tuple[int, int]:
    """The frames [first, end) that this row moves: blocks before are finished, blocks after have not started."""
    updates = schedule.updates[row]
    first, count = updates.index(True), sum(updates)
    assert all(updates[first : first + count]), "moving blocks are neighbours"
    return first * schedule.block_size, (first + count) * schedule.block_size


def window_spans(schedule: StepSchedule, *, caches: bool, num_closing: int = 0) -> Iterator[FrameSpan]:
    """What is computed in each row of a window's schedule."""
    num_cached = 0
    for row in range(schedule.num_rows):
        span = _span(schedule, row, num_cached=num_cached, caches=caches, num_closing=num_closing)
        yield span
        num_cached += span.num_stored


def _span(schedule: StepSchedule, row: int, *, num_cached: int, caches: bool, num_closing: int = 0) -> FrameSpan:
    """What to compute in this row.

    With causal blocks nothing sees the blocks that have not started, so they are left out. Finished blocks have
    timestep 0 and latents that stay: the first pass in which they do writes their keys and values. Without blocks
    every frame sees every frame, and all are computed.
    """
    first, end = _moving_frames(schedule, row)
    if schedule.block_size == 1:
        return FrameSpan(start=0, stop=len(schedule.indices[row]) + num_closing, output_start=first)
    assert not num_closing, "a last image goes without blocks"
    return FrameSpan(
        start=num_cached,
        stop=end,
        output_start=first,
        num_stored=first - num_cached if caches else 0,
        block_size=schedule.block_size,
    )


def _guided(predictions: tuple[Tensor, ...], guidance_scale: float) -> Tensor:
    """Classifier-free guidance in the model's dtype; one prediction alone is taken as it is."""
    if len(predictions) == 1:
        return predictions[0]
    with_prompt, without = predictions
    return without + guidance_scale * (with_prompt - without)
