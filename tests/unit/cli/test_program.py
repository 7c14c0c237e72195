"""What all verbs have in common: a schema in every --json, -v and -q anywhere, pipes, disks, completion and help."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from render_farm.cli import terminal
from render_farm.cli.examples import EXAMPLES
from render_farm.cli.main import app
from render_farm.cli.terminal import Verbosity
from tests.helpers.documented import parse
from tests.helpers.program import ROOT, run
from tests.helpers.stored_run import stored_run

_RUN = ("night", "-o", "OUT")
WITH_JSON = {
    "status": _RUN,
    "runs": ("-o", "OUT"),
    "watch": None,  # would wait for the end of the run
    "logs": _RUN,
    "explain": _RUN,
    "pause": _RUN,
    "resume": _RUN,
    "cancel": ("night", "c", "--yes", "-o", "OUT"),
    "retry": ("night", "--failed", "-o", "OUT"),
    "priority": ("night", "50", "-o", "OUT"),
    "hosts list": _RUN,
    "hosts quarantine": ("night", "gpu-7", "-o", "OUT"),
    "hosts release": ("night", "gpu-7", "-o", "OUT"),
    "preview": _RUN,
    "report": _RUN,
    "check": ("OUT/film",),
    "pick": ("night", "a", "-o", "OUT/chosen.parquet", "--output", "OUT"),
    "gc": ("-o", "OUT"),
    "plan": ("MANIFEST",),
    "simulate": ("MANIFEST", "--gpus", "8"),
    "manifest build": ("CSV", "-o", "OUT/built.parquet"),
    "manifest check": ("MANIFEST",),
    "manifest show": ("MANIFEST",),
    "models list": (),
    "models info": ("tiny",),
    "render": ("MANIFEST", "-o", "OUT"),
    "continue": _RUN,
    "nightly": ("MANIFEST", "-o", "OUT", "--name", "n"),
    # These need a cluster, a model or minutes; they print through the same function.
    **dict.fromkeys(("submit", "models pull", "bench engine", "bench parallel", "verify", "doctor", "config show")),
}


def verbs(command=None, path=()):
    command = command or typer.main.get_command(app)
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "commands", None):
            yield from verbs(child, (*path, name))
        else:
            yield " ".join((*path, name)), child


def test_every_verb_that_prints_json_is_tried_here():
    printing = {path for path, verb in verbs() if any(parameter.name == "as_json" for parameter in verb.params)}
    assert printing <= WITH_JSON.keys()
    assert set(WITH_JSON) - printing <= {"config show"}


@pytest.mark.parametrize("verb", [verb for verb, arguments in WITH_JSON.items() if arguments is not None])
def test_every_json_object_names_its_form(cli, rendered, manifest, tmp_path, verb):
    stored_run(tmp_path)
    (tmp_path / "m.csv").write_text("job_id,prompt\na,x\n")
    (tmp_path / "out" / "film").mkdir()
    (tmp_path / "out" / "film" / "job.json").write_text("{}")
    if verb == "hosts release":
        cli("hosts", "quarantine", "night", "gpu-7", "-o", tmp_path / "out")
    places = {"OUT": f"{tmp_path}/out", "MANIFEST": manifest, "CSV": f"{tmp_path}/m.csv"}
    arguments = [places.get(text, text.replace("OUT/", f"{tmp_path}/out/")) for text in WITH_JSON[verb]]
    said = cli(*verb.split(), *arguments, "--json")
    assert json.loads(said.stdout)["schema"] == f"render_farm.{verb.replace(' ', '_')}/1", said.output


@pytest.mark.slow
def test_every_verb_has_an_example():
    known = {path for path, _ in verbs()}
    assert known <= EXAMPLES.keys()
    for path, lines in EXAMPLES.items():
        assert all(line.startswith(f"render-farm {path}") for line in lines)
        assert [problem for line in lines if (problem := parse(line))] == []


@pytest.mark.slow
def test_help_is_in_sections_as_wide_as_the_terminal():
    text = run("render", "--help", COLUMNS="150").stdout
    assert "\nThe one film of --prompt:\n" in text
    assert "\nExample:\n  render-farm render my-jobs.parquet" in text
    assert max(map(len, text.partition("Example:")[0].splitlines())) > 100
    assert max(map(len, run("status", "--help", COLUMNS="60").stdout.partition("Example:")[0].splitlines())) <= 60


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize(("flag", "level"), [("-q", Verbosity.QUIET), ("-v", Verbosity.VERBOSE)])
def test_how_much_is_shown_is_said_anywhere(cli, rendered, manifest, place, flag, level):
    arguments = ["render", manifest, "-o", "out"]
    arguments.insert(place, flag)
    said = cli(*arguments)
    assert said.exit_code == 0
    assert terminal.verbosity is level
    assert ("something happened" in said.stderr) is (flag != "-q")
    assert cli("models", "list").exit_code == 0
    assert terminal.verbosity is Verbosity.NORMAL


@pytest.mark.slow
def test_results_on_a_full_disk_and_a_pipe_that_is_closed(tmp_path):
    lines = "\\n".join(f"film-{number},a fox" for number in range(300))
    code = (
        f"printf 'job_id,prompt\\n{lines}\\n' > {tmp_path}/m.csv; P='{sys.executable} -m render_farm.cli'; "
        f"$P manifest build {tmp_path}/m.csv -o {tmp_path}/m.parquet -q; "
        f"set -o pipefail; $P plan {tmp_path}/m.parquet --jobs 300 | head -1; echo $?; "
        "$P models list > /dev/full; echo $?; $P models list --json > /dev/full; echo $?"
    )
    said = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert said.stdout.splitlines()[-3:] == ["0", "2", "2"]
    assert said.stderr.count("the results cannot be written to stdout: No space left on device") == 2
    assert "internal error" not in said.stderr


def test_a_shell_can_complete():
    said = CliRunner().invoke(app, [], prog_name="render-farm", env={"_RENDER_FARM_COMPLETE": "source_bash"})
    assert "complete -o" in said.stdout


CRASHES_AS_PYTHON_ENDS = """
import os, signal, typer
from render_farm.cli.program import run_app

class Library:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGSEGV):
        kill(pid, number)

library, app = Library(), typer.Typer()

@app.command()
def verb():
    print("cancelled")
    raise SystemExit(13)

run_app(app)
"""


def test_an_interrupted_command_has_its_exit_code_also_where_a_library_crashes_as_python_ends():
    done = subprocess.run([sys.executable, "-c", CRASHES_AS_PYTHON_ENDS], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (13, "cancelled\n"), done.stderr
