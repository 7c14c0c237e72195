"""The LoRAs of films, read from their URIs once and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from render_farm.engine.lora.branches import WeightedLora
from render_farm.engine.lora.layout import LinearShape
from render_farm.engine.lora.linear_layers import linear_shapes_of
from render_farm.engine.lora.weights import Lora, read_lora
from render_farm.errors import InputError, UsageError
from render_farm.media.limits import InputLimits
from render_farm.planning import FilmPlan

_MAX_BYTES = 4 << 30
"""How much memory LoRAs that were used before may take."""


class LoraCache:
    """Reads the LoRAs of one model's films, and keeps those used last."""

    def __init__(self, folder: Path, *, model: str) -> None:
        """`folder` is the checkpoint's, `model` its name for people."""
        self._folder, self._model = folder, model
        self._loras: OrderedDict[str, Lora] = OrderedDict()
        """By the sha256 of their files, the last used at the end."""

    def read(self, plan: FilmPlan, limits: InputLimits | None = None) -> tuple[WeightedLora, ...]:
        """The LoRAs of a film. Raises `InputError` for one that cannot be used, or that is not the one whose sha256 the
        plan has."""
        job, loras = plan.job, []
        for index, ref in enumerate(job.loras):
            digest = job.lora_digests[index] if job.lora_digests else None
            lora = self._loras.get(digest) if digest else None
            if lora is None:
                lora = read_lora(ref.path, self._linear_shapes, model=self._model, limits=limits)
                if digest not in (None, lora.sha256):
                    raise InputError(
                        f"a LoRA of job {job.job_id} has changed since the run began", advice="run the command again"
                    )
            self._keep(lora)
            loras.append(WeightedLora(lora=lora, weight=ref.weight))
        return tuple(loras)

    def clear(self) -> None:
        """Keep none."""
        self._loras.clear()

    @cached_property
    def _linear_shapes(self) -> dict[str, LinearShape]:
        return linear_shapes_of(self._folder)

    def _keep(self, lora: Lora) -> None:
        self._loras[lora.sha256] = lora
        self._loras.move_to_end(lora.sha256)
        while len(self._loras) > 1 and sum(kept.num_bytes for kept in self._loras.values()) > _MAX_BYTES:
            self._loras.popitem(last=False)


def check_loras(plan: FilmPlan, loras: Sequence[WeightedLora]) -> None:
    """Raise `UsageError` when `loras` are not those of the job."""
    job = plan.job
    digests = job.lora_digests or tuple(given.lora.sha256 for given in loras)
    wanted = [(digest, ref.weight) for digest, ref in zip(digests, job.loras, strict=False)]
    if len(loras) != len(job.loras) or [given.identity for given in loras] != wanted:
        raise UsageError(
            f"job {job.job_id} has {len(job.loras)} LoRAs; those given are others, or not as many",
            advice="give what engine.read_loras(plan) returns",
        )
