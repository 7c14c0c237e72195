"""How settings are declared, read and checked: a TOML file, then `RENDER_FARM_*` variables, then flags.

A table of settings is a frozen dataclass next to the code that uses it, its fields made by `setting`. The farm's are
put together in `farm/run/settings.py`. pydantic checks the values. It is imported when settings are read, not before.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from render_farm.errors import UsageError
from render_farm.uris import holds_secret, shown_uri

CONFIG_VARIABLE = "RENDER_FARM_CONFIG"
OTHER_VARIABLES = (
    CONFIG_VARIABLE,
    "RENDER_FARM_BENCH_FOLDER",
    "RENDER_FARM_BENCH_MARK",
    "RENDER_FARM_BENCH_OBSERVING",
    "RENDER_FARM_HANDOVER",
    "RENDER_FARM_KUBERAY_CRDS",
    "RENDER_FARM_NEEDS_BROWSER",
    "RENDER_FARM_NEEDS_PROMETHEUS",
    "RENDER_FARM_PROMETHEUS_CRDS",
    "RENDER_FARM_SCREENSHOTS",
    "RENDER_FARM_VENV",
)
"""Variables of this project that are not settings. They name the file, or belong to tests, benchmarks and scripts."""
# Kubernetes gives every Pod such variables for each service of its namespace, and a service may be named render-farm.
_OF_A_SERVICE = re.compile(r"_SERVICE_HOST=|_SERVICE_PORT(_\w+)?=|_PORT=\w+://|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=")
_LIMITS = {"gt": "greater than {:g}", "ge": "at least {:g}", "le": "at most {:.15g}", "min_length": "not empty"}
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than_equal")
_KINDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
_QUOTES = "'"
_SHOWN_CHARACTERS = 100
_log = logging.getLogger(__name__)
_Root = TypeVar("_Root", bound="Table")


@dataclass(frozen=True, kw_only=True)
class SettingDoc:
    """The description of a setting besides its type, default and limits."""

    doc: str
    unit: str = ""
    expected: str = ""
    """What would work, for a text with a pattern."""
    secret: bool = False
    """Its value is never shown."""
    canonical: Callable[[str], str] | None = None
    """Brings a text, or each text of a list, to its one spelling, or raises ValueError with what would work."""
    name_of: Callable[[str], str] | None = None
    """Gives the name in an entry of a list, where no name may be given twice."""


def setting(default: Any, doc: str, *, limits: Mapping[str, Any] | None = None, **details: Any) -> Any:
    """A field of a table. `limits` are pydantic's (`gt`, `ge`, `le`, `min_length`, `pattern`), which finds them in the
    field's metadata. `details` are fields of `SettingDoc`."""
    return field(default=default, metadata={"setting": SettingDoc(doc=doc, **details), **(limits or {})})


