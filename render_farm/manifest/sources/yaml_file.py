"""Jobs from a YAML document: a list of mappings, or `defaults:` and `jobs:`. Anchors and merge keys work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from render_farm.errors import ManifestError
from render_farm.manifest.limits import LIMITS, ManifestLimits, raising
from render_farm.manifest.sources.documents import jobs_of_document, record_of
from render_farm.manifest.sources.records import Record, Written, open_text
from render_farm.uris import shown_uri

_DEEPEST = 50


def read_yaml(uri: str, limits: ManifestLimits = LIMITS) -> Iterator[Record]:
    """Every job of the YAML document at `uri`, numbered by its line; the document is read whole.

    Raises `ManifestError` for what is no YAML, for another shape, and for a key that a mapping has twice.
    """
    with open_text(uri, limits, "max_document_bytes") as text:
        content = text.read()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_deep_nesting(uri, content, loader, limits)
        root = yaml.compose(content, Loader=loader)
        document = None if root is None else _construct(uri, root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, character {mark.column + 1}: " if mark else ""
        raise ManifestError(
            f"{shown_uri(uri)}: {where}{error.problem or error.context}", advice="is it YAML?"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError(f"{shown_uri(uri)}: cannot be read as YAML: {str(error).splitlines()[0]}") from error
    defaults, jobs = jobs_of_document(uri, document)
    for job, line in zip(jobs, _lines(root), strict=True):
        yield record_of(job, line, "line", defaults)


def _refuse_deep_nesting(uri: str, content: str, loader: Any, limits: ManifestLimits) -> None:
    """Composing nodes recurses in C, where thousands of brackets would kill the process. Events come one by one."""
    try:
        _check_depth(uri, content, loader, limits)
    except yaml.MarkedYAMLError as error:
        # Some releases of PyYAML have a limit of their own and reach it while they read ahead, before the first event.
        # The text up to that point is within their limit and shows whether the document is too deep for ours.
        if error.problem_mark:
            with suppress(yaml.YAMLError):
                _check_depth(uri, content[: error.problem_mark.index], loader, limits)
        raise


def _check_depth(uri: str, content: str, loader: Any, limits: ManifestLimits) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(content, Loader=loader)):
        if count > limits.max_document_values:
            raise ManifestError(
                f"{shown_uri(uri)}: holds more than {limits.max_document_values:,} values",
                advice="split it, or write it as JSON lines or CSV, which are read line by line, "
                + raising("max_document_values"),
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            place = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
            raise ManifestError(f"{shown_uri(uri)}: {place}is nested more than {_DEEPEST} deep")


def _construct(uri: str, root: yaml.Node) -> Any:
    _refuse_repeated_keys(uri, root, set())
    return _AsWritten().construct_document(root)


class _AsWritten(SafeConstructor):
    """Keeps what YAML takes for a number, yes or no, or a time as it is spelt: which of them is meant, the column says.
    (`010` is 8 in YAML, `12:30` is 750, `no` is false.)"""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        values = super().construct_mapping(node, deep)
        return {key.text if isinstance(key, Written) else key: value for key, value in values.items()}

    def flatten_mapping(self, node: Any) -> None:
        """Merge keys (`<<`), without the pairs that others replace: they would double with every level."""
        super().flatten_mapping(node)
        last = {
            (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key): (key, v) for key, v in node.value
        }
        node.value = list(last.values())


for _tag in ("int", "float", "bool"):
    _AsWritten.add_constructor(f"tag:yaml.org,2002:{_tag}", lambda _, node: Written(_scalar(node)))
_AsWritten.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: Written(_scalar(node), is_time=True))


def _scalar(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a scalar", node.start_mark)
    return str(node.value)


def _refuse_repeated_keys(uri: str, node: yaml.Node, seen: set[int]) -> None:
    if id(node) in seen:
        return  # an alias of what was looked at
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(uri, item, seen)
    elif isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in names:
                    raise ManifestError(
                        f"{shown_uri(uri)}: line {key.start_mark.line + 1}: {key.value!r} appears twice"
                    )
                names.add(key.value)
            _refuse_repeated_keys(uri, value, seen)


def _lines(root: yaml.Node | None) -> list[int]:
    if isinstance(root, yaml.MappingNode):
        root = next(value for key, value in root.value if key.value == "jobs")
    assert isinstance(root, yaml.SequenceNode), "jobs_of_document refused anything else"
    return [item.start_mark.line + 1 for item in root.value]
