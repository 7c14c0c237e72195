"""The page for the night: is all right?"""

from __future__ import annotations

from dashboards.pages import Page, PanelRow, Shows, lines, number
from dashboards.queries import grown, or_zero, quantile, rate, series, total
from render_farm.observability import metrics as m

ALERTS = 'ALERTS{alertname=~"RenderFarm.*",alertstate="firing"}'
BUSY_SHARE = f"{rate(m.BUSY_SECONDS)} / {rate(m.WORKER_SECONDS)}"


def video_per_gpu_hour(over: str) -> str:
    """Seconds of film per hour of one GPU."""
    return f"3600 * {rate(m.VIDEO_SECONDS, over=over)} / {rate(m.WORKER_SECONDS, over=over)}"


FARM = Page(
    name="farm",
    title="render_farm: tonight",
    help="Is tonight all right? Everything green in the first row says yes.",
    rows=(
        PanelRow(
            title="Is tonight all right?",
            panels=(
                number(
                    "Alerts",
                    "Alerts of the farm that fire now.",
                    or_zero(f"count({ALERTS})"),
                    limits=(1, 1),
                    width=3,
                ),
                number(
                    "Films done",
                    "Of the runs that are not over; when all are, of the last one.",
                    f"{total(m.JOBS, state='done')} / {total(m.JOBS)}",
                    unit="percentunit",
                    width=3,
                ),
                number("Films failed", "Of the same runs.", total(m.JOBS, state="failed"), limits=(1, 10), width=3),
                number(
                    "ETA",
                    "Until the last run is over, by its pace.",
                    f"max({series(m.ETA)})",
                    unit="s",
                    no_value="not known",
                    width=3,
                ),
                number(
                    "Before the deadline",
                    "From the ETA to the last deadline of a run's unfinished films, of the tightest run.",
                    f"min({series(m.DEADLINE_SLACK)})",
                    unit="s",
                    limits=(1800, 0),
                    no_value="no deadline",
                    width=3,
                ),
                number(
                    "Films past their deadline",
                    "That wait or run still.",
                    f"max({series(m.LATE_JOBS)})",
                    limits=(1, 10),
                    width=3,
                ),
                number(
                    "GPUs at work",
                    "The share of the workers' time in which they denoise or decode.",
                    BUSY_SHARE,
                    unit="percentunit",
                    limits=(0.8, 0.5),
                    decimals=1,
                    width=3,
                ),
                number(
                    "Quarantined hosts",
                    "They get no work. `render-farm hosts list RUN` says why.",
                    f"max({series(m.QUARANTINED_HOSTS)})",
                    limits=(1, 3),
                    width=3,
                ),
            ),
        ),
        PanelRow(
            title="Progress",
            panels=(
                lines("Films", "By state.", (total(m.JOBS, by="state"), "{{state}}"), shows=Shows.STACK, decimals=0),
                lines(
                    "Segments",
                    "By state.",
                    (total(m.SEGMENTS, by="state"), "{{state}}"),
                    shows=Shows.STACK,
                    decimals=0,
                ),
                lines("ETA", "Until the last run is over.", (f"max({series(m.ETA)})", "ETA"), unit="s"),
                lines("Denoising steps", "Per second, all workers together.", (rate(m.STEPS), "steps/s"), unit="ops"),
                lines(
                    "Film for a GPU-hour",
                    "Seconds of published film for an hour of one GPU, over the last half hour.",
                    (video_per_gpu_hour("30m"), "s of film / GPU-hour"),
                    unit="s",
                ),
                lines(
                    "Wait in the queue",
                    "From when a film was given to the farm to its first segment.",
                    (quantile(0.5, m.QUEUE_WAIT, over="30m"), "half of them"),
                    (quantile(0.95, m.QUEUE_WAIT, over="30m"), "95 %"),
                    unit="s",
                ),
            ),
        ),
        PanelRow(
            title="What goes wrong",
            panels=(
                lines(
                    "Failures",
                    "Work that failed within half an hour, by class; most of it is tried again.",
                    (grown(m.FAILURES, over="30m", by="error_class"), "{{error_class}}"),
                    shows=Shows.STACK,
                    decimals=0,
                ),
                lines(
                    "Work handed out",
                    "Per minute. The excess over the finished work is tried again.",
                    (f"60 * {rate(m.ATTEMPTS, by='work')}", "{{work}}"),
                ),
                lines(
                    "Seams",
                    "The most visible join of a film; from 3 on it is called visible.",
                    (quantile(0.5, m.SEAM_SCORE, over="30m"), "half of them"),
                    (quantile(0.95, m.SEAM_SCORE, over="30m"), "95 %"),
                ),
                lines(
                    "Findings",
                    "Films within half an hour, by what the checks found in their pictures.",
                    (grown(m.FINDINGS, over="30m", by="kind"), "{{kind}}"),
                    decimals=0,
                ),
                lines(
                    "Films that ended",
                    "Within half an hour, by state.",
                    (grown(m.JOBS_ENDED, over="30m", by="state"), "{{state}}"),
                    decimals=0,
                ),
                lines("Runs", "That are not over, by state.", (total(m.RUNS, by="state"), "{{state}}"), decimals=0),
                lines(
                    "Runs at work",
                    "By their addresses: 1 until a run is over.",
                    (f"max by (run) ({series(m.RUN_AT_WORK)})", "{{run}}"),
                    decimals=0,
                ),
                lines(
                    "Leases",
                    "Of runs, that changed hands within half an hour.",
                    (grown(m.LEASE_CHANGES, over="30m", by="change"), "{{change}}"),
                    decimals=0,
                ),
            ),
        ),
    ),
)
