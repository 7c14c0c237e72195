"""How much device memory a film needs, part by part, before anything is loaded. All in bytes.

A worker holds the transformer, the VAE and what denoising and decoding take at the same time (a segment is decoded
alongside the next one's denoising). Prompts are encoded earlier, by another worker or before the transformer is loaded.

The formulas count the tensors that `engine` has alive at its fullest moment; a kernel's own workspace and what the
allocator wastes are in `RUNTIME_BYTES`. Widths are per token of the model's E channels: 2 bytes in bfloat16, 4 in
float32 (where the sums that are always float32 need no copies).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from render_farm.models import Family
from render_farm.planning.film import FilmPlan
from render_farm.planning.groups import GroupShape
from render_farm.planning.model_sizes import ModelSizes, TransformerSizes
from render_farm.planning.passes import Pass, num_cacheable_frames, passes
from render_farm.planning.tasks import IMAGE_TASKS
from render_farm.planning.vae_memory import decoding_memory, encoding_memory

FLOAT32_BYTES = 4
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
RUNTIME_BYTES = 3 << 29
"""The device's runtime and libraries' workspaces: an allowance, not a measurement."""
_USABLE_SHARE = 0.94
"""Of a device's memory. The rest is for fragmentation, and for workspaces that are larger than allowed for: cuDNN's of
a float32 convolution take 1 to 4 GB, and NCCL's buffers 0.3 to 0.5 GB per communicator."""
FILMS_AT_ONCE = 3
"""The number of decoders that a worker of the farm may hold: of the film it renders, and of those it finishes at the
same time. One of them is on the device, the others' features are in the host's memory."""
_TEXT_TOKENS = 512
_IMAGE_TOKENS = 257
_LATENT_COPIES = 8
"""Float32 tensors of the window's latents: the sampler's history, predictions, inputs."""


def usable_bytes(total_bytes: int) -> int:
    """What estimates may take of a device that has so much."""
    return int(_USABLE_SHARE * total_bytes)


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device, by part."""

    transformer_bytes: int
    """Weights, resident."""
    vae_bytes: int
    """Weights, resident, float32."""
    text_encoder_bytes: int
    """Weights; only while prompts are encoded."""
    image_encoder_bytes: int
    """Weights and states; only while inputs are encoded."""
    activation_bytes: int
    """The largest pass of the transformer: hidden states, rotary tables, the prompts' keys and values, latents."""
    cache_bytes: int
    """Keys and values of finished blocks, when they are kept (0 without causal blocks). Without room for them the
    engine recomputes the blocks, slower and otherwise the same."""
    encoding_bytes: int
    """The VAE's work on the job's inputs; not at the same time as a pass."""
    decoding_bytes: int
    """The VAE's feature cache and its work on one latent frame, at the same time as a pass."""
    parked_bytes: int
    """Of the host's memory: a place for the feature caches of all films that are being decoded. It is kept while one of
    them is on the device."""
    runtime_bytes: int = RUNTIME_BYTES

    @property
    def text_stage_bytes(self) -> int:
        """While prompts are encoded: the encoder alone (its states of 512 tokens are in `runtime_bytes`)."""
        return self.text_encoder_bytes + self.runtime_bytes

    @property
    def render_stage_bytes(self) -> int:
        """While segments are rendered and decoded, with nothing cached."""
        resident = self.transformer_bytes + self.vae_bytes + self.runtime_bytes
        inputs = max(self.encoding_bytes, self.image_encoder_bytes)
        return resident + max(self.activation_bytes, inputs) + self.decoding_bytes

    @property
    def least_bytes(self) -> int:
        """With less, the film is not rendered."""
        return max(self.text_stage_bytes, self.render_stage_bytes)

    @property
    def full_bytes(self) -> int:
        """With as much, finished blocks are cached too."""
        return max(self.text_stage_bytes, self.render_stage_bytes + self.cache_bytes)


def estimate_memory(plan: FilmPlan, sizes: ModelSizes, *, shape: GroupShape = GroupShape()) -> MemoryEstimate:
    """What `plan` takes on one device, or on each of a group's, in the dtype of `plan.spec`."""
    job, element = plan.job, ELEMENT_BYTES[plan.spec.dtype]
    decoding = decoding_memory(sizes.vae, height=job.height, width=job.width)
    segments = range(plan.num_segments)
    return MemoryEstimate(
        transformer_bytes=weight_bytes(sizes.transformer, element),
        vae_bytes=sizes.vae.num_parameters * FLOAT32_BYTES,
        text_encoder_bytes=sizes.text_encoder.num_parameters * element,
        image_encoder_bytes=_image_encoder_bytes(plan, sizes, element),
        activation_bytes=max(activation_bytes(plan, index, sizes.transformer, shape=shape) for index in segments),
        cache_bytes=max(window_cache_bytes(plan, index, sizes.transformer, shape=shape) for index in segments),
        encoding_bytes=_encoding_bytes(plan, sizes),
        decoding_bytes=decoding.total_bytes,
        parked_bytes=FILMS_AT_ONCE * decoding.cache_bytes,
    )


def weight_bytes(sizes: TransformerSizes, element_bytes: float) -> int:
    """The transformer's weights: all but those that stay float32 take `element_bytes` each."""
    kept = sizes.num_float32_parameters
    return int((sizes.num_parameters - kept) * element_bytes) + kept * FLOAT32_BYTES


