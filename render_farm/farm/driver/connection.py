"""Connecting to Ray: a private local one, or a running cluster; and the coordinator on it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from render_farm.errors import UsageError
from render_farm.farm.driver.handover import received
from render_farm.farm.driver.private_ray import OnlyTheCode, own_token, temporary_folder
from render_farm.farm.ray_cluster.environment import WorkerEnvironment, worker_environment
from render_farm.farm.run.spec import FarmConfig
from render_farm.observability.settings import NotifySettings

NAMESPACE = "render_farm"
_ANSWER_WITHIN_S = 10.0
_ON_THE_HEAD = "node:__internal_head__"
"""Ray's resource of the head's machine: the coordinator must not end with a worker's, which may be spot or released."""
_START_TRIES = 3
_OBJECT_STORE_BYTES = 256 << 20
"""Of a private Ray: latents go through storage, so little more than calls travels through it."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray that this process is connected to."""

    address: str
    private: bool
    num_gpus: int
    num_cpus: int
    most_gpus: int = 0
    """Of one host."""
    most_cpus: int = 1
    dashboard: str = ""
    """Address of this run's job in Ray's dashboard; empty where there is none."""
    environment: WorkerEnvironment = WorkerEnvironment()
    """For the coordinator and its workers. Those of a private Ray have this process's own."""

    def coordinator(self, config: FarmConfig) -> Any:
        """The cluster's coordinator, started with `config` when there is none. An idle one that was started with other
        credentials or settings gives way to a new one."""
        from render_farm.farm.coordinator.actor import NAME, Coordinator

        options: dict[str, Any] = {"max_concurrency": 1000}
        if self.private:
            return Coordinator.options(**options).remote(config, self.address)  # type: ignore[attr-defined]
        options |= {
            "name": NAME,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": -1,
            "resources": {_ON_THE_HEAD: 0.001},
        }
        digest = self.environment.digest
        _end_outdated(NAME, digest)
        return Coordinator.options(**options).remote(config, self.address, digest)  # type: ignore[attr-defined]

    def least_gpu_memory(self) -> int | None:
        """See `gpu_memory`."""
        from render_farm.farm.ray_cluster.gpu_memory import least_gpu_memory

        return least_gpu_memory()


def resolve_address(address: str | None) -> str:
    """`address`, else `$RAY_ADDRESS`, else `local` (a private Ray on this machine). UsageError for the address of a
    job server."""
    found = address or os.environ.get("RAY_ADDRESS") or "local"
    if found.startswith(("http://", "https://")):
        raise UsageError(
            f"{shown_address(found)} is the address of a cluster's job server, which `render-farm submit` takes",
            advice="to render from here, give --address HOST:6379, `auto` on a machine of the cluster, or `local`",
        )
    return found


def shown_address(address: str) -> str:
    """An address for people, who may not know where it comes from."""
    return f"$RAY_ADDRESS ({address!r})" if address == os.environ.get("RAY_ADDRESS") else repr(address)


def _not_there(address: str, why: str) -> UsageError:
    return UsageError(
        f"no Ray cluster answers at {shown_address(address)}: {why}",
        advice="start one with `ray start --head`, or use --address local"
        + (", or unset RAY_ADDRESS" if address == os.environ.get("RAY_ADDRESS") else ""),
    )


def _shared_cluster() -> str:
    """The cluster that `auto` means: the one that `ray start` recorded on this machine. Ray itself would take any that
    runs here, also the private one of somebody else's run, and then try for minutes to get in."""
    from ray._private.utils import read_ray_address

    found = read_ray_address()
    if not found:
        raise UsageError(
            "--address auto: no shared Ray cluster was started on this machine with `ray start`",
            advice="give its address as --address HOST:6379 (also where it has a --temp-dir of its own), or use "
            "--address local",
        )
    return str(found)


@contextlib.contextmanager
def connect(
    address: str, *, num_workers: int | None, metadata: Mapping[str, str] | None = None, credentials: bool = True
) -> Iterator[Cluster]:
    """Connect to `local`, `auto` or a Ray address for the length of a block. A private Ray ends with the block.
    `metadata` is shown with the Ray job. `credentials` says whether those of this process are for the workers of a
    running cluster. Raises `UsageError` when no Ray answers at the address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    private = address == "local"
    if not private:
        use_token_at_hand()  # before Ray is imported, which reads it
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS") or "auto"
        address = _shared_cluster() if address == "auto" else address
        check_answers(address)
    with contextlib.ExitStack() as stack:
        folder: dict[str, Any] = {}
        if private:
            stack.enter_context(own_token())  # before Ray is imported, which reads it
            folder = stack.enter_context(temporary_folder())
            stack.enter_context(_on_loopback())
            stack.enter_context(_without_notify_secrets())  # its workers inherit the rest
        environment = WorkerEnvironment()
        if not private:
            environment = worker_environment(os.environ, received(), credentials=credentials)
        stack.enter_context(_no_command_line())
        cluster = stack.enter_context(_connected(address, private, num_workers, metadata or {}, folder))
        yield replace(cluster, environment=environment)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have every process of a Ray that is started here listen on this machine's loopback address only. Ray has this
    switch for Windows and macOS, where it is the default; elsewhere it listens on all interfaces."""
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[0]
        del os.environ[name]
        if before[1] is not None:
            os.environ[name] = before[1]


