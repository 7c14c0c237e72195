"""The verbs manifest build, check and show."""

from __future__ import annotations

import json


def test_a_manifest_is_built_checked_and_shown(cli, tmp_path):
    source, target = tmp_path / "jobs.csv", tmp_path / "jobs.parquet"
    source.write_text('job_id,prompt,num_frames\na,"[""x"", ""y""]",\nb,hello,9\n')
    built = cli("manifest", "build", source, "-o", target, "--seeds", 2)
    assert (built.exit_code, built.stdout) == (0, f"{target}: 2 jobs, 4 rows\n")
    assert built.stderr == f"next: render-farm plan {target}\n"
    checked = cli("manifest", "check", target)
    assert (checked.exit_code, checked.stdout, checked.stderr) == (0, f"{target}: 4 jobs, nothing wrong\n", "")
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


def test_show_tells_what_is_wrong_with_a_row(cli, bad_manifest):
    result = cli("manifest", "show", bad_manifest)
    assert result.exit_code == 0
    assert result.stdout.startswith("row 1 (job_id=a): num_frames: 0 is less than 1\nb\n")
