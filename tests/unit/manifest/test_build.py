"""Text files of jobs to manifests: what each format allows, and errors with the line they are on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from render_farm.errors import ManifestError, UsageError
from render_farm.job import LoraRef, RenderJob, default_seed
from render_farm.manifest.build import build_manifest
from render_farm.manifest.naming import slug
from render_farm.manifest.reader import load_manifest
from render_farm.manifest.run_id import default_run_id
from render_farm.planning import plan_film, spec_of_preset


@pytest.fixture
def build(tmp_path):
    """Write a source with this content, build it, and return the jobs that the manifest holds."""

    def run(name: str, content: str | bytes, **options) -> list[RenderJob]:
        source = tmp_path / name
        source.write_bytes(content.encode() if isinstance(content, str) else content)
        report = build_manifest(str(source), str(tmp_path / "m.parquet"), **options)
        jobs = [row.job for row in load_manifest(str(tmp_path / "m.parquet"), strict=True)]
        assert report.num_rows == len(jobs)
        return [job for job in jobs if job]

    return run


@pytest.fixture
def problems(tmp_path, build):
    """The lines of the error that a source gives; nothing may be written then."""

    def run(name: str, content: str | bytes, **options) -> list[str]:
        with pytest.raises(ManifestError) as caught:
            build(name, content, **options)
        assert caught.value.exit_code == 2
        assert not (tmp_path / "m.parquet").exists()
        lines = str(caught.value).splitlines()
        assert lines[0].startswith(str(tmp_path / name))
        return [lines[0].removeprefix(f"{tmp_path / name}: "), *lines[1:]]

    return run


def test_seeds_of_shots_make_other_films_too(build):
    shots = '[{"prompt": "x", "seed": 5}, {"prompt": "y", "cut": true, "seed": 9}, {"prompt": "z"}]'
    jobs = build("m.jsonl", f'{{"job_id": "a", "shots": {shots}}}\n', num_seeds=3)
    assert [[shot.seed for shot in job.shots or ()] for job in jobs] == [[5, 9, None], [6, 10, None], [7, 11, None]]
    films = [plan_film(job, spec_of_preset("tiny", fingerprint="f")) for job in jobs]
    assert len({key for film in films for key in film.segment_keys}) == sum(film.num_segments for film in films)


# --- CSV ---


def test_csv_cells_by_kind(build):
    header = "job_id,prompt,num_frames,guidance_scale,keep_overlap,deadline,tags,loras,model\n"
    one = 'a,"one, two",257.0,6,yes,2030-01-31T06:00:00Z,"{""k"": ""v""}","[{""path"": ""/x"", ""weight"": 0.5}]",\n'
    two = "b,plain,,,,,,,tiny\n"
    assert build("p.csv", header + one + two) == [
        RenderJob(
            job_id="a",
            prompt="one, two",
            num_frames=257,
            guidance_scale=6.0,
            keep_overlap=True,
            deadline=datetime(2030, 1, 31, 6, tzinfo=UTC),
            tags={"k": "v"},
            loras=(LoraRef(path="/x", weight=0.5),),
        ),
        RenderJob(job_id="b", prompt="plain", model="tiny"),
    ]


def test_csv_prompt_lists_are_json_and_a_bracket_is_not_enough(build):
    content = 'prompt\n"[""a"", ""b""]"\n[close-up] a cat\n'
    listed, plain = build("p.csv", content)
    assert listed.prompt == ("a", "b") and plain.prompt == "[close-up] a cat"


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffjob_id,prompt\na,häuser\n",
        "job_id;prompt\r\na;häuser\r\n",
        "job_id\tprompt\na\thäuser\n",
        ",job_id,prompt\n0,a,häuser\n",
        "\n job_id , prompt \n\na,häuser\n\n,\n",
        'job_id,prompt\n"a", "häuser"',
        "job_id,prompt,seed\na,häuser\n",
    ],
    ids=["bom", "semicolons", "tabs", "pandas index", "blank lines", "spaces, no last newline", "short row"],
)
def test_csv_as_spreadsheets_write_it(build, content):
    assert build("p.csv", content) == [RenderJob(job_id="a", prompt="häuser")]


def test_csv_errors_name_lines_all_at_once(problems):
    content = 'job_id,prompt,num_frames,fps\na,"two\nlines",0,x\nb,p,9,24\n\na,p,1.5,24\n../c,p,9,24,extra\n'
    assert problems("p.csv", content) == [
        "6 problems",
        "line 2 (job_id=a): num_frames: 0 is less than 1",
        "line 2 (job_id=a): fps: 'x' is not a number",
        "line 6 (job_id=a): num_frames: 1.5 is not a whole number",
        "line 7 (job_id=../c): has 5 cells, the header 4; put a cell that contains a comma in quotes",
        "line 7 (job_id=../c): job_id: '../c' must be 1 to 128 letters, digits, '.', '_' or '-', "
        "and start with a letter or digit",
        "line 6 (job_id=a): job_id: is the same as in line 2",
    ]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("keep_overlap,maybe", "keep_overlap: 'maybe' is not true or false"),
        ("deadline,soon", "deadline: 'soon' is not a time; write it like 2030-01-31T06:00:00Z"),
        ("tags,x=y", """tags: 'x=y' is not JSON like {"scene": "12"}"""),
        ("seed,1_000", "seed: '1_000' is not a number"),
        ("seed,-1", "seed: -1 is less than 0"),
        ("num_frames," + "9" * 30, f"num_frames: {'9' * 30} is more than 100,000"),
        ("ar_step,1e4", "ar_step: 10000 is more than 1,000"),
        ("task,t3v", "task: 't3v' is not one of t2v, i2v, flf2v, v2v"),
    ],
)
def test_csv_cells_that_cannot_be_read(problems, row, line):
    name, cell = row.split(",")
    assert problems("p.csv", f"job_id,prompt,{name}\na,p,{cell}\n") == ["1 problem", f"line 2 (job_id=a): {line}"]


def test_csv_list_that_is_broken(problems):
    (_, line) = problems("p.csv", 'job_id,prompt\na,"[""x"", ""y"""\n')
    assert line.startswith("line 2 (job_id=a): prompt: looks like a JSON list of prompts but is not one: ")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("", ["is empty (the first line names the columns: job_id,prompt,num_frames)"]),
        ("job_id,prompt\n", ["has no jobs"]),
        (
            "prmpt,seed,seed\n",
            [
                "3 problems in the header",
                "column prmpt: is not known; did you mean prompt?",
                "column seed: appears twice",
                "column prompt: is missing, and every job needs it",
            ],
        ),
        (
            'job_id,prompt\na,"open\n',
            [
                "line 2: unexpected end of data "
                '(quote a cell that holds a comma, a quote or a line break, and double a quote in it: "")'
            ],
        ),
        (b"job_id,prompt\na,\xff\n", ["is not UTF-8 text (byte 0xff) (save it as UTF-8)"]),
        ("job_id,prompt\n".encode("utf-16"), ["is UTF-16 text (save it as UTF-8)"]),
    ],
    ids=["empty", "header only", "header", "open quote", "latin-1", "utf-16"],
)
def test_csv_files_that_cannot_be_used(problems, content, lines):
    assert problems("p.csv", content) == lines