@contextlib.contextmanager
def _without_notify_secrets() -> Iterator[None]:
    """Only this process sends notices for a private Ray's run: its coordinator has got what they need with the run."""
    names = [name for name in os.environ if name.startswith(NotifySettings.variables)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def _no_command_line() -> Iterator[None]:
    """Keep this process's arguments, which may hold signed addresses, from Ray, which lists them with its job."""
    from ray._private import utils

    usual = utils.get_entrypoint_name
    utils.get_entrypoint_name = lambda: "render-farm"  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        utils.get_entrypoint_name = usual


@contextlib.contextmanager
def _connected(
    address: str, private: bool, num_workers: int | None, metadata: Mapping[str, str], folder: Mapping[str, Any]
) -> Iterator[Cluster]:
    """`folder` is what `temporary_folder` gave."""
    import ray

    dashboard = ""
    job_config = ray.job_config.JobConfig(metadata=dict(metadata))
    job_config._py_driver_sys_path = OnlyTheCode()
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    common["job_config"] = job_config
    try:
        if private:
            _start(
                address="local",
                num_cpus=max(os.cpu_count() or 1, (num_workers or 1) + 2),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **folder,
                **common,
            )
        else:
            context = ray.init(address=address, **common)
            if context.dashboard_url:
                job_id = ray.get_runtime_context().get_job_id()
                dashboard = f"http://{context.dashboard_url}/#/jobs/{job_id}"
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster answers at {shown_address(address)}: {' '.join(str(error).split())[:300]}",
            advice="start one with `ray start --head`, or use --address local; where the cluster asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or put it into ~/.ray/auth_token",
        ) from error
    try:
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield Cluster(
            address=address,
            private=private,
            num_gpus=int(resources.get("GPU", 0)),
            num_cpus=int(resources.get("CPU", 1)) if not private else os.cpu_count() or 1,
            most_gpus=_most("GPU"),
            most_cpus=_most("CPU"),
            dashboard=dashboard,
        )
    finally:
        ray.shutdown()


def _end_outdated(name: str, digest: str) -> None:
    """End an outdated coordinator. Its workers would keep credentials that may have expired, because actors keep the
    environment that they started with."""
    import ray

    from render_farm.farm.ray_cluster.deaths import is_death

    try:
        coordinator = ray.get_actor(name, namespace=NAMESPACE)
        if ray.get(coordinator.gives_way_to.remote(digest)):
            ray.kill(coordinator)
            _wait_until_gone(name)
    except ValueError:
        return  # there is none
    except ray.exceptions.RayError as error:
        if not is_death(error):  # it has just ended
            raise


def _wait_until_gone(name: str) -> None:
    import ray

    stop = time.monotonic() + _ANSWER_WITHIN_S
    while time.monotonic() < stop:
        try:
            ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return
        time.sleep(0.1)


def _most(resource: str) -> int:
    """The most of it that one host has."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return int(max((node["Resources"].get(resource, 0) for node in nodes if node["Alive"]), default=0))


def _start(**options: Any) -> None:
    """Start a private Ray, again where its own limit of 30 s for a process is too short: on a busy machine."""
    import ray

    for number in range(1, _START_TRIES + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises no class of its own here
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if number == _START_TRIES:
                raise UsageError(
                    f"a private Ray did not start in {_START_TRIES} tries: {error}",
                    advice="this machine is very busy, or short of memory; run the same command again later",
                ) from error
        except (KeyboardInterrupt, SystemExit):
            ray.shutdown()  # what has started so far
            raise


def check_answers(address: str) -> None:
    """UsageError when nothing listens at a Ray address. Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN_S).close()
    except OSError as error:
        raise _not_there(address, str(error.strerror or error)) from error


def use_token_at_hand() -> None:
    """Send the token of this machine. A head that finds a token at its start asks for it, but a driver that attaches
    sends it only in token mode."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given or (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_MODE"] = "token"
