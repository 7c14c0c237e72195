"""Where inputs, LoRAs and models of a manifest may come from, and what does not get round it."""

import re

import pytest

from render_farm.config import load
from render_farm.errors import InputError, UsageError
from render_farm.media.fetching.fetch import fetch
from render_farm.media.fetching.places import check_local, check_model_uri, check_place
from render_farm.media.limits import InputLimits, InputSettings

PLACES = ("s3://bucket/in", "https://cdn.example.com/pictures/", "https://other.example:8443", "gs://", "/data/in")
LIMITS = InputLimits(allowed_places=PLACES, protocols=("file", "s3", "gs", "https", "http", "abfs"))

INSIDE = [
    "s3://bucket/in/a.png",
    "s3://bucket/in",
    "S3://bucket/in/x/y.safetensors",
    "s3a://bucket/in/a b#1?.png",
    "https://cdn.example.com/pictures/a.png",
    "https://CDN.Example.COM.:443/pictures/a.png?X-Amz-Signature=1",
    "HTTPS://cdn.example.com/pictures/a%20b.png",
    "https://other.example:8443/anything",
    "gs://any/thing",
    "GCS://any/thing",
]
OUTSIDE = [
    "s3://bucket/in-private/a.png",
    "s3://bucket/secret.png",
    "s3://bucket/IN/a.png",
    "s3://other/in/a.png",
    "abfs://bucket/in/a.png",
    "http://cdn.example.com/pictures/a.png",
    "https://cdn.example.com/a.png",
    "https://cdn.example.com:444/pictures/a.png",
    "https://cdn.example.com.evil.org/pictures/a.png",
    "https://cdn.example.com@evil.org/pictures/a.png",
    "https://cdn.example.com\\@evil.org/pictures/a.png",
    "https://evil.org/https://cdn.example.com/pictures/a.png",
    "https://evil.org#@cdn.example.com/pictures/a.png",
    "https://other.example/anything",
    "https://other.example:/anything",
]
AMBIGUOUS = [
    "s3://bucket/in/../secret.png",
    "s3://bucket/in/./a.png",
    "s3://bucket/in//a.png",
    "s3://bucket//in/a.png",
    "s3://bucket/in/%2e%2e/secret.png",
    "https://cdn.example.com/pictures/../a.png",
    "https://cdn.example.com/pictures/%2e%2E/a.png",
    "https://cdn.example.com/pictures/%252e%252e/a.png",
    "https://cdn.example.com/pictures/..;x=1/a.png",
    "https://cdn.example.com/pictures%2fa.png",
    "https://cdn.example.com/pictures/..%5ca.png",
    "https://cdn.example.com/pictures/..\\a.png",
    "https://cdn.example.com//pictures/a.png",
]


@pytest.mark.parametrize("uri", INSIDE)
def test_addresses_in_an_allowed_place_are_read(uri):
    check_place(uri, LIMITS)


@pytest.mark.parametrize("uri", [*OUTSIDE, *AMBIGUOUS])
def test_others_are_not(uri):
    with pytest.raises(InputError, match=r"allowed_places|escaped slash") as caught:
        check_place(uri, LIMITS)
    assert "s3://bucket/in" in caught.value.advice or "write the path itself" in caught.value.advice


@pytest.mark.parametrize("uri", [*OUTSIDE, *AMBIGUOUS])
def test_without_the_setting_nothing_is_refused(uri):
    check_place(uri, InputLimits(protocols=LIMITS.protocols))


def test_an_empty_list_allows_nothing(tmp_path):
    (tmp_path / "a").write_text("x")
    for uri in ("s3://bucket/in/a.png", str(tmp_path / "a")):
        with open(tmp_path / "out", "w+b") as target, pytest.raises(InputError, match=r"allowed|read from there"):
            fetch(uri, target, max_bytes=9, limits=InputLimits(allowed_places=()))


@pytest.mark.parametrize("form", ["{}/out/a", "{}/in/../out/a", "{}/in/link", "{}/in/folder/a", "file://{}/out/a"])
def test_local_files_are_checked_where_they_really_are(tmp_path, form):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("x")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out" / "a")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "out")
    limits = InputLimits(allowed_places=("s3://bucket", str(tmp_path / "in")))
    with open(tmp_path / "target", "w+b") as target:
        fetch(str(tmp_path / "in" / "a"), target, max_bytes=9, limits=limits)
        with pytest.raises(InputError, match="local files from there are not allowed"):
            fetch(form.format(tmp_path), target, max_bytes=9, limits=limits)


def test_both_settings_hold_for_local_files(tmp_path):
    limits = InputLimits(allowed_places=(str(tmp_path),), allowed_roots=(str(tmp_path / "in"),))
    check_local("a", tmp_path / "in" / "a", limits)
    with pytest.raises(InputError):
        check_local("a", tmp_path / "a", limits)


