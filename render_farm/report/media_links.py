"""Signed links to a page's films, for a bucket that its readers cannot read."""

from __future__ import annotations

import time
from typing import Any

from render_farm.storage.layout import POSTER, PREVIEW_SHEET, PREVIEW_VIDEO, VIDEO, FilmKeys, JobKeys, rejected_name
from render_farm.storage.store import Store

_SHARE_BEFORE_RENEWAL = 0.25
"""A link is reused while more than this share of its time is left, so that a rewritten page signs little."""


class MediaLinks:
    """Links for page after page of one output tree."""

    def __init__(self, store: Store, links_for_s: int) -> None:
        self._store = store
        self._links_for_s = links_for_s
        self._known: dict[str, tuple[float, str]] = {}

    def of(self, data: dict[str, Any]) -> dict[int, dict[str, str]]:
        """Links to the films that `data` (`page_data`) can show, by their number and the file's name. They are valid
        for at least a quarter of `links_for_s`. UsageError if the store has none."""
        keys: dict[tuple[int, str], str] = {}
        for index, (job_id, state) in enumerate(zip(data["jobs"]["id"], data["jobs"]["state"], strict=True)):
            if state == "done":
                job = JobKeys(job_id=job_id)
                keys[index, POSTER], keys[index, VIDEO] = job.poster, job.video
        for index, (work_key, *_) in data["previews"].items():
            for name in (PREVIEW_SHEET, PREVIEW_VIDEO):
                keys[index, name] = FilmKeys(film=work_key).preview(name)
        for index, rejected in data["rejected"].items():
            for seed, _ in rejected:
                keys[index, rejected_name(seed)] = JobKeys(job_id=data["jobs"]["id"][index]).rejected_poster(seed)
        self._sign(set(keys.values()))
        links: dict[int, dict[str, str]] = {}
        for (index, name), key in keys.items():
            links.setdefault(index, {})[name] = self._known[key][1]
        return links

    def _sign(self, keys: set[str]) -> None:
        now = time.monotonic()
        old = sorted(key for key in keys if key not in self._known or self._known[key][0] < now)
        if old:
            good_until = now + self._links_for_s * (1 - _SHARE_BEFORE_RENEWAL)
            for key, link in self._store.presign(old, self._links_for_s).items():
                self._known[key] = (good_until, link)
