"""Forming and dissolving the process groups of a render group, through xfuser.

xfuser numbers ranks with Ulysses fastest: rank = (cfg_rank * ring + ring_rank) * ulysses + ulysses_rank.
One process is in one group at a time; it may form another, of other degrees, after it has dissolved the one before.
A group may be kept between segments: forming it, and NCCL's first exchanges, take seconds on a GPU.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore
from torch.distributed.tensor.experimental._attention import set_rotate_method

from render_farm import __version__
from render_farm.errors import UsageError, WorkerError
from render_farm.parallel.rendezvous import Rendezvous
from render_farm.parallel.xfuser_modules import xfuser
from render_farm.planning.groups import GroupShape

_CONNECT_S = 10.0
_VERSIONS = f"render_farm {__version__} with torch {torch.__version__}"
"""Of this process, whatever has been installed since it began."""


class GroupError(WorkerError):
    """A rank of the group died, failed or was too late; the segment can be rendered by another group."""


class BrokenGroupError(GroupError):
    """The same, and this process cannot be used again: its device may wait in an exchange for ever."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One rank's place in a group."""

    shape: GroupShape
    rank: int
    rendezvous: Rendezvous


class ProcessGroups:
    """The groups of a seat, formed on construction. It is a context, which frees all it holds when it ends."""

    _kept: ClassVar[ProcessGroups | None] = None
    """The group that this process has left open for its next meeting."""

    @classmethod
    def again(cls, seat: Seat, meeting: int, *, timeout_s: float) -> ProcessGroups | None:
        """The group of `seat` that this process has kept, if it has, once all ranks are at its meeting `meeting`.

        `timeout_s` bounds that, and every exchange. Raises `GroupError` when a rank does not come in time.
        """
        groups = cls._kept
        if groups is None or groups.seat != seat:
            return None
        cls._kept = None
        within = timedelta(seconds=timeout_s)
        try:
            assert groups._store is not None
            _wait_for_all(groups._store, seat, within, meeting)
            _set_timeouts(within)
        except (RuntimeError, ValueError, OSError) as error:
            groups._leave(aborts=True)
            raise GroupError(groups._message("could not meet again", error)) from error
        return groups

    @classmethod
    def leave_kept(cls, *, unless: Seat | None = None) -> None:
        """Leave the group that was kept, if it is not that of `unless`. The other ranks are not waited for."""
        groups = cls._kept
        if groups is not None and groups.seat != unless:
            cls._kept = None
            groups._leave(aborts=True)

    def __init__(self, seat: Seat, *, device: torch.device, timeout_s: float) -> None:
        """Every rank calls this; returns when all have. `timeout_s` bounds that, and every exchange.

        Raises `GroupError` when a rank does not come in time (`BrokenGroupError` when it is lost after it came),
        `UsageError` when this process is in a group already.
        """
        self.leave_kept()
        if dist.is_initialized():
            raise UsageError("this process is in a group already", advice="dissolve that one first")
        self.seat = seat
        self._device = device
        self._open = True
        self._is_kept = False
        self._store: TCPStore | None = None
        try:
            store = self._store = _meet(seat, timedelta(seconds=timeout_s))
        except (RuntimeError, ValueError, OSError) as error:  # torch's DistError is a RuntimeError
            raise GroupError(self._message("could not join", error)) from error
        try:
            _form(seat, store, device, timedelta(seconds=timeout_s))
        except (RuntimeError, ValueError, OSError) as error:
            self._leave(aborts=True)
            raise self._failed("could not join", error) from error

    @property
    def world(self) -> Any:
        """xfuser's group of all ranks."""
        return xfuser().state.get_world_group()

    def keep(self) -> None:
        """Do not dissolve when the context ends without an error. See `again`."""
        self._is_kept = True

    def abort(self) -> None:
        """Have this rank's exchanges on a GPU fail, from any thread. gloo's fail by themselves, at their time-out at
        the latest."""
        if self._open and self._device.type == "cuda":
            _abort_on_device()

    def limit_exchanges(self, timeout_s: float) -> None:
        """Bound every exchange from now on."""
        _set_timeouts(timedelta(seconds=timeout_s))

    def _leave(self, *, aborts: bool) -> None:
        if self._open:
            self._open = False
            self._store = None
            _dissolve(aborts=aborts)

    def __enter__(self) -> ProcessGroups:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Dissolve; an exchange that failed is raised as `GroupError`, whichever library it failed in."""
        if self._is_kept and error is None:
            ProcessGroups._kept = self
            return
        self._leave(aborts=error is not None)
        if isinstance(error, RuntimeError) and _is_of_an_exchange(error):
            raise self._failed("lost an exchange", error) from error

    def _failed(self, what: str, error: Exception) -> GroupError:
        kind = BrokenGroupError if self._device.type == "cuda" else GroupError
        return kind(self._message(what, error))

    def _message(self, what: str, error: Exception) -> str:
        return (
            f"rank {self.seat.rank} of a group of {self.seat.shape.size} {what}: {' '.join(str(error).split())[:300]}"
        )


def _is_of_an_exchange(error: RuntimeError) -> bool:
    """gloo raises plain `RuntimeError`s, with the place in its own source; NCCL's have a class."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


