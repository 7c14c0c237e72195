"""The page for the output's storage."""

from __future__ import annotations

from dashboards.pages import Page, PanelRow, lines, number
from dashboards.queries import grown, or_zero, quantile, rate
from render_farm.observability import metrics as m

STORAGE = Page(
    name="storage",
    title="render_farm: storage",
    help="What goes to and from the output's storage, what fails there, and how long storing takes.",
    rows=(
        PanelRow(
            title="Now",
            panels=(
                number("Written", "A second.", rate(m.STORAGE_BYTES, direction="written"), unit="Bps"),
                number("Read", "A second.", rate(m.STORAGE_BYTES, direction="read"), unit="Bps"),
                number(
                    "Written in 12 hours",
                    "Films, checkpoints, state and logs.",
                    grown(m.STORAGE_BYTES, over="12h", direction="written"),
                    unit="bytes",
                ),
                number(
                    "Requests given up",
                    "Within an hour: they failed, and trying again did not help or could not.",
                    or_zero(grown(m.STORAGE_ERRORS, over="1h", outcome="given_up")),
                    limits=(1, 10),
                ),
                number(
                    "Requests tried again",
                    "Within an hour: they failed in a way that may pass.",
                    or_zero(grown(m.STORAGE_ERRORS, over="1h", outcome="tried_again")),
                    limits=(20, 200),
                ),
            ),
        ),
        PanelRow(
            title="Over time",
            panels=(
                lines(
                    "Bytes",
                    "Per second, to and from storage.",
                    (rate(m.STORAGE_BYTES, by="direction"), "{{direction}}"),
                    unit="Bps",
                    width=12,
                ),
                lines(
                    "Requests that failed",
                    "Within five minutes, by operation and whether they were tried again.",
                    (grown(m.STORAGE_ERRORS, over="5m", by="operation, outcome"), "{{operation}}, {{outcome}}"),
                    decimals=0,
                    width=12,
                ),
                lines(
                    "Storing a segment",
                    "Its latents and its state; the worker waits for it.",
                    (quantile(0.5, m.PHASE_SECONDS, over="15m", phase="checkpoint"), "half of them"),
                    (quantile(0.95, m.PHASE_SECONDS, over="15m", phase="checkpoint"), "95 %"),
                    unit="s",
                    width=12,
                ),
                lines(
                    "Publishing a film",
                    "Uploading, committing and copying it to its final names.",
                    (quantile(0.5, m.PHASE_SECONDS, over="15m", phase="upload"), "half of them"),
                    (quantile(0.95, m.PHASE_SECONDS, over="15m", phase="upload"), "95 %"),
                    unit="s",
                    width=12,
                ),
            ),
        ),
    ),
)
