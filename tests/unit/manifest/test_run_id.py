"""Run ids made from manifests."""

from __future__ import annotations

import hashlib

import pytest

from render_farm.errors import ManifestError
from render_farm.manifest.run_id import default_run_id, safe_stem


def test_the_run_id_is_the_stem_and_the_content(tmp_path):
    path = tmp_path / "tonight.parquet"
    path.write_bytes(b"content" * 1_000_000)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert default_run_id(str(path)) == f"tonight-{expected}"
    with pytest.raises(ManifestError):
        default_run_id(str(tmp_path / "no.parquet"))


@pytest.mark.parametrize(
    ("uri", "stem"),
    [
        ("a/b/tonight.parquet", "tonight"),
        ("s3://bucket/jobs v2 (final).parquet", "jobs-v2-final"),
        ("x/.hidden.parquet", "hidden"),
        ("../..", "run"),
        ("日本.parquet", "run"),
        ("jobs", "jobs"),
        ("a.b.parquet", "a.b"),
        ("https://h/b/jobs.parquet?X-Goog-Signature=secret&a=b/c.d", "jobs"),
        ("HTTP://h/jobs.parquet#a=secret/b", "jobs"),
        ("s3://bucket/what?.parquet", "what"),
        ("y" * 300 + ".parquet", "y" * 100),
    ],
)
def test_the_stem_of_a_run_id_has_safe_characters_only(uri, stem):
    assert safe_stem(uri) == stem
