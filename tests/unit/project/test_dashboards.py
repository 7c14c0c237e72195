"""The dashboards and alerts: the committed files are the generated ones, only metrics that exist are asked for, and
alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

import dashboards
from dashboards.alerts import ALERTS
from dashboards.generate import PAGES, generated
from dashboards.pages import Shows
from render_farm.observability.metrics import METRICS, MetricKind
from tests.helpers import prometheus

FOLDER = Path(dashboards.__file__).parent
WIDTH = 24
"""Of a page, in Grafana's units."""
OF_RAY = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_cpu_utilization", "ray_node_mem_used"}


@pytest.mark.parametrize("name", sorted(generated()))
def test_committed_files_are_the_generated_ones(name):
    assert (FOLDER / name).read_text() == generated()[name], "run `python -m dashboards`"


def test_no_other_file_poses_as_a_generated_one():
    there = {path.relative_to(FOLDER).as_posix() for kind in ("json", "yml") for path in FOLDER.rglob(f"*.{kind}")}
    assert there == set(generated())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_grafanas_own_models_read_a_page_without_loss(page):
    """What they do not know, they drop."""
    register_default_plugins()
    there = json.loads((FOLDER / f"{page.name}.json").read_text())
    assert json.loads(json.dumps(Dashboard.from_json(there), cls=JSONEncoder)) == there
    panels = [panel for panel in there["panels"] if panel["type"] != "row"]
    assert {panel["type"] for panel in panels} <= {"stat", "timeseries"}
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in panels) == WIDTH


def exposed() -> set[str]:
    names = set(OF_RAY)
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind is MetricKind.HISTOGRAM else ("",)
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
    "RenderFarmNightMissing": {},
    "RenderFarmHostQuarantined": {"ray_render_farm_quarantined_hosts": "1x120"},
    # The first error of a kind begins its series.
    "RenderFarmStorageFails": {
        'ray_render_farm_storage_errors_total{operation="write",outcome="given_up"}': "_x55 1x64"
    },
    "RenderFarmStorageFalters": {
        'ray_render_farm_storage_errors_total{operation="write",outcome="tried_again"}': "0+10x120"
    },
}


NOTHING_MOVES = TROUBLES["RenderFarmNoProgress"]
IS_WELL_TOO = {
    "nothing": {},
    "cold weights for an hour": {**NOTHING_MOVES, 'ray_render_farm_preparing{work="segment"}': "2x120"},
    "prompts for an hour": {**NOTHING_MOVES, 'ray_render_farm_preparing{work="text"}': "1x120"},
    # Another process counts from nothing.
    "a new coordinator": {
        'ray_render_farm_denoising_steps_total{WorkerId="a"}': "0+600x45 _x75",
        'ray_render_farm_denoising_steps_total{WorkerId="b"}': "_x46 4+600x74",
        "ray_render_farm_denoising_steps_total": None,
        'ray_render_farm_jobs_ended_total{WorkerId="a"}': "0+1x45 _x75",
        'ray_render_farm_jobs_ended_total{WorkerId="b"}': "_x46 1+1x74",
        "ray_render_farm_jobs_ended_total": None,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_alert_fires_in_its_trouble_alone(tmp_path, trouble):
    assert set(TROUBLES) == {alert.name for alert in ALERTS}
    watch(tmp_path, TROUBLES[trouble], fires=trouble, at="30h" if trouble == "RenderFarmNightMissing" else "65m")


@pytest.mark.parametrize("what", IS_WELL_TOO)
def test_no_alert_fires_while_all_is_well(tmp_path, what):
    watch(tmp_path, IS_WELL_TOO[what])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "at"),
    [
        ({}, "27h"),  # the last run ended 25 hours ago
        ({'ray_render_farm_runs{state="running"}': "0x120"}, "30h"),  # nobody ever has
        ({'ray_render_farm_runs{state="running"}': "1x120 _x1320 1x120"}, "30h"),  # every night
    ],
)
def test_a_night_is_missed_only_where_nights_are_usual(tmp_path, values, at):
    watch(tmp_path, values, at=at)


def test_what_is_loaded_for_hours_is_no_progress(tmp_path):
    loads = {**NOTHING_MOVES, 'ray_render_farm_preparing{work="segment"}': "2x300"}
    flat = {name: value.replace("x120", "x300") for name, value in {**ALL_IS_WELL, **loads}.items()}
    watch(tmp_path, flat, fires="RenderFarmNoProgress", at="140m")


def watch(tmp_path, values: dict[str, str | None], *, fires: str = "none", at: str = "65m") -> None:
    """What Prometheus' own test of rules says: with `values` instead of what is well, the one alert fires, or none."""
    _, promtool = prometheus.programs()
    values = {name: series for name, series in {**ALL_IS_WELL, **values}.items() if series is not None}
    others = [alert.name for alert in ALERTS if alert.name != fires]
    checks = [{"eval_time": at, "alertname": name, "exp_alerts": []} for name in others]
    fired = [{"expr": f'count(ALERTS{{alertname="{fires}",alertstate="firing"}})', "eval_time": at}]
    if fires != "none":
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


def test_an_alert_names_the_runs_at_work_and_the_runbook(tmp_path) -> None:
    _, promtool = prometheus.programs()
    values = {
        "ray_render_farm_run_deadline_slack_seconds": "-600x120",
        'ray_render_farm_run_at_work{run="s3://b/films/_runs/night"}': "1x120",
        'ray_render_farm_run_at_work{run="s3://b/films/_runs/before"}': "0x120",
    }
    annotations = {
        "summary": "At its pace, a run will end 10m 0s after its last deadline.",
        "description": next(alert.advice for alert in ALERTS if alert.name == "RenderFarmBehindDeadline"),
        "runs": "s3://b/films/_runs/night ",
        "runbook_url": "https://wiki.example/runbook",
    }
    (tmp_path / "alerts.yml").write_text(generated("https://wiki.example/runbook")["prometheus/alerts.yml"])
    fired = [{"exp_labels": {"severity": "page"}, "exp_annotations": annotations}]
    test = {
        "rule_files": [str(tmp_path / "alerts.yml")],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": series} for name, series in values.items()],
                "alert_rule_test": [{"eval_time": "65m", "alertname": "RenderFarmBehindDeadline", "exp_alerts": fired}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run([promtool, "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runbook_has_a_row_for_every_alert() -> None:
    runbook = (FOLDER.parent / "cluster/README.md").read_text().split("## Runbook")[1]
    assert re.findall(r"^\| `(RenderFarm\w+)` \|", runbook, re.MULTILINE) == [alert.name for alert in ALERTS]
