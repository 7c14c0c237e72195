"""A worker's own log, which Ray keeps and shows with the actor."""

from __future__ import annotations

import logging
import sys
import time


def log_to_ray() -> None:
    """Have the farm's log lines, from `info` on, go to this process's output. Call it once per process."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    assert handler.formatter is not None
    handler.formatter.converter = time.gmtime
    farm = logging.getLogger("render_farm")
    farm.addHandler(handler)
    farm.setLevel(logging.INFO)
    farm.propagate = False
