"""Finished segments as objects: latents (1 C T H W, float32) in safetensors, and the record that vouches for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np

from render_farm.errors import CorruptCheckpointError, NotFoundError
from render_farm.storage.hashing import sha256_bytes
from render_farm.storage.layout import SegmentKeys
from render_farm.storage.store import Store

TENSOR = "latents"


@dataclass(frozen=True, kw_only=True)
class SegmentMeta:
    """How a segment came to be."""

    attempt: str
    """Unique to one try of one worker; part of the object's name, so that nobody else writes it."""
    seconds: float = 0.0
    worker: str = ""
    group_shape: tuple[int, int, int] = (1, 1, 1)
    """cfg, ulysses, ring."""
    engine: dict[str, Any] = field(default_factory=dict)
    """What the engine chose to compute it with; kept as it is."""


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """One stored segment. Its bytes are the ones that hash to `sha256`, or they are not used."""

    index: int
    key: str
    sha256: str
    num_bytes: int
    num_latent_frames: int
    seconds: float
    worker: str
    group_shape: tuple[int, int, int]
    attempt: str
    finished_at: str
    """UTC, ISO 8601."""
    engine: dict[str, Any] = field(default_factory=dict)
    film: str = ""
    """Work folder's name of the film that it was rendered for. Empty: an earlier version did not say so."""
    previous: str = ""
    """`sha256` of the segment before, whose latents it continues; empty for the first, and after a cut."""

    def to_dict(self) -> dict[str, Any]:
        content = {name: getattr(self, name) for name in _RECORDED}
        return {**content, "group_shape": list(self.group_shape)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SegmentRecord:
        """The inverse of `to_dict`. ValueError when a field is missing, unknown or of the wrong kind."""
        kinds: dict[str, type | tuple[type, ...]] = {
            **dict.fromkeys(("index", "num_bytes", "num_latent_frames"), int),
            **dict.fromkeys(("key", "sha256", "worker", "attempt", "finished_at", "film", "previous"), str),
            "seconds": (int, float),
            "group_shape": (list, tuple),
            "engine": dict,
        }
        content = {"engine": {}, "film": "", "previous": "", **content}
        if set(content) != set(kinds):
            raise ValueError(f"a segment record with the fields {sorted(content)}")
        for name, kind in kinds.items():
            if not isinstance(content[name], kind) or isinstance(content[name], bool):
                raise ValueError(f"a segment record whose {name} is {content[name]!r}")
        shape = tuple(content["group_shape"])
        if len(shape) != 3 or not all(isinstance(degree, int) and degree >= 1 for degree in shape):
            raise ValueError(f"a segment record whose group_shape is {shape!r}")
        if content["index"] < 0 or content["num_latent_frames"] < 0 or not math.isfinite(content["seconds"]):
            raise ValueError("a segment record with impossible numbers")
        return cls(**{**content, "group_shape": shape})


_RECORDED = tuple(each.name for each in fields(SegmentRecord))


def worker_seconds(segment: Mapping[str, Any]) -> float:
    """What the record of a segment (`SegmentRecord.to_dict`) took of its workers: seconds times their number."""
    num_workers: int = math.prod(segment.get("group_shape", (1,)))
    return float(segment.get("seconds", 0)) * num_workers


def own_seconds(segments: Iterable[Mapping[str, Any]], film: str) -> float:
    """`worker_seconds` of those of a film's `segments` that were rendered for it, and not for another film."""
    return sum(worker_seconds(segment) for segment in segments if segment.get("film") in (None, "", film))


def seconds_of_job(job: Mapping[str, Any], film: str) -> float:
    """`own_seconds` of what `job.json` says, with those of the films of other seeds that were not published."""
    rejected: float = sum(one.get("seconds", 0.0) for one in list(job.get("seeds_tried", ()))[:-1])
    return own_seconds(job.get("segments", ()), film) + rejected


def save_latents(
    store: Store, key: SegmentKeys, index: int, latents: np.ndarray, meta: SegmentMeta, *, film: str, previous: str
) -> SegmentRecord:
    """Store the latents of a segment and return their record, which is not stored yet.

    `latents` is float32, 1 C T H W (any C, H, W; T frames as the caller stitches them). The object is whole or absent,
    and is named for `meta.attempt`, so that it never replaces one that a record names. ValueError for another dtype or
    rank.
    """
    if latents.dtype != np.float32 or latents.ndim != 5 or latents.shape[0] != 1:
        raise ValueError(f"latents must be float32 of shape (1, C, T, H, W), not {latents.dtype} {latents.shape}")
    from safetensors.numpy import save

    name = key.latents(meta.attempt)
    # Safetensors writes several entries in any order: with one, equal latents are equal bytes.
    data = save({TENSOR: np.ascontiguousarray(latents)}, metadata={"segment": key.key})
    store.write_bytes(name, data)
    return SegmentRecord(
        index=index,
        key=name,
        sha256=sha256_bytes(data),
        num_bytes=len(data),
        num_latent_frames=latents.shape[2],
        seconds=meta.seconds,
        worker=meta.worker,
        group_shape=meta.group_shape,
        attempt=meta.attempt,
        finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        engine=meta.engine,
        film=film,
        previous=previous,
    )


def load_segment(store: Store, record: SegmentRecord) -> np.ndarray:
    """The latents (float32, 1 C T H W) that `record` vouches for, bit for bit as they were saved.

    CorruptCheckpointError when the object is missing, or its bytes are not those that were stored.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = store.read_bytes(record.key)
    except NotFoundError as error:
        raise CorruptCheckpointError(f"segment {record.index}: {store.uri(record.key)} is missing") from error
    found = sha256_bytes(data)
    if found != record.sha256:
        raise CorruptCheckpointError(
            f"segment {record.index}: {store.uri(record.key)} holds {len(data)} bytes with sha256 {found[:12]}..., "
            f"where {record.num_bytes} bytes with {record.sha256[:12]}... were stored",
            advice="the segment is rendered again; if this repeats, check the disk",
        )
    try:
        latents = load(data)[TENSOR]
    except (SafetensorError, KeyError) as error:  # stored so: another program's file under our name
        raise CorruptCheckpointError(f"segment {record.index}: {store.uri(record.key)} holds no latents") from error
    if latents.ndim != 5 or latents.shape[2] != record.num_latent_frames:
        raise CorruptCheckpointError(f"segment {record.index}: {store.uri(record.key)} has shape {latents.shape}")
    return latents
