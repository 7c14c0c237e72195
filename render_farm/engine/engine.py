"""`Engine`: one model on one device; plans, encodes, denoises and decodes.

Shapes: C latent channels, T latent frames, h w latent height and width, O latent frames of overlap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from render_farm.config import load
from render_farm.engine.conditioning.conditioning import Conditioning, Inputs, check_conditioning, encode_inputs
from render_farm.engine.conditioning.image_encoder import encode_images
from render_farm.engine.conditioning.inputs import read_film_inputs
from render_farm.engine.conditioning.text_encoder import encode_texts
from render_farm.engine.decoding.streaming import StreamingDecoder
from render_farm.engine.decoding.tiles import FrameDecoder
from render_farm.engine.decoding.turns import DecodingTurns
from render_farm.engine.decoding.video import Video
from render_farm.engine.denoising.cache_plan import CachePlan
from render_farm.engine.denoising.drift import moved_toward
from render_farm.engine.denoising.step_state import StepKeeper
from render_farm.engine.denoising.window import AttentionPolicy, render_window, window_cache_plan
from render_farm.engine.device import (
    cache_budget_bytes,
    device_errors,
    resolve_device,
    resolve_dtype,
    set_precision,
    total_bytes,
    vae_precision,
)
from render_farm.engine.lora.branches import Adapters, WeightedLora
from render_farm.engine.lora.cache import LoraCache, check_loras
from render_farm.engine.options import EngineOptions
from render_farm.engine.progress import OnStep, StepProgress
from render_farm.engine.transformer.attention import AttentionBackend, BlockCausalAttention, SelfAttention
from render_farm.engine.transformer.backend_choice import AttentionChoice, choose_backend, slow_notes
from render_farm.engine.transformer.compilation import (
    CompilePlan,
    compile_blocks,
    plan_compilation,
    run_regions_once,
)
from render_farm.engine.transformer.group import RenderGroup, SingleRank
from render_farm.engine.transformer.transformer import EAGER, FrameTransformer
from render_farm.engine.weights.checkpoint import Checkpoint, read_checkpoint
from render_farm.engine.weights.loading import (
    load_image_encoder,
    load_image_processor,
    load_text_encoder,
    load_tokenizer,
    load_vae,
)
from render_farm.engine.weights.locate import locate_model
from render_farm.engine.weights.part_sizes import read_sizes
from render_farm.engine.weights.resident_transformer import ResidentTransformer, free_memory
from render_farm.errors import InvalidJobError, ModelError, NotFiniteError, Problem, UsageError
from render_farm.job import RenderJob
from render_farm.media.limits import InputLimits, InputSettings
from render_farm.memory_mode import MemoryMode, parse_memory
from render_farm.planning import FilmPlan, ModelSpec, plan_film, with_inputs_read, with_loras_read
from render_farm.planning.groups import GroupShape, group_of
from render_farm.planning.memory import usable_bytes
from render_farm.planning.memory_modes import device_bytes

T = TypeVar("T")
log = logging.getLogger(__name__)


def load_engine(
    model: str | Path = "tiny",
    *,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    with_text_encoder: bool = True,
    cache_folder: Path | None = None,
    options: EngineOptions | None = None,
    limits: InputLimits | None = None,
    on_alive: Callable[[], None] | None = None,
) -> Engine:
    """Find and check a model; its weights are loaded when they are first needed.

    `model` is a preset's name, a folder or fsspec URI in diffusers format, or a hub id; safetensors only. `dtype` is
    the transformer's and text encoder's (`auto`: bfloat16 on CUDA, float32 on the CPU); the VAE is float32 always.
    `with_text_encoder=False` makes an engine that only takes embeddings. `cache_folder` is where a URI is copied to.
    `options` say how segments are computed. `limits` are for the images, videos and LoRAs that `render` reads from
    their URIs, and for the size of a model that is copied; None: those of the settings (`$RENDER_FARM_CONFIG` and
    `RENDER_FARM_INPUT_*` variables), and a model of any size.
    `on_alive` is called while a URI is copied, from several threads.
    Raises `ModelError` for a model that is not there, not SkyReels-V2 or not complete, `UsageError` for an unknown
    device or dtype.
    """
    found_device = resolve_device(device)
    found_dtype = resolve_dtype(dtype, found_device)
    checkpoint = read_checkpoint(
        locate_model(
            str(model),
            cache_folder=cache_folder,
            max_bytes=None if limits is None else limits.max_model_bytes,
            on_alive=on_alive,
        ),
        name=str(model),
        dtype=str(found_dtype).removeprefix("torch."),
    )
    return Engine(
        checkpoint,
        device=found_device,
        dtype=found_dtype,
        with_text_encoder=with_text_encoder,
        options=options,
        limits=limits,
    )


class Engine:
    """A model, ready to render. Made by `load_engine`.

    One thread may denoise while another decodes; no part may be used by two threads at once.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        dtype: torch.dtype,
        with_text_encoder: bool = True,
        self_attention: SelfAttention | None = None,
        cross_attention: AttentionBackend | None = None,
        options: EngineOptions | None = None,
        limits: InputLimits | None = None,
    ) -> None:
        """`self_attention` and `cross_attention` replace what `options` choose (see `attention`)."""
        set_precision()
        self.options = options or EngineOptions()
        spec = replace(checkpoint.spec, approximation=self.options.approximation)
        self.checkpoint = replace(checkpoint, spec=spec)
        self.device = device
        self.dtype = dtype
        self._self_attention = self_attention
        self._cross_attention = cross_attention
        self._with_text_encoder = with_text_encoder
        self._limits = limits
        self._text_encoder: torch.nn.Module | None = None
        self._loading = Lock()
        self._num_skipped = 0
        self.agreed_attention = ""
        """The backend of other workers on such devices. Kernels round differently, so a film has one."""
        self._denoiser = ResidentTransformer(checkpoint.folder, device=device, dtype=dtype, prepare=self._prepare)
        self._loras = LoraCache(checkpoint.folder, model=spec.name)

    @property
    def spec(self) -> ModelSpec:
        """What planning needs to know about the model."""
        return self.checkpoint.spec

    @property
    def transformer(self) -> FrameTransformer:
        """The denoiser; loaded on first use, and again by a segment whose job asks for weights of another form."""
        return self._denoiser.model()

    @transformer.setter
    def transformer(self, model: FrameTransformer) -> None:
        """Take one that is on the device already, instead of the checkpoint's."""
        self._denoiser.give(model)

    @property
    def memory(self) -> MemoryMode | None:
        """The mode that the last segment was rendered in; None before the first."""
        return self._denoiser.mode

    def _prepare(self, transformer: FrameTransformer, mode: MemoryMode) -> None:
        """Compile its blocks where `options` say so; that happens when they are first run."""
        if plan_compilation(self.options.compile, self.device, mode).compiles:
            compile_blocks(transformer, or_else_eager=self.options.compile == "auto")
        else:
            transformer.run_regions(EAGER)

    @property
    def compile_plan(self) -> CompilePlan:
        """Whether blocks are compiled, and why, in the mode that the weights are in."""
        return plan_compilation(self.options.compile, self.device, self.memory or MemoryMode())

    @property
    def attention_choice(self) -> AttentionChoice:
        """The attention backend for this model on this device: the one that was agreed on, else the fastest here.

        Raises `UsageError` when the one asked for is not usable here."""
        return self.fastest_attention.agreed(self.agreed_attention)

    @cached_property
    def fastest_attention(self) -> AttentionChoice:
        """What would be chosen for this device alone; measured on first use."""
        config = self.transformer.config
        choice = choose_backend(
            self.options.attention,
            device=self.device,
            dtype=self.dtype,
            num_heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            allow_approximate=self.options.allow_approximate_attention,
        )
        log.info("%s", choice)
        return choice

    @property
    def attention(self) -> AttentionPolicy:
        """How segments attend, and how much they may keep."""
        return AttentionPolicy(
            own=self._self_attention or BlockCausalAttention(self.attention_choice.backend),
            cross=self._cross_attention or self.attention_choice.backend,
            cache_budget_bytes=cache_budget_bytes(self.transformer, self.device),
            kv_cache=self.options.kv_cache,
        )

    def cache_plan(self, plan: FilmPlan, index: int, group: RenderGroup | None = None) -> CachePlan:
        """Whether segment `index` keeps the keys and values of its finished blocks, and why."""
        return window_cache_plan(self.transformer, plan, index, self.attention, group or SingleRank())

    def decisions(self, plan: FilmPlan, index: int, group: RenderGroup | None = None) -> dict[str, Any]:
        """What was chosen for computing segment `index`, for `job.json`."""
        return {
            "memory": str(self.memory),
            "skipped_steps": self._num_skipped,
            "attention": self.attention_choice.to_dict(),
            "compile": self.compile_plan.to_dict(),
            "vae_precision": vae_precision(self.device),
            "kv_cache": self.cache_plan(plan, index, group).to_dict(),
        }

    def notes(self, plan: FilmPlan, index: int, group: RenderGroup | None = None) -> tuple[str, ...]:
        """The same for people, one line each."""
        notes: tuple[str, ...] = (
            str(self.attention_choice),
            str(self.compile_plan),
            str(self.cache_plan(plan, index, group)),
        )
        if self.device.type == "cuda":
            notes += slow_notes(self.attention_choice, torch.cuda.get_device_capability(self.device))
        return (*notes, *self._denoiser.notes)

    @property
    def adapters(self) -> Adapters:
        """The LoRAs on the transformer."""
        return self._denoiser.adapters

    @cached_property
    def _turns(self) -> DecodingTurns:
        return DecodingTurns(self.device)

    @cached_property
    def vae(self) -> AutoencoderKLWan:
        """The video autoencoder; loaded on first use."""
        with self._loading:
            return load_vae(self.checkpoint.folder, device=self.device, fused=self.options.compile != "off")

    def plan(self, job: RenderJob) -> FilmPlan:
        """Everything known about a film before it is rendered. Raises `InvalidJobError`."""
        if job.model not in (None, self.spec.name):
            problem = Problem(field="model", message=f"is {job.model}, but this engine has loaded {self.spec.name}")
            raise InvalidJobError([problem], job_id=job.job_id)
        return plan_film(job, self.spec)

    def encode_prompts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Each text to its embedding, (512, text channels) on the CPU, in the engine's dtype.

        Bit-equal to diffusers' `encode_prompt` of that text alone. Loads the text encoder when it is not there.
        """
        if not self._with_text_encoder:
            raise UsageError("this engine was loaded without a text encoder", advice="give it embeddings")
        if self._text_encoder is None:
            with self._loading:
                self._text_encoder = load_text_encoder(self.checkpoint.folder, device=self.device, dtype=self.dtype)
        return encode_texts(
            texts,
            tokenizer=load_tokenizer(self.checkpoint.folder),
            encoder=self._text_encoder,
            device=self.device,
        )

    def drop_text_encoder(self) -> None:
        """Free the text encoder's memory; the next `encode_prompts` loads it again."""
        self._text_encoder = None
        free_memory(self.device)

    def encode_conditioning(self, plan: FilmPlan, inputs: Inputs) -> Conditioning:
        """The latents of a film's inputs, on the CPU: encode them once per film, and give them to `render_segment`.
        Each take of a film with cuts has its own (`plan.take_of`).

        Raises `InputError` for pixels that are missing or of another size, or a video shorter than `overlap_history`.
        """
        self.vae.use_tiling = parse_memory(plan.job.memory).vae_tiling
        with device_errors(f"encoding the inputs of job {plan.job.job_id}"):
            return encode_inputs(self.vae, plan, inputs, self._encode_images)

    def _encode_images(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """The image encoder is loaded for one film and released. It would only take the denoiser's memory."""
        folder, class_name = self.checkpoint.folder, self.checkpoint.image_encoder
        assert class_name is not None, "only checkpoints with an image encoder call this"
        with self._loading:
            encoder = load_image_encoder(folder, class_name, device=self.device, dtype=self.dtype)
        return encode_images(pictures, processor=load_image_processor(folder), encoder=encoder)

    def _input_limits(self) -> InputLimits:
        return self._limits or load(InputSettings, partial=True).settings.inputs

    def read_loras(self, plan: FilmPlan, limits: InputLimits | None = None) -> tuple[WeightedLora, ...]:
        """The LoRAs of a film, read from their URIs or kept from before: give them to `render_segment`.

        Raises `InputError` for one that cannot be used, or that is not the one whose sha256 the plan has.
        """
        return self._loras.read(plan, limits)

    def render_segment(
        self,
        plan: FilmPlan,
        index: int,
        *,
        history: Tensor | None,
        embeddings: Mapping[str, Tensor],
        conditioning: Conditioning | None = None,
        first: Tensor | None = None,
        loras: Sequence[WeightedLora] = (),
        group: RenderGroup | None = None,
        keeper: StepKeeper | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Denoise segment `index` of a film; returns what it adds, (1 C T h w) float32 on the CPU.

        Only `plan`, `history`, `embeddings`, `conditioning`, `first` and `loras` decide the result, so a segment can be
        rendered anywhere and at any time, bit-identically on like hardware.

        Args:
            history: the film's last O latents so far (1 C O h w). None for the first segment and after a cut.
            embeddings: for `plan.texts`, from `encode_prompts`.
            conditioning: from `encode_conditioning` of the segment's take. The first segment of an i2v, flf2v or v2v
                film or take needs it, and the last of a flf2v film.
            first: the first segment of its take (1 C T h w), which later ones need where `plan.drift_share` is above 0.
            loras: those of the job, from `read_loras`. They stay attached until a segment has others.
            group: every rank makes this call with the same arguments and gets the same result.
            keeper: keeps the state between steps, to resume after a crash. Not with a group.
            on_step: called after each step, may raise `Cancelled`. The steps start again when a segment runs out of
                memory and is rendered in a smaller mode (`memory: auto`, without a group).

        Raises `UsageError` when `history`, `conditioning`, `first` or `loras` are missing or not those of the plan,
        `KeyError` for a missing text, `OutOfMemoryError` or `DeviceError` for the device, `NotFiniteError` for NaN or
        infinity.
        """
        window = plan.windows[index]
        take, own_index = plan.take_of(index)
        check_conditioning(take, take.windows[own_index], conditioning)
        if window.num_history_frames:
            shape = (1, self.spec.latent_channels, window.num_history_frames, plan.latent_height, plan.latent_width)
            if history is None or tuple(history.shape) != shape:
                given = "none" if history is None else tuple(history.shape)
                raise UsageError(f"segment {index} continues latents of shape {shape}, given {given}")
        share = plan.drift_share(index)
        if share and first is None:
            raise UsageError(f"segment {index} moves toward the film's first segment (drift), which is not given")
        check_loras(plan, loras)
        what = f"segment {index} of job {plan.job.job_id}"

        def step(progress: StepProgress) -> None:
            self._num_skipped = progress.num_skipped
            if on_step is not None:
                on_step(replace(progress, segment=index, num_segments=plan.num_segments))

        def denoise(transformer: FrameTransformer) -> Tensor:
            self.adapters.use(transformer, loras)
            latents = render_window(
                transformer,
                take,
                own_index,
                history=history,
                embeddings=embeddings,
                attention=self.attention,
                conditioning=conditioning,
                group=group,
                keeper=keeper,
                on_step=step,
            )
            added = latents[:, :, window.num_dropped_frames :]
            if not added.isfinite().all():  # never stored, decoded or published
                raise NotFiniteError(what)
            return moved_toward(added, first, share) if share and first is not None else added.cpu()

        return self._run(plan, index, denoise, loras, steps_down=group is None)

    def warm_up(self, plan: FilmPlan, index: int, shape: GroupShape, loras: Sequence[WeightedLora] = ()) -> None:
        """Do what makes the first step of segment `index` slow: load the weights, choose attention, compile.

        In a render group of `shape`, the other ranks would wait for that in an exchange. With `loras` blocks have
        another form, which is compiled for itself. Raises as `render_segment`.
        """

        def warm(transformer: FrameTransformer) -> None:
            self.adapters.use(transformer, loras)
            backend = self.attention_choice.backend
            if self.compile_plan.compiles:
                run_regions_once(
                    transformer,
                    backend,
                    num_frames=plan.windows[index].num_seen_frames,
                    tokens_per_frame=ceil(plan.tokens_per_frame / shape.sequence),
                )
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        self._run(plan, index, warm, loras, steps_down=False)

    def _run(
        self,
        plan: FilmPlan,
        index: int,
        work: Callable[[FrameTransformer], T],
        loras: Sequence[WeightedLora],
        *,
        steps_down: bool,
    ) -> T:
        return self._denoiser.run(
            parse_memory(plan.job.memory),
            work,
            what=f"segment {index} of job {plan.job.job_id}",
            num_tokens=plan.windows[index].num_seen_frames * plan.tokens_per_frame,
            steps_down=steps_down,
            fits=partial(self._fits, plan, loras),
        )

    def _fits(self, plan: FilmPlan, loras: Sequence[WeightedLora], mode: MemoryMode) -> bool:
        """Whether `plan` fits this device in `mode`, by the estimate; yes where the model's sizes are not known."""
        try:
            sizes = read_sizes(self.checkpoint.folder)
        except ModelError:
            return True
        adapters = sum(weighted.lora.num_parameters for weighted in loras if weighted.weight) * self.dtype.itemsize
        return device_bytes(plan, sizes, mode) + adapters <= usable_bytes(total_bytes(self.device))

    def decoder(self, plan: FilmPlan, frame_decoder: FrameDecoder | None = None) -> StreamingDecoder:
        """A decoder for a film, from its first latent frame on; several may be used in turn.

        The first `plan.num_repeated_frames` frames, which a v2v film's input video ends with, are not given out.
        `frame_decoder` decodes instead of this process alone.
        """
        return StreamingDecoder(
            self.vae,
            num_skipped_frames=plan.num_repeated_frames,
            starts=plan.cuts,
            tiling=parse_memory(plan.job.memory).vae_tiling,
            frame_decoder=frame_decoder,
            turns=self._turns,
        )

    def render(self, job: RenderJob, on_progress: OnStep | None = None, *, inputs: Inputs | None = None) -> Video:
        """Render a whole film. Raises `InvalidJobError` before any work; what `on_progress` raises passes through.

        The job's LoRAs, image, last_image and video are read from their URIs, unless `inputs` gives the pixels. Raises
        `InputError` for one that cannot be used.
        """
        plan = self.plan(job)
        _check_alone(plan)
        if inputs is not None and not plan.job.film_inputs:
            raise UsageError(f"job {job.job_id} names no image or video, but its pixels are given")
        reads = read_film_inputs(plan, self._input_limits(), inputs)
        plan = with_inputs_read(plan, {name: sha for read in reads.values() for name, sha in read.digests.items()})
        loras = self.read_loras(plan, self._input_limits())
        if loras:
            warnings = [warning for weighted in loras for warning in weighted.lora.warnings]
            plan = with_loras_read(plan, [weighted.lora.sha256 for weighted in loras], warnings)
        conditionings = {
            start: self.encode_conditioning(plan.take_of(start)[0], read.pixels) for start, read in reads.items()
        }
        embeddings = self.encode_prompts(plan.texts)
        pieces: list[Tensor] = []
        for window in plan.windows:
            num_history = window.num_history_frames
            pieces.append(
                self.render_segment(
                    plan,
                    window.index,
                    history=torch.cat(pieces, dim=2)[:, :, -num_history:] if num_history else None,
                    embeddings=embeddings,
                    conditioning=conditionings.get(window.take_start),
                    first=pieces[window.take_start] if plan.drift_share(window.index) else None,
                    loras=loras,
                    on_step=on_progress,
                )
            )
        lead_in = reads[0].lead_in if 0 in reads else None
        return Video(torch.cat(pieces, dim=2), plan, lambda: self.decoder(plan), lead_in)


def _check_alone(plan: FilmPlan) -> None:
    """A film is rendered here by one process; groups are the farm's, or a caller's of `render_segment`."""
    asked = group_of(plan.job)
    if asked.size > 1:
        field = "ulysses" if asked.ulysses > 1 else "ring" if asked.ring > 1 else "cfg_parallel"
        message = f"{asked} needs a render group of {asked.size} workers; leave it out, or use render-farm render"
        raise InvalidJobError([Problem(field=field, message=message)], job_id=plan.job.job_id)
