"""The parts of a dashboard, and its Grafana JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


class Shows(StrEnum):
    """How a panel shows its queries."""

    NUMBER = "number"
    LINES = "lines"
    STACK = "stack"


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query of a panel."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. Numbers are 4 wide and 4 high, graphs 8 and 8, unless said otherwise."""

    title: str
    help: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """Grafana's name of it."""
    shows: Shows = Shows.LINES
    limits: tuple[float, ...] = ()
    """From the first on it is orange, from the second on red. Descending: below them."""
    no_value: str = ""
    """Said instead of a number where there is none."""
    decimals: int | None = None
    width: int | None = None
    needs_gpu: bool = False
    """Its queries return nothing where no GPU is."""


@dataclass(frozen=True, kw_only=True)
class PanelRow:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One dashboard."""

    name: str
    """Of its file, and in its address."""
    title: str
    help: str
    rows: tuple[PanelRow, ...]
    since: str = "now-12h"

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


def number(title: str, help: str, expr: str, **options: Any) -> Panel:
    """A panel with one number."""
    return Panel(title=title, help=help, queries=(Query(expr=expr),), shows=Shows.NUMBER, **options)


def lines(title: str, help: str, *queries: tuple[str, str], **options: Any) -> Panel:
    """A panel with a line for each series; `queries` are expressions with legends."""
    made = tuple(Query(expr=expr, legend=legend) for expr, legend in queries)
    return Panel(title=title, help=help, queries=made, **options)


def page_json(page: Page) -> str:
    """The dashboard as Grafana reads it."""
    board = (
        dashboard.Dashboard(page.title)
        .uid(f"render-farm-{page.name}")
        .description(page.help)
        .tags(["render_farm"])
        .time(page.since, "now")
        .refresh("30s")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(dashboard.DashboardLink("render_farm").type(DashboardLinkType.DASHBOARDS).tags(["render_farm"]))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    ids = count(1)
    for row in page.rows:
        board = board.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            board = board.with_panel(_panel(panel).id(next(ids)))
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    made: stat.Panel | timeseries.Panel
    if panel.shows is Shows.NUMBER:
        made = (
            stat.Panel()
            .height(4)
            .span(panel.width or 4)
            .graph_mode(BigValueGraphMode.NONE)
            .color_mode(BigValueColorMode.BACKGROUND if panel.limits else BigValueColorMode.NONE)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .thresholds(_thresholds(panel.limits))
        )
        if panel.no_value:
            made = made.no_value(panel.no_value)
    else:
        made = (
            timeseries.Panel()
            .height(8)
            .span(panel.width or 8)
            .legend(
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
                .show_legend(True)
            )
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
            .fill_opacity(30 if panel.shows is Shows.STACK else 0)
            .min(0)
        )
        if panel.shows is Shows.STACK:
            made = made.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    made = made.title(panel.title).description(panel.help).unit(panel.unit).datasource(_SOURCE)
    if panel.decimals is not None:
        made = made.decimals(panel.decimals)
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
        made = made.with_target(target.instant() if panel.shows is Shows.NUMBER else target.range())
    return made


def _thresholds(limits: tuple[float, ...]) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green")]
    if len(limits) == 2 and limits[0] > limits[1]:
        steps = [
            Threshold(value=None, color="red"),
            Threshold(value=limits[1], color="orange"),
            Threshold(value=limits[0], color="green"),
        ]
    elif limits:
        steps += [Threshold(value=value, color=color) for value, color in zip(limits, ("orange", "red"), strict=False)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
