"""Every file that is generated here, by its path in this folder."""

from __future__ import annotations

from dashboards.alerts import RUNBOOK, rules_yaml
from dashboards.farm import FARM
from dashboards.pages import Page, page_json
from dashboards.servers import datasource_yaml, provider_yaml, scrape_yaml
from dashboards.storage import STORAGE
from dashboards.workers import WORKERS

PAGES: tuple[Page, ...] = (FARM, WORKERS, STORAGE)
_MADE = "# Made by `python -m dashboards`; change it there.\n"


def generated(runbook: str = RUNBOOK) -> dict[str, str]:
    """The text of each file. `runbook` is the address that alerts name."""
    return {
        **{f"{page.name}.json": page_json(page) for page in PAGES},
        "prometheus/alerts.yml": _MADE + rules_yaml(runbook),
        "prometheus/prometheus.yml": _MADE + scrape_yaml(),
        "grafana/datasources/prometheus.yml": _MADE + datasource_yaml(),
        "grafana/dashboards/render_farm.yml": _MADE + provider_yaml(),
    }
