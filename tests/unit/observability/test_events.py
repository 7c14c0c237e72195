"""Lines of a run's log: torn and foreign ones do no harm."""

from __future__ import annotations

import json

from render_farm.farm.run.log import RunLog
from render_farm.observability.events import dump_lines, parse_lines


def test_torn_and_foreign_lines_are_skipped():
    log = RunLog("night")
    log.add("whole")
    data = dump_lines(log.after(0))
    torn = b'["no", "event"]\n{"number": 1}\n' + data + b"\xff\xfe\n" + data[:-20]
    assert [line.message for line in parse_lines(torn)] == ["whole"]


def test_fields_of_a_newer_version_are_left_out():
    line = {"number": 1, "time_s": 2.0, "level": "info", "job_id": "", "message": "m", "kind": "new", "mood": "good"}
    assert next(parse_lines(json.dumps(line).encode())).kind == "new"
