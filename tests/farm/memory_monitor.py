"""An actor that Ray's memory monitor kills, on a real Ray: `python -m tests.farm.memory_monitor`. A process of its own,
for Ray reads the monitor's threshold when it starts."""

from __future__ import annotations

import json
import time

import ray

from render_farm.farm.coordinator.failures import classify


class Victim:
    def work(self) -> None:
        time.sleep(60)


def main() -> None:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    victim = ray.remote(Victim).options(num_cpus=0).remote()
    failures = []
    for _ in range(2):  # each later call of the dead actor raises the same
        try:
            ray.get(victim.work.remote(), timeout=60)
        except Exception as error:  # noqa: BLE001  (what it is, is the question)
            failures.append(classify(error, worker="worker-0.1"))
    print(json.dumps([(failure.fault, failure.error_class, failure.message) for failure in failures]))


if __name__ == "__main__":
    main()
