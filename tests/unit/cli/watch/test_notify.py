"""Notices of a run by its settings."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.cli.watch.notify import RunNotifier, channels_of
from render_farm.errors import UsageError
from render_farm.farm.run.settings import load_settings
from render_farm.observability.mail import Mail
from render_farm.observability.snapshot import RunSnapshot
from render_farm.observability.webhook import Webhook
from render_farm.storage.open import open_store
from tests.helpers.receiver import receiver
from tests.helpers.synthetic_run import write_run

NOW = 1_763_700_000.0


def test_the_settings_of_a_run_tell_of_it(tmp_path):
    write_run(tmp_path, num_films=0, still_running=True)  # the deadlines of that night are long over
    environment = {"RENDER_FARM_NOTIFY_WEBHOOK_SECRET": "hush", "RENDER_FARM_NOTIFY_WEBHOOK_URL": "set below"}
    with receiver() as server:
        environment["RENDER_FARM_NOTIFY_WEBHOOK_URL"] = server.url
        settings = load_settings(environment=environment).notify
        with RunNotifier(settings, open_store(tmp_path), on_failure=pytest.fail) as notifier:
            for state, counts in (("running", {"running": 2, "waiting": 38}), ("failed", {"failed": 1, "done": 39})):
                notifier.show(RunSnapshot(run_id="night", output=str(tmp_path), state=state, jobs=counts, eta_s=1.0))
        told = [json.loads(body)["kind"] for _, body in server.taken]
    assert told == ["deadline_risk", "first_failure", "run_ended"]
    assert channels_of(load_settings(environment={}).notify) == []
    with pytest.raises(UsageError, match="mail_to"):
        channels_of(load_settings(environment={"RENDER_FARM_NOTIFY_SMTP_HOST": "mail"}).notify)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="http"):
        Webhook("ftp://x")
    with pytest.raises(ValueError, match="slack"):
        Webhook("https://x", template="teams")
    with pytest.raises(ValueError, match="mail_to"):
        Mail(host="h", sender="a@b", recipients=[])
    with pytest.raises(ValueError, match="starttls"):
        Mail(host="h", sender="a@b", recipients=["c@d"], security="ssl")


def test_the_render_command_tells_how_it_ended(tmp_path, monkeypatch):
    pq.write_table(pa.table({"job_id": ["a"], "prompt": ["a fox"], "num_frames": [0]}), tmp_path / "bad.parquet")
    with receiver() as server:
        monkeypatch.setenv("RENDER_FARM_NOTIFY_WEBHOOK_URL", server.url)
        command = ["render", str(tmp_path / "bad.parquet"), "--output", str(tmp_path / "out"), "--run-id", "night"]
        said = CliRunner().invoke(app, command, catch_exceptions=False)
        told = [json.loads(body) for _, body in server.taken]
    assert said.exit_code == 10
    assert [notice["kind"] for notice in told] == ["first_failure", "run_ended"]
    assert told[1]["text"] == "Run night ended: 0 of 1 films are done, 1 failed."
    assert (tmp_path / "out" / "_runs" / "night" / "report.html").exists()
