"""Groups form, fail and dissolve without leaving anything behind, and never wait for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist

from render_farm.engine.transformer.attention import BlockCausalAttention, TorchAttention
from render_farm.engine.transformer.attention_backends import BACKENDS
from render_farm.errors import UsageError
from render_farm.parallel import (
    BrokenGroupError,
    GroupError,
    GroupShape,
    ParallelGroup,
    ProcessGroups,
    Rendezvous,
    RendezvousHost,
    Seat,
    process_group,
)
from render_farm.parallel.log_sum_exp import require_log_sum_exp
from tests.helpers.ranks import RankFailed, RankPool, _in_group, rank_pool

CHANGING = [
    GroupShape(ulysses=4),
    GroupShape(cfg=2, ulysses=2),
    GroupShape(ulysses=2, ring=2),
    GroupShape(ring=4),
    GroupShape(cfg=2, ring=2),
]


@pytest.fixture
def pool() -> Iterator[RankPool]:
    with rank_pool(4) as ranks:
        yield ranks


def held() -> dict[str, int]:
    """What this process holds."""
    return {
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "sockets": len(psutil.Process().net_connections()),
        "groups": len(dist.distributed_c10d._world.pg_map),
    }


def form_and_dissolve(rank: int, rounds: list[tuple[GroupShape, Any]]) -> tuple[dict[str, int], dict[str, int], float]:
    """On a rank: what it holds after the first round and after the last, and the slowest forming in seconds."""
    first: dict[str, int] = {}
    slowest = 0.0
    for shape, rendezvous in rounds:
        started = time.monotonic()
        seat = Seat(shape=shape, rank=rank, rendezvous=rendezvous)
        with ProcessGroups(seat, device=torch.device("cpu"), timeout_s=60) as groups:
            slowest = max(slowest, time.monotonic() - started)
            assert ParallelGroup(groups).all_agree(True)
        first = first or held()
    return first, held(), slowest


@pytest.mark.long
def test_fifty_groups_of_changing_degrees_leave_nothing_behind(pool: RankPool) -> None:
    hosts = [RendezvousHost() for _ in range(50)]
    rounds = [(CHANGING[number % len(CHANGING)], host.rendezvous) for number, host in enumerate(hosts)]
    for first, last, _ in pool.call(form_and_dissolve, [(rank, rounds) for rank in range(4)]):
        assert last["groups"] == last["sockets"] == 0
        assert last["threads"] <= first["threads"] + 1, "torch starts one thread for functional collectives, once"
        assert last["files"] <= first["files"]
    for host in hosts:
        host.close()


def die_in_the_middle(group: ParallelGroup, victim: int) -> None:
    for number in range(1000):
        if number == 5 and group._groups.seat.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        group.gather((torch.zeros(1, 1, 4, 8),), 16)


def test_a_rank_that_is_killed_ends_its_group(pool: RankPool) -> None:
    host, shape = RendezvousHost(), GroupShape(ulysses=4)
    started = time.monotonic()
    given = (shape, host.rendezvous, 30.0, die_in_the_middle, (2,))
    pool.start(_in_group, [(rank, *given) for rank in range(4)])
    for rank in (0, 1, 3):
        with pytest.raises(RankFailed, match="GroupError"):
            pool.result(rank, patience_s=60)
    assert time.monotonic() - started < 60
    host.close()


def hang_in_the_middle(group: ParallelGroup, victim: int, seconds: float) -> None:
    if group._groups.seat.rank == victim:
        time.sleep(seconds)
        return
    group.gather((torch.zeros(1, 1, 4, 8),), 8)


def test_a_rank_that_hangs_ends_its_group_within_the_time_out(pool: RankPool) -> None:
    with pytest.raises(RankFailed, match=r"GroupError.*(Timed out|timeout|time out)"):
        pool.in_group(GroupShape(ulysses=2), hang_in_the_middle, 1, 8.0, timeout_s=3.0)


def test_a_rank_that_does_not_come_is_not_waited_for(pool: RankPool) -> None:
    host = RendezvousHost(timeout_s=3.0)
    seat = Seat(shape=GroupShape(ulysses=2), rank=0, rendezvous=host.rendezvous)
    with pytest.raises(RankFailed, match="rank 0 of a group of 2 could not join"):
        pool.call(_join_alone, [(seat,)])
    host.close()


def _join_alone(seat: Seat) -> None:
    with pytest.raises(GroupError) as raised:
        ProcessGroups(seat, device=torch.device("cpu"), timeout_s=3.0)
    assert not dist.is_initialized()
    raise raised.value


def test_two_hosts_never_share_a_port_or_a_name() -> None:
    hosts = [RendezvousHost() for _ in range(8)]
    assert len({host.rendezvous.port for host in hosts}) == len({host.rendezvous.name for host in hosts}) == 8
    for host in hosts:
        host.close()


# --- what a ring may attend with ---


class _Wrong(TorchAttention):
    """As xfuser's `SDPA_MATH`: the second value is not the log-sum-exp."""

    def attend_with_lse(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple:
        return self.attend(query, key, value), torch.zeros(query.shape[0], query.shape[2], query.shape[1])


@pytest.mark.parametrize("name", ["torch_flash", "torch_math"])
def test_backends_of_the_cpu_serve_a_ring(name: str) -> None:
    backend: Any = BACKENDS[name].make()
    assert require_log_sum_exp(backend, device=torch.device("cpu"), dtype=torch.float32, head_dim=24) is backend


@pytest.mark.parametrize(("backend", "reason"), [(TorchAttention(), "gives no log-sum-exp"), (_Wrong(), "is wrong by")])
def test_a_ring_refuses_other_backends_by_name(backend: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=f"{type(backend).__name__.lstrip('_')} gives .*{reason.split()[-1]}"):
        require_log_sum_exp(backend, device=torch.device("cpu"), dtype=torch.float32, head_dim=24)


def test_a_ring_refuses_self_attention_it_cannot_part() -> None:
    from render_farm.parallel.attention import GroupAttention
    from render_farm.parallel.slices import Slices

    class Other(BlockCausalAttention.__bases__[0]):  # type: ignore[misc, name-defined]
        pass

    with pytest.raises(UsageError, match="Other cannot be used in a ring"):
        GroupAttention(Other(), Slices(num_tokens=4, num_ranks=2), shape=GroupShape(ring=2), ring_rank=0)


def test_processes_of_two_versions_form_no_group() -> None:
    """Such as after an upgrade below a running farm. All of them end, and fresh ones are of one version."""
    seat = Seat(shape=GroupShape(ulysses=2), rank=0, rendezvous=Rendezvous(host="127.0.0.1", port=0, name="n"))
    store, within = dist.HashStore(), timedelta(seconds=5)
    for meeting, other in enumerate((process_group._VERSIONS, "render_farm 0.0 with torch 2.12")):
        store.set(f"n/here/{meeting}/1", other)
    process_group._wait_for_all(store, seat, within, 0)
    with pytest.raises(BrokenGroupError, match=r"render_farm 0\.0 with torch 2\.12 and render_farm"):
        process_group._wait_for_all(store, seat, within, 1)
