"""Counts the requests to S3 that this process makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import s3fs

from render_farm.storage.s3 import S3Store


@contextmanager
def counted_requests() -> Iterator[Counter[str]]:
    """By botocore's names of them. The store's own calls do not go through s3fs."""
    counted: Counter[str] = Counter()
    of_s3fs, own = s3fs.S3FileSystem._call_s3, S3Store._call

    async def counting(self: Any, method: str, *arguments: Any, **named: Any) -> Any:
        counted[method] += 1
        return await of_s3fs(self, method, *arguments, **named)

    def counting_own(self: S3Store, operation: str, key: str, method: str, **named: Any) -> dict[str, Any]:
        counted[method] += 1
        return own(self, operation, key, method, **named)

    s3fs.S3FileSystem._call_s3, S3Store._call = counting, counting_own
    try:
        yield counted
    finally:
        s3fs.S3FileSystem._call_s3, S3Store._call = of_s3fs, own