def activation_bytes(
    plan: FilmPlan, segment: int, sizes: TransformerSizes, *, with_cache: bool = True, shape: GroupShape = GroupShape()
) -> int:
    """The largest pass of a segment; `with_cache` if finished blocks are read from their cache."""
    element, window = ELEMENT_BYTES[plan.spec.dtype], plan.windows[segment]
    branches = _num_branches(plan, shape)
    tokens_per_frame = ceil(plan.tokens_per_frame / shape.sequence)
    rotary = window.num_seen_frames * tokens_per_frame * sizes.head_dim * FLOAT32_BYTES
    pixels = window.num_seen_frames * plan.latent_height * plan.latent_width
    latents = pixels * (_LATENT_COPIES * sizes.out_channels * FLOAT32_BYTES)
    latents += 2 * pixels * (sizes.in_channels - sizes.out_channels) * element
    prompts = branches * _TEXT_TOKENS * (sizes.dim * (2 * sizes.num_layers + 2) + sizes.text_dim)
    images = (sizes.pos_embed_len or _IMAGE_TOKENS) * sizes.dim * 2 * sizes.num_layers if sizes.image_dim else 0
    largest = max(
        pass_bytes(
            one,
            tokens_per_frame,
            sizes,
            num_branches=branches,
            element_bytes=element,
            attended_at_once=_attended_at_once(shape, sizes.num_heads),
        )
        for one in passes(plan, segment, with_cache=with_cache)
    )
    return rotary + latents + (prompts + images) * element + largest


def pass_bytes(
    one: Pass,
    tokens_per_frame: int,
    sizes: TransformerSizes,
    *,
    num_branches: int,
    element_bytes: int,
    attended_at_once: float = 1.0,
) -> int:
    """The fullest moment of a layer, in the last guidance branch of a pass: either its feed-forward, the gated sum
    after self-attention, or self-attention over the cached keys and values joined with its own."""
    tokens = one.num_frames * tokens_per_frame
    copies = 0 if element_bytes == FLOAT32_BYTES else 2 * FLOAT32_BYTES  # `.float()` of both summands
    # The pass's first states, each branch's input, and what earlier branches have given.
    streams = 2 * num_branches * element_bytes
    attention_states = 5 * element_bytes  # normed, query, key, value, output
    gated_sum = streams + attention_states + copies + FLOAT32_BYTES
    # The feed-forward also has the outputs of self-attention, of cross-attention and of both together, and the normed
    # states: a compiled region holds its arguments until it returns.
    feed_forward = streams + 4 * element_bytes
    wide = 2 * element_bytes * sizes.ffn_dim / sizes.dim
    attending = streams + attention_states
    joined = 0.0
    if one.num_cached_frames:
        joined = 2 * element_bytes * one.stop * tokens_per_frame * attended_at_once
        attending += element_bytes  # outputs of blocks, and joined
    per_token = max(gated_sum, feed_forward + wide, feed_forward + element_bytes + copies + FLOAT32_BYTES)
    return int(sizes.dim * max(per_token * tokens, attending * tokens + joined))


def window_cache_bytes(
    plan: FilmPlan, segment: int, sizes: TransformerSizes, *, shape: GroupShape = GroupShape()
) -> int:
    """Keys and values of a segment's finished blocks; 0 where nothing is final before the segment ends."""
    tokens_per_frame = ceil(plan.tokens_per_frame / shape.sequence)
    return cache_bytes(
        num_tokens=num_cacheable_frames(plan, segment) * tokens_per_frame,
        num_layers=sizes.num_layers,
        num_branches=_num_branches(plan, shape),
        num_heads=sizes.num_heads,
        head_dim=sizes.head_dim,
        bytes_per_element=ELEMENT_BYTES[plan.spec.dtype],
        first_layer_share=0.5 if shape.shares_first_layer(sizes.num_heads) else 1.0,
    )


def cache_bytes(
    *,
    num_tokens: int,
    num_layers: int,
    num_branches: int,
    num_heads: int,
    head_dim: int,
    bytes_per_element: int,
    first_layer_share: float = 1.0,
) -> int:
    """Memory that caching `num_tokens` takes. The branches share the first layer (see `transformer.FrameBlock`)."""
    num_slots = (num_layers - 1) * num_branches + first_layer_share
    return int(2 * num_tokens * num_slots * num_heads * head_dim * bytes_per_element)


def _attended_at_once(shape: GroupShape, num_heads: int) -> float:
    """The largest share of a rank's heads that attends at a time: Ulysses without a ring does so in two halves."""
    heads = num_heads // shape.ulysses
    return ceil(heads / 2) / heads if shape.ulysses > 1 and shape.ring == 1 and heads else 1.0


def _num_branches(plan: FilmPlan, shape: GroupShape) -> int:
    return 2 // shape.cfg if plan.job.guided else 1


def _image_encoder_bytes(plan: FilmPlan, sizes: ModelSizes, element_bytes: int) -> int:
    encoder, job = sizes.image_encoder, plan.job
    if encoder is None or job.task not in IMAGE_TASKS:
        return 0
    num_images = 2 if job.task == "flf2v" else 1
    return (encoder.num_parameters + num_images * encoder.num_states) * element_bytes


def _encoding_bytes(plan: FilmPlan, sizes: ModelSizes) -> int:
    job = plan.job
    if job.task not in (*IMAGE_TASKS, "v2v"):
        return 0
    num_frames = job.overlap_history if job.task == "v2v" else 1
    if plan.spec.family is Family.IMAGE_TO_VIDEO:  # the images and black frames between, as one video
        num_frames = job.num_frames
    batch = 2 if job.task == "flf2v" and num_frames == 1 else 1
    memory = encoding_memory(sizes.vae, height=job.height, width=job.width, num_frames=num_frames, batch=batch)
    return memory.total_bytes
