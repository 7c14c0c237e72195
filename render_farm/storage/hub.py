"""A model repository on the Hugging Face hub (or a mirror, `HF_ENDPOINT`): what it holds, and its files, resumable.

The client of `huggingface_hub` is used for names, tokens (`HF_TOKEN`), proxies and redirects. Downloads are streamed
here, because its own start a file again from nothing in a new process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from render_farm.backoff import Backoff
from render_farm.errors import HubError, HubUnavailableError, ModelError

_BLOCK_BYTES = 1 << 20
_IN_A_FOLDER = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PAST_THE_END, _TOO_MANY = 416, 429


@dataclass(frozen=True, kw_only=True)
class HubRetryOptions:
    """How long a hub that fails is tried."""

    timeout_s: float = 30.0
    """Longest silence."""
    num_tries: int = 5
    """Tries in a row that bring nothing new."""
    pause_s: float = 1.0
    """Longest pause before the second try. It doubles before each further one (`backoff.py`)."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a repository at one commit."""

    path: str
    size: int
    sha256: str | None
    """Of large files (LFS)."""
    blob_id: str | None
    """git's sha1 of the others."""

    @property
    def content_id(self) -> str:
        """Keys the content."""
        return self.sha256 or self.blob_id or hashlib.sha256(self.path.encode()).hexdigest()

    def is_content(self, path: Path) -> bool:
        """Whether the local file is this one, by the checksum that the hub gives."""
        if path.stat().st_size != self.size:
            return False
        digest = _Digest(self)
        digest.read(path, self.size)
        return digest.is_right


class _Digest:
    """The checksum of a file as far as it has been written, of the kind that the hub gives for it."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self.restart()

    def restart(self) -> None:
        """Nothing is written any more."""
        prefix = b"" if self._file.sha256 else f"blob {self._file.size}\0".encode()
        self._sum = hashlib.new("sha256" if self._file.sha256 else "sha1", prefix, usedforsecurity=False)
        self.num_bytes = 0

    def update(self, block: bytes) -> None:
        self._sum.update(block)
        self.num_bytes += len(block)

    def read(self, path: Path, num_bytes: int) -> None:
        """Take in the first bytes of a file, after those that were taken in."""
        with open(path, "rb") as handle:
            handle.seek(self.num_bytes)
            while block := handle.read(min(_BLOCK_BYTES, num_bytes - self.num_bytes)):
                self.update(block)

    @property
    def is_right(self) -> bool:
        return (self._file.sha256 or self._file.blob_id) in (None, self._sum.hexdigest())


class HubRepository:
    """One repository at one commit, as it was when this was made."""

    def __init__(self, hub_id: str, *, revision: str | None = None, patience: HubRetryOptions | None = None) -> None:
        """Ask the hub what is there. Raises `HubError` or `HubUnavailableError`: why not, and what would work."""
        from huggingface_hub import HfApi

        self.hub_id = hub_id
        self._patience = patience or HubRetryOptions()
        self._endpoint = hub_endpoint()
        api = HfApi(endpoint=self._endpoint)
        try:
            info = api.model_info(hub_id, revision=revision, files_metadata=True, timeout=self._patience.timeout_s)
        except hub_exceptions() as error:
            raise hub_error(error, f"model {hub_id}") from error
        self.commit = info.sha or revision or "main"
        self.files = {s.rfilename: _file(s) for s in info.siblings or () if s.size is not None}

    def model_files(self, suffixes: tuple[str, ...], folder: Path) -> list[HubFile]:
        """The files of a diffusers model: those of `suffixes` in the folders that its `model_index.json` names, and
        that itself, last. `folder` is for downloads on the way."""
        index = self.files.get("model_index.json")
        if index is None:
            raise ModelError(
                f"model {self.hub_id}: no model_index.json is in the repository",
                advice="give a repository in diffusers format (the names of the published ones end in -Diffusers)",
            )
        path = folder / index.content_id
        self.fetch(index, path)
        try:
            parts = {name for name, value in json.loads(path.read_bytes()).items() if isinstance(value, list)}
        except (ValueError, AttributeError) as error:
            raise ModelError(f"model {self.hub_id}: its model_index.json cannot be read: {error}") from error
        found = [
            file
            for name, file in sorted(self.files.items())
            if _IN_A_FOLDER.fullmatch(name) and name.partition("/")[0] in parts and name.endswith(suffixes)
        ]
        return [*found, index]

    def fetch(self, file: HubFile, path: Path, on_bytes: Callable[[int], None] | None = None) -> None:
        """Download `file` to `path`, resuming from what is there, and check it.

        `on_bytes` gets the size of each block. A body that does not have the checksum that the hub gives is fetched
        again from the start. Raises `HubError` or `HubUnavailableError`; OSError is the local disk's.
        """
        for _ in range(2):
            if self._complete(file, path, on_bytes):
                return
            path.unlink()
        raise HubError(
            f"model {self.hub_id}: {file.path} arrives damaged: its checksum is not the one that the hub gives",
            advice="a proxy or mirror on the way may change it; try again, or set HF_ENDPOINT to another mirror",
        )

    def _complete(self, file: HubFile, path: Path, on_bytes: Callable[[int], None] | None) -> bool:
        """Returns whether the file is what the hub says. It is hashed as it is written."""
        digest = _Digest(file)
        tries, backoff = 0, Backoff(self._patience.pause_s)
        path.touch()
        while (have := path.stat().st_size) != file.size or not file.size:
            try:
                self._stream(file, path, have if have < file.size else 0, digest, on_bytes)
                if not file.size:
                    return True
                error: Exception | None = None
            except hub_exceptions() as failure:
                if not _may_pass(failure):
                    raise hub_error(failure, f"model {self.hub_id}: {file.path}") from failure
                error = failure
            if path.stat().st_size > have:
                tries = 0
                backoff.reset()
                continue
            tries += 1
            if tries >= self._patience.num_tries:
                what = f"model {self.hub_id}: {file.path} (after {have:,} of {file.size:,} bytes, which are kept)"
                raise hub_error(error, what) from error
            time.sleep(backoff.next_s(error))
        digest.read(path, file.size)  # what was there before
        return digest.is_right

    def _stream(
        self, file: HubFile, path: Path, have: int, digest: _Digest, on_bytes: Callable[[int], None] | None
    ) -> None:
        """Write what comes after the first `have` bytes, or the whole file."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not in its __all__
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        url = hf_hub_url(self.hub_id, file.path, revision=self.commit, endpoint=self._endpoint)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout_s = self._patience.timeout_s
        with get_session().stream("GET", url, headers=headers, timeout=timeout_s, follow_redirects=True) as response:
            if response.status_code == _PAST_THE_END:
                path.write_bytes(b"")
                digest.restart()
                return
            hf_raise_for_status(response)
            resumed = response.status_code == 206
            start = have if resumed else 0
            if digest.num_bytes > start:
                digest.restart()
            with open(path, "r+b") as handle:
                handle.truncate(start)
                digest.read(path, start)
                handle.seek(start)
                for block in response.iter_bytes():
                    handle.write(block)
                    digest.update(block)
                    if on_bytes is not None:
                        on_bytes(len(block))


