"""The dashboards and alerts: the committed files are the generated ones, only metrics that exist are asked for, and
alerts fire when they should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import dashboards
from dashboards.alerts import ALERTS
from dashboards.generate import PAGES, generated
from dashboards.pages import WIDTH, Shows
from render_farm.observability.metrics import METRICS, Kind
from tests import prometheus

FOLDER = Path(dashboards.__file__).parent
OF_RAY = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_cpu_utilization", "ray_node_mem_used"}


@pytest.mark.parametrize("name", sorted(generated()))
def test_committed_files_are_the_generated_ones(name):
    assert (FOLDER / name).read_text() == generated()[name], "run `python -m dashboards`"


def test_no_other_file_poses_as_a_generated_one():
    there = {path.relative_to(FOLDER).as_posix() for kind in ("json", "yml") for path in FOLDER.rglob(f"*.{kind}")}
    assert there == set(generated())


def exposed() -> set[str]:
    names = set(OF_RAY)
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        names |= {metric.exposed + suffix for suffix in suffixes}
    return names


def test_only_metrics_that_exist_are_asked_for_and_each_is_shown():
    asked: set[str] = set()
    for expr in [query.expr for page in PAGES for panel in page.panels for query in panel.queries]:
        asked |= set(re.findall(r"\bray_\w+", expr))
    for alert in ALERTS:
        assert set(re.findall(r"\bray_\w+", alert.expr)) <= exposed()
    assert asked <= exposed()
    hidden = [m.name for m in METRICS if not any(name.startswith(m.exposed) for name in asked)]
    assert hidden == []


def test_the_first_row_of_the_farm_page_is_one_screen_wide():
    first = PAGES[0].rows[0].panels
    assert all(panel.shows is Shows.NUMBER for panel in first)
    assert sum(panel.width or 4 for panel in first) == WIDTH


ALL_IS_WELL = {
    'ray_render_farm_runs{state="running"}': "1x120",
    'ray_render_farm_jobs{state="done"}': "20x120",
    'ray_render_farm_jobs{state="failed"}': "1x120",
    "ray_render_farm_denoising_steps_total": "0+600x120",
    "ray_render_farm_jobs_ended_total": "0+1x120",
    "ray_render_farm_run_deadline_slack_seconds": "600x120",
    "ray_render_farm_late_jobs": "0x120",
    "ray_render_farm_quarantined_hosts": "0x120",
}
"""A series' value minute by minute."""
TROUBLES = {
    "RenderFarmBehindDeadline": {"ray_render_farm_run_deadline_slack_seconds": "-600x120"},
    "RenderFarmDeadlinePassed": {"ray_render_farm_late_jobs": "2x120"},
    "RenderFarmManyFailures": {'ray_render_farm_jobs{state="failed"}': "5x120"},
    "RenderFarmNoProgress": {
        "ray_render_farm_denoising_steps_total": "9x120",
        "ray_render_farm_jobs_ended_total": "3x120",
    },
    "RenderFarmHostQuarantined": {"ray_render_farm_quarantined_hosts": "1x120"},
    # The first error of a kind begins its series.
    "RenderFarmStorageFails": {
        'ray_render_farm_storage_errors_total{operation="write",outcome="given_up"}': "_x55 1x64"
    },
    "RenderFarmStorageFalters": {
        'ray_render_farm_storage_errors_total{operation="write",outcome="tried_again"}': "0+10x120"
    },
}


@pytest.mark.parametrize("trouble", ["none", *TROUBLES])
def test_an_alert_fires_in_its_trouble_alone(tmp_path, trouble):
    _, promtool = prometheus.programs()
    assert set(TROUBLES) == {alert.name for alert in ALERTS}
    values = {**ALL_IS_WELL, **TROUBLES.get(trouble, {})}
    checks = []
    for alert in ALERTS:
        fires = [{"exp_labels": {"severity": str(alert.severity)}}] if alert.name == trouble else []
        checks.append({"eval_time": "65m", "alertname": alert.name, "exp_alerts": fires})
    checks = [check for check in checks if not check["exp_alerts"]]
    fired = [{"expr": f'count(ALERTS{{alertname="{trouble}",alertstate="firing"}})', "eval_time": "65m"}]
    if trouble != "none":
        fired[0]["exp_samples"] = [{"labels": "{}", "value": 1}]
    test = {
        "rule_files": [str(FOLDER / "prometheus/alerts.yml")],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": series} for name, series in values.items()],
                "alert_rule_test": checks,
                "promql_expr_test": fired,
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run([promtool, "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
