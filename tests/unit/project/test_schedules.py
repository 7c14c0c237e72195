"""The examples of cron and systemd, by their own parsers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
import yaml

from render_farm.planning import nights

ROOT = Path(__file__).parents[3]
JOBS = ROOT / "jobs"


def test_the_crontab_fires_every_hour_of_the_night():
    cronsim = pytest.importorskip("cronsim")
    (line,) = [line for line in (JOBS / "nightly.cron").read_text().splitlines() if re.match(r"[0-9*]", line)]
    assert "%" not in line
    times = cronsim.CronSim(" ".join(line.split()[:5]), datetime(2030, 1, 31, 12, tzinfo=UTC))
    hours = [next(times).hour for _ in range(12)]
    assert hours == [20, 21, 22, 23, 0, 1, 2, 3, 4, 5, 6, 20]


def test_kubernetes_does_not_end_the_longest_night_of_the_year_before_its_deadline():
    path = ROOT / "cluster/kuberay/components/nightly/raycronjob.yaml"
    spec = yaml.safe_load(path.read_text())["spec"]
    minute, hour, *_ = spec["schedule"].split()
    words = spec["jobTemplate"]["entrypoint"].split()
    assert words[words.index("--time-zone") + 1] == spec["timeZone"]
    zone = nights.zone(spec["timeZone"])
    calendar = nights.Calendar(zone=zone, ends=nights.clock(words[words.index("--deadline") + 1]))
    longest = timedelta(0)
    for day in (date(2030, 1, 1) + timedelta(days=number) for number in range(365)):
        deadline = calendar.deadline_of(day)
        assert deadline is not None
        longest = max(longest, deadline - datetime.combine(day, time(int(hour), int(minute)), zone).astimezone(UTC))
    assert longest == timedelta(hours=12)
    assert spec["jobTemplate"]["activeDeadlineSeconds"] >= longest.total_seconds() + 1800


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
