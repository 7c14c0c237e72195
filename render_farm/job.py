"""`RenderJob`: one film to render, exactly the columns of a manifest row.

Every field carries its meaning, its kind and its range in the dataclass metadata; the manifest's schema, its reader's
checks and the documentation are all derived from here. A field that is None takes the model's preset.
"""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Any

from render_farm.check_mode import canonical_checks
from render_farm.drift_mode import canonical_drift
from render_farm.errors import InvalidJobError, Problem
from render_farm.memory_mode import canonical_memory
from render_farm.models import CAUSAL, DISTILLED, FULL
from render_farm.shots import SHOT_FIELDS, Shot, read_shots
from render_farm.step_cache import canonical_cache

JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_PROMPT_CHARACTERS = 20_000
"""Of one prompt, and of any other text of a row."""
MAX_ENTRIES = 1_000
"""Of a list of prompts or LoRAs, or of a map of tags."""
NUM_SEEDS = 2**63
MAX_ADDRESS_CHARACTERS = 8_192
"""Of a path or URI. Paths have 4,096 and keys of S3 1,024, but signed addresses are longer."""
_LONGEST_MESSAGE = 1_000
EXACT_FLOAT = 2**53
"""From here on a float stands for several whole numbers."""
MAX_FLOAT32 = (2 - 2.0**-23) * 2.0**127
"""The largest number of what the engine computes in."""
_EXACT_BITS = {"float16": 11, "float32": 24}
"""Of NumPy's narrower floats, in the same way."""


class ValueKind(StrEnum):
    """What a column holds. `TEXTS` is a string or a list of strings."""

    TEXT = "text"
    TEXTS = "texts"
    INTEGER = "integer"
    INTEGERS = "integers"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    TAGS = "tags"
    LORAS = "loras"
    SHOTS = "shots"


@dataclass(frozen=True, kw_only=True)
class Column:
    """The description of one manifest column."""

    kind: ValueKind
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str | int, ...] = ()
    touches_pixels: bool = True
    """False for what orders or labels work; such columns are not part of the render key."""
    canonical: Callable[[str], str] | None = None
    """Brings a text to its one spelling, or raises ValueError with what would work."""


@dataclass(frozen=True)
class BadCell:
    """In place of a value that could not be read from a file, and why."""

    message: str


@dataclass(frozen=True, kw_only=True)
class LoraRef:
    """One LoRA and its weight."""

    path: str
    """A path or URI of a safetensors file."""
    weight: float = 1.0
    """0 is as if it were not there."""


def _column(kind: ValueKind, doc: str, default: Any = None, **details: Any) -> Any:
    return field(default=default, metadata={"column": Column(kind=kind, doc=doc, **details)})


