"""Watches for the notice that this machine, a spot instance, is about to be taken away, and has Ray drain it.

    python -m render_farm.farm.ray_cluster.spot_notice [--address HOST:PORT]

Ray does not ask the clouds' metadata services itself. This runs beside Ray on each node, asks the one that answers
every two seconds, and ends when Ray has accepted the drain. It ends with 1 where no such service answers.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from render_farm.farm.ray_cluster.draining import drain_machine

METADATA = "http://169.254.169.254"
"""The address of the metadata service in all three clouds."""
_EVERY_S = 2.0
_ANSWER_WITHIN_S = 5.0
_FOUND_WITHIN_S = 60.0
_GOOGLES_NOTICE_S = 30.0
"""Google says that a machine goes, not when."""
_NO_ANSWER = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError)
"""No connection, an error status, or an answer of another form than the cloud documents."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the service is never behind a proxy
log = logging.getLogger("spot_notice")


class Cloud(Protocol):
    """One cloud's metadata service. Both methods may raise what `_NO_ANSWER` lists."""

    def check(self) -> None:
        """Raises unless this cloud's service answers."""

    def gone_s(self) -> float | None:
        """When this machine will be gone, in Unix time. None without a notice."""


class Aws:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html"""

    def __init__(self, metadata: str) -> None:
        self._metadata = metadata

    def check(self) -> None:
        """See `Cloud`."""
        self._token()

    def gone_s(self) -> float | None:
        """See `Cloud`."""
        headers = {"X-aws-ec2-metadata-token": self._token()}
        try:
            answer = json.loads(_ask(f"{self._metadata}/latest/meta-data/spot/instance-action", headers))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return datetime.fromisoformat(answer["time"]).timestamp()

    def _token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        return _ask(f"{self._metadata}/latest/api/token", headers, method="PUT")


class Google:
    """https://cloud.google.com/compute/docs/instances/spot#detection-of-preemption"""

    def __init__(self, metadata: str) -> None:
        self._metadata = metadata

    def check(self) -> None:
        """See `Cloud`."""
        self.gone_s()

    def gone_s(self) -> float | None:
        """See `Cloud`."""
        answer = _ask(f"{self._metadata}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
        if answer not in ("TRUE", "FALSE"):
            raise ValueError(f"{answer[:80]!r} is neither TRUE nor FALSE")
        return time.time() + _GOOGLES_NOTICE_S if answer == "TRUE" else None


class Azure:
    """https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events"""

    def __init__(self, metadata: str) -> None:
        self._metadata = metadata
        self._name = ""

    def check(self) -> None:
        """See `Cloud`."""
        query = "api-version=2021-02-01&format=text"
        self._name = _ask(f"{self._metadata}/metadata/instance/compute/name?{query}", {"Metadata": "true"})

    def gone_s(self) -> float | None:
        """See `Cloud`."""
        url = f"{self._metadata}/metadata/scheduledevents?api-version=2020-07-01"
        for event in json.loads(_ask(url, {"Metadata": "true"}))["Events"]:
            if event["EventType"] == "Preempt" and self._name in event["Resources"]:
                starts = event["NotBefore"]  # empty when it has started
                return parsedate_to_datetime(starts).timestamp() if starts else time.time()
        return None


CLOUDS: Mapping[str, Callable[[str], Cloud]] = {"AWS": Aws, "Google": Google, "Azure": Azure}


def find_cloud(metadata: str) -> tuple[str, Cloud] | None:
    """The cloud whose metadata service answers, with its name. None: no one's does."""
    for name, kind in CLOUDS.items():
        cloud = kind(metadata)
        try:
            cloud.check()
        except _NO_ANSWER as error:
            log.debug("not %s: %s", name, error)
        else:
            return name, cloud
    return None


def wait_for_notice(cloud: Cloud, *, every_s: float = _EVERY_S) -> float:
    """Ask until there is a notice. Returns when this machine will be gone, in Unix time."""
    fails = False
    while True:
        try:
            gone_s = cloud.gone_s()
        except _NO_ANSWER as error:
            if not fails:
                log.warning("the metadata service does not answer as it should: %r", error)
            fails = True
        else:
            fails = False
            if gone_s is not None:
                return gone_s
        time.sleep(every_s)


def _ask(url: str, headers: Mapping[str, str], *, method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    with _OPENER.open(request, timeout=_ANSWER_WITHIN_S) as answer:
        return str(answer.read(1 << 20).decode().strip())


def _drain(address: str | None, ip: str | None, gone_s: float, reason: str) -> None:
    """Ask Ray until it drains this machine. Ray may be starting here, or its head may be unreachable."""
    import ray

    while True:
        try:
            num_nodes = drain_machine(address, ip, gone_s=gone_s, reason=reason)
        except (ray.exceptions.RayError, RuntimeError, OSError) as error:
            log.warning("Ray cannot be reached: %s", error)
        else:
            if num_nodes:
                return
            log.warning("no node of the cluster is on this machine")
        time.sleep(_EVERY_S)


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Have Ray drain this machine when its cloud takes it away.")
    parser.add_argument("--address", help="of the Ray cluster (default: $RAY_ADDRESS, or the cluster of this machine)")
    parser.add_argument("--node-ip", help="this machine's address in the cluster (default: as Ray finds it)")
    parser.add_argument("--metadata", default=METADATA, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s spot_notice: %(message)s")
    until_s = time.monotonic() + _FOUND_WITHIN_S
    while (found := find_cloud(given.metadata)) is None:
        if time.monotonic() > until_s:
            log.error("no metadata service of %s answers at %s", ", ".join(CLOUDS), given.metadata)
            return 1
        time.sleep(_EVERY_S)
    name, cloud = found
    log.info("watching for a spot notice of %s", name)
    gone_s = wait_for_notice(cloud)
    log.info("%s takes this machine away in %.0f s", name, gone_s - time.time())
    _drain(given.address, given.node_ip, gone_s, f"spot notice of {name}")
    log.info("Ray drains this machine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
