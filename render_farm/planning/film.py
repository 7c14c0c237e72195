"""`FilmPlan`: everything that is known about a film before it is rendered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from render_farm.drift_mode import parse_drift
from render_farm.errors import InvalidJobError, Problem
from render_farm.job import NUM_SEEDS, RenderJob
from render_farm.memory_mode import parse_memory
from render_farm.planning.advice import advice, on_length
from render_farm.planning.frames import num_latent_frames, num_pixel_frames
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.prompt_length import LengthOf, estimated_length, too_long
from render_farm.planning.refusals import check
from render_farm.planning.resolve import (
    ResolvedJob,
    render_key,
    resolve_job,
    segment_job,
    with_input_digests,
    with_lora_digests,
)
from render_farm.planning.schedule import StepSchedule, branches_by_row, make_schedule
from render_farm.planning.segment_keys import segment_keys
from render_farm.planning.tasks import IMAGE_TASKS
from render_farm.planning.windows import Window, windows_of, within_take
from render_farm.step_cache import OFF, guidance_share


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmPlan:
    """A job that can be rendered: its parameters, its windows, and what the renderer warns of."""

    job: ResolvedJob
    spec: ModelSpec
    windows: tuple[Window, ...]
    warnings: tuple[str, ...]
    render_key: str

    @property
    def approximations(self) -> tuple[str, ...]:
        """What makes this another film than the exact one: `column value`, for `job.json` and the results."""
        values = {"cache": "" if self.job.cache == OFF else self.job.cache}
        values["drift"] = self.job.drift if any(map(self.drift_share, range(self.num_segments))) else ""
        values["memory"] = parse_memory(self.job.memory).what_changes_pixels
        engine = [f"attention {self.spec.approximation}"] if self.spec.approximation else []
        return (*(f"{column} {value}" for column, value in values.items() if value), *engine)

    @property
    def num_segments(self) -> int:
        return len(self.windows)

    @property
    def is_cut_short(self) -> bool:
        """Whether it is a draft without the film's last segments."""
        return bool(self.job.first_segments) and self.num_segments < len(windows_of(self.job, self.spec))

    @property
    def draft_note(self) -> str:
        """What a draft is, in words. Empty for a film."""
        if not self.job.first_segments:
            return ""
        return f"a draft: {self.num_segments} of the film's {len(windows_of(self.job, self.spec))} segments"

    @property
    def segment_keys(self) -> tuple[str, ...]:
        """What each segment is stored under. Computed each time."""
        return tuple(segment_keys(self.job, self.spec, self.windows))

    def drift_share(self, segment: int) -> float:
        """How far the statistics of a segment's latents move toward those of its take's first one; 0: not at all."""
        return 0.0 if self.windows[segment].starts_take else parse_drift(self.job.drift)

    def starts_scene(self, segment: int) -> bool:
        """Whether the picture is meant to change where a segment begins: at a cut, and with a new prompt or seed."""
        is_new = self.windows[segment].stream_start == segment
        return segment > 0 and (is_new or self.job.prompt_of(segment) != self.job.prompt_of(segment - 1))

    @property
    def beginnings(self) -> tuple[tuple[str, int], ...]:
        """Prompt and seed with which its takes start. Films that have none in common share no segment."""
        starts = [window.index for window in self.windows if window.starts_take] if self.job.shots else [0]
        jobs = [segment_job(self.job, start) for start in starts]
        return tuple((job.prompts[0], job.seed) for job in jobs)

    @property
    def num_latent_frames(self) -> int:
        """Latent frames of the whole film."""
        return self.windows[-1].end

    @property
    def cuts(self) -> tuple[int, ...]:
        """The latent frames at which a take starts, but for the first. Decoding starts again there."""
        return tuple(window.start for window in self.windows if window.starts_take and window.index)

    def num_pixel_frames_before(self, latent_frame: int) -> int:
        """Pixel frames that the latent frames before `latent_frame` decode to."""
        starts = [0, *(cut for cut in self.cuts if cut < latent_frame), latent_frame]
        return sum(num_pixel_frames(end - start, self.spec.temporal_factor) for start, end in pairwise(starts))

    @property
    def num_frames(self) -> int:
        """Pixel frames that the film's latents decode to; for v2v this counts neither the input video, which precedes
        them, nor what `num_repeated_frames` leaves out."""
        return self.num_pixel_frames_before(self.num_latent_frames)

    def take_of(self, segment: int) -> tuple[FilmPlan, int]:
        """The film that a segment's take is alone, with the seed, guidance and prompt of the segment's shot, and the
        segment's number in it. This film itself where it has no shots."""
        if not self.job.shots:
            return self, segment
        own = replace(self, job=segment_job(self.job, segment), windows=within_take(self.windows, segment), warnings=())
        return own, segment - self.windows[segment].take_start

    @property
    def num_repeated_frames(self) -> int:
        """Pixel frames at the start of the decoded film that are left out of the video, because the input video that
        precedes them shows them already (0 but for v2v without `keep_overlap`)."""
        return self.job.overlap_history if self.job.task == "v2v" and not self.job.keep_overlap else 0

    @property
    def latent_height(self) -> int:
        return self.job.height // self.spec.spatial_factor

    @property
    def latent_width(self) -> int:
        return self.job.width // self.spec.spatial_factor

    @property
    def tokens_per_frame(self) -> int:
        """Tokens the transformer sees for one latent frame."""
        return (self.latent_height // self.spec.patch) * (self.latent_width // self.spec.patch)

    def schedule(self, segment: int) -> StepSchedule:
        """The denoising schedule of a segment."""
        window = self.windows[segment]
        return make_schedule(
            num_latent_frames=window.num_latent_frames,
            num_prefix_frames=window.num_prefix_frames,
            num_inference_steps=self.job.num_inference_steps,
            flow_shift=self.job.flow_shift_of(segment),
            ar_step=self.job.ar_step,
            causal_block_size=self.job.causal_block_size,
            block_attention=self.job.block_attention,
            step_list=self.job.step_list,
            has_whole_timesteps=self.spec.renders_windows,
        )

    @property
    def num_guided_steps(self) -> int:
        """How many of a block's own steps compute both guidance branches."""
        return max(1, round(guidance_share(self.job.cache) * self.job.num_inference_steps)) if self.job.guided else 0

    def num_branches(self, segment: int) -> tuple[int, ...]:
        """How many guidance branches are computed in each step of a segment."""
        if not self.job.is_guided_in_part:
            return (2 if self.job.guided else 1,) * self.schedule(segment).num_rows
        return branches_by_row(self.schedule(segment), self.num_guided_steps)

    def prefix_changes(self, segment: int) -> bool:
        """Whether every step shows the model another prefix; then nothing after it is final before the window ends."""
        noisy = self.windows[segment].num_prefix_frames > 0 and self.job.addnoise_condition > 0
        return noisy and self.job.prefix_noise == "per_step"

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text the film's forward passes need, once each: its prompts, and the negative one when guided."""
        used = [self.job.prompt_of(segment) for segment in range(self.num_segments)]
        return tuple(dict.fromkeys([*used, self.job.negative_prompt] if self.job.guided else used))


def plan_film(
    job: RenderJob,
    spec: ModelSpec,
    *,
    input_digests: Mapping[str, str] | None = None,
    length_of: LengthOf = estimated_length,
    first_segments: int = 0,
) -> FilmPlan:
    """Plan `job` for a checkpoint. Raises `InvalidJobError`, which lists every reason, when it cannot be rendered.

    `input_digests` (column to sha256 in hex of the input's bytes) make the render key follow the inputs' content; see
    `with_inputs_read` for a plan that was made before they were read. `first_segments` plans a draft of so many
    segments.
    """
    resolved = with_input_digests(resolve_job(job, spec), input_digests or {})
    resolved = replace(resolved, first_segments=first_segments)
    problems = check(resolved, spec)
    if problems and job.shots:
        problems = check(resolve_job(job, spec, keeps_shots=True), spec) or problems  # in the words of its row
        problems = [_of_first_shot(problem, job) for problem in problems]
    if problems:
        raise InvalidJobError(problems, job_id=job.job_id)
    windows = windows_of(resolved, spec)
    plan = FilmPlan(
        job=resolved,
        spec=spec,
        windows=windows[: first_segments or None],
        warnings=tuple(_warnings(job, resolved, windows, spec)),
        render_key=render_key(resolved, spec),
    )
    return with_notes(plan, too_long(plan.texts, resolved.negative_prompt, length_of))


def _of_first_shot(problem: Problem, job: RenderJob) -> Problem:
    if problem.field != "image" or job.image is not None:
        return problem
    return Problem(field="shots", message=f"shot 1: image: {problem.message}")


def with_notes(plan: FilmPlan, notes: Iterable[str]) -> FilmPlan:
    """The plan with further warnings."""
    return replace(plan, warnings=_with_fresh(plan, notes))


def with_inputs_read(plan: FilmPlan, input_digests: Mapping[str, str], notes: Iterable[str] = ()) -> FilmPlan:
    """The plan with the digests of its inputs (column to sha256 in hex), the render key that follows from them, and
    what is to be said of them."""
    job = with_input_digests(plan.job, input_digests)
    return replace(plan, job=job, render_key=render_key(job, plan.spec), warnings=_with_fresh(plan, notes))


def with_loras_read(plan: FilmPlan, lora_digests: Sequence[str], warnings: Iterable[str] = ()) -> FilmPlan:
    """The plan with the sha256 of its LoRAs' files, in their order, the render key that follows from them, and what is
    to be said of them."""
    job = with_lora_digests(plan.job, lora_digests)
    return replace(plan, job=job, render_key=render_key(job, plan.spec), warnings=_with_fresh(plan, warnings))


def with_seed(plan: FilmPlan, seed: int) -> FilmPlan:
    """The plan of the same film with another seed. The seeds of its shots move by as much."""
    moved = seed - plan.job.seed
    shots = (
        shot if shot.seed is None else replace(shot, seed=(shot.seed + moved) % NUM_SEEDS) for shot in plan.job.shots
    )
    job = replace(plan.job, seed=seed, shots=tuple(shots))
    return replace(plan, job=job, render_key=render_key(job, plan.spec))


def _with_fresh(plan: FilmPlan, warnings: Iterable[str]) -> tuple[str, ...]:
    return plan.warnings + tuple(warning for warning in dict.fromkeys(warnings) if warning not in plan.warnings)


def _warnings(job: RenderJob, resolved: ResolvedJob, windows: tuple[Window, ...], spec: ModelSpec) -> list[str]:
    warnings = []
    if job.num_frames is not None and job.num_frames != resolved.num_frames:
        warnings.append(f"num_frames {job.num_frames} is not of the form 4n+1; {resolved.num_frames} are rendered")
    starts = [window.index for window in windows if window.starts_take] if resolved.shots else []
    takes = [(segment_job(resolved, start), within_take(windows, start)) for start in starts]
    for take, own in takes or [(resolved, windows)]:
        warnings += _extensions(take, own)
    longest_take = max(Counter(window.take_start for window in windows).values())
    warnings += [*advice(resolved, spec), *on_length(resolved, longest_take)]
    if not spec.renders_windows:
        warnings += _of_one_window(job, resolved, spec)
    cut = {window.num_given_frames - window.num_prefix_frames for window in windows} - {0}
    if cut:
        warnings.append(
            f"overlap_history {resolved.overlap_history} is {num_latent_frames(resolved.overlap_history)} latent "
            f"frames, not a multiple of causal_block_size {resolved.causal_block_size}: each window takes over "
            f"{max(cut)} fewer, which may show at the seam"
        )
    if not resolved.shots and len(resolved.prompts) > len(windows):
        warnings.append(f"{len(resolved.prompts)} prompts for {len(windows)} segments: the last ones are not used")
    return warnings


_OF_WINDOWS = ("overlap_history", "addnoise_condition", "prefix_noise", "keep_overlap")


def _of_one_window(job: RenderJob, resolved: ResolvedJob, spec: ModelSpec) -> Iterator[str]:
    """Where a checkpoint without diffusion forcing differs from what the job may expect."""
    usual = spec.defaults_for(resolved.task).base_num_frames
    if resolved.num_frames > usual:
        yield (
            f"{resolved.num_frames} frames are one window for {spec.name}, whose default is {usual}: memory and time "
            "grow with it, and longer films than it has learnt may fall apart; diffusion-forcing checkpoints render "
            "long films in windows"
        )
    idle = [name for name in _OF_WINDOWS if getattr(job, name)]
    if idle:
        yield f"{' and '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect on a film of one window"


def _extensions(job: ResolvedJob, windows: tuple[Window, ...]) -> Iterator[str]:
    """Where the film goes beyond what diffusers renders."""
    last = windows[-1]
    if job.task in IMAGE_TASKS and last.num_latent_frames < windows[0].num_latent_frames:
        yield (
            f"the last segment has {last.num_latent_frames} latent frames, a whole window "
            f"{windows[0].num_latent_frames}; diffusers fails on it for {job.task}, here it is rendered as for t2v"
        )
    if last.num_last_image_frames and last.num_history_frames > 1:
        yield (
            f"last_image in a film of {len(windows)} segments is an extension: it closes the last segment, the others "
            "do not see it; diffusers fails"
        )
    if job.task == "v2v" and not job.keep_overlap:
        yield (
            f"the video is the input and {job.num_frames - job.overlap_history} new frames: the {job.overlap_history} "
            "of overlap_history, which num_frames counts, are not shown twice as diffusers does "
            "(keep_overlap keeps them)"
        )
