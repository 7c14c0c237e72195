"""`[provenance]`: how films say that a model made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from render_farm.config import Table, setting
from render_farm.errors import UsageError
from render_farm.uris import AddressError, read_address


def _canonical_file(text: str) -> str:
    """A file that every worker finds. ValueError, which holds nothing of `text`, for any other."""
    try:
        address = read_address(text)
    except AddressError:
        raise ValueError(_WANTED) from None
    if address.is_local and not address.place.startswith("/"):
        raise ValueError(_WANTED)
    return address.text


_WANTED = "write the whole path of a file, or a URI such as s3://bucket/key.pem"


@dataclass(frozen=True, kw_only=True)
class ProvenanceSettings(Table):
    """How films say that a model made them. With a certificate and its key they are signed, too (C2PA)."""

    variables: ClassVar[str] = "RENDER_FARM_PROVENANCE_"

    mark: bool = setting(True, "Whether films, posters and previews carry a marker in XMP that names the model.")
    certificate: str | None = setting(
        None,
        "PEM file, by path or URI, with the certificate that signs films and posters, and those that vouch for it. "
        "Every worker reads it. It needs `private_key` and the extra `provenance`.",
        canonical=_canonical_file,
    )
    private_key: str | None = setting(
        None,
        "PEM file, by path or URI, with the private key of that certificate, unencrypted.",
        canonical=_canonical_file,
        secret=True,
    )

    @property
    def signs(self) -> bool:
        return self.certificate is not None

    def check(self) -> None:
        """Raises `UsageError` for a certificate without its key, or the reverse, and for a signature without a mark."""
        if (self.certificate is None) != (self.private_key is None):
            raise UsageError("[provenance] certificate and private_key need each other", advice="set both or neither")
        if self.signs and not self.mark:
            raise UsageError("[provenance] a certificate signs the marker, and mark is false", advice="set mark = true")
