"""`[manifest]`: limits on the cost of a manifest. A few kilobytes of Parquet can stand for gigabytes of rows and texts.
So the limits count what it decodes to, not the size of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from render_farm.config import Table, setting

ONE_COLUMN_VALUES = 8
_POSITIVE = {"ge": 1}
_TEXT_BYTES = {"ge": 1, "le": 1 << 40}
"""Python's readers of text take no limit beyond 2**63."""


@dataclass(frozen=True, kw_only=True)
class ManifestLimits(Table):
    """Limits of one manifest, or of one source of `manifest build`. Manifests are not trusted."""

    variables: ClassVar[str] = "RENDER_FARM_MANIFEST_"

    max_rows: int = setting(
        200_000, "Rows of a manifest. The lists of one column may have 8 times as many entries.", limits=_POSITIVE
    )
    max_bytes: int = setting(
        256 << 20,
        "Size of a manifest: of its file and of its columns once decompressed, together.",
        unit="bytes",
        limits=_POSITIVE,
    )
    max_header_bytes: int = setting(
        64 << 20, "Size of the footer of a Parquet file, which describes its columns.", unit="bytes", limits=_POSITIVE
    )
    max_cell_bytes: int = setting(64 << 20, "Size of a cell of a CSV file.", unit="bytes", limits=_TEXT_BYTES)
    max_document_bytes: int = setting(
        32 << 20, "Size of a JSON or YAML document, or of a line of other text.", unit="bytes", limits=_TEXT_BYTES
    )
    max_document_values: int = setting(
        500_000, "Texts, numbers, lists and mappings in a YAML document.", limits=_POSITIVE
    )
    max_parts: int = setting(10_000, "Files of a manifest that is a folder.", limits=_POSITIVE)
    max_problems: int = setting(10_000, "Lines that one command prints of one manifest.", limits=_POSITIVE)

    @property
    def max_values(self) -> int:
        """Of one column, which counts the entries of lists and maps."""
        return self.max_rows * ONE_COLUMN_VALUES


LIMITS = ManifestLimits()


def raising(name: str) -> str:
    """Advice: the setting of a limit."""
    return f"or raise {name} in the settings' [manifest]"
