"""The content of a film's `job.json`, without the part that publishing adds."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import render_farm
from render_farm.farm.run.film_task import FilmTask, TriedSeed
from render_farm.farm.worker.films.film_output import RenderedFilm
from render_farm.media.seam_score import worst
from render_farm.planning.shots import image_name
from render_farm.storage.checkpoints import StoredFilm
from render_farm.uris import shown_uri

_SOFTWARE = ("torch", "diffusers", "transformers")


def film_document(
    task: FilmTask,
    state: StoredFilm,
    rendered: RenderedFilm,
    *,
    attempts: int,
    device: str,
    signer: str | None = None,
) -> dict[str, Any]:
    """`state` holds all its segments. `device` is that of the worker that finishes it. `signer` has signed it."""
    prompts = [task.plan.job.prompt_of(index) for index in range(task.plan.num_segments)]
    unwanted = tuple(seam for seam in rendered.seams if not task.plan.starts_scene(seam.segment))
    return {
        "parameters": _shown_parameters(task),
        "segment_prompts": prompts,
        "model": {
            "name": shown_uri(task.plan.spec.name),
            "fingerprint": task.plan.spec.fingerprint,
            "dtype": task.plan.spec.dtype,
        },
        "software": {
            "render_farm": render_farm.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _SOFTWARE},
        },
        "device": device,
        "run_id": task.run_id,
        **({"draft": task.plan.draft_note} if task.plan.draft_note else {}),
        "num_frames": rendered.num_frames,
        "decode_s": rendered.decode_s,
        "seam_score": worst(unwanted),
        "seams": [asdict(seam) for seam in rendered.seams],
        "findings": list(rendered.findings),
        "seeds_tried": [asdict(one) for one in _tried(task, rendered)],
        "drift": rendered.checked.drift,
        "segment_colours": [asdict(colours) for colours in rendered.checked.colours],
        "segments": [record.to_dict() for record in state.segments],
        "reused_segments": state.num_reused,
        "approximations": list(task.plan.approximations),
        "warnings": list(task.plan.warnings),
        "attempts": attempts,
        "provenance": {"marked": task.provenance.mark, "signed_by": signer},
    }


def _tried(task: FilmTask, rendered: RenderedFilm) -> tuple[TriedSeed, ...]:
    """The films of the row, the published one last. None when there was only the row's own."""
    if not task.tried:
        return ()
    published = TriedSeed(seed=task.plan.job.seed, findings=rendered.findings)
    return (*(one for one in task.tried if one.seed != published.seed), published)


def _shown_parameters(task: FilmTask) -> dict[str, Any]:
    """The resolved parameters for `job.json`, without the secrets that an input's URI may contain."""
    job = task.plan.job
    shown = {name: shown_uri(uri) for name, uri in job.inputs.items()}
    shown |= {"model": shown_uri(job.model)} if job.model else {}
    loras = [
        {"path": shown_uri(lora.path), "weight": lora.weight, "sha256": sha256}
        for lora, sha256 in zip(job.loras, job.lora_digests, strict=True)
    ]
    parameters = {
        name: value for name, value in asdict(job).items() if name not in ("lora_digests", "shots", "first_segments")
    }
    if job.first_segments:
        parameters["first_segments"] = job.first_segments
    if job.shots:
        parameters["shots"] = [
            {"prompt": prompt, **asdict(shot), "image": shown.pop(image_name(index), None)}
            for index, (shot, prompt) in enumerate(zip(job.shots, job.prompts, strict=True))
        ]
    return {**parameters, "prompts": list(job.prompts), **shown, "loras": loras}
