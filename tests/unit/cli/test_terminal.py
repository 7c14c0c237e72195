"""Durations and numbers of things in words, and text of others that no terminal obeys."""

from __future__ import annotations

import ast
import io
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import render_farm.cli
from render_farm.cli import program, terminal
from render_farm.cli.terminal import duration, plural, say
from render_farm.farm.run.results import Result, write_results
from render_farm.observability.events import EventKind, LogLine, dump_lines
from render_farm.storage.layout import RunKeys
from render_farm.storage.open import open_store
from tests.helpers.synthetic_run import write_run

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\u202ecat\r\x9b31m\x00"
OBEYED = set("\x1b\x07\u202e\r\x9b\x00")


def test_durations_and_plurals():
    assert [duration(value) for value in (0, 59.6, 3661, 90_000)] == ["0:00:00", "0:01:00", "1:01:01", "1 d 1:00:00"]
    assert [plural(value, "job") for value in (0, 1, 2000)] == ["0 jobs", "1 job", "2,000 jobs"]


@pytest.fixture
def run(tmp_path) -> str:
    """A run whose every text is hostile."""
    folder = write_run(tmp_path, num_jobs=8, num_films=0)
    store, keys = open_store(tmp_path), RunKeys(run_id="night")
    document = json.loads((folder / "run.json").read_bytes())
    (folder / "run.json").write_text(json.dumps({**document, "manifest": HOSTILE}))
    results = [
        Result(job_id=f"shot-{number:04d}", state="failed", error_class="InputError", message=HOSTILE, segments=3)
        for number in range(8)
    ]
    write_results(store, "night", results)
    line = LogLine(
        number=99_999,
        time_s=1.0e9,
        level="error",
        job_id="shot-0001",
        message=HOSTILE,
        kind=EventKind.REMARK,
        run_id="night",
        worker=HOSTILE,
    )
    store.write_bytes(keys.log("20300101T000000Z-00001.jsonl"), dump_lines([line]))
    return str(folder)


ON_RUNS = ["status", "logs", "logs --json", "explain", "report", "preview", "gc", "runs", "cancel --yes", "check"]


@pytest.mark.parametrize("verb", ON_RUNS)
def test_verbs_on_runs_print_nothing_that_a_terminal_obeys(cli, run, tmp_path, verb):
    name, *flags = verb.split()
    place = ["--output", str(tmp_path)] if name == "runs" else [run]
    said = cli(name, *place, *flags)
    assert said.stdout + said.stderr
    assert not OBEYED & set(said.stdout + said.stderr), verb


ON_MANIFESTS = ["manifest show M", "manifest check M", "plan M", "plan M --json", "simulate M --gpus 2"]


@pytest.mark.parametrize("verb", ON_MANIFESTS)
@pytest.mark.parametrize("column", ["prompt", "negative_prompt", "owner", "image", "model", "job_id", "tags", HOSTILE])
def test_verbs_on_manifests_print_nothing_that_a_terminal_obeys(cli, tmp_path, verb, column):
    values: dict[str, object] = {"job_id": ["a", "b"], "prompt": ["p", "q"]}
    values[column] = [HOSTILE, f"{HOSTILE}2"]
    if column == "tags":
        values[column] = pa.array([[("k", HOSTILE)], [(HOSTILE, "v")]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table(values), tmp_path / "m.parquet")
    said = cli(*verb.replace("M", str(tmp_path / "m.parquet")).split())
    assert not OBEYED & set(said.stdout + said.stderr), verb


def test_verbs_print_through_the_terminal_module():
    """Only `terminal.py` calls `print` with text that is not printable already."""
    package, found = Path(render_farm.cli.__file__).parent, []
    for path in package.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            is_print = ast.unparse(call.func) in ("print", "typer.echo", "sys.stdout.write")
            if is_print and not any("printable(" in ast.unparse(argument) for argument in call.args):
                found.append(f"{path.relative_to(package)}: {ast.unparse(call)}")
    allowed = ("terminal.py", "main.py: print(f'render-farm {__version__}')", "settings_page.py")
    assert [call for call in found if not call.startswith(allowed)] == []


def test_warnings_of_libraries_and_of_the_farm_are_printable_too(capsys):
    record = logging.LogRecord("render_farm", logging.WARNING, "", 0, "%s: %s", ("row", HOSTILE), None)
    assert not OBEYED & set(program._PrintableFormatter().format(record))
    terminal.error_line(HOSTILE)
    terminal.hint(HOSTILE)
    terminal.say(HOSTILE)
    said = capsys.readouterr()
    assert not OBEYED & set(said.out + said.err)


def test_drawings_are_seen_where_the_terminal_has_no_blocks(monkeypatch):
    for encoding, right in (("ascii", b"1 |##=..| caf?\n"), ("utf-8", "1 │██░··│ café\n".encode())):
        shown = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding=encoding, errors="replace"))
        say("1 │██░··│ café")
        assert shown.getvalue() == right
