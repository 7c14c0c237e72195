"""What a row is called when its own id cannot name a folder."""

from __future__ import annotations

from render_farm.manifest.rows import make_row, result_ids


def test_bad_rows_get_ids_that_no_other_row_has():
    given = [None, "bad id!", "Row-2", "row-4-bad", "good", None, "x" * 200]
    rows = [make_row(n, {"job_id": given[n - 1], "prompt": "p", "seed": -1}) for n in range(1, 5)]
    rows += [make_row(n, {"job_id": given[n - 1], "prompt": "p"}) for n in range(5, 8)]
    assert result_ids(rows) == {
        1: "row-1",
        2: "row-2-bad",  # a store may fold case
        3: "Row-2",
        4: "row-4-bad",
        6: "row-6",
        7: "row-7",
    }


def test_messages_of_a_row_are_short_whatever_it_holds():
    long = "x" * 1_000_000
    names = ("job_id", "prompt", "model", "task", "memory", "cache", "owner", "deadline", "num_frames", "tags", "loras")
    row = make_row(1, {**dict.fromkeys(names, long), "seed": [[long] * 9] * 9, "height": 9**99_999})
    assert row.job is None
    assert sum(map(len, row.lines)) < 12_000
