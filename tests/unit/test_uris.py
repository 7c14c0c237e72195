"""URIs are shown without their secrets."""

from __future__ import annotations

import pytest

from render_farm.uris import shown_uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://u:secret@host/a.png?X-Amz-Signature=secret#secret", "https://host/a.png?..."),
        ("https://secret@host:8/a@2x.png", "https://host:8/a@2x.png"),
        ("https://u:sec/ret@host/a", "https://..."),
        ("https:u:secret@host", "https://..."),
        ("https://[::1]:8/a", "https://[::1]:8/a"),
        ("abfs://box@account/a.png", "abfs://box@account/a.png"),
        ("abfs://box:secret@account/a.png", "abfs://..."),
        ("s3://bucket/a::https://u:secret@host/a?sig=secret", "s3://bucket/a::https://host/a?..."),
        ("night:1.parquet", "night:1.parquet"),
        ("/a\nb?c", "/a\N{REPLACEMENT CHARACTER}b?c"),
    ],
)
def test_secrets_in_uris_are_not_shown(uri, shown):
    assert shown_uri(uri) == shown
