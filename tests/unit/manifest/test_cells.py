"""No value is changed silently: every kind of cell with what it must become, or the words that refuse it.

Each entry is (name, column, how it is given, right answer). An answer of `refused(...)` is a part of the message.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import InvalidJobError, ManifestError
from render_farm.job import LoraRef, RenderJob
from render_farm.manifest.build import build_manifest
from render_farm.manifest.reader import check_manifest, load_manifest
from render_farm.manifest.sources.records import from_cell
from render_farm.shots import Shot

BIG = 2**53 + 1


class refused(str):
    """Part of the message that refuses a value."""


FLOAT = refused("is a float of 2**53 or more, which is not exact")
WRITTEN_FLOAT = refused("is written as a float of 2**53 or more, which is not exact")
QUOTES = "is not text; put it in quotes"
LISTS = refused("looks like a list written as text; a list of prompts is a list<string> column in Parquet, JSON")


def shots_of(seed: object, stored: pa.DataType) -> pa.Array:
    fields = [("prompt", pa.string()), ("seed", stored)]
    return pa.array([[{"prompt": "p", "seed": seed}]], pa.list_(pa.struct(fields)))


_BYTES = pa.array([b"\xff"], pa.binary()).view(pa.string())
NO_TEXT_SHOT = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([_BYTES], ["prompt"]))

TWICE = pa.array([[("a", "1"), ("a", "2")]], pa.map_(pa.string(), pa.string()))
STORED = [
    ("int64 above 2**53", "seed", pa.array([BIG]), BIG),
    ("int64, largest", "seed", pa.array([2**63 - 1]), 2**63 - 1),
    ("uint64 in range", "seed", pa.array([BIG], pa.uint64()), BIG),
    ("uint64 beyond int64", "seed", pa.array([2**63], pa.uint64()), refused("9223372036854775808 is more than")),
    ("float64 below 2**53", "seed", pa.array([float(2**53 - 1)]), 2**53 - 1),
    ("float64 at 2**53", "seed", pa.array([float(2**53)]), FLOAT),
    ("float64 from 2**53+1", "seed", pa.array([float(BIG)]), FLOAT),
    ("int widened by a null", "seed", pa.array([float(2**60)]), FLOAT),
    ("float32 below 2**24", "seed", pa.array([2.0**24 - 1], pa.float32()), 2**24 - 1),
    ("float32 at 2**24", "seed", pa.array([2.0**24], pa.float32()), refused("32-bit float of 16,777,216 or more")),
    ("float16 below 2**11", "num_frames", pa.array([2047.0], pa.float16()), 2047),
    ("float16 at 2**11", "num_frames", pa.array([2048.0], pa.float16()), refused("16-bit float of 2,048 or more")),
    ("float of infinity", "seed", pa.array([float("inf")]), refused("inf is not a whole number")),
    ("float16 of infinity", "seed", pa.array([float("inf")], pa.float16()), refused("inf is not a whole number")),
    ("float with a fraction", "seed", pa.array([1.5]), refused("1.5 is not a whole number")),
    ("decimal above 2**53", "seed", pa.array([Decimal(BIG)]), BIG),
    ("decimal near a whole number", "seed", pa.array([Decimal("0.99999999999999999999")]), refused("is not a whole")),
    ("decimal of 2**53 and a half", "seed", pa.array([Decimal(f"{BIG}.5")]), refused(f"{BIG}.5 is not a whole number")),
    ("decimal with zeros", "seed", pa.array([Decimal("7.00")]), 7),
    ("decimal for a number", "guidance_scale", pa.array([Decimal("6.5")]), 6.5),
    ("dictionary of int64", "seed", pa.array([BIG]).dictionary_encode(), BIG),
    ("date of 9999", "deadline", pa.array([datetime(9999, 12, 31)]), datetime(9999, 12, 31, tzinfo=UTC)),
    ("date of year 1", "deadline", pa.array([datetime(1, 1, 1)]), datetime(1, 1, 1, tzinfo=UTC)),
    ("seconds beyond 9999", "deadline", pa.array([2**40], pa.timestamp("s")), refused("is not within the years")),
    ("milliseconds before 1", "deadline", pa.array([-(2**50)], pa.timestamp("ms")), refused("is not within the years")),
    ("date32 beyond 9999", "deadline", pa.array([2**24], pa.int32()).cast(pa.date32()), refused("is not within")),
    ("text of an hour zone", "deadline", pa.array(["2030-01-01T00:00+14"]), datetime(2029, 12, 31, 10, tzinfo=UTC)),
    ("text that is no time", "deadline", pa.array(["31.01.2030"]), refused("'31.01.2030' is not a time")),
    ("Python list as text", "prompt", pa.array(["['x', 'y']"]), LISTS),
    ("JSON list as text", "prompt", pa.array(['["x", "y"]']), LISTS),
    ("numpy list as text", "prompt", pa.array(["['x' 'y']"]), LISTS),
    ("tuple as text", "prompt", pa.array(["('x', 'y')"]), LISTS),
    ("tuple of one as text", "prompt", pa.array(["('x',)"]), LISTS),
    ("brackets of a prompt", "prompt", pa.array(["[close-up] a cat"]), "[close-up] a cat"),
    ("quotes in brackets first", "prompt", pa.array(['["close-up"] a cat']), '["close-up"] a cat'),
    ("quoted parenthesis", "prompt", pa.array(['("hello")']), '("hello")'),
    ("list of prompts", "prompt", pa.array([["x", "y"]]), ("x", "y")),
    ("map with a key twice", "tags", TWICE, refused("key that appears twice")),
    ("map", "tags", pa.array([[("a", "1")]], pa.map_(pa.string(), pa.string())), {"a": "1"}),
    ("empty image", "image", pa.array([""]), None),
    ("blank image", "image", pa.array([" "]), refused("is blank; give a path or a URI, or leave it null")),
    ("empty image of a shot", "shots", pa.array([[{"prompt": "p", "image": ""}]]), (Shot(prompt="p"),)),
    ("blank image of a shot", "shots", pa.array([[{"prompt": "p", "image": " "}]]), refused("image: is blank")),
    ("seed of a shot, float32", "shots", shots_of(2.0**24, pa.float32()), refused("shot 1: seed: 16777216.0 is a 32-")),
    ("seed of a shot, float16", "shots", shots_of(2048.0, pa.float16()), refused("shot 1: seed: 2048.0 is a 16-bit")),
    ("seed of a shot, decimal", "shots", shots_of(Decimal("1.5"), pa.decimal128(9, 1)), refused("1.5 is not a whole")),
    ("exact seed of a shot", "shots", shots_of(7.0, pa.float32()), (Shot(prompt="p", seed=7),)),
    ("prompt of a shot, not text", "shots", NO_TEXT_SHOT, refused("shot 1: prompt: is not UTF-8 text")),
    (
        "too long an address",
        "image",
        pa.array(["x" * 8193]),
        refused("has an address of 8,2"),
    ),
    ("too long an address of a LoRA", "loras", pa.array([[{"path": "x" * 8193}]]), refused("has an address of")),
    ("too long an address of a shot", "shots", pa.array([[{"prompt": "p", "image": "x" * 8193}]]), refused("address")),
    ("too long a text", "owner", pa.array(["x" * 20_001]), refused("has 20,001 characters; the most is 20,000")),
    ("too long a model", "memory", pa.array(["x" * 50_000]), refused("has 50,000 characters")),
    ("too many prompts", "prompt", pa.array([["x"] * 1001]), refused("has 1,001 entries; the most is 1,000")),
]

CSV = [
    (
        "seed of a shot",
        "shots",
        '[{"prompt": "p", "seed": 4503599627370497.3}]',
        refused("497.3 is not a whole"),
    ),
    ("guidance of a shot", "shots", '[{"prompt": "p", "guidance_scale": 1e-400}]', refused("is too close to 0")),
    ("shots of NaN alone", "shots", "NaN", None),
    ("leading zero", "seed", "010", 10),
    ("whole float", "seed", "7.0", 7),
    ("exponent", "seed", "1e3", 1000),
    ("float of 2**53+1", "seed", "9007199254740993.0", WRITTEN_FLOAT),
    ("float of 2**53+1, as written", "seed", "9007199254740993.0", refused("9007199254740993.0 is")),
    ("large exponent", "seed", "1e18", WRITTEN_FLOAT),
    ("nearly whole", "seed", "0.99999999999999999999", refused("0.99999999999999999999 is not a whole number")),
    ("nearly whole, above", "seed", "3.00000000000000000001", refused("is not a whole number")),
    ("int64 above 2**53", "seed", str(BIG), BIG),
    ("beyond int64", "seed", "9223372036854775808", refused("is more than")),
    ("hexadecimal", "seed", "0x10", refused("'0x10' is not a number")),
    ("underscores", "seed", "1_000", refused("'1_000' is not a number")),
    ("thousands", "seed", "1.000,5", refused("is not a number")),
    ("sexagesimal", "seed", "12:30", refused("'12:30' is not a number")),
    ("overflow", "guidance_scale", "1e400", refused("'1e400' is far out of range")),
    ("underflow", "guidance_scale", "1e-400", refused("'1e-400' is too close to 0")),
    ("zero", "guidance_scale", "0.0", 0.0),
    ("on", "keep_overlap", "on", True),
    ("No", "keep_overlap", "No", False),
    ("empty", "seed", "", None),
    ("Python list", "prompt", "['x', 'y']", LISTS),
    ("JSON list", "prompt", '["x", "y"]', ("x", "y")),
    ("JSON tags twice", "tags", '{"a": "1", "a": "2"}', refused("'a' appears twice")),
    ("number as prompt", "prompt", "12:30", "12:30"),
    ("null word as text", "owner", "null", "null"),
]

YAML = [
    ("number as shots", "shots", "5", refused("is not a list of shots")),
    ("number as a shot", "shots", "[5]", refused("shot 1 is not {prompt")),
    ("no as shots", "shots", "no", refused("is not a list of shots")),
    ("number as tags", "tags", "5", refused("'5' is not a map of text to text")),
    ("octal of YAML 1.1", "seed", "010", 10),
    ("octal of YAML 1.2", "seed", "0o17", refused("'0o17' is not a whole number")),
    ("hexadecimal", "seed", "0x10", refused("'0x10' is not a number")),
    ("binary", "seed", "0b11", refused("'0b11' is not a number")),
    ("underscores", "seed", "1_000", refused("'1_000' is not a number")),
    ("sexagesimal", "seed", "12:30", refused("'12:30' is not a number")),
    ("exponent with point", "seed", "1.0e+3", 1000),
    ("float of 2**53+1", "seed", "9007199254740993.0", WRITTEN_FLOAT),
    ("int64 above 2**53", "seed", str(BIG), BIG),
    ("infinity", "guidance_scale", ".inf", refused("'.inf' is not a number")),
    ("quoted number", "seed", '"7"', refused("'7' is not a whole number")),
    ("time of day as prompt", "prompt", "12:30", refused(f"12:30 {QUOTES}")),
    ("quoted time of day", "prompt", '"12:30"', "12:30"),
    ("yes as prompt", "prompt", "yes", refused(f"yes {QUOTES}")),
    ("Off as owner", "owner", "Off", refused(f"Off {QUOTES}")),
    ("no as owner", "owner", "no", refused(f"no {QUOTES}")),
    ("octal as owner", "owner", "007", refused(f"007 {QUOTES}")),
    ("float as owner", "owner", "1.10", refused(f"1.10 {QUOTES}")),
    ("date as owner", "owner", "2030-01-31", "2030-01-31"),
    ("date and time as prompt", "prompt", "2030-01-31 06:00:00", "2030-01-31 06:00:00"),
    ("null as owner", "owner", "~", None),
    ("null as prompt", "prompt", "null", refused("is required")),
    ("yes for yes or no", "keep_overlap", "yes", True),
    ("off for yes or no", "keep_overlap", "off", False),
    ("list with a time of day", "prompt", "[x, 12:30]", refused(f"12:30 {QUOTES}")),
    ("list with no", "prompt", "[x, no]", refused(f"no {QUOTES}")),
    ("list as text", "prompt", "\"['x', 'y']\"", LISTS),
    ("tag of a number", "tags", "{scene: 012}", refused(f"scene: 012 {QUOTES}")),
    ("tag of no", "tags", "{country: no}", refused(f"country: no {QUOTES}")),
    ("tag of text", "tags", "{country: se}", {"country": "se"}),
    ("weight of a LoRA", "loras", "[{path: /x, weight: 0.8}]", (LoraRef(path="/x", weight=0.8),)),
    ("deadline", "deadline", "2030-01-31T06:00:00Z", datetime(2030, 1, 31, 6, tzinfo=UTC)),
    ("deadline as a date", "deadline", "2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
    ("deadline that is none", "deadline", "2030-13-01", refused("'2030-13-01' is not a time")),
    ("number tagged as text", "owner", "!!str 12", "12"),
]

JSON = [
    ("float of 2**53+1", "seed", "9007199254740993.0", WRITTEN_FLOAT),
    ("int64 above 2**53", "seed", str(BIG), BIG),
    ("nearly whole", "seed", "0.99999999999999999999", refused("is not a whole number")),
    ("whole float", "seed", "7.0", 7),
    ("overflow", "guidance_scale", "1e400", refused("'1e400' is far out of range")),
    ("true as owner", "owner", "true", refused(f"true {QUOTES}")),
    ("number as owner", "owner", "1.10", refused(f"1.10 {QUOTES}")),
    ("number in a list", "prompt", '["x", 1]', refused(f"1 {QUOTES}")),
    ("text for a number", "seed", '"7"', refused("'7' is not a whole number")),
    ("huge integer", "seed", "9" * 4000, refused("is more than")),
    ("integer that Python does not convert", "seed", "9" * 5000, refused("is far out of range")),
    ("weight of a LoRA", "loras", '[{"path": "/x", "weight": 0.8}]', (LoraRef(path="/x", weight=0.8),)),
    ("tag of a number", "tags", '{"a": 1}', refused(f"a: 1 {QUOTES}")),
]


def answer(uri: str, column: str, load=load_manifest):
    (row,) = load(uri)
    return "; ".join(row.lines) if row.job is None else getattr(row.job, column)


def check_answer(found, right, *, column: str) -> None:
    if isinstance(right, refused):
        assert isinstance(found, str) and right in found and f"{column}: " in found
        assert len(found) < 2_000
    else:
        assert found == right and type(found) is type(right)


@pytest.mark.parametrize(("name", "column", "values", "right"), STORED, ids=[entry[0] for entry in STORED])
def test_stored_values_are_exact_or_refused(tmp_path, name, column, values, right):
    path = str(tmp_path / "m.parquet")
    pq.write_table(pa.table({"job_id": ["a"], "prompt": ["p"], column: values}), path)
    check_answer(answer(path, column), right, column=column)


@pytest.mark.parametrize("column", ["shots", "loras"])
def test_a_field_that_a_struct_has_twice_is_refused(tmp_path, column):
    name = {"shots": "prompt", "loras": "path"}[column]
    entries = pa.StructArray.from_arrays([pa.array(["p"]), pa.array(["q"])], [name, name])
    table = pa.table({"job_id": ["a"], "prompt": ["p"], column: pa.ListArray.from_arrays([0, 1], entries)})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=f"column {column}: has type"):
        load_manifest(str(tmp_path / "m.parquet"))


def test_int96_times_are_read_beyond_2262(tmp_path):
    path = str(tmp_path / "m.parquet")
    right = [datetime(9999, 12, 31), datetime(1583, 1, 1), datetime(2030, 1, 1, 6, 0, 0, 123_456)]
    table = pa.table({"job_id": list("abc"), "prompt": ["p"] * 3, "deadline": pa.array(right, pa.timestamp("us"))})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    assert [row.job.deadline for row in load_manifest(path)] == [time.replace(tzinfo=UTC) for time in right]


def built(tmp_path, name: str, content: str, column: str):
    (tmp_path / name).write_text(content)
    try:
        build_manifest(str(tmp_path / name), str(tmp_path / "m.parquet"))
    except ManifestError as error:
        return "; ".join(error.problems)
    return answer(str(tmp_path / "m.parquet"), column)


@pytest.mark.parametrize(("name", "column", "cell", "right"), CSV, ids=[entry[0] for entry in CSV])
def test_cells_of_csv_are_exact_or_refused(tmp_path, name, column, cell, right):
    quoted = '"' + cell.replace('"', '""') + '"'
    content = f"job_id,{column}\na,{quoted}\n" if column == "prompt" else f"job_id,prompt,{column}\na,p,{quoted}\n"
    check_answer(built(tmp_path, "p.csv", content, column), right, column=column)


@pytest.mark.parametrize(("name", "column", "text", "right"), YAML, ids=[entry[0] for entry in YAML])
def test_values_of_yaml_are_as_written_or_refused(tmp_path, name, column, text, right):
    prompt = "" if column == "prompt" else "  prompt: p\n"
    found = built(tmp_path, "p.yaml", f"- job_id: a\n{prompt}  {column}: {text}\n", column)
    check_answer(found, right, column=column)


@pytest.mark.parametrize(("name", "column", "text", "right"), JSON, ids=[entry[0] for entry in JSON])
def test_values_of_json_are_exact_or_refused(tmp_path, name, column, text, right):
    prompt = "" if column == "prompt" else '"prompt": "p", '
    line = f'{{"job_id": "a", {prompt}"{column}": {text}}}'
    check_answer(built(tmp_path, "p.jsonl", line, column), right, column=column)
    check_answer(built(tmp_path, "p.json", f"[{line}]", column), right, column=column)


@pytest.mark.parametrize("line", ["sep=;", "sep=\t", '"sep=;"', "\ufeffsep=;", "SEP=|", "sep=;\n"])
def test_the_separator_line_of_excel_is_understood(tmp_path, line):
    separator = line.strip('"\n')[-1]
    content = f"{line}\njob_id{separator}prompt\na{separator}one, two\n"
    assert built(tmp_path, "p.csv", content, "prompt") == "one, two"


def test_ids_made_from_content_do_not_move(tmp_path):
    def ids(*prompts: str) -> list[str]:
        (tmp_path / "p.csv").write_text("prompt,seed\n" + "".join(f"{prompt},\n" for prompt in prompts))
        build_manifest(str(tmp_path / "p.csv"), str(tmp_path / "m.parquet"))
        return [row.job_id for row in load_manifest(str(tmp_path / "m.parquet"))]

    first = ids("a cat", "a dog")
    assert ids("new", "a cat", "a dog")[1:] == first
    assert ids("a cat", "a cat", "a cat") == [first[0], f"{first[0]}-2", f"{first[0]}-3"]
    (tmp_path / "q.yaml").write_text("- prompt: a cat\n- prompt: a dog\n")
    build_manifest(str(tmp_path / "q.yaml"), str(tmp_path / "m.parquet"))
    assert [row.job_id for row in load_manifest(str(tmp_path / "m.parquet"))] == first


def test_merge_keys_do_not_multiply(tmp_path):
    levels = "".join(f"- &l{n}\n  <<: [*l{n - 1}, *l{n - 1}, *l{n - 1}]\n" for n in range(1, 30))
    (tmp_path / "p.yaml").write_text(f"- &l0 {{prompt: x}}\n{levels}")
    assert build_manifest(str(tmp_path / "p.yaml"), str(tmp_path / "m.parquet")).num_rows == 30


def test_encrypted_files_are_named(tmp_path):
    path = tmp_path / "m.parquet"
    path.write_bytes(b"PARE" + b"\0" * 60 + b"PARE")
    assert "is encrypted" in check_manifest(str(path)).fatal[0]


@pytest.mark.parametrize(("kind", "bits"), [(np.float16, 11), (np.float32, 24), (np.float64, 53)])
def test_floats_of_numpy_are_exact_or_refused(kind, bits):
    below = 2**bits - 1
    assert RenderJob(job_id="a", prompt="x", seed=kind(below)).seed == below
    with pytest.raises(InvalidJobError, match=rf"is a float of 2\*\*{bits} or more, which is not exact"):
        RenderJob(job_id="a", prompt="x", seed=kind(2**bits + 1))


def test_a_bad_cell_alone_is_no_error_of_the_reader():
    assert from_cell(" ", "integer") is None
