"""Writes `_runs/<run_id>/report.html`, during the run and at its end."""

from __future__ import annotations

import time
from typing import Any

from render_farm.errors import NotFoundError
from render_farm.report.media_links import MediaLinks
from render_farm.report.page import build_page
from render_farm.report.page_data import Price, page_data
from render_farm.report.run_folder import RunFolderReader, previous_run
from render_farm.storage.layout import RunKeys
from render_farm.storage.store import Store


class ReportWriter:
    """Writes one run's page repeatedly. Objects that never change are read once."""

    def __init__(self, store: Store, run_id: str, price: Price = Price(), *, links_for_s: int | None = None) -> None:
        """With `links_for_s` the page's films are signed links that anyone can follow for so long. By default they are
        relative. The first `write` raises UsageError if the store has no signed links."""
        self._links = None if links_for_s is None else MediaLinks(store, links_for_s)
        self._store = store
        self._run_id = run_id
        self._price = price
        self._reader = RunFolderReader(store, run_id)
        self._previous: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
        self._previous_known = False

    def data(self) -> dict[str, Any]:
        """The page's data now. NotFoundError if there is no such run."""
        folder = self._reader.read()
        if not self._previous_known:
            self._previous, self._previous_known = previous_run(self._store, folder), True
        data = page_data(
            folder, previous=self._previous, now_s=time.time(), root_uri=self._store.root_uri, price=self._price
        )
        return data if self._links is None else {**data, "media": self._links.of(data)}

    def write(self) -> str:
        """Write the page and return its URI. NotFoundError if there is no such run. StorageError passes."""
        key = RunKeys(run_id=self._run_id).report
        self._store.write_bytes(key, build_page(self.data()))
        return self._store.uri(key)


def has_run(store: Store, run_id: str) -> bool:
    """Whether the output tree has this run."""
    try:
        return store.exists(RunKeys(run_id=run_id).run)
    except (NotFoundError, ValueError):
        return False
