"""How Prometheus finds Ray, and Grafana Prometheus and the dashboards."""

from __future__ import annotations

from typing import Any

import yaml

SERVICE_DISCOVERY = "/tmp/ray/prom_metrics_service_discovery.json"
"""Ray's head node keeps the endpoints of all nodes there."""


def scrape_yaml(*, discovery: str = SERVICE_DISCOVERY, every: str = "10s", rules: str = "alerts.yml") -> str:
    """Prometheus' configuration. Ray's values are new every 10 s (`RAY_metrics_report_interval_ms`)."""
    scrape: dict[str, Any] = {
        "job_name": "ray",
        "file_sd_configs": [{"files": [discovery], "refresh_interval": "10s"}],
        "metric_relabel_configs": [{"action": "labeldrop", "regex": "otel_scope_.*"}],
    }
    document = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [rules],
        "scrape_configs": [scrape],
    }
    return yaml.safe_dump(document, sort_keys=False)


def datasource_yaml() -> str:
    """Grafana's data source. `$PROMETHEUS_URL` is Prometheus' address."""
    source = {
        "name": "Prometheus",
        "type": "prometheus",
        "uid": "render-farm-prometheus",
        "access": "proxy",
        "url": "$PROMETHEUS_URL",
        "isDefault": True,
        "jsonData": {"timeInterval": "10s"},
    }
    return yaml.safe_dump({"apiVersion": 1, "datasources": [source]}, sort_keys=False)


def provider_yaml() -> str:
    """Where Grafana reads the dashboards. `$DASHBOARDS` is this folder."""
    provider = {
        "name": "render_farm",
        "folder": "render_farm",
        "type": "file",
        "options": {"path": "$DASHBOARDS"},
    }
    return yaml.safe_dump({"apiVersion": 1, "providers": [provider]}, sort_keys=False)
