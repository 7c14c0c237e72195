"""`render-farm pick`: the chosen rows of a run as a manifest of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from render_farm.cli.runs import Run, find_run
from render_farm.cli.terminal import Json, hint, plural, print_json, say
from render_farm.errors import NotFoundError, UsageError


def pick(
    run: Run,
    jobs: Annotated[
        list[str], typer.Argument(metavar="JOB...", help="Jobs of the run, by the name of a draft or film.")
    ],
    manifest: Annotated[
        str, typer.Option("-o", "--manifest", metavar="MANIFEST", help="The Parquet manifest to write.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", metavar="URI", help="Where the run is. Default: $RENDER_FARM_OUTPUT.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the rows of some jobs of a run as a new manifest. Of drafts, these are the rows of the whole films.

    Rendered into the same output, a film continues from the segments that its draft has stored.
    """
    from dataclasses import replace

    from render_farm.farm.run.settings import load_settings
    from render_farm.manifest.drafts import draft_id, original_id
    from render_farm.manifest.reader import load_manifest
    from render_farm.manifest.writer import write_manifest
    from render_farm.report.run_folder import RunFolderReader
    from render_farm.storage.layout import RunKeys

    place = find_run(run, output)
    key = RunKeys(run_id=place.run_id).manifest
    if not place.store.exists(key):
        raise NotFoundError(f"run {place.run_id} stored no manifest", advice="pick rows from the manifest itself")
    kept = RunFolderReader(place.store, place.run_id).document().get("continue_with")
    kept = kept if isinstance(kept, dict) else {}
    is_draft, base = bool(kept.get("first_segments")), kept.get("relative_to")
    rows = load_manifest(place.store.uri(key), base=base, limits=load_settings().manifest)
    names = {row.job_id for row in rows}
    wanted = {draft_id(name) if is_draft and name not in names else name: name for name in jobs}
    unknown = [name for found, name in wanted.items() if found not in names]
    if unknown:
        raise NotFoundError(
            f"run {place.run_id} has no job {', '.join(unknown[:5])}", advice="`render-farm status RUN` counts its jobs"
        )
    chosen = [row for row in rows if row.job_id in wanted]
    bad = [line for row in chosen for line in row.lines]
    if bad:
        raise UsageError(f"cannot be picked: {'; '.join(bad[:5])}")
    picked = [row.job for row in chosen if row.job is not None]
    if is_draft:
        picked = [replace(job, job_id=original_id(job.job_id)) for job in picked]
    write_manifest(manifest, picked)
    if as_json:
        print_json({"manifest": manifest, "run_id": place.run_id, "jobs": [job.job_id for job in picked]})
        return
    say(f"{manifest}: {plural(len(picked), 'job')}")
    hint(f"next: render-farm render {manifest} -o {place.store.root_uri}")
