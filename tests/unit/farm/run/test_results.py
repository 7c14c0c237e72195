"""What is written of each job of a run."""

from __future__ import annotations

from render_farm.farm.run.results import Result, dump_results
from render_farm.manifest.parquet_rows import read_rows


def test_a_message_with_half_a_character_ends_no_run():
    """JSON can spell a lone surrogate, so that a name in a LoRA's header can hold one, and a message with it."""
    [row] = read_rows(dump_results([Result(job_id="a", state="failed", message="no tensor '\ud800' \u00e9")]))
    assert row["message"] == "no tensor '\\ud800' \u00e9"