def test_models_come_from_the_allowed_places_too(tmp_path):
    folder = tmp_path / "in" / "model"
    (folder / "vae").mkdir(parents=True)
    limits = InputLimits(allowed_places=("s3://bucket/models", str(tmp_path / "in")))
    for name in ("tiny", "df-1.3b-540p", "org/model", "s3://bucket/models/a", str(folder), ""):
        check_model_uri(name, limits)
    for name in ("s3://bucket/other", "s3://bucket/models/../other", "gs://bucket/models", str(tmp_path), "/etc"):
        with pytest.raises(InputError):
            check_model_uri(name, limits)
    (folder / "vae" / "weights.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(InputError):  # of another folder, and this one would be loaded
        check_model_uri(str(folder), limits)


@pytest.mark.parametrize("name", ["org/model", "df-1.3b-540p"])
def test_the_hub_can_be_forbidden(name):
    with pytest.raises(InputError, match="allow_hub") as caught:
        check_model_uri(name, InputLimits(allow_hub=False))
    assert "models pull" in caught.value.advice
    check_model_uri("tiny", InputLimits(allow_hub=False))


def test_places_are_read_from_the_settings(tmp_path):
    file = tmp_path / "farm.toml"
    file.write_text('[inputs]\nallowed_places = ["S3A://b/x", "HTTPS://", "file:///data"]\nallow_hub = false\n')
    limits = load(InputSettings, file=str(file), environment={}).settings.inputs
    assert limits.allowed_places == ("s3://b/x", "https://", "/data") and not limits.allow_hub
    for place, said in (
        ("https://user@host/a", "sign-in data"),
        ("s3://b/x?sig=topsecret", "no query"),
        ("data", "the whole path"),
        ("s3:b/x", "must be followed by //"),
    ):
        variables = {"RENDER_FARM_INPUT_ALLOWED_PLACES": place}
        with pytest.raises(UsageError, match=said) as caught:
            load(InputSettings, environment=variables)
        assert "inputs.allowed_places" in str(caught.value) and "topsecret" not in str(caught.value)


@pytest.mark.parametrize("root", ["", "$HOME", "~nouser/x", "data", "s3://b/x"])
def test_an_allowed_root_that_is_no_whole_path_is_refused(tmp_path, root):
    file = tmp_path / "farm.toml"
    file.write_text(f'[inputs]\nallowed_roots = ["/data", "{root}"]\n')
    with pytest.raises(UsageError, match=rf"inputs\.allowed_roots: {re.escape(root)}.*(write|give)"):
        load(InputSettings, file=str(file), environment={})


def test_allowed_roots_are_folders_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    variables = {"RENDER_FARM_INPUT_ALLOWED_ROOTS": "/data, ~/in, file:///x"}
    assert load(InputSettings, environment=variables).settings.inputs.allowed_roots == ("/data", "/home/ada/in", "/x")


@pytest.mark.parametrize("protocol", ["s3://", "FOO", "s3:", ""])
def test_a_protocol_that_no_address_has_is_refused(tmp_path, protocol):
    file = tmp_path / "farm.toml"
    file.write_text(f'[inputs]\nprotocols = ["{protocol}"]\n')
    with pytest.raises(UsageError, match=rf"inputs\.protocols: '{protocol}' is no known protocol; write what stands"):
        load(InputSettings, file=str(file), environment={})


def test_protocols_of_the_settings():
    variables = {"RENDER_FARM_INPUT_PROTOCOLS": "S3A, gcs, https, local, az, abfs, memory, hf"}
    found = load(InputSettings, environment=variables).settings.inputs.protocols
    assert found == ("s3", "gs", "https", "file", "az", "abfs", "memory", "hf")


@pytest.mark.parametrize(
    "host", ["https://a/", "a:99999", "a:0", "a:", "a/b", "me@a", "*.example.com", "a b", "", ":80"]
)
def test_a_trusted_host_that_no_server_can_match_is_refused(tmp_path, host):
    file = tmp_path / "farm.toml"
    file.write_text(f'[inputs]\ntrusted_hosts = ["{host}"]\n')
    with pytest.raises(UsageError, match=r"inputs\.trusted_hosts: .* is not the name of a host; write it as name or"):
        load(InputSettings, file=str(file), environment={})


def test_trusted_hosts_of_the_settings():
    variables = {"RENDER_FARM_INPUT_TRUSTED_HOSTS": "Files.example, a:8443, 10.0.0.7:80, 10.0.0.7, ::1, [::1]:443"}
    found = load(InputSettings, environment=variables).settings.inputs.trusted_hosts
    assert found == ("files.example", "a:8443", "10.0.0.7:80", "10.0.0.7", "::1", "::1:443")
