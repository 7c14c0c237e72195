"""The examples of cron and systemd, by their own parsers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "jobs"


def test_the_crontab_fires_every_hour_of_the_night():
    cronsim = pytest.importorskip("cronsim")
    (line,) = [line for line in (JOBS / "nightly.cron").read_text().splitlines() if re.match(r"[0-9*]", line)]
    assert "%" not in line
    times = cronsim.CronSim(" ".join(line.split()[:5]), datetime(2030, 1, 31, 12, tzinfo=UTC))
    hours = [next(times).hour for _ in range(12)]
    assert hours == [20, 21, 22, 23, 0, 1, 2, 3, 4, 5, 6, 20]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_the_units_are_valid(tmp_path):
    for unit in (JOBS / "systemd").iterdir():
        # The verifier wants programs that exist here.
        text = re.sub(r"/opt/render_farm/\S*python", sys.executable, unit.read_text())
        (tmp_path / unit.name).write_text(text)
    units = sorted(str(path) for path in tmp_path.iterdir())
    assert len(units) == 2
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (done.returncode, complaints) == (0, [])
