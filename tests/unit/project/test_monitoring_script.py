"""`make monitoring`: Prometheus with the farm's rules, and Grafana, where it is installed, with its dashboards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

import dashboards
from dashboards.alerts import ALERTS
from tests.helpers import prometheus
from tests.helpers.films import wait_for
from tests.helpers.fixtures_s3 import free_port

pytestmark = pytest.mark.server

FOLDER = Path(dashboards.__file__).parent
SCRIPT = FOLDER.parent / "cluster" / "monitoring.sh"
# There is no Grafana here to be started: this one says how it was.
GRAFANA = """#!/usr/bin/env bash
{ echo "$@"; env; } > "$GF_PATHS_DATA.said"
exec sleep 60
"""


def test_it_starts_prometheus_and_grafana_and_ends_them(tmp_path):
    prometheus.programs()
    program = tmp_path / "bin" / "grafana"
    program.parent.mkdir()
    program.write_text(GRAFANA)
    program.chmod(0o755)
    ports = free_port(), free_port()
    found = tmp_path / "ray" / "prom_metrics_service_discovery.json"  # as `ray start` writes it below TMPDIR
    found.parent.mkdir()
    found.write_text('[{"labels": {"job": "ray"}, "targets": ["127.0.0.1:9"]}]')
    environment = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PROMETHEUS_PORT": str(ports[0]),
        "GRAFANA_PORT": str(ports[1]),
        "MONITORING_DATA": str(tmp_path / "data"),
        "TMPDIR": str(tmp_path),
    }
    server = prometheus.Prometheus(address=f"http://127.0.0.1:{ports[0]}")
    process = subprocess.Popen(["bash", SCRIPT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(server), what="Prometheus")
        assert {rule["name"] for rule in server.rules()} == {alert.name for alert in ALERTS}
        wait_for(lambda: server.targets() == ["127.0.0.1:9"], what="the node of Ray's file")
        said = tmp_path / "data" / "grafana.said"
        wait_for(lambda: said.exists() and "GF_SERVER_HTTP_PORT" in said.read_text(), what="Grafana")
        arguments, *variables = said.read_text().splitlines()
        given = dict(line.split("=", 1) for line in variables if "=" in line)
        assert arguments.startswith("server --homepath")
        assert (given["PROMETHEUS_URL"], given["GF_SERVER_HTTP_PORT"]) == (server.address, str(ports[1]))
        provisioning = Path(given["GF_PATHS_PROVISIONING"])
        (provider,) = yaml.safe_load((provisioning / "dashboards/render_farm.yml").read_text())["providers"]
        assert provider["options"]["path"] == "$DASHBOARDS" and Path(given["DASHBOARDS"]) == FOLDER
        (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
        assert source["url"] == "$PROMETHEUS_URL"
    finally:
        process.terminate()
        process.communicate(timeout=30)
    wait_for(lambda: not answers(server), what="the end of Prometheus")


def answers(server: prometheus.Prometheus) -> bool:
    try:
        server.rules()
    except OSError:
        return False
    return True
