"""What the fuzz tests share: how many cases (few in `make test`, `$FUZZ_EXAMPLES`, 10,000, in `make fuzz`), damage, and
values of every kind."""

from __future__ import annotations

import os
from datetime import datetime

from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import strategies as st


def num_examples(default: int) -> int:
    return int(os.environ.get("FUZZ_EXAMPLES", default))


def forget_memory() -> None:
    """What is in fsspec's memory. It keeps removed folders in a list that it searches: thousands make it slow."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """`data` cut, flipped, doubled or replaced."""
    kind = draw(st.sampled_from(["cut", "flip", "noise", "double", "insert"]))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if kind == "cut":
        return data[:at]
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    if kind == "double":
        return data + data
    noise = draw(st.binary(max_size=40))
    return noise if kind == "noise" else data[:at] + noise + data[at:]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


arrow_columns = st.one_of(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    st.lists(st.none() | st.floats(), min_size=2, max_size=2),
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9), min_size=2, max_size=2),
    st.lists(st.none() | st.booleans(), min_size=2, max_size=2),
    st.lists(st.none() | st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)), min_size=2, max_size=2),
    st.lists(st.none() | st.lists(st.none() | st.just("x"), max_size=2), min_size=2, max_size=2),
    st.lists(st.none() | st.dictionaries(st.just("path"), st.just("x"), min_size=1), min_size=2, max_size=2),
)