# --- JSON lines, JSON, YAML, text ---


def test_jobs_are_read_from_jsonl(build):
    content = '{"job_id": "a", "prompt": ["x", "y"], "num_frames": 9.0, "tags": {"k": "v"}}\n\n{"prompt": "z"}\n'
    assert build("p.jsonl", content) == [
        RenderJob(job_id="a", prompt=("x", "y"), num_frames=9, tags={"k": "v"}),
        RenderJob(job_id="z-1afb9018", prompt="z"),
    ]


def test_jsonl_errors_name_lines(problems):
    content = '{"prompt": "x", "sed": 1}\n\n{"prompt": 3}\n{"prompt": "x",\n[1]\n{"prompt": "x", "prompt": "y"}\n' + (
        "[" * 100_000
    )
    assert problems("p.jsonl", content) == [
        "6 problems",
        "line 1 (job_id=x-9e63c87c): column sed: is not known; did you mean seed?",
        "line 3 (job_id=job-9ecfe1f3): prompt: 3 is not text; put it in quotes",
        "line 4: is not JSON: Expecting property name enclosed in double quotes at line 2, character 1",
        "line 5: is not an object with column names and values",
        "line 6: 'prompt' appears twice",
        "line 7: is not JSON: too deeply nested",
    ]


def test_jobs_are_read_from_a_json_document_with_defaults(build, problems):
    jobs = build(
        "p.json", '{"defaults": {"seed": 3}, "jobs": [{"job_id": "a", "prompt": "x"}, {"prompt": "y", "seed": 4}]}'
    )
    assert [(job.job_id, job.seed) for job in jobs] == [("a", 3), ("y-361f34ae", 4)]


