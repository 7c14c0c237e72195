"""`render-farm continue`: a run that nobody renders is started again from the manifest that it stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from render_farm.cli.rendering.columns import COLUMN_FLAGS
from render_farm.cli.rendering.flags import takes_flags_of
from render_farm.cli.rendering.render import finish, render, request_of
from render_farm.cli.rendering.render import run as render_request
from render_farm.cli.runs import Output, Run, find_run
from render_farm.errors import NotFoundError

_NOT_HERE = ("manifest", "prompt", "run_id", "where", "limit", "canary", "first_segments", "relative_to", *COLUMN_FLAGS)


def _own_flags(run: Run, output: Output = None) -> None:
    """Flags that `render` lacks or defines differently."""


@takes_flags_of(_own_flags, render, without=_NOT_HERE)
def continue_run(**flags: Any) -> None:
    """Restart a run that nobody renders, from its stored manifest. Finished films stay.

    It takes the flags of `render` that say where to render and when to stop. The other flags of its first start
    (--keep-latents, --replace, --first-segments, --deadline, the base of relative inputs) are remembered. Exit codes
    are those of `render`.
    """
    from render_farm.report.run_folder import RunFolderReader
    from render_farm.storage.layout import RunKeys

    place = find_run(flags["run"], flags["output"])
    keys = RunKeys(run_id=place.run_id)
    if not place.store.exists(keys.manifest):
        raise NotFoundError(
            f"run {place.run_id} stored no manifest", advice="start it with `render-farm render MANIFEST` again"
        )
    document = RunFolderReader(place.store, place.run_id).document()
    kept = document.get("continue_with")
    kept = kept if isinstance(kept, dict) else {}
    request = request_of(
        {
            **dict.fromkeys(_NOT_HERE),
            **flags,
            "manifest": place.store.uri(keys.manifest),
            "output": place.store.root_uri,
            "run_id": place.run_id,
            "relative_to": kept.get("relative_to"),
            "keep_latents": flags["keep_latents"] or kept.get("keep_latents") is True,
            "first_segments": first if isinstance(first := kept.get("first_segments"), int) else None,
            "replace": flags["replace"] or kept.get("replace") is True,
            "deadline": flags["deadline"] or kept.get("deadline"),
        }
    )
    name = document.get("manifest")
    name = name if isinstance(name, str) else None
    outcome = render_request(replace(request, manifest_name=name, is_draft_manifest=bool(request.first_segments)))
    finish(outcome, as_json=flags["as_json"])