class Table:
    """A table of settings. Subclasses are frozen dataclasses."""

    variables: ClassVar[str]
    """How the names of its environment variables start."""
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One setting of a root table: its place, its type, and its texts for people."""

    name: str
    """`output`, or `timeouts.lease_s` for a field of a table."""
    variable: str
    default: Any
    kind: Any
    """The type without None."""
    limits: Mapping[str, Any]
    about: SettingDoc

    @property
    def range(self) -> str:
        """Which values of its kind are possible; empty when all are."""
        if get_origin(self.kind) is Literal:
            return f"one of {', '.join(get_args(self.kind))}"
        limits = [words.format(self.limits[name]) for name, words in _LIMITS.items() if name in self.limits]
        return self.about.expected or " and ".join(limits)

    @property
    def allowed(self) -> str:
        """Its kind and range."""
        if get_origin(self.kind) is Literal or self.about.expected:
            return self.range
        kind = _KINDS.get(self.kind, "a list of texts")
        return f"{kind}, {self.range}" if self.range else kind

    def shown(self, value: Any) -> str:
        """`value` for a message: one printable line without secrets."""
        if self.hides(value):
            return "a value that is not shown"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return f"[{', '.join(map(self.shown, value))}]"
        if isinstance(value, Mapping):
            return "a table"
        if isinstance(value, int) and value.bit_length() > _SHOWN_CHARACTERS:  # Python does not write any number
            return "a huge number"
        text = repr(shown_uri(value) if isinstance(value, str) and "://" in value else value)
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."

    def hides(self, value: Any) -> bool:
        """Whether `value` is, or holds, a secret."""
        return self.about.secret or (isinstance(value, str) and holds_secret(value))

    def refusal(self, value: Any, *, in_kind: bool = False) -> str:
        """What is wrong with `value`. `in_kind`: it is a number, only not one of the range."""
        if in_kind:
            return f"{self.name} must be {self.range}, got {self.shown(value).strip(_QUOTES)}"
        return f"{self.name} must be {self.allowed}, got {self.shown(value)}"


def tables(root: type[Table]) -> dict[str, type[Table]]:
    """The tables of `root` by their names. The first is `root` itself, whose name is empty."""
    kinds = get_type_hints(root)
    named = {item.name: kinds[item.name] for item in fields(root) if "setting" not in item.metadata}  # type: ignore[arg-type]
    return {"": root, **named}


def entries(root: type[Table]) -> dict[str, Entry]:
    """Every setting of `root` by its name: its own, then those of its tables, in the order of the fields."""
    found: dict[str, Entry] = {}
    for table, owner in tables(root).items():
        kinds = get_type_hints(owner)
        for item in fields(owner):  # type: ignore[arg-type]
            if "setting" not in item.metadata:
                continue
            name = f"{table}.{item.name}" if table else item.name
            found[name] = Entry(
                name=name,
                variable=f"{owner.variables}{item.name.upper()}",
                default=item.default,
                kind=_without_none(kinds[item.name]),
                limits=item.metadata,
                about=item.metadata["setting"],
            )
    return found


def _without_none(kind: Any) -> Any:
    parts = get_args(kind)
    return parts[0] if NoneType in parts else kind


@dataclass(frozen=True, kw_only=True)
class Loaded(Generic[_Root]):
    """Settings, and where those that are not defaults come from."""

    settings: _Root
    origins: Mapping[str, str]
    """By the setting's name: the file, the variable as `$NAME`, or `flag`."""


def settings_file(file: str | None = None, environment: Mapping[str, str] | None = None) -> str | None:
    """The one file that is read: `file`, else `$RENDER_FARM_CONFIG`, else the user's, where there is one."""
    environment = os.environ if environment is None else environment
    users = user_file(environment)
    # A home that may not be looked into (that of another user, after `sudo -u`) is taken as one without the file.
    there = str(users) if users is not None and os.path.exists(users) else None  # noqa: PTH110
    return file or environment.get(CONFIG_VARIABLE) or there


def user_file(environment: Mapping[str, str]) -> Path | None:
    """`$XDG_CONFIG_HOME/render_farm/config.toml`, by default in `~/.config`; None for a user without a home."""
    folder, home = Path(environment.get("XDG_CONFIG_HOME", "")), environment.get("HOME")
    if not folder.is_absolute():  # the specification of these folders says to ignore relative ones
        if not home:
            return None
        folder = Path(home, ".config")
    return folder / "render_farm" / "config.toml"