def _file(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    return HubFile(
        path=sibling.rfilename, size=sibling.size, sha256=lfs.sha256 if lfs else None, blob_id=sibling.blob_id
    )


def hub_endpoint() -> str | None:
    """The address of the hub. None is huggingface.co."""
    return os.environ.get("HF_ENDPOINT") or None


def hub_exceptions() -> tuple[type[Exception], ...]:
    """What asking the hub raises: its own errors and those of its HTTP client."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    return (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.HTTPError)


def _may_pass(error: Exception) -> bool:
    """Whether trying again can help: no answer, a broken one, or a server that is busy."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        status = _status(error)
        return status is None or _is_busy(status)
    return isinstance(error, httpx2.TransportError)


def _is_busy(status: int) -> bool:
    return status >= 500 or status == _TOO_MANY


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def hub_error(error: Exception | None, asked: str) -> HubError | HubUnavailableError:
    """`error` of the hub's client as the farm's; `asked` is what was wanted, as the message begins. A hub that answers
    that it is busy or broken is waited out, as stores are."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RevisionNotFoundError

    where = hub_endpoint() or "https://huggingface.co"
    status = _status(error) if error else None
    if isinstance(error, HFValidationError):
        return HubError(f"{asked}: {error}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{asked}: the hub has no such revision of it", status=404, advice="check --revision")
    if isinstance(error, GatedRepoError) or status == 403:
        return HubError(
            f"{asked}: the hub refuses access ({status})",
            status=status,
            advice=f"accept the model's terms on its page at {where}, and set HF_TOKEN to a token that may read it",
        )
    if status == 401:
        return HubError(
            f"{asked}: the hub wants a token for it, or has no such repository (401)",
            status=status,
            advice="check the name, and set HF_TOKEN to a token that may read it",
        )
    if status == 404:
        return HubError(f"{asked}: the hub has no such repository or file (404)", status=404, advice="check the name")
    if status is not None and _is_busy(status):
        return HubUnavailableError(f"{asked}: the hub at {where} answers {status}", advice="try again later")
    if status is not None:
        return HubError(f"{asked}: the hub at {where} answers {status}", status=status, advice="try again later")
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"{asked}: the hub is not contacted because HF_HUB_OFFLINE is set", advice=way_out())
    reason = f" ({str(error) or type(error).__name__})" if error else ""
    return HubError(f"{asked}: the hub at {where} cannot be reached{reason}", advice=way_out())


def way_out() -> str:
    """What works without a hub."""
    return (
        "where there is a network, run `render-farm models pull NAME --to FOLDER_OR_URI`, then give that folder or URI "
        "as the model; or set HF_ENDPOINT to a mirror"
    )
