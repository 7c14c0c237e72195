"""One reader of addresses: every spelling names the same place for manifests, inputs, models and outputs, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from render_farm.engine.weights.locate import locate_model
from render_farm.errors import InputError, ManifestError, ModelError, UsageError
from render_farm.manifest.files import file_system
from render_farm.media.fetching.places import check_place
from render_farm.media.fetching.uris import read_input_address
from render_farm.media.inputs import load_image
from render_farm.media.limits import InputLimits
from render_farm.storage.open import open_store
from render_farm.uris import AddressError, check_s3_endpoint, read_address, shown_uri


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/data/take#2", "/data/take#2"),
        ("/data/a?b", "/data/a?b"),
        ("file:///data/take#2", "/data/take#2"),
        ("file:///data/a?b", "/data/a?b"),
        ("FILE:///data/x", "/data/x"),
        ("file://localhost/data/x", "/data/x"),
        ("file:/data/x", "/data/x"),
        ("local:///data/x", "/data/x"),
        ("/data/a::b.parquet", "/data/a::b.parquet"),
        ("night:1.parquet", "night:1.parquet"),
        ("C:/data", "C:/data"),
        ("100% good", "100% good"),
        ("take $2", "take $2"),
        ("./dbfs:/films", "./dbfs:/films"),
        ("a{b}", "a{b}"),
        ("~/films", str(Path("~/films").expanduser())),
    ],
)
def test_local_addresses(text, place):
    address = read_address(text)
    assert (address.protocol, address.place) == ("file", place)
    assert read_input_address(text).place == place
    assert file_system(text)[1] == str(Path(place).absolute())
    if "/" in place:
        assert open_store(text).root_uri == str(Path(place).absolute())


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("S3://bucket/x.parquet", "s3://bucket/x.parquet"),
        ("s3a://bucket/x", "s3://bucket/x"),
        ("GCS://bucket/x", "gs://bucket/x"),
        ("abfss://box@account/x", "abfs://box@account/x"),
        ("s3://bucket/take#2", "s3://bucket/take#2"),
        ("memory://here/x", "memory://here/x"),
        ("https://[::1]:8443/a.png", "https://[::1]:8443/a.png"),
    ],
)
def test_remote_addresses(text, canonical):
    assert read_address(text, {}).text == canonical
    assert check_place(text, InputLimits()) == canonical.partition(":")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("file://tmp/x/films", r"host 'tmp'.*did you mean file:///tmp/x/films\?"),
        ("file://~/films", r"did you mean ~/films\?"),
        ("file://./films", r"did you mean \./films\?"),
        ("file://", "no folder or file"),
        ("file:", "no folder or file"),
        ("file:///data/a%20b", r"two ways.*write the path itself: /data/a b, or /data/a%20b"),
        ("s3:bucket/x", r"must be followed by //.*write s3://"),
        ("https:host/x", "must be followed by //"),
        ("s3:///x", "no bucket"),
        ("s3://", "no bucket"),
        ("s3://b/a::b.parquet", "rename the object"),
        ("simplecache::s3://b/a", "chained"),
        ("zip://a.png::file:///etc/passwd", "chained"),
        ("/data/a\nb", "control character"),
        ("/data/a\0b", "control character"),
        ("~nosuchuser/x", "there is no user 'nosuchuser'"),
        (" s3://bucket/x", r"did you mean s3://bucket/x\?"),
        ("\N{NO-BREAK SPACE}s3://bucket/x", r"did you mean s3://bucket/x\?"),
        ("'s3://bucket/x'", r"did you mean s3://bucket/x\?"),
        ("<https://host/x>", r"did you mean https://host/x\?"),
        ("films/s3://bucket/x", r"did you mean s3://bucket/x\?"),
        ("s3 ://bucket/x", r"did you mean s3://bucket/x\?"),
        ("s3//bucket/x", r"did you mean s3://bucket/x\?"),
        ("https//host/x", r"did you mean https://host/x\?"),
        ("dbfs:/mnt/films", r"dbfs: is no known protocol.*\./dbfs:/mnt/films"),
        ("C:\\films\\x", "a path of Windows"),
        (r"\\host\share", "a path of Windows"),
        ("$HOME/films", r"holds the variable \$HOME"),
        ("/data/${USER}/films", r"holds the variable \$\{USER\}"),
        ("s3://$BUCKET/x", r"holds the variable \$BUCKET"),
        ("films/{date}", r"holds \{date\}, which only .* nightly"),
        ("s3://bucket/{year}/x", r"holds \{year\}"),
    ],
)
def test_what_cannot_be_an_address_is_refused_everywhere(text, words):
    with pytest.raises(AddressError):
        read_address(text)
    for error, use in (
        (ManifestError, file_system),
        (InputError, lambda uri: load_image(uri, width=16, height=16)),
        (UsageError, open_store),
        (ModelError, locate_model),
    ):
        with pytest.raises(error, match=words):
            use(text)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://user:password@host:9000", "holds sign-in data"),
        ("https://key@host", "holds sign-in data"),
        ("host:9000", "not an http or https address"),
        ("http://", "not an http or https address"),
        ("http://host:port", "not an http or https address"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_named_and_not_shown(endpoint, words, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for error, use in ((ManifestError, file_system), (UsageError, open_store), (ModelError, locate_model)):
        with pytest.raises(error, match=words) as caught:
            use("s3://bucket/x")
        assert "AWS_ENDPOINT_URL" in str(caught.value) and "password" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["https://s3.example.org", "http://127.0.0.1:9000", "https://host/storage/v1/s3"])
def test_endpoints_of_the_wild(endpoint):
    check_s3_endpoint({"AWS_ENDPOINT_URL": endpoint})


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
        ("s3://bucket/take#2/x", "s3://bucket/take#2/x"),
        ("s3://bucket/take#2?X-Amz-Signature=secret", "s3://bucket/take#2?..."),
        ("gs://bucket/x#123", "gs://bucket/x#123"),
        ("s3://u:sec#ret@bucket/x", "s3://bucket/x"),
        ("/a\nb?c", "/a\N{REPLACEMENT CHARACTER}b?c"),
    ],
)
def test_secrets_in_uris_are_not_shown(uri, shown):
    assert shown_uri(uri) == shown


def test_a_folder_whose_name_looks_like_a_variable_can_be_used(tmp_path):
    folder = tmp_path / "$HOME"
    with pytest.raises(AddressError, match=r"holds the variable \$HOME"):
        read_address(f"{folder}/films")
    folder.mkdir()
    assert read_address(f"{folder}/films").place == f"{folder}/films"
