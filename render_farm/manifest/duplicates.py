"""Finds repeated job ids in little memory: eight bytes per row."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise


class DuplicateFinder:
    """Give it every row's id, in order; then ask for the repeated ones.

    It keeps a 64-bit hash of each id. When two are equal it asks for all ids again, to compare the ids themselves.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._numbers = array("Q")

    def add(self, number: int, job_id: str) -> None:
        """Note the id of row `number`."""
        self._hashes.append(_hash(job_id))
        self._numbers.append(number)

    @property
    def has_repeated(self) -> bool:
        """Whether any two ids may be the same."""
        return len(set(self._hashes)) < len(self._hashes)

    def find(self, read_again: Callable[[], Iterable[tuple[int, str]]]) -> Iterator[tuple[int, int, str]]:
        """(row, earlier row, id) of every repeated id, by row. `read_again` gives (row, id) as they were added."""
        suspects = self._repeated_hashes()
        if not suspects:
            return
        first: dict[str, int] = {}
        for number, job_id in read_again():
            if _hash(job_id) not in suspects:
                continue
            earlier = first.setdefault(job_id, number)
            if earlier != number:
                yield number, earlier, job_id

    def _repeated_hashes(self) -> set[int]:
        seen: set[int] = set()
        if not self.has_repeated:
            return seen
        ordered = sorted(self._hashes)
        return {one for one, other in pairwise(ordered) if one == other}


def case_twins(ids: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """(row, earlier id) of every id that differs from an earlier one only in upper and lower case."""
    first: dict[str, str] = {}
    for number, job_id in ids:
        earlier = first.setdefault(job_id.casefold(), job_id)
        if earlier != job_id:
            yield number, earlier


def _hash(job_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(job_id.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
