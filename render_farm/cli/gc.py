"""`render-farm gc`: shows what finished runs no longer need, then removes it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from render_farm.cli.control import Yes, confirm
from render_farm.cli.runs import Output, find_run, open_output
from render_farm.cli.terminal import Json, hint, plural, print_json, say, table
from render_farm.errors import UsageError


def gc(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Only what this run left. Default: all of --output.")
    ] = None,
    output: Output = None,
    segments: Annotated[bool, typer.Option("--segments", help="Also segments of films that are done.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove from an output what is no longer needed: work folders of published films, segments that no film consists
    of, prompts of complete runs, leftovers. What a run could continue from stays, and nothing is removed while a run is
    being rendered there. Without --yes it asks first. Without a terminal it only lists. Latents are removed too, unless
    they were stored by --keep-latents.
    """
    from render_farm.farm.control.garbage import find_garbage, left_by, remove
    from render_farm.storage.lease import HolderWatch

    if run is not None and segments:
        raise UsageError("--segments is for a whole output: films of several runs share segments")
    watch = HolderWatch()
    if run is None:
        store = open_output(output)
        found = find_garbage(store, watch, of_done=segments)
    else:
        place = find_run(run, output)
        store = place.store
        found = left_by(store, place.run_id, find_garbage(store, watch))
    num_objects = sum(item.num_objects for item in found)
    is_asking = not yes and not as_json and sys.stdin.isatty()
    if not as_json and found:
        say("\n".join(table(["folder", "objects", "why"], [[i.folder, f"{i.num_objects}", i.why] for i in found])))
    if is_asking and found:
        confirm(f"Remove {plural(num_objects, 'object')} from {store.root_uri}?", yes=False)
    removed = remove(store, found, watch, of_done=segments) if yes or (is_asking and found) else 0
    if as_json:
        listed = [{"folder": item.folder, "why": item.why, "num_objects": item.num_objects} for item in found]
        print_json({"output": store.root_uri, "found": listed, "removed": removed})
    elif not found and not removed:
        say("nothing to remove")
    else:
        say(f"{plural(removed, 'object')} removed" if removed else f"{plural(num_objects, 'object')} can be removed")
        if not removed:
            hint("nothing was removed; --yes removes them")
