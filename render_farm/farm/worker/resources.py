"""The resources that rendering and publishing share on one worker."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.busy_clock import BusyClock
from render_farm.farm.worker.films.background_decoding import BackgroundDecoding
from render_farm.farm.worker.films.film_cache import FilmCache
from render_farm.farm.worker.resident_model import ResidentModel
from render_farm.storage.lease import HolderWatch
from render_farm.storage.meter import StorageMeter
from render_farm.storage.open import open_store
from render_farm.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class WorkerResources:
    """Its model, its films and their decoders, and what measures them."""

    name: str
    """Of the worker."""
    model: ResidentModel
    films: FilmCache
    decoding: BackgroundDecoding
    clock: BusyClock
    """Time in the engine."""
    meter: StorageMeter
    """Traffic with stores."""
    holders: HolderWatch = field(default_factory=HolderWatch)
    """What it has seen of the holders of other runs' claims."""

    def store(self, task: FilmTask) -> Store:
        """The store of a film's output."""
        return open_store(task.output, meter=self.meter)

    def new_attempt(self) -> str:
        """A name for an attempt at a segment or a film that no other attempt has."""
        return f"{self.name}-{secrets.token_hex(6)}"
