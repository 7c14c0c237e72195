"""Jobs from CSV: a header with column names, one job a record. Semicolons and tabs separate cells as well."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator

from render_farm.errors import ManifestError, Problem
from render_farm.job import columns
from render_farm.manifest.limits import LIMITS, ManifestLimits
from render_farm.manifest.schema import unknown_columns
from render_farm.manifest.sources.records import Record, from_cell, lines_of, open_text
from render_farm.uris import shown_uri

_SEPARATOR = re.compile(r'"?sep=([^"\w\s]|\t)"?[,;\t]*', re.IGNORECASE)


def read_csv(uri: str, limits: ManifestLimits = LIMITS) -> Iterator[Record]:
    """Every job of the CSV file at `uri`, numbered by the line it starts on.

    Raises `ManifestError` for a file that is unreadable or no CSV, and for unknown or repeated columns.
    """
    csv.field_size_limit(limits.max_cell_bytes)  # a list of prompts is longer than the module's 128 KiB
    with open_text(uri, limits) as text:
        lines = _Lines(line for _, line in lines_of(uri, text, limits))
        header_line = next((line for line in lines if line.strip()), "")
        named = _SEPARATOR.fullmatch(header_line.strip(" \r\n"))
        if named:  # Excel's own first line
            header_line = next((line for line in lines if line.strip()), "")
        delimiter = named[1] if named else max(",;\t", key=header_line.count)
        try:
            header = _header(uri, next(_cells([header_line], delimiter), []))
            start = lines.number + 1
            for cells in _cells(lines, delimiter):
                if any(cell.strip() for cell in cells):
                    yield _record(start, header, cells)
                start = lines.number + 1
        except csv.Error as error:
            raise ManifestError(
                f"{shown_uri(uri)}: line {lines.number}: {error}",
                advice='quote a cell that holds a comma, a quote or a line break, and double a quote in it: ""',
            ) from error


def _cells(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)


class _Lines:
    """The lines of a text, counted. (`csv.reader` counts too, but not the header that was read before it.)"""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        return line


def _header(uri: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not any(names):
        raise ManifestError(
            f"{shown_uri(uri)}: is empty", advice="the first line names the columns: job_id,prompt,num_frames"
        )
    # A column without a name is what pandas' to_csv writes for the index.
    problems = unknown_columns([name for name in names if name and name not in columns()])
    problems += [f"column {name}: appears twice" for name in columns() if names.count(name) > 1]
    if not {"prompt", "shots"} & set(names):
        problems.append("column prompt: is missing, and every job needs it")
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise ManifestError(f"{shown_uri(uri)}: {count} in the header", problems=tuple(problems))
    return names


def _record(number: int, header: list[str], cells: list[str]) -> Record:
    problems = []
    if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
        message = f"has {len(cells)} cells, the header {len(header)}; put a cell that contains a comma in quotes"
        problems.append(Problem(field="", message=message))
    named = zip(header, cells, strict=False)
    values = {name: from_cell(cell, columns()[name].kind) for name, cell in named if name}
    return Record(number=number, values=values, problems=problems)
