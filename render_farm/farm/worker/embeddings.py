"""Prompt embeddings in a run's storage: encoded once for a whole manifest, read by every worker.

An embedding is `(512, text_dim)` and zero after the prompt's last token. Only the rows before are stored, with their
sha256. safetensors checks sizes only, and a flipped bit would change the film.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from render_farm.errors import CorruptCheckpointError, NotFoundError
from render_farm.storage.layout import RunKeys

if TYPE_CHECKING:
    from torch import Tensor

    from render_farm.storage.store import Store

_TENSOR, _SHA256 = "embedding", "sha256"


class MissingEmbeddingError(CorruptCheckpointError):
    """An embedding is not in storage, or it was damaged and removed. Its text has to be encoded again."""


def digest(fingerprint: str, text: str) -> str:
    """Name of a text's embedding by one model: 32 hex."""
    return hashlib.sha256(f"{fingerprint}\0{text}".encode()).hexdigest()[:32]


class EmbeddingStore:
    """The embeddings of one run made by one model."""

    def __init__(self, store: Store, run_id: str, fingerprint: str) -> None:
        self._store = store
        self._keys = RunKeys(run_id=run_id)
        self._fingerprint = fingerprint

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The texts, once each and in order, that are not stored yet."""
        stored = {key.rpartition("/")[2] for key in self._store.list(self._keys.embeddings)}
        unique = dict.fromkeys(texts)
        return [text for text in unique if self._key(text).rpartition("/")[2] not in stored]

    def save(self, text: str, embedding: Tensor) -> None:
        """Store one embedding, (tokens, dim)."""
        from safetensors.torch import save

        used = embedding.abs().sum(dim=1).nonzero()
        num_rows = int(used[-1]) + 1 if len(used) else 0
        rows, key = embedding[:num_rows].contiguous().cpu(), self._key(text)
        self._store.write_bytes(key, save({_TENSOR: rows}, metadata={_SHA256: _sha256(key, rows)}))

    def load(self, text: str, num_tokens: int = 512) -> Tensor:
        """One embedding, (num_tokens, dim), bit for bit as it was saved. `MissingEmbeddingError` when it is missing,
        damaged, or stored without a checksum."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        key = self._key(text)
        try:
            data = self._store.read_bytes(key)
            rows = load(data)[_TENSOR]
            is_intact = _stored_sha256(data) == _sha256(key, rows)
        except NotFoundError as error:
            raise MissingEmbeddingError(f"prompt embedding {self._store.uri(key)} is missing") from error
        except (SafetensorError, KeyError, ValueError):
            is_intact = False
        if not is_intact:
            self._store.delete(key)
            raise MissingEmbeddingError(f"prompt embedding {self._store.uri(key)} is damaged")
        embedding = rows.new_zeros((num_tokens, rows.shape[1]))
        embedding[: rows.shape[0]] = rows
        return embedding

    def _key(self, text: str) -> str:
        return self._keys.embedding(digest(self._fingerprint, text))


def _sha256(key: str, rows: Tensor) -> str:
    """Of the embedding under `key`: its bits, and all that tells how to read them."""
    import torch

    found = hashlib.sha256(f"{key.rpartition('/')[2]}\0{rows.dtype}\0{tuple(rows.shape)}\0".encode())
    found.update(rows.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _stored_sha256(data: bytes) -> str | None:
    """From the header of a safetensors file. ValueError where there is none."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: str | None = header.get("__metadata__", {}).get(_SHA256)
    return found