def test_json_documents_of_another_shape(problems):
    shape = "it is a list of jobs, or a mapping with `jobs` (such a list) and `defaults` (values for all of them)"
    assert problems("p.json", "3") == [f"has no list of jobs ({shape})"]
    assert problems("p.json", '{"job": []}') == [f"'job' is not known at the top ({shape})"]
    assert (
        problems("p.json", '[{"prompt": 1}]')[1]
        == "job 1 (job_id=job-9ab9354d): prompt: 1 is not text; put it in quotes"
    )
    assert problems("p.json", '{"a": 1, "a": 2}') == ["'a' appears twice"]


YAML = """\
defaults: {model: tiny, num_frames: 97}
jobs:
  - &base
    job_id: a
    prompt: x
    deadline: 2030-01-31
  - <<: *base
    job_id: 2030-01-31
    num_frames: 9
    deadline: 2030-01-31T06:00:00Z
  - prompt: [x, y]
"""


def test_jobs_are_read_from_yaml_with_defaults(build):
    assert build("p.yaml", YAML) == [
        RenderJob(job_id="a", prompt="x", model="tiny", num_frames=97, deadline=datetime(2030, 1, 31, tzinfo=UTC)),
        RenderJob(
            job_id="2030-01-31", prompt="x", model="tiny", num_frames=9, deadline=datetime(2030, 1, 31, 6, tzinfo=UTC)
        ),
        RenderJob(job_id="x-bfab2dc3", prompt=("x", "y"), model="tiny", num_frames=97),
    ]


def test_yaml_errors_name_lines(problems):
    content = "- job_id: 7\n  prompt: x\n\n- prompt: yes\n  model: 3\n- just text\n- {prompt: x, 5: y}\n"
    assert problems("p.yml", content) == [
        "5 problems",
        "line 1: job_id: 7 is not text; put it in quotes",
        "line 4 (job_id=job-5263a3cf): prompt: yes is not text; put it in quotes",
        "line 4 (job_id=job-5263a3cf): model: 3 is not text; put it in quotes",
        "line 6: is not an object with column names and values",
        "line 7 (job_id=x-9e63c87c): column 5: is not known; "
        + problems("p.yml", "- {prompt: x, 5: y}")[1].split("; ")[1],
    ]


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ("", "has no list of jobs"),
        ("jobs: [", "line 2, character 1: "),
        ("- {prompt: x, prompt: y}", "line 1: 'prompt' appears twice"),
        ("- {prompt: x, deadline: 2030-13-01}", "1 problem"),
        ("- !!python/object:os.system {}", "line 1, character 3: "),
        ("- &a [*a]", None),
        ("[" * 100_000, "line 1: is nested more than 50 deep"),
        ("jobs:\n- " + "[" * 1_500 + "]" * 1_500, "line 2: is nested more than 50 deep"),
    ],
)
def test_yaml_files_that_cannot_be_used(problems, content, start):
    """Checks the part of the message that is ours. The words of the YAML library behind it differ by version."""
    first = problems("p.yaml", content)[0]
    assert start is None or first.startswith(start)


def test_text_is_a_prompt_a_line(build):
    content = "A red circle, moving right!\n\n# a comment\n猫\n"
    first, second = build("p.txt", content)
    assert (first.job_id, first.prompt) == ("a-red-circle-moving-right-343994a1", "A red circle, moving right!")
    assert (second.job_id, second.prompt) == ("job-79165b9a", "猫")


def test_other_suffixes_are_refused(problems):
    known = "known are .csv, .tsv, .jsonl, .ndjson, .json, .yaml, .yml, .txt"
    assert problems("p.xlsx", "x") == [f"files that end in .xlsx are not known ({known})"]


def test_a_missing_source(tmp_path):
    with pytest.raises(ManifestError, match="not found"):
        build_manifest(str(tmp_path / "no.csv"), str(tmp_path / "m.parquet"))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("A Cat & a dog!", "a-cat-a-dog"), ("", "job"), (None, "job"), (["Éclair", "x"], "eclair"), ("w" * 90, "w" * 40)],
)
def test_job_ids_are_made_from_prompts(prompt, expected):
    assert slug(prompt) == expected


