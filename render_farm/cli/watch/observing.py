"""The observer of a run by its settings: its report page, and notices to people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from render_farm.cli.report import RunReporter, link_seconds, price_of
from render_farm.cli.watch.notify import RunNotifier, channels_of
from render_farm.farm.run.settings import Settings
from render_farm.observability.settings import NotifySettings
from render_farm.observability.snapshot import RunSnapshot
from render_farm.report.page_data import Price
from render_farm.scheduling.states import State
from render_farm.storage.open import open_store


@dataclass(frozen=True, kw_only=True)
class ReportAndNotices:
    """See `observability.observer.ObserverSource`."""

    output: str
    notify: NotifySettings
    price: Price
    links_for_s: int | None
    patience_s: float

    def start(self, on_failure: Callable[[str], None]) -> _Observer:
        store = open_store(self.output)
        return _Observer(
            RunReporter(
                store, self.price, links_for_s=self.links_for_s, patience_s=self.patience_s, on_failure=on_failure
            ),
            RunNotifier(self.notify, store, on_failure=on_failure),
        )


class _Observer:
    def __init__(self, reporter: RunReporter, notifier: RunNotifier) -> None:
        self._reporter = reporter
        self._notifier = notifier

    def show(self, snapshot: RunSnapshot) -> None:
        self._reporter.begin(snapshot.run_id)
        if State(snapshot.state).ended:
            self._reporter.close()  # before the notice that links to it
        self._notifier.show(snapshot)

    def close(self) -> None:
        self._reporter.close()
        self._notifier.close()


def observer_of(settings: Settings, output: str) -> ReportAndNotices:
    """Raises `UsageError` for settings that cannot work."""
    channels_of(settings.notify)
    return ReportAndNotices(
        output=output,
        notify=settings.notify,
        price=price_of(settings),
        links_for_s=link_seconds(settings.report_link_hours),
        patience_s=settings.timeouts.cluster_patience_s,
    )