@dataclass(frozen=True, kw_only=True)
class RenderJob:
    """One film. Raises `InvalidJobError`, which lists every wrong field, when built with impossible values."""

    job_id: str = field(
        metadata={"column": Column(kind=ValueKind.TEXT, doc="unique name; the folder of the film in the output")}
    )
    prompt: str | tuple[str, ...] = _column(
        ValueKind.TEXTS, "what to show; a list has one prompt per segment, and the last one repeats"
    )
    """With `shots`, theirs."""
    model: str | None = _column(ValueKind.TEXT, "a preset's name, or a folder or URI in diffusers format")
    task: str | None = _column(
        ValueKind.TEXT, "inferred from the inputs when null", choices=("t2v", "i2v", "flf2v", "v2v")
    )
    negative_prompt: str | None = _column(ValueKind.TEXT, "what not to show; used when guidance is on")
    image: str | None = _column(ValueKind.TEXT, "URI of the first frame")
    last_image: str | None = _column(ValueKind.TEXT, "URI of the last frame")
    video: str | None = _column(ValueKind.TEXT, "URI of a video to extend")
    num_frames: int | None = _column(ValueKind.INTEGER, "pixel frames; rounded to 4n+1", low=1, high=100_000)
    height: int | None = _column(ValueKind.INTEGER, "pixels, a multiple of 16", low=16, high=8192)
    width: int | None = _column(ValueKind.INTEGER, "pixels, a multiple of 16", low=16, high=8192)
    fps: int | None = _column(ValueKind.INTEGER, "frames per second of the video", low=1, high=240)
    seed: int | None = _column(
        ValueKind.INTEGER, "null: the first 4 bytes of sha256(job_id), big-endian", low=0, high=NUM_SEEDS - 1
    )
    num_inference_steps: int | None = _column(ValueKind.INTEGER, "denoising steps", low=1, high=1000)
    guidance_scale: float | None = _column(
        ValueKind.NUMBER, "classifier-free guidance; off at 1 and below", low=0, high=100
    )
    flow_shift: float | None = _column(ValueKind.NUMBER, "shift of the noise schedule", low=0.01, high=100)
    base_num_frames: int | None = _column(ValueKind.INTEGER, "pixel frames of a window", low=1, high=10_000)
    overlap_history: int | None = _column(
        ValueKind.INTEGER, "pixel frames a window shares with the one before", low=1, high=10_000
    )
    addnoise_condition: float | None = _column(
        ValueKind.NUMBER, "noise on the shared frames, in thousandths; 20 suits long films", low=0, high=1000
    )
    ar_step: int | None = _column(
        ValueKind.INTEGER, "steps that a block lags behind the one before; 0: none", low=0, high=1000
    )
    causal_block_size: int | None = _column(
        ValueKind.INTEGER, "latent frames of a causal block; 1: no blocks", low=1, high=10_000
    )
    block_attention: str | None = _column(
        ValueKind.TEXT,
        "what blocks see: `causal` those before them, `full` all of them",
        choices=(CAUSAL, FULL),
    )
    sampler: str | None = _column(
        ValueKind.TEXT,
        "`reference` is diffusers' loop to the letter, `distilled` is for weights of few steps",
        choices=("reference", "corrected", DISTILLED),
    )
    step_list: tuple[int, ...] | None = _column(
        ValueKind.INTEGERS, "steps of `distilled`, falling; default 1000, 750, 500, 250", low=1, high=1000
    )
    prefix_noise: str | None = _column(
        ValueKind.TEXT, "when addnoise is drawn: each step, or once a segment", choices=("per_step", "once")
    )
    fit: str | None = _column(ValueKind.TEXT, "how an input image meets the size", choices=("crop", "stretch", "pad"))
    keep_overlap: bool | None = _column(ValueKind.BOOLEAN, "v2v: keep the duplicated overlap, as diffusers does")
    loras: tuple[LoraRef, ...] | None = _column(ValueKind.LORAS, "LoRAs (URIs of safetensors files) and their weights")
    cache: str | None = _column(
        ValueKind.TEXT,
        "approximations: `off`, `first_block:0.05`, `mag:0.06`, `guidance:0.5`; joined by +",
        canonical=canonical_cache,
    )
    drift: str | None = _column(
        ValueKind.TEXT,
        "`adain:0.25` moves the colours of later windows toward those of the first; default `off`",
        canonical=canonical_drift,
    )
    memory: str | None = _column(
        ValueKind.TEXT,
        "where weights lie and how they are stored: `auto`, `offload_block`, `fp8_cast+vae_tiling`...",
        canonical=canonical_memory,
        touches_pixels=False,
    )
    checks: str | None = _column(
        ValueKind.TEXT,
        "what happens to a film with findings: `mark`, `fail`, `retry:3` or `off`; default `mark`",
        canonical=canonical_checks,
        touches_pixels=False,
    )
    shots: tuple[Shot, ...] | None = _column(
        ValueKind.SHOTS, "instead of prompt and num_frames: {prompt, num_frames, cut, seed, guidance_scale, image}"
    )
    ulysses: int | None = _column(
        ValueKind.INTEGER, "workers that share attention heads", low=1, high=1024, touches_pixels=False
    )
    ring: int | None = _column(
        ValueKind.INTEGER, "workers that share tokens in a ring", low=1, high=1024, touches_pixels=False
    )
    cfg_parallel: int | None = _column(
        ValueKind.INTEGER, "2 runs both guidance branches at once", choices=(1, 2), touches_pixels=False
    )
    priority: int | None = _column(
        ValueKind.INTEGER, "higher goes first; default 50", low=0, high=100, touches_pixels=False
    )
    deadline: datetime | None = _column(
        ValueKind.TIMESTAMP, "UTC; orders work, never stops a job", touches_pixels=False
    )
    owner: str | None = _column(ValueKind.TEXT, "who wants it", touches_pixels=False)
    quality: float | None = _column(
        ValueKind.NUMBER, "of the MP4, as imageio's; default 8", low=0, high=10, touches_pixels=False
    )
    tags: Mapping[str, str] | None = _column(ValueKind.TAGS, "free labels", touches_pixels=False)

    def __post_init__(self) -> None:
        given = ((name, getattr(self, name)) for name in columns())
        values = {name: value for name, value in given if value is not None or name in REQUIRED}
        clean, problems = normalise(values)
        if problems:
            raise InvalidJobError(problems, job_id=str(self.job_id)[:128])
        for name, value in clean.items():
            object.__setattr__(self, name, value)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt list; one entry when `prompt` is a string."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt


@cache
def columns() -> dict[str, Column]:
    """Every manifest column by name, in the manifest's order."""
    return {f.name: f.metadata["column"] for f in fields(RenderJob)}


@cache
def shot_columns() -> dict[str, Column]:
    """The fields of a shot by name. Most go by the rules of the column of that name."""
    own = {
        "prompt": replace(columns()["prompt"], kind=ValueKind.TEXT),
        "cut": Column(kind=ValueKind.BOOLEAN, doc="whether it starts without the frames before it"),
    }
    return {name: own.get(name) or columns()[name] for name in SHOT_FIELDS}


REQUIRED = ("job_id", "prompt")
_INPUTS = ("image", "last_image", "video")


def default_seed(job_id: str) -> int:
    """The seed of a job that gives none: the first 4 bytes of sha256(job_id), big-endian."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4], "big")


def shown(value: Any) -> str:
    """`value` for a message: its repr, cut where it is long, deep or wide."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer with more digits than Python converts
        return f"a {type(value).__name__} that is too large to show"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 60


def normalise(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Bring `values` (column name to value) to their kinds and list everything wrong with them.

    Integral floats become integers, NaN becomes None, lists become tuples, naive timestamps are taken as UTC.
    Returns the clean values of the columns given and the problems, in the manifest's order.
    """
    clean: dict[str, Any] = {}
    problems: list[Problem] = []
    known = columns()
    for name, value in values.items():
        try:
            clean[name] = None if value is None else _read(name, value, known[name])
            canonical = known[name].canonical
            if canonical is not None and clean[name] is not None and _check_size(clean[name]) is None:
                clean[name] = canonical(clean[name])
            message = _check(name, clean[name], known[name])
        except (TypeError, ValueError) as error:
            message = _cut(str(error))
        except OverflowError:
            message = "is far out of range"
        if message:
            problems.append(Problem(field=name, message=message))
    wrong = {problem.field for problem in problems}
    missing = [name for name in REQUIRED if name in values and name not in wrong and clean[name] is None]
    if "prompt" in missing and ("shots" in wrong or clean.get("shots") is not None):
        missing.remove("prompt")
    if missing:
        problems += [Problem(field=name, message="is required") for name in missing]
        problems.sort(key=lambda problem: list(known).index(problem.field))
    if not problems and clean.get("shots"):
        problems += _place_shots(clean)
    return clean, problems


def _place_shots(clean: dict[str, Any]) -> list[Problem]:
    """Give `prompt` the prompts of the shots. What a film of shots cannot have as well is a problem."""
    prompts, given = tuple(shot.prompt for shot in clean["shots"]), clean.get("prompt")
    problems = [
        Problem(field=name, message=f"is given with shots, which have their own; leave it null{note}")
        for name, there, note in (
            ("prompt", given is not None and ((given,) if isinstance(given, str) else given) != prompts, ""),
            ("num_frames", clean.get("num_frames") is not None, ", and give the shots num_frames"),
            ("image", bool(clean.get("image") and clean["shots"][0].image), ", or leave out that of shot 1"),
        )
        if there
    ]
    if "prompt" in clean:
        clean["prompt"] = prompts[0] if len(prompts) == 1 else prompts
    return problems


def _cut(message: str) -> str:
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."


def _check(name: str, value: Any, column: Column) -> str | None:
    if value is None:
        return None
    if name == "job_id" and not JOB_ID.fullmatch(value):
        return f"{shown(value)} must be 1 to 128 letters, digits, '.', '_' or '-', and start with a letter or digit"
    if name == "prompt":
        return _check_prompts(value)
    if column.kind is ValueKind.INTEGERS:
        return _check_falling(value, column)
    if (message := _check_size(value)) is not None:
        return message
    if column.choices and value not in column.choices:
        return f"{shown(value)} is not one of {', '.join(map(str, column.choices))}"
    if column.low is not None and value < column.low:
        return f"{shown(value)} is less than {column.low:g}"
    if column.high is not None and value > column.high:
        return f"{shown(value)} is more than {column.high:,.10g}"
    if name in ("height", "width") and value % 16:
        return f"{value} is not a multiple of 16; the nearest are {value // 16 * 16} and {value // 16 * 16 + 16}"
    if name == "model" and not value.strip():
        return "is empty; give a preset's name, a folder or a URI, or leave it null"
    if name in _INPUTS and not value.strip():
        return "is blank; give a path or a URI, or leave it null"
    addresses = [value] if name in (*_INPUTS, "model") else []
    if column.kind is ValueKind.LORAS:
        addresses = [lora.path for lora in value]
    longest = max(map(len, addresses), default=0)
    if longest > MAX_ADDRESS_CHARACTERS:
        return f"has an address of {longest:,} characters; the most is {MAX_ADDRESS_CHARACTERS:,}"
    return None


def _check_falling(numbers: tuple[int, ...], column: Column) -> str | None:
    assert column.low is not None and column.high is not None
    if not numbers or not column.low <= min(numbers) <= max(numbers) <= column.high:
        return f"{list(numbers)} is not a list of numbers from {column.low:g} to {column.high:g}"
    if any(b >= a for a, b in pairwise(numbers)):
        return f"{list(numbers)} does not fall from step to step; 1000, 750, 500, 250 is an example"
    return None


def _check_prompts(value: str | tuple[str, ...]) -> str | None:
    if not value and not isinstance(value, str):
        return "is an empty list; give at least one prompt"
    if isinstance(value, str) and _is_written_list(value.strip()):
        return (
            f"{shown(value)} looks like a list written as text; a list of prompts is a list<string> column in "
            'Parquet, JSON such as ["x", "y"] in a CSV cell, and a list in JSON and YAML'
        )
    return _check_size(value)


def _is_written_list(text: str) -> bool:
    """`["x", "y"]`, `['x' 'y']`, `('x', 'y')`: what printing a list gives. `[close-up] a cat` is a prompt."""
    if text[:1] + text[-1:] not in ("[]", "()"):
        return False
    inner = text[1:-1].strip()
    entries = inner.removesuffix(",").rstrip()
    quoted = len(entries) > 1 and entries[0] in "'\"" and entries[-1] in "'\""
    return quoted and (text[0] == "[" or inner != entries or any(mark in inner for mark in ("',", '",')))


def _check_size(value: Any) -> str | None:
    """Whether texts, lists and maps are of a size that every page, log and object can carry."""
    if isinstance(value, str):
        texts: Sequence[str] = (value,)
    elif isinstance(value, Mapping):
        texts = [*value, *value.values()]
    elif isinstance(value, tuple):
        texts = [item.path if isinstance(item, LoraRef) else item for item in value if not isinstance(item, Shot)]
    else:
        return None
    if not isinstance(value, str) and len(value) > MAX_ENTRIES:
        return f"has {len(value):,} entries; the most is {MAX_ENTRIES:,}"
    longest = max(map(len, texts), default=0)
    if longest > MAX_PROMPT_CHARACTERS:
        return f"has {longest:,} characters; the most is {MAX_PROMPT_CHARACTERS:,}"
    return None


# --- readers: one a kind; each returns the clean value or raises ValueError with what would work ----------------------


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _text(value: Any) -> str | None:
    if _is_nan(value):
        return None
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shown(value)} is not valid Unicode text") from None
    return value


def _texts(value: Any) -> str | tuple[str, ...] | None:
    if isinstance(value, str) or _is_nan(value):
        return _text(value)
    if isinstance(value, Mapping) or not (isinstance(value, Sequence) or hasattr(value, "tolist")):
        raise ValueError(f"{shown(value)} is neither text nor a list of texts")
    items = tuple(value.tolist() if hasattr(value, "tolist") else value)
    if any(not isinstance(item, str) for item in items):
        raise ValueError("is a list with an entry that is not text")
    return tuple(_text(item) or "" for item in items)


def _integer(value: Any) -> int | None:
    if _is_nan(value):
        return None
    bits = _EXACT_BITS.get(str(getattr(value, "dtype", "")), 53)
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is not a whole number")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value} is not a whole number")
    if isinstance(value, float) and abs(value) >= 2**bits:
        raise ValueError(
            f"{value!r} is a float of 2**{bits} or more, which is not exact: it may stand for another whole number "
            "than the one meant; store it as an integer (int64), without a fraction or exponent"
        )
    return int(value)


def _integers(value: Any) -> tuple[int, ...] | None:
    if _is_nan(value):
        return None
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise ValueError(f"{value!r} is not a list of whole numbers")
    items = [_integer(item) for item in value]
    if None in items:
        raise ValueError("is a list with an entry that is not a whole number")
    return tuple(item for item in items if item is not None)


def _number(value: Any) -> float | None:
    if _is_nan(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return float(value)


def _boolean(value: Any) -> bool | None:
    if _is_nan(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not true or false")
    return value


def _timestamp(value: Any) -> datetime | None:
    if _is_nan(value):
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{shown(value)} is not a time; write it like 2030-01-31T06:00:00Z") from None
    if not isinstance(value, datetime):
        raise ValueError(f"{shown(value)} is not a time; write it like 2030-01-31T06:00:00Z")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _tags(value: Any) -> dict[str, str] | None:
    if _is_nan(value):
        return None
    try:
        listed = list(value.items()) if isinstance(value, Mapping) else list(value)
        pairs = dict(listed)
    except (TypeError, ValueError):
        raise ValueError(f"{shown(value)} is not a map of text to text") from None
    if any(not isinstance(key, str) or not isinstance(item, str) for key, item in pairs.items()):
        raise ValueError("is a map with a key or value that is not text")
    if len(pairs) < len(listed):
        raise ValueError("is a map with a key that appears twice")
    for text in (*pairs, *pairs.values()):
        _text(text)
    return pairs


def _loras(value: Any) -> tuple[LoraRef, ...] | None:
    if _is_nan(value):
        return None
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise ValueError(f"{shown(value)} is not a list of {{path, weight}}")
    return tuple(_lora(item) for item in value)


def _lora(item: Any) -> LoraRef:
    if isinstance(item, LoraRef):
        return item
    if not isinstance(item, Mapping) or set(item) - {"path", "weight"} or not isinstance(item.get("path"), str):
        raise ValueError(f"{shown(item)} is not {{path, weight}}")
    if not item["path"].strip():
        raise ValueError("has an empty path; give the URI of a safetensors file")
    _text(item["path"])
    weight = None if item.get("weight") is None else _number(item["weight"])
    if weight is not None and abs(weight) > MAX_FLOAT32:
        raise ValueError(f"has a weight of {weight:g}, which float32 does not hold; 1 is usual")
    return LoraRef(path=item["path"], weight=1.0 if weight is None else weight)


def _shots(value: Any) -> tuple[Shot, ...] | None:
    return None if _is_nan(value) else read_shots(value, _shot_field)


def _read(name: str, value: Any, column: Column) -> Any:
    """The clean value. An empty text for an input is null, as an empty cell of CSV is."""
    if isinstance(value, BadCell):
        raise ValueError(value.message)
    clean = _READERS[column.kind](value)
    return None if clean == "" and name in _INPUTS else clean


def _shot_field(name: str, value: Any) -> Any:
    column = shot_columns()[name]
    clean = _read(name, value, column)
    if message := _check(name, clean, column):
        raise ValueError(message)
    return clean


_READERS = {
    ValueKind.TEXT: _text,
    ValueKind.TEXTS: _texts,
    ValueKind.INTEGER: _integer,
    ValueKind.INTEGERS: _integers,
    ValueKind.NUMBER: _number,
    ValueKind.BOOLEAN: _boolean,
    ValueKind.TIMESTAMP: _timestamp,
    ValueKind.TAGS: _tags,
    ValueKind.LORAS: _loras,
    ValueKind.SHOTS: _shots,
}
