"""Limits on the cost of a manifest. A few kilobytes of Parquet can stand for gigabytes of rows and texts, so the limits
count what it decodes to, not the size of the file."""

from __future__ import annotations

from dataclasses import dataclass

ONE_COLUMN_VALUES = 8


@dataclass(frozen=True, kw_only=True)
class ManifestLimits:
    """Limits of one manifest, or of one source of `manifest build`."""

    max_rows: int = 200_000
    max_bytes: int = 256 << 20
    """Of the file, and of its columns once decompressed."""
    max_document_bytes: int = 32 << 20
    """Of a JSON or YAML document, which is read whole."""
    max_document_values: int = 500_000
    """Texts, numbers, lists and mappings in a YAML document."""
    max_parts: int = 10_000
    """Files of a manifest that is a folder."""
    max_problems: int = 10_000
    """Lines that one command prints of one manifest."""

    @property
    def max_values(self) -> int:
        """Of one column, which counts the entries of lists and maps."""
        return self.max_rows * ONE_COLUMN_VALUES


LIMITS = ManifestLimits()
