"""A real Prometheus finds a real Ray, and every panel and alert has data of a small run of the farm."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from dashboards.alerts import ALERTS, rules_yaml
from dashboards.generate import PAGES
from dashboards.queries import RATE
from dashboards.servers import SERVICE_DISCOVERY, scrape_yaml
from render_farm.observability.events import EventKind
from render_farm.observability.metrics import METRICS
from render_farm.report.run_folder import RunFolderReader
from render_farm.storage.open import open_store
from tests.helpers import films, prometheus
from tests.helpers.films import RAY
from tests.helpers.fixtures_s3 import free_port
from tests.helpers.s3_proxy import proxied

_SCRAPE = "3s"
_RATE_OVER = "60s"
_SOONER_THAN_DRAINED_S = 25
"""A head that is told to end waits 30 s for its actors. Kept workers and the coordinator go by themselves."""
_GUARD = " or vector(0)"
_BAD = "bad/video.mp4"


@pytest.fixture
def ray_address(s3_env, monkeypatch):
    """A cluster with a dashboard, whose workers reach the S3 server through a proxy that refuses one film."""
    prometheus.programs()
    folder, port = Path("/tmp") / f"ray-m{os.getpid()}", free_port()
    with proxied(s3_env.endpoint) as proxy:
        proxy.refused = _BAD
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        monkeypatch.setenv("RAY_metric_cardinality_level", "low")
        start = [
            RAY, "start", "--head", f"--port={port}", "--num-cpus=4", "--block", "--disable-usage-stats",
            f"--dashboard-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
            f"--temp-dir={folder}", "--object-store-memory=100000000",
        ]  # fmt: skip
        head = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            discovery = folder / Path(SERVICE_DISCOVERY).name
            films.wait_for(discovery.exists, what="Ray's service discovery")
            yield f"127.0.0.1:{port}", discovery, head
        finally:
            head.terminate()
            head.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def expressions() -> dict[str, str]:
    """What must have data, by what it is for: every query without the 0 that stands for nothing, and every series that
    an alert looks at."""
    wanted = {}
    for page in PAGES:
        for panel in page.panels:
            for query in panel.queries:
                if not panel.needs_gpu and "ALERTS" not in query.expr:
                    wanted[f"{page.name}: {panel.title}: {query.legend}"] = query.expr.removesuffix(_GUARD)
    for alert in ALERTS:
        for series in re.findall(r"ray_\w+(?:\{[^}]*\})?", alert.expr):
            wanted[f"{alert.name}: {series}"] = series
    return {name: expr.replace(RATE, _RATE_OVER) for name, expr in wanted.items()}


@pytest.mark.long
def test_every_panel_and_alert_has_data(ray_address, s3_uri, tmp_path):
    address, discovery, head = ray_address
    (tmp_path / "alerts.yml").write_text(rules_yaml())
    config = tmp_path / "prometheus.yml"
    config.write_text(scrape_yaml(discovery=str(discovery), every=_SCRAPE))
    soon = datetime.now(UTC) + timedelta(hours=1)
    jobs = [
        films.job("bad", deadline=soon),
        films.job("a"),
        films.job("b", deadline=soon, **films.MANY_SEGMENTS, ar_step=2, causal_block_size=3),
    ]
    with prometheus.running(config) as server:
        run = films.start_render(
            films.manifest(tmp_path, jobs), "--output", s3_uri, "--address", address, "--workers", "2",
            "--device", "cpu", "--run-id", "watched", "--json",
            RENDER_FARM_CLUSTER_PATIENCE_S="5",
            RENDER_FARM_KEEP_WORKERS_S="120",  # what a worker counts just before it ends, Ray does not report
        )  # fmt: skip
        output, errors = run.communicate(timeout=280)
        assert json.loads(output)["jobs"] == {"done": 2, "failed": 1}, errors
        missing = expressions()
        stop = time.monotonic() + 60
        while missing and time.monotonic() < stop:
            seen = {name for name, expr in missing.items() if server.query(f"count_over_time(({expr})[10m:1s])")}
            missing = {name: expr for name, expr in missing.items() if name not in seen}
            time.sleep(1)
        assert missing == {}

        for page in PAGES:  # those of GPUs, too, are understood
            for panel in page.panels:
                for query in panel.queries:
                    server.query(query.expr.replace(RATE, _RATE_OVER))
        assert {rule["name"]: rule["health"] for rule in server.rules()} == {alert.name: "ok" for alert in ALERTS}
        assert server.query('ray_render_farm_storage_errors_total{operation="copy",outcome="given_up"}')
        num_steps = 2 * 2 + 2 * 2 + 12 * 4  # of the three films
        counted = f"sum(ray_render_farm_denoising_steps_total) == {num_steps}"
        films.wait_for(lambda: server.query(counted), timeout_s=60, what="the last steps' count")
        labels = {name for series in server.query('{__name__=~"ray_render_farm.*"}') for name in series["metric"]}
        known = {label.name for metric in METRICS for label in metric.labels}
        ray_s = {"__name__", "job", "instance", "le", "Component", "NodeAddress", "SessionName", "Version", "WorkerId"}
        assert labels <= known | ray_s
        assert server.query("ray_tasks") and not server.query('{__name__=~"ray_tasks.*",Name=~".+"}')
    assert_found_in_rays_dashboard(s3_uri)
    assert_what_is_idle_goes_when_told(head)
    events = RunFolderReader(open_store(s3_uri), "watched").read().events
    assert {event.worker for event in events if event.kind == EventKind.WORKER_UP} == {"worker-0.1", "worker-1.2"}


def assert_what_is_idle_goes_when_told(head: subprocess.Popen) -> None:
    """A worker that is kept by itself; the head with its workers and the coordinator."""
    processes = psutil.Process(head.pid).children(recursive=True)
    worker = next(process for process in processes if "ray::RenderWorker" in process.cmdline()[0])
    worker.terminate()
    worker.wait(timeout=60)
    head.terminate()
    head.wait(timeout=_SOONER_THAN_DRAINED_S)


def assert_found_in_rays_dashboard(output: str) -> None:
    """`status` links to the Ray job, which says which run it is; actors are listed with their run."""
    status = subprocess.run(
        films.command("status", "watched", "--output", output, "--json"), capture_output=True, text=True, timeout=60
    )
    link = json.loads(status.stdout)["ray_dashboard"]
    host, _, job_id = link.removeprefix("http://").partition("/#/jobs/")
    token = {"Authorization": f"Bearer {(Path.home() / '.ray/auth_token').read_text().strip()}"}

    def ask(path: str):
        request = urllib.request.Request(f"http://{host}{path}", headers=token)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    (job,) = [job for job in ask("/api/jobs/") if job["job_id"] == job_id]
    assert job["metadata"]["run_id"] == "watched"
    assert job["metadata"]["output"] == output
    actors = ask("/api/v0/actors?detail=true&limit=100")["data"]["result"]["result"]
    assert "worker-0.1 for watched" in {actor["repr_name"] for actor in actors}
    tasks = {task["name"] for task in ask("/api/v0/tasks?detail=true&limit=1000")["data"]["result"]["result"]}
    assert {"a: segment 1/2", "a: segment 2/2", "a: finishing"} < tasks
