"""What a fault is, and what it may need to know of the run that it strikes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from render_farm.storage.store import Store
from tests.chaos.world import Place, World

RUN_ID = "chaos"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One run, as a fault sees it."""

    world: World
    random: random.Random
    store: Store
    """Of the run's output, past the proxy."""
    manifest: str
    output: str
    address: str | None
    """Of the run's Ray; None: a private one."""
    later: list[Callable[[], None]] = field(default_factory=list)
    """What has to be called once the run is over, whatever came of it."""
    last: list[Callable[[], object]] = field(default_factory=list)
    """The same, once the audit has looked."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of trouble."""

    letter: str
    text: str
    strike: Callable[[Scene], str]
    """Does it and says what it did; empty when there was nothing to strike."""
    kills: int = 0
    """Segments that may be rendered again because of it, one a worker or group that it ends."""
    counts: bool = True
    """Whether a job may have one of its attempts counted for it."""
    private: bool = False
    """Each run starts a Ray of its own."""
    place: Place = Place.TWO_NODES
    is_early: bool = False
    """It may strike from the run's start on, whatever is stored."""
    is_slow: bool = False
    """The store is slow in every run, and not in half of them."""
    encodes: bool = False
    """No run finds its prompts encoded."""
    settings: dict[str, str] = field(default_factory=dict)
    """Of the command, beyond those of every run."""
    is_broken: bool = False
    """The last film's model computes NaN, and the film has to fail by it."""

    @property
    def exit_code(self) -> int:
        """Of the command, in the end."""
        return 11 if self.is_broken else 0

    options: tuple[str, ...] = ()
    """More flags of `render`."""
    film: dict[str, object] = field(default_factory=dict)
    """Columns of the films that are not as in other runs."""
    is_shared: bool = False
    """Its films begin alike."""
