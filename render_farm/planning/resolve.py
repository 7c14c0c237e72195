"""`ResolvedJob`: a job with every null filled from its model's defaults, and the key that identifies its pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from render_farm.drift_mode import parse_drift
from render_farm.job import LoraRef, RenderJob, columns, default_seed
from render_farm.memory_mode import parse_memory
from render_farm.models import CAUSAL, DISTILLED, DISTILLED_DEFAULTS
from render_farm.planning.frames import num_latent_frames, rounded_num_frames
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.shots import (
    ResolvedShot,
    WindowSize,
    image_name,
    is_prompt_list,
    shot_of_segment,
    takes,
)
from render_farm.shots import Shot
from render_farm.step_cache import CacheKind, guidance_share, parse_cache

INPUT_COLUMNS = ("image", "last_image", "video")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedJob:
    """Every parameter of a film, none of them null except inputs that are not given."""

    job_id: str
    prompts: tuple[str, ...]
    negative_prompt: str
    model: str
    task: str
    num_frames: int
    height: int
    width: int
    fps: int
    seed: int
    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    base_num_frames: int
    overlap_history: int
    addnoise_condition: float
    ar_step: int
    causal_block_size: int
    block_attention: str
    """Without effect where `causal_block_size` is 1."""
    sampler: str
    """`distilled` takes the steps of `step_list`, which is empty for the others."""
    prefix_noise: str
    fit: str = "crop"
    step_list: tuple[int, ...] = ()
    keep_overlap: bool = False
    image: str | None = None
    last_image: str | None = None
    video: str | None = None
    loras: tuple[LoraRef, ...] = ()
    cache: str = "off"
    drift: str = "off"
    memory: str = "auto"
    checks: str = "mark"
    ulysses: int | None = None
    ring: int | None = None
    cfg_parallel: int | None = None
    priority: int = 50
    quality: float = 8.0
    input_digests: tuple[tuple[str, str], ...] = ()
    """(column, sha256 in hex of the input's bytes) of the inputs that were read, in the columns' order. The render key
    then knows an input by its content; while it is not read, by its URI."""
    lora_digests: tuple[str, ...] = ()
    """The same for the files of `loras`, in their order; empty while they are not read."""
    shots: tuple[ResolvedShot, ...] = ()
    """Empty for a film that a prompt list describes. Else `prompts` has one prompt for each shot."""
    first_segments: int = 0
    """Of a draft: how many of the film's segments are rendered. 0: all of them."""

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is on, by diffusers' rule."""
        return self.guidance_scale > 1.0

    @property
    def is_guided_in_part(self) -> bool:
        """Whether the branch without the prompt is left out in some steps."""
        return self.guided and guidance_share(self.cache) < 1.0

    @property
    def splits_branches(self) -> bool:
        """Whether the two halves of a group can take a guidance branch each, in every step."""
        return self.guided and not self.is_guided_in_part

    def prompt_of(self, segment: int) -> str:
        """The prompt of a segment; the last of the list repeats."""
        if self.shots:
            return self.prompts[shot_of_segment(self.shots, segment)]
        return self.prompts[min(segment, len(self.prompts) - 1)]

    def input_name(self, segment: int, column: str) -> str:
        """What the input in `column` of the take that starts with `segment` is called among `inputs`."""
        return image_name(shot_of_segment(self.shots, segment)) if segment else column

    def flow_shift_of(self, segment: int) -> float:
        """The flow shift of a segment: that of its take."""
        return self.shots[shot_of_segment(self.shots, segment)].flow_shift if self.shots else self.flow_shift

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """(sha256, or path while it is not read; weight) of the LoRAs that change anything, in their order."""
        names = self.lora_digests or tuple(lora.path for lora in self.loras)
        pairs = zip(names, (lora.weight for lora in self.loras), strict=True)
        return tuple((name, weight) for name, weight in pairs if weight)

    @property
    def film_inputs(self) -> dict[str, str]:
        """The columns of inputs that are given, and their URIs."""
        return {name: uri for name in INPUT_COLUMNS if (uri := getattr(self, name))}

    @property
    def inputs(self) -> dict[str, str]:
        """The same with the images of shots, which have names of their own."""
        return self.film_inputs | {
            image_name(index): shot.image for index, shot in enumerate(self.shots) if shot.image is not None
        }


def infer_task(job: RenderJob) -> str:
    """The task a job means by its inputs when it does not name one."""
    if job.task:
        return job.task
    if job.video:
        return "v2v"
    if job.last_image:
        return "flf2v"
    return "i2v" if job.image or (job.shots and job.shots[0].image) else "t2v"


def resolve_job(job: RenderJob, spec: ModelSpec, *, keeps_shots: bool = False) -> ResolvedJob:
    """Fill a job's nulls from `spec`. The frame count is rounded as diffusers does; nothing is refused here.

    With `keeps_shots`, a film of shots has them even where a prompt list describes it.
    """
    task = infer_task(job)
    defaults = spec.defaults_for(task)
    values = {f.name: getattr(job, f.name) for f in fields(RenderJob) if getattr(job, f.name) is not None}
    for name in ("prompt", "deadline", "owner", "tags", "shots"):
        values.pop(name, None)
    if values.get("sampler") == DISTILLED:
        values = {**DISTILLED_DEFAULTS, **values}
        values.setdefault("num_inference_steps", len(values["step_list"]))
    for f in fields(defaults):
        values.setdefault(f.name, getattr(defaults, f.name))
    if values["causal_block_size"] is None:
        values["causal_block_size"] = spec.num_frame_per_block
    values["num_frames"] = rounded_num_frames(values["num_frames"], spec.temporal_factor)
    values |= {"model": spec.name, "task": task}
    values.setdefault("seed", default_seed(job.job_id))
    film = ResolvedJob(prompts=_without_repeats(job.prompts), **values)
    if job.shots:
        film = _with_shots(film, job.shots, resolve_shots(job, film, spec), spec, keeps_shots=keeps_shots)
    if not spec.renders_windows and job.base_num_frames is None:
        film = replace(film, base_num_frames=film.num_frames)
    return film


def resolve_shots(job: RenderJob, film: ResolvedJob, spec: ModelSpec) -> tuple[ResolvedShot, ...]:
    """The shots of `job`, whose other columns are resolved in `film`. A take has the values of its own task."""
    size, take = _window_size(film, spec), film
    shots: list[ResolvedShot] = []
    for index, shot in enumerate(job.shots or ()):
        starts_take = index == 0 or shot.cut
        if index and shot.cut:
            alone = replace(job, shots=None, task=None, image=shot.image, last_image=None, video=None)
            take = resolve_job(alone, spec)
        num_frames = size.num_frames(starts_take=starts_take) if shot.num_frames is None else shot.num_frames
        shots.append(
            ResolvedShot(
                num_frames=num_frames,
                num_segments=size.num_segments(num_frames, starts_take=starts_take),
                starts_take=starts_take,
                seed=shot.seed if index else None,
                guidance_scale=take.guidance_scale if shot.guidance_scale is None else shot.guidance_scale,
                flow_shift=take.flow_shift,
                task=take.task,
                image=shot.image if index else None,
            )
        )
    return tuple(shots)


def _with_shots(
    film: ResolvedJob, given: Sequence[Shot], shots: tuple[ResolvedShot, ...], spec: ModelSpec, *, keeps_shots: bool
) -> ResolvedJob:
    """The film of these shots: that of a prompt list where there is one for it."""
    first = given[0]
    film = replace(
        film,
        prompts=tuple(shot.prompt for shot in given),
        seed=film.seed if first.seed is None else first.seed,
        guidance_scale=shots[0].guidance_scale,
        image=film.image or first.image,
        num_frames=sum(shot.num_frames for shot in shots),
    )
    is_refused = len(shots) > 1 and not spec.renders_windows
    if keeps_shots or is_refused or not is_prompt_list(shots, _window_size(film, spec)):
        return replace(film, shots=shots)
    prompts = [prompt for prompt, shot in zip(film.prompts, shots, strict=True) for _ in range(shot.num_segments)]
    return replace(film, prompts=_without_repeats(tuple(prompts)))


def _window_size(job: ResolvedJob, spec: ModelSpec) -> WindowSize:
    base, overlap = (num_latent_frames(n, spec.temporal_factor) for n in (job.base_num_frames, job.overlap_history))
    return WindowSize(base=base, step=max(1, base - overlap), temporal_factor=spec.temporal_factor)


def _without_repeats(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """Drop repeats at the end of a prompt list: the last prompt repeats anyway, so equal prompts equal one string."""
    end = len(prompts)
    while end > 1 and prompts[end - 1] == prompts[end - 2]:
        end -= 1
    return prompts[:end]


def segment_job(job: ResolvedJob, segment: int) -> ResolvedJob:
    """The job of the film that the segment's take would be alone, with the prompt, seed and guidance of the segment's
    shot. It has no shots. `job` itself where it has none."""
    shots = job.shots
    if not shots:
        return job
    index = shot_of_segment(shots, segment)
    take = next(take for take in takes(shots) if index in take)
    shot, first = shots[index], take.start
    seeds = [one.seed for one in shots[: index + 1] if one.seed is not None]
    own: dict[str, Any] = {
        "prompts": (job.prompts[index],),
        "seed": seeds[-1] if seeds else job.seed,
        "guidance_scale": shot.guidance_scale,
        "flow_shift": shot.flow_shift,
        "task": shot.task,
        "num_frames": sum(shots[number].num_frames for number in take),
        "shots": (),
    }
    digests = dict(job.input_digests)
    if first == 0:
        kept = tuple((name, digests[name]) for name in job.film_inputs if name in digests)
        return replace(job, **own, input_digests=kept)
    name = image_name(first)
    kept = (("image", digests[name]),) if name in digests else ()
    return replace(job, **own, image=shots[first].image, last_image=None, video=None, input_digests=kept)


def with_input_digests(job: ResolvedJob, digests: Mapping[str, str]) -> ResolvedJob:
    """The job with the sha256 of its inputs, by column; columns that the job does not give are passed over."""
    known = tuple((name, digests[name]) for name in job.inputs if name in digests)
    return replace(job, input_digests=known)


def with_lora_digests(job: ResolvedJob, digests: Sequence[str]) -> ResolvedJob:
    """The job with the sha256 of its LoRAs' files, in their order."""
    assert len(digests) == len(job.loras)
    return replace(job, lora_digests=tuple(digests))


def pixel_parameters(job: ResolvedJob) -> dict[str, object]:
    """The parameters that touch pixels, for the render key. Of `memory`, the options that do."""
    known = columns()
    skipped = {"job_id", "model"} | {name for name, column in known.items() if not column.touches_pixels}
    if job.causal_block_size == 1 or job.block_attention == CAUSAL:
        skipped.add("block_attention")  # so that films from before it was a column keep their keys
    skipped |= {
        name
        for name in ("input_digests", "lora_digests", "step_list", "shots", "first_segments")
        if not getattr(job, name)
    }
    if not parse_drift(job.drift):
        skipped.add("drift")
    parameters = {f.name: _plain(getattr(job, f.name)) for f in fields(job) if f.name not in skipped}
    if job.shots:
        read = dict(job.input_digests)
        shots = (replace(shot, image=None) if image_name(n) in read else shot for n, shot in enumerate(job.shots))
        parameters["shots"] = _plain(tuple(shots))
    if changes := parse_memory(job.memory).what_changes_pixels:
        parameters["memory"] = changes
    return parameters


def _plain(value: object) -> object:
    """As `dataclasses.asdict` gives it, which copies what needs no copy and is slow with 10,000 jobs."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def render_key(job: ResolvedJob, spec: ModelSpec) -> str:
    """12 hex of the sha256 of the canonical JSON of everything that decides the pixels.

    The model counts by its fingerprint and dtype, an input or LoRA that was read by the sha256 of its bytes, not by
    their names: the same weights or the same image under another path are the same. A LoRA of weight 0 is none.
    """
    document = {**pixel_parameters(job), "model_fingerprint": spec.fingerprint, "dtype": spec.dtype}
    if spec.approximation:
        document["approximation"] = spec.approximation
    cache = parse_cache(job.cache)
    if cache and cache.kind is CacheKind.MAG and spec.magnitudes:
        document["magnitudes"] = spec.magnitudes.to_dict()
    for name, _ in job.input_digests:
        document.pop(name, None)
    document.pop("lora_digests", None)
    document["loras"] = job.adapters
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
