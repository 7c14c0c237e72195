"""Prometheus alerts of the farm."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import yaml

from dashboards.queries import grown, or_zero, rate, series, total
from render_farm.observability import metrics as m


class Severity(StrEnum):
    """Who should act when."""

    PAGE = "page"
    """Somebody, now: otherwise the night will not be finished."""
    TICKET = "ticket"
    """Somebody, in the morning."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert."""

    name: str
    expr: str
    lasts: str
    """How long it must hold."""
    severity: Severity
    summary: str
    advice: str


_FAILED_SHARE = f"{total(m.JOBS, state='failed')} / clamp_min({total(m.JOBS, state='done|failed')}, 1)"
_IS_RUNNING = f"{total(m.RUNS, state='running')} > 0"
_NO_STEPS = f"({or_zero(rate(m.STEPS, over='20m'))}) == 0"
"""A rate, because it handles a coordinator that restarts its count."""
_NO_ENDS = f"({or_zero(grown(m.JOBS_ENDED, over='20m'))}) == 0"
_PREPARING = or_zero(total(m.PREPARING))
_IS_PREPARING = f"({_PREPARING}) > 0 and on() sum_over_time((clamp_max({_PREPARING}, 1))[3h:1m]) < 120"
"""Cold weights and the prompts of a whole manifest take time, but not two hours out of three."""
_AT_WORK = series(m.RUNS, state="running")
_WORKED_LAST_WEEK = f"max(max_over_time({_AT_WORK}[7d] offset 26h)) > 0"
_WORKED_SINCE_YESTERDAY = f"max(max_over_time({_AT_WORK}[26h])) > 0"
"""A day, and two hours for a night that starts late. Where nobody has rendered for a week, no night is expected."""

_RUNS_AT_WORK = f'{{{{ range query "{series(m.RUN_AT_WORK)} == 1" }}}}{{{{ .Labels.run }}}} {{{{ end }}}}'
RUNBOOK = "cluster/README.md#runbook"
"""In this repository. `python -m dashboards --runbook URL` writes another address."""

ALERTS: tuple[Alert, ...] = (
    Alert(
        name="RenderFarmBehindDeadline",
        expr=f"-min({series(m.DEADLINE_SLACK)}) > 0",
        lasts="5m",
        severity=Severity.PAGE,
        summary="At its pace, a run will end {{ $value | humanizeDuration }} after its last deadline.",
        advice="Add workers, cancel what matters less, or raise the priority of what must be done: "
        "`render-farm status RUN` names the films, `render-farm priority RUN JOB --to 90` moves them.",
    ),
    Alert(
        name="RenderFarmDeadlinePassed",
        expr=f"max({series(m.LATE_JOBS)}) > 0",
        lasts="1m",
        severity=Severity.TICKET,
        summary="{{ $value }} films have passed their deadline and are not done.",
        advice="`render-farm status RUN` names them.",
    ),
    Alert(
        name="RenderFarmManyFailures",
        expr=f"({_FAILED_SHARE}) > 0.1",
        lasts="5m",
        severity=Severity.PAGE,
        summary="{{ $value | humanizePercentage }} of the films that ended have failed.",
        advice="`render-farm status RUN` groups them by cause, with advice; `--max-failed` stops a run by itself.",
    ),
    Alert(
        name="RenderFarmNoProgress",
        expr=f"({_IS_RUNNING}) and on() ({_NO_STEPS}) and on() ({_NO_ENDS}) unless on() ({_IS_PREPARING})",
        lasts="10m",
        severity=Severity.PAGE,
        summary="A run is active, but for 20 minutes no denoising step was made and no film ended, and nothing "
        "is being "
        "loaded (or has been for two hours).",
        advice="`render-farm explain RUN JOB` says what a film waits for; `render-farm logs RUN` what happened last.",
    ),
    Alert(
        name="RenderFarmNightMissing",
        expr=f"{_WORKED_LAST_WEEK} unless on() {_WORKED_SINCE_YESTERDAY}",
        lasts="15m",
        severity=Severity.PAGE,
        summary="No run has been at work for 26 hours, although there was one in the week before.",
        advice="Check what starts the night: its RayCronJob, crontab or timer, and the manifest of its date.",
    ),
    Alert(
        name="RenderFarmHostQuarantined",
        expr=f"max({series(m.QUARANTINED_HOSTS)}) > 0",
        lasts="1m",
        severity=Severity.TICKET,
        summary="{{ $value }} hosts get no work, because their workers kept failing.",
        advice="`render-farm hosts list RUN` says why; `render-farm hosts release RUN HOST` gives it work again.",
    ),
    Alert(
        name="RenderFarmStorageFails",
        expr=f"{grown(m.STORAGE_ERRORS, over='15m', outcome='given_up')} > 0",
        lasts="1m",
        severity=Severity.PAGE,
        summary="{{ $value }} requests to the output's storage were given up within 15 minutes.",
        advice="`render-farm doctor --output URI` tries to write, read and delete there. Workers keep what they "
        "rendered for `cluster_patience_s` (10 minutes).",
    ),
    Alert(
        name="RenderFarmStorageFalters",
        expr=f"{grown(m.STORAGE_ERRORS, over='15m', outcome='tried_again')} > 50",
        lasts="5m",
        severity=Severity.TICKET,
        summary="{{ $value }} requests to the output's storage were tried again within 15 minutes.",
        advice="Throttling or a server in trouble; `dashboards/storage.json` shows which operations.",
    ),
)


def rules_yaml(runbook: str = RUNBOOK) -> str:
    """The rules as Prometheus reads them. Each alert names the runs at work, by the addresses that RUN stands for."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.lasts,
            "labels": {"severity": str(alert.severity)},
            "annotations": {
                "summary": alert.summary,
                "description": alert.advice,
                "runs": _RUNS_AT_WORK,
                "runbook_url": runbook,
            },
        }
        for alert in ALERTS
    ]
    return yaml.safe_dump({"groups": [{"name": "render_farm", "rules": rules}]}, sort_keys=False, width=110)
