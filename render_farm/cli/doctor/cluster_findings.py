"""What `doctor --address` says of a cluster's machines."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from render_farm.cli.doctor.checks import Finding, broken, note, ok
from render_farm.cli.terminal import plural
from render_farm.errors import RenderFarmError

if TYPE_CHECKING:
    from render_farm.farm.ray_cluster.check import MachineReport

_HOSTS_NAMED = 5


def check_cluster(address: str, output: str | None) -> list[Finding]:
    """Connect to the Ray cluster at `address` and ask each of its machines."""
    from render_farm.farm.driver.connection import connect

    place = output if output is None or "://" in output else str(Path(output).expanduser().absolute())
    try:
        with connect(address, num_workers=None) as cluster:
            from render_farm.farm.ray_cluster.check import check_machines

            reports = check_machines(place, cluster.environment)
    except RenderFarmError as error:
        return [broken("cluster", error.message, error.advice or "see the storage line")]
    names = sorted(cluster.environment.variables)
    cpus = f"{cluster.num_cpus} CPU slots, {cluster.num_gpus} GPUs"
    taken = f"taken along: {', '.join(names)}" if names else "no credentials are taken along"
    machines = plural(len(reports), "machine")
    return [ok("cluster", f"{machines} at {address}, {cpus}; {taken}"), *findings_of(reports, place)]


def findings_of(reports: list[MachineReport], output: str | None) -> list[Finding]:
    """The reports, machines with the same problem on one line."""
    hosts: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        for problem in report.problems:
            hosts[problem].append(report.host)
    found = [
        broken(
            "cluster machines",
            f"{_named(names)}: {problem}",
            "give its machines a role or the same mount; `submit` and `render --address` take credentials along from "
            "this shell's environment",
        )
        for problem, names in hosts.items()
    ]
    if not found:
        does = f"read and write {output}" if output else "run render_farm (give --output to try storage)"
        found.append(ok("cluster machines", f"all {len(reports)} {does}"))
    unseen = [report.host for report in reports if report.has_gpu_driver and not report.num_gpus]
    if unseen:
        found.append(
            note("cluster GPUs", f"{_named(unseen)}: has a GPU driver, but Ray offers no GPU", "ray start --num-gpus=N")
        )
    return found


def _named(hosts: list[str]) -> str:
    more = f" and {len(hosts) - _HOSTS_NAMED} more" if len(hosts) > _HOSTS_NAMED else ""
    return f"{', '.join(sorted(hosts)[:_HOSTS_NAMED])}{more}"
