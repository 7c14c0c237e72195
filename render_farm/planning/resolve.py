"""`ResolvedJob`: a job with every null filled from its model's defaults, and the key that identifies its pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from render_farm.drift_mode import parse_drift
from render_farm.job import LoraRef, RenderJob, columns, default_seed
from render_farm.memory_mode import parse_memory
from render_farm.models import CAUSAL, DISTILLED, DISTILLED_DEFAULTS
from render_farm.planning.frames import rounded_num_frames
from render_farm.planning.model_spec import ModelSpec
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
        return self.prompts[min(segment, len(self.prompts) - 1)]

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """(sha256, or path while it is not read; weight) of the LoRAs that change anything, in their order."""
        names = self.lora_digests or tuple(lora.path for lora in self.loras)
        pairs = zip(names, (lora.weight for lora in self.loras), strict=True)
        return tuple((name, weight) for name, weight in pairs if weight)

    @property
    def inputs(self) -> dict[str, str]:
        """The columns of inputs that are given, and their URIs."""
        return {name: uri for name in INPUT_COLUMNS if (uri := getattr(self, name))}


def infer_task(job: RenderJob) -> str:
    """The task a job means by its inputs when it does not name one."""
    if job.task:
        return job.task
    if job.video:
        return "v2v"
    if job.last_image:
        return "flf2v"
    return "i2v" if job.image else "t2v"


def resolve_job(job: RenderJob, spec: ModelSpec) -> ResolvedJob:
    """Fill a job's nulls from `spec`. The frame count is rounded as diffusers does; nothing is refused here."""
    task = infer_task(job)
    defaults = spec.defaults_for(task)
    values = {f.name: getattr(job, f.name) for f in fields(RenderJob) if getattr(job, f.name) is not None}
    for name in ("job_id", "prompt", "model", "task", "seed", "num_frames", "deadline", "owner", "tags"):
        values.pop(name, None)
    if values.get("sampler") == DISTILLED:
        values = {**DISTILLED_DEFAULTS, **values}
        values.setdefault("num_inference_steps", len(values["step_list"]))
    for f in fields(defaults):
        values.setdefault(f.name, getattr(defaults, f.name))
    if values["causal_block_size"] is None:
        values["causal_block_size"] = spec.num_frame_per_block
    num_frames = rounded_num_frames(
        defaults.num_frames if job.num_frames is None else job.num_frames, spec.temporal_factor
    )
    if not spec.renders_windows and job.base_num_frames is None:
        values["base_num_frames"] = num_frames
    return ResolvedJob(
        job_id=job.job_id,
        prompts=_without_repeats(job.prompts),
        model=spec.name,
        task=task,
        seed=default_seed(job.job_id) if job.seed is None else job.seed,
        num_frames=num_frames,
        **{name: value for name, value in values.items() if name != "num_frames"},
    )


def _without_repeats(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """Drop repeats at the end of a prompt list: the last prompt repeats anyway, so equal prompts equal one string."""
    end = len(prompts)
    while end > 1 and prompts[end - 1] == prompts[end - 2]:
        end -= 1
    return prompts[:end]


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
    skipped |= {name for name in ("input_digests", "lora_digests", "step_list") if not getattr(job, name)}
    if not parse_drift(job.drift):
        skipped.add("drift")  # likewise
    parameters = {name: value for name, value in asdict(job).items() if name not in skipped}
    if changes := parse_memory(job.memory).what_changes_pixels:
        parameters["memory"] = changes
    return parameters


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
        del document[name]
    document.pop("lora_digests", None)
    document["loras"] = job.adapters
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
