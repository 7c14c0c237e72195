"""The one job of `render --prompt`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from render_farm.errors import UsageError
from render_farm.job import RenderJob
from render_farm.manifest.naming import content_id
from render_farm.manifest.rows import make_row


def job_of_prompt(prompt: str | tuple[str, ...], overrides: Mapping[str, Any]) -> RenderJob:
    """The job of `prompt` with the columns in `overrides`.

    Its id is the prompt's first words and 8 hex of everything given, so that the same command again continues it and
    another one overwrites nothing. Raises `UsageError` naming every flag that cannot work.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    content = json.dumps({"prompt": prompt, **given}, sort_keys=True, default=str)
    given.setdefault("job_id", content_id(prompt if isinstance(prompt, str) else prompt[0], content))
    row = make_row(1, {"prompt": prompt, **given})
    if row.job is None:
        raise UsageError("; ".join(map(str, row.problems)))
    return row.job


def run_id_of_prompt(job: RenderJob) -> str:
    """The run id of a single prompt: like a manifest's, with `prompt` for the stem."""
    return f"prompt-{content_id('', repr(job)).rpartition('-')[2]}"
