"""The verbs manifest build, check and show."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq


def test_a_manifest_is_built_checked_and_shown(cli, tmp_path):
    source, target = tmp_path / "jobs.csv", tmp_path / "jobs.parquet"
    source.write_text('job_id,prompt,num_frames\na,"[""x"", ""y""]",\nb,hello,9\n')
    built = cli("manifest", "build", source, "-o", target, "--seeds", 2)
    assert (built.exit_code, built.stdout) == (0, f"{target}: 2 jobs, 4 rows\n")
    assert built.stderr == f"next: render-farm plan {target}\n"
    checked = cli("manifest", "check", target)
    assert (checked.exit_code, checked.stdout) == (0, f"{target}: 4 jobs, nothing wrong\n")
    assert "row 1 (job_id=a-seed1) and 1 more: 2 prompts for 1 segments: the last ones are not used\n" in checked.stderr
    shown = cli("manifest", "show", target, "--rows", 1)
    assert shown.stdout.startswith("a-seed1\n  prompt               x | y\n  seed ")
    assert shown.stderr == f"{target}: 4 rows, 3 not shown (--rows)\n"
    values = json.loads(cli("manifest", "show", target, "--json").stdout)
    assert values["num_rows"] == 4 and values["rows"][3]["job_id"] == "b-seed2"
    report = json.loads(cli("manifest", "build", source, "-o", target, "--json").stdout)
    assert report.pop("schema") == "render_farm.manifest_build/1"
    assert report == {"source": str(source), "manifest": str(target), "num_jobs": 2, "num_rows": 2}


def test_build_refuses_with_lines(cli, tmp_path):
    source = tmp_path / "jobs.csv"
    source.write_text("job_id,prompt,num_frames\na,x,0\n")
    result = cli("manifest", "build", source, "-o", tmp_path / "m.parquet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"render-farm: {source}: 1 problem\nline 2 (job_id=a): num_frames: 0 is less than 1\n"


def test_check_prints_every_problem(cli, bad_manifest):
    result = cli("manifest", "check", bad_manifest)
    assert result.exit_code == 2
    assert result.stdout == (f"row 1 (job_id=a): num_frames: 0 is less than 1\n{bad_manifest}: 1 problem in 2 rows\n")
    report = json.loads(cli("manifest", "check", bad_manifest, "--json").stdout)
    assert report["ok"] is False and report["num_bad_rows"] == 1
    assert report["row_problems"] == ["row 1 (job_id=a): num_frames: 0 is less than 1"]


def test_check_says_what_is_advised_against_once(cli, tmp_path):
    source, target = tmp_path / "jobs.csv", tmp_path / "jobs.parquet"
    row = "{},x,df-14b-540p,5,causal\n"
    source.write_text("job_id,prompt,model,causal_block_size,block_attention\n" + row.format("a") + row.format("b"))
    assert cli("manifest", "build", source, "-o", target).exit_code == 0
    checked = cli("manifest", "check", target)
    assert (checked.exit_code, checked.stdout) == (0, f"{target}: 2 jobs, nothing wrong\n")
    assert checked.stderr.startswith("row 1 (job_id=a) and 1 more: block_attention causal with df-14b-540p: its ")
    assert checked.stderr.count("\n") == 1


def test_show_tells_what_is_wrong_with_a_row(cli, bad_manifest):
    result = cli("manifest", "show", bad_manifest)
    assert result.exit_code == 0
    assert result.stdout.startswith("row 1 (job_id=a): num_frames: 0 is less than 1\nb\n")


def test_show_cuts_what_is_long(cli, tmp_path):
    uri = _table(tmp_path / "m.parquet", job_id=["a"], prompt=[["x" * 5000] * 50])
    shown = cli("manifest", "show", uri).stdout
    assert len(shown) < 1200 and "x... (--json has all)" in shown
    assert len(cli("manifest", "show", uri, "--json").stdout) > 250_000


def _table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_show_and_plan_print_no_control_characters_of_a_manifest(cli, tmp_path):
    evil = "a\x1b]0;owned\x07\x1b[2J\u202ecat\nrow 2 (job_id=b): done"
    uri = _table(tmp_path / "m.parquet", job_id=["a", "b\x1b[2J"], prompt=[[evil, evil], ["x", "y"]])
    for verb in (["manifest", "show"], ["manifest", "check"], ["plan"]):
        said = cli(*verb, uri)
        assert not set("\x1b\x07\u202e") & set(said.stdout + said.stderr), verb
        assert "\nrow 2 (job_id=b): done" not in said.stdout


def test_check_plan_and_render_refuse_the_same_rows(cli, tmp_path):
    uri = _table(
        tmp_path / "m.parquet",
        job_id=["good", "window", "input", "steps"],
        prompt=["p"] * 4,
        model=["tiny"] * 4,
        image=[None, None, "missing.png", None],
        num_frames=[9, 197, 9, 100_000],
        base_num_frames=[None, 97, None, 97],
        overlap_history=[None, 97, None, 93],
    )
    checked, planned = cli("manifest", "check", uri), cli("plan", uri)
    lines = [line for line in checked.stdout.splitlines() if line.startswith("row ")]
    assert [line.split(" ")[1] for line in lines] == ["2", "3", "4"]
    assert "24,977 segments; the most is 2,000" in checked.stdout
    assert all(line in planned.stderr for line in lines)
    assert (checked.exit_code, planned.exit_code) == (2, 11)


def test_a_manifest_without_rows_is_refused_by_check_and_plan(cli, tmp_path):
    uri = _table(tmp_path / "m.parquet", job_id=pa.array([], pa.string()), prompt=pa.array([], pa.string()))
    for verb in (["manifest", "check"], ["manifest", "show"], ["plan"], ["render", "--output", str(tmp_path / "o")]):
        said = cli(*verb, uri)
        assert said.exit_code == 2 and "has no rows" in said.stderr, verb


def test_long_prompts_are_warned_of_with_the_place(cli, tmp_path):
    uri = _table(tmp_path / "m.parquet", job_id=["a"], prompt=["word " * 900 + "end"], model=["tiny"])
    for said in (cli("manifest", "check", uri), cli("plan", uri)):
        assert "tokens, and the model sees the first 512: it is cut before" in said.stdout + said.stderr
        assert "estimate" not in said.stdout + said.stderr
        assert said.exit_code == 0
    uri = _table(tmp_path / "m.parquet", job_id=["a"], prompt=["word " * 900 + "end"], model=["df-1.3b-540p"])
    said = cli("plan", uri)
    assert "has about" in said.stdout and "an estimate" in said.stdout


def test_ids_that_differ_only_in_case_are_warned_of(cli, tmp_path):
    uri = _table(tmp_path / "m.parquet", job_id=["Shot", "shot"], prompt=["p", "q"], model=["tiny"] * 2)
    for said in (cli("manifest", "check", uri), cli("plan", uri)):
        assert said.exit_code == 0
        assert "job_id shot and Shot differ only in upper and lower case" in said.stdout + said.stderr