def load(
    root: type[_Root],
    *,
    file: str | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> Loaded[_Root]:
    """Read `root` from the file (`settings_file`), the environment and `flags`. Later sources win; None is no flag.

    Args:
        root: The table whose fields are wanted. Fields of it that are tables stand as `[name]` in the file.
        partial: The file and the environment may also hold settings that `root` lacks.

    Raises:
        UsageError: The file cannot be read, a setting is unknown, or a value is not possible. Names every one.
    """
    environment = os.environ if environment is None else environment
    known, path = entries(root), settings_file(file, environment)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    layers = [
        (path if path is None or path.isprintable() else repr(path), _flat(_read_toml(path) if path else {}, root)),
        (None, [(name, environment[one.variable]) for name, one in known.items() if environment.get(one.variable)]),
        ("flag", _flat(given, root)),
    ]
    for source, items in layers:
        for name, value in items:
            if name in known:
                values[name], origins[name] = value, source or f"${known[name].variable}"
            elif not partial or name in tables(root):
                problems.append(f"{source}: {_unknown(name, value, root)}")
    if not partial:
        variables = [entry.variable for entry in known.values()] + list(OTHER_VARIABLES)
        for variable in environment.keys() - variables:
            if variable.startswith("RENDER_FARM_") and not _OF_A_SERVICE.search(f"{variable}={environment[variable]}"):
                _warn_of(variable, nearest(variable, variables))
    settings, wrong = _checked(root, values)
    problems += [f"{origins[name]}: {message}" for name, message in wrong]
    if problems or settings is None:
        raise UsageError("\n".join(problems))
    return Loaded(settings=settings, origins=origins)


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` whose last part is most like that of `name`; a part of it, and the same table, count extra."""
    table, _, key = name.lower().rpartition(".")

    def likeness(other: str) -> float:
        its_table, _, its_key = other.lower().rpartition(".")
        return SequenceMatcher(None, key, its_key).ratio() + 0.5 * (key in its_key) + 0.1 * (its_table == table)

    return max(known, key=likeness)


@cache  # once a process: settings are read by several parts of one command
def _warn_of(variable: str, near: str) -> None:
    _log.warning("%s is not a known setting; the nearest is %s", variable, near)


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as handle:
            content = handle.read()
        # Editors on Windows put a byte order mark first, which TOML does not know.
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return tomllib.loads(content.decode("utf-16" if utf16 else "utf-8-sig"))
    except OSError as error:
        raise UsageError(
            f"settings file {path}: {error.strerror}",
            advice=f"--config and ${CONFIG_VARIABLE} name it; neither is needed",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"settings file {path} is not TOML: {error}") from error


def _flat(content: Mapping[str, Any], root: type[Table]) -> Iterable[tuple[str, Any]]:
    """The settings of `content` by their names."""
    for key, value in content.items():
        if key in tables(root) and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _unknown(name: str, value: Any, root: type[Table]) -> str:
    if name in tables(root):
        return f"{name} must be a table: write [{name}] and its fields below"
    near = nearest(name, tables(root) if isinstance(value, Mapping) else entries(root))
    return f"unknown setting {name!r}; the nearest is {near}"


def _checked(root: type[_Root], values: Mapping[str, Any]) -> tuple[_Root | None, list[tuple[str, str]]]:
    """The settings, or what is wrong with which of `values` (by their dotted names)."""
    from pydantic import TypeAdapter, ValidationError

    known, nested = entries(root), dict[str, Any]()
    wrong: dict[str, str] = {}
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        try:
            (nested.setdefault(table, {}) if table else nested)[key] = _plain(known[name], value)
        except ValueError as error:
            advice = getattr(error, "advice", "")
            wrong[name] = f"{name}: {error}" + (f" ({advice})" if advice else "")
    try:
        settings = TypeAdapter(root).validate_python(nested)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            name = ".".join(str(part) for part in item["loc"][:2])
            name = name if name in known else str(item["loc"][0])
            wrong[name] = known[name].refusal(values[name], in_kind=item["type"] in _OUT_OF_RANGE)
    return (None if wrong else settings), list(wrong.items())


def _plain(entry: Entry, value: Any) -> Any:
    """`value` as pydantic is to see it: lists are split at commas, true is not 1, and 1_0 is not 10."""
    if entry.kind in (int, float):
        if isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and "_" in value:
            return [value]
    if isinstance(value, str) and get_origin(entry.kind) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    canonical = entry.about.canonical
    if canonical is None:
        return value
    if isinstance(value, list):
        items = [canonical(item) if isinstance(item, str) else item for item in value]
        if entry.about.name_of:
            names = [entry.about.name_of(item) for item in items if isinstance(item, str)]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"{twice!r} is given twice; give it once")
        return items
    return canonical(value) if isinstance(value, str) else value