# --- seeds, places ---


def test_seed_variants_are_distinct_and_the_first_is_the_jobs_own(build):
    content = "job_id,prompt,seed\na,p,7\nb,q,\nc,r,9223372036854775807\n"
    jobs = build("p.csv", content, num_seeds=3)
    assert [job.job_id for job in jobs] == [f"{name}-seed{k}" for name in "abc" for k in (1, 2, 3)]
    own = default_seed("b")
    assert [job.seed for job in jobs] == [7, 8, 9, own, own + 1, own + 2, 2**63 - 1, 0, 1]


def test_seed_variants_whose_id_is_too_long_or_taken(problems):
    first, second = problems("p.csv", f"job_id,prompt\n{'x' * 125},p\n", num_seeds=2)
    assert first == "2 problems" or second.endswith("(with --seeds)")
    assert "must be 1 to 128" in second


@pytest.mark.parametrize("number", [0, -1, 10_001])
def test_seed_numbers_that_cannot_work(tmp_path, number):
    with pytest.raises(UsageError, match="--seeds"):
        build_manifest("x.csv", "m.parquet", num_seeds=number)


def test_inputs_stay_relative_beside_the_source_and_become_absolute_elsewhere(tmp_path):
    source = tmp_path / "p.csv"
    source.write_text("job_id,prompt,task,image\na,p,i2v,in/a.png\n")
    for folder in (tmp_path, tmp_path / "other"):
        manifest = str(folder / "m.parquet")
        build_manifest(str(source), manifest)
        (row,) = load_manifest(manifest)
        assert row.job and row.job.image == str(tmp_path / "in/a.png")
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "m.parquet").rename(moved / "m.parquet")
    assert load_manifest(str(moved / "m.parquet"))[0].job.image == str(moved / "in/a.png")


def test_building_twice_gives_the_same_run(tmp_path):
    source = tmp_path / "p.csv"
    source.write_text('job_id,prompt,tags\na,p,"{""k"": ""v""}"\nb,"[""x"", ""y""]",\n')
    ids = set()
    for _ in range(2):
        build_manifest(str(source), str(tmp_path / "m.parquet"))
        ids.add(default_run_id(str(tmp_path / "m.parquet")))
    assert len(ids) == 1


def test_sources_and_manifests_may_be_anywhere(s3_uri, tmp_path):
    import fsspec

    with fsspec.open("memory://src/p.csv", "wb") as file:
        file.write(b"job_id,prompt\na,p\n")
    build_manifest("memory://src/p.csv", f"{s3_uri}/m.parquet")
    assert load_manifest(f"{s3_uri}/m.parquet")[0].job == RenderJob(job_id="a", prompt="p")


def test_a_list_of_steps_is_json_in_csv_and_a_list_elsewhere(tmp_path):
    (tmp_path / "a.csv").write_text('job_id,prompt,sampler,step_list\na,x,distilled,"[1000, 500]"\nb,x,,\n')
    (tmp_path / "a.yaml").write_text("- {job_id: a, prompt: x, sampler: distilled, step_list: [1000, 500]}\n")
    for source in ("a.csv", "a.yaml"):
        target = tmp_path / f"{source}.parquet"
        build_manifest(str(tmp_path / source), str(target))
        jobs = [row.job for row in load_manifest(str(target))]
        assert jobs[0].step_list == (1000, 500)
        assert all(job.step_list is None for job in jobs[1:])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1000", "1000 is not a list of whole numbers"),
        ("[]", "[] is not a list of numbers from 1 to 1000"),
        ("[1001]", "[1001] is not a list of numbers from 1 to 1000"),
        ("[500, 500]", "[500, 500] does not fall from step to step; 1000, 750, 500, 250 is an example"),
        ("[1.5]", "1.5 is not a whole number"),
        ("fast", "'fast' is not JSON like [1000, 750, 500, 250]"),
    ],
)
def test_lists_of_steps_that_cannot_be_used(tmp_path, cell, message):
    (tmp_path / "a.csv").write_text(f'job_id,prompt,sampler,step_list\na,x,distilled,"{cell}"\n')
    with pytest.raises(ManifestError) as error:
        build_manifest(str(tmp_path / "a.csv"), str(tmp_path / "a.parquet"))
    assert error.value.problems == (f"line 2 (job_id=a): step_list: {message}",)