def _meet(seat: Seat, within: timedelta) -> TCPStore:
    """Wait until every rank is there. Nothing is formed yet: a failure leaves nothing behind."""
    where = seat.rendezvous
    # The store serves before any rank hears of it: when it does not answer, its rank is gone.
    connecting = min(within, timedelta(seconds=_CONNECT_S))
    store = TCPStore(
        where.host, where.port, seat.shape.size, is_master=False, timeout=connecting, wait_for_workers=False
    )
    _wait_for_all(store, seat, within, 0)
    return store


def _wait_for_all(store: dist.Store, seat: Seat, within: timedelta, meeting: int) -> None:
    """Raises `BrokenGroupError` when ranks run different versions, because their exchanges may not match. The processes
    that take their place run the same one."""
    here = [f"{seat.rendezvous.name}/here/{meeting}/{rank}" for rank in range(seat.shape.size)]
    store.set(here[seat.rank], _VERSIONS)
    store.wait(here, within)
    if len(found := {store.get(rank).decode() for rank in here}) > 1:
        raise BrokenGroupError(f"the group's processes run {' and '.join(sorted(found))}; they are replaced")


def _form(seat: Seat, store: TCPStore, device: torch.device, timeout: timedelta) -> None:
    library, shape = xfuser(), seat.shape
    backend = "nccl" if device.type == "cuda" else "gloo"
    local_rank = device.index or 0
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
    store.set_timeout(timeout)
    if seat.rendezvous.host == "127.0.0.1":  # else gloo listens where the host's name leads
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        backend, store=PrefixStore(seat.rendezvous.name, store), rank=seat.rank, world_size=shape.size, timeout=timeout
    )
    library.state.init_distributed_environment(
        world_size=shape.size, rank=seat.rank, local_rank=local_rank, backend=backend
    )
    library.state.initialize_model_parallel(
        classifier_free_guidance_degree=shape.cfg,
        sequence_parallel_degree=shape.sequence,
        ulysses_degree=shape.ulysses,
        ring_degree=shape.ring,
        backend=backend,
    )
    # `USP` reads its settings from here; `initialize_runtime_state` makes none without one of xfuser's pipelines. The
    # attention named here is never run: every call names its own.
    config, _ = library.args(
        model="",
        ulysses_degree=shape.ulysses,
        ring_degree=shape.ring,
        use_cfg_parallel=shape.cfg == 2,
        attention_backend="sdpa_flash",
    ).create_config()
    library.runtime._RUNTIME = library.runtime.RuntimeState(config)
    set_rotate_method("alltoall")  # the ring's exchange goes on beside the attention to the part before
    _set_timeouts(timeout)  # xfuser gives none, and torch's own is 30 minutes on gloo


def _set_timeouts(timeout: timedelta) -> None:
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def _abort_on_device() -> None:
    """`_abort_process_group` for NCCL alone. An exchange of gloo that another thread waits in would not end by it."""
    backends: list[Any] = []  # its two calls that join aborts are not in the stubs
    for group in list(dist.distributed_c10d._world.pg_map):
        with contextlib.suppress(RuntimeError):  # it has none on a GPU
            backends.append(group._get_backend(torch.device("cuda")))
    if backends:
        backends[0]._group_start()  # one after the other, the aborts could wait for each other
        for backend in backends:
            backend.abort()
        backends[0]._group_end()


def _dissolve(*, aborts: bool) -> None:
    """`destroy_model_parallel` forgets four groups; the world's end shuts all down, once nobody refers to them.

    `destroy_process_group` waits for all exchanges that NCCL has started, so a group with one that will never end is
    aborted.
    """
    library = xfuser()
    state = library.state
    library.runtime._RUNTIME = None
    for name in ("_MODEL_REPLICA", "_DP", "_CFG", "_SP", "_TP", "_PP", "_FS", "_VAE", "_DIT", "_WORLD"):
        coordinator = getattr(state, name)
        for group in ("device_group", "cpu_group", "skip_device_group", "ulysses_group", "ring_group"):
            if hasattr(coordinator, group):
                setattr(coordinator, group, None)
        setattr(state, name, None)
    library.sequence_groups.ULYSSES_PG = library.sequence_groups.RING_PG = None
    if not dist.is_initialized():
        return
    if aborts:
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()
