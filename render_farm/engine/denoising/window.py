"""The denoising loop of one window.

Shapes: B batch (1), C channels, F latent frames, h w latent height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from render_farm.engine.conditioning.conditioning import Conditioning
from render_farm.engine.denoising.cache_plan import CachePlan, plan_cache
from render_farm.engine.denoising.guidance import Guidance
from render_farm.engine.denoising.noise import StepNoise, window_noise
from render_farm.engine.denoising.rows import frame_steps, frame_timesteps, moving_frames, window_spans
from render_farm.engine.denoising.sampler import DistilledSampler, FrameSampler, Sampler
from render_farm.engine.denoising.step_queue import StepQueue
from render_farm.engine.denoising.step_state import StepKeeper, WindowState
from render_farm.engine.denoising.window_inputs import WindowInputs
from render_farm.engine.progress import OnStep, StepProgress
from render_farm.engine.transformer.attention import AttentionBackend, SelfAttention
from render_farm.engine.transformer.context import StepCache, WindowContext, prompt_tokens
from render_farm.engine.transformer.group import RenderGroup, SingleRank
from render_farm.engine.transformer.kv_cache import KeyValueCache
from render_farm.engine.transformer.rope import rope_table
from render_farm.engine.transformer.step_cache import new_step_cache
from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.models import DISTILLED
from render_farm.planning import FilmPlan, StepSchedule, Window
from render_farm.step_cache import parse_cache


@dataclass(frozen=True, kw_only=True)
class AttentionPolicy:
    """How a segment attends: to itself (blocks and cache) and to its prompt."""

    own: SelfAttention
    cross: AttentionBackend
    cache_budget_bytes: int
    """The memory that keys and values of finished blocks may take."""
    kv_cache: str = "auto"
    """`auto`: they are kept when they take no more, and computed again at every step otherwise; `on`; `off`."""


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
    """Denoise a segment of a film that is one take (`FilmPlan.take_of`); returns the latents (B C F h w) of its whole
    window, float32, on the transformer's device.

    Args:
        history: the film's last latents so far (B C F h w).
        embeddings: texts to (512, channels).
        conditioning: the job's inputs as latents, for the windows that take some.
        group: all of its ranks make this call, and each returns the same.
        step_cache: replaces the one that the job asks for.
        keeper: holds the state between steps. Not used with a step cache, which remembers more. Not to be given with a
            group, whose ranks hold a share each.
        on_step: anything it raises passes through.
    """
    window, schedule = plan.windows[segment], plan.schedule(segment)
    latents = window_noise(plan, segment).to(transformer.device)
    inputs = WindowInputs(plan, window, history, conditioning or Conditioning(), like=latents.to(transformer.dtype))
    prefix = inputs.prefix
    latents[:, :, : prefix.num_frames] = prefix.latents
    steps = frame_steps(schedule)
    timesteps = frame_timesteps(
        schedule,
        num_prefix=prefix.num_frames,
        prefix_timestep=prefix.timestep,
        num_last_image=window.num_last_image_frames,
    )
    if step_cache is None:
        step_cache = new_step_cache(
            parse_cache(plan.job.cache),
            plan.spec.magnitudes,
            timesteps=timesteps,
            steps=steps,
            num_steps=schedule.num_inference_steps,
        )
    context = _window_context(
        transformer,
        plan,
        window,
        embeddings,
        attention,
        group or SingleRank(),
        images=inputs.image_states,
        step_cache=step_cache,
    )
    timesteps = timesteps.to(transformer.device)
    sampler = _sampler(plan, segment, latents, schedule, steps)
    guidance = Guidance(plan, segment, like=latents.to(transformer.dtype))
    state = WindowState(latents=latents, sampler=sampler, guidance=guidance, noise=prefix.noise, cache=context.cache)
    keeper = keeper if step_cache is None else None
    spans = window_spans(schedule, caches=context.cache is not None, num_last_image=window.num_last_image_frames)
    queue = StepQueue(transformer.device)
    for row, span in islice(enumerate(spans), state.resume(keeper), None):
        frames = inputs.of(latents, row, span)
        own_timesteps = timesteps[row : row + 1, span.start : span.stop]
        predictions = transformer(frames, own_timesteps, span, context, num_branches=guidance.num_branches(row))
        first, end = moving_frames(schedule, row)
        prediction = guidance.mix(predictions, row=row, start=first, stop=end)
        sampler.step(prediction, row=row, start=first, stop=end)
        queue.queued(is_last=row + 1 == schedule.num_rows)
        state.offer(keeper, row + 1)
        if on_step is not None:
            on_step(_progress(plan, segment, row, schedule, context))
    return latents


def _progress(plan: FilmPlan, segment: int, row: int, schedule: StepSchedule, context: WindowContext) -> StepProgress:
    return StepProgress(
        segment=segment,
        num_segments=plan.num_segments,
        step=row + 1,
        num_steps=schedule.num_rows,
        num_skipped=context.step_cache.num_skipped if context.step_cache else 0,
        kv_cache_bytes=context.cache.num_bytes if context.cache is not None else 0,
    )


def _sampler(plan: FilmPlan, segment: int, latents: Tensor, schedule: StepSchedule, steps: Tensor) -> Sampler:
    if plan.job.sampler == DISTILLED:
        noise = StepNoise(seed=plan.job.seed, segment=plan.windows[segment].num_draws_before)
        return DistilledSampler(latents, sigmas=schedule.sigmas, steps=steps, noise=noise)
    return FrameSampler(latents, sigmas=schedule.sigmas, steps=steps, corrected=_is_corrected(plan))


def _is_corrected(plan: FilmPlan) -> bool:
    """Whether the sampler keeps the sample it moves from. The loops of `SkyReelsV2Pipeline` and
    `SkyReelsV2ImageToVideoPipeline` give their scheduler the latents themselves, no view that they overwrite."""
    return plan.job.sampler == "corrected" or not plan.spec.renders_windows


def _window_context(
    transformer: FrameTransformer,
    plan: FilmPlan,
    window: Window,
    embeddings: Mapping[str, Tensor],
    attention: AttentionPolicy,
    group: RenderGroup,
    *,
    images: Tensor | None,
    step_cache: StepCache | None,
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
        images=images,
        step_cache=step_cache,
    )


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
