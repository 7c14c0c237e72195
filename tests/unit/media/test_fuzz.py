"""Whatever an address says, it names one place or is refused with advice; and no reader tells of a secret in it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render_farm.errors import InputError, RenderFarmError
from render_farm.media.fetching.places import check_model_uri, check_place
from render_farm.media.fetching.uris import read_input_address
from render_farm.media.limits import InputLimits
from render_farm.storage.open import open_store
from render_farm.uris import AddressError, holds_secret, read_address, shown_uri
from tests.helpers.fuzzing import num_examples

QUICK = settings(max_examples=num_examples(300), deadline=None, suppress_health_check=list(HealthCheck))
LIMITS = InputLimits(allowed_roots=("/data",))
CANARY = "kAnArIe"
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text(max_size=8)
_PROTOCOLS = st.sampled_from(
    [
        "file:",
        "file://",
        "file:///",
        "s3://",
        "S3://",
        "s3a://",
        "s3:",
        "gs://",
        "https://",
        "http://",
        "hf://",
        "memory://",
        "data:",
        "c:\\",
        "//",
        "~",
        "~nobody/",
        "simplecache::s3://",
        "zip://a::",
        "https:/",
        "://",
    ]
) | st.sampled_from(["", " s3://"])
_AUTHORITIES = st.sampled_from(
    f"bucket user@host user:{CANARY}@host :{CANARY}@host [::1] [::ffff:1.2.3.4]:80 host:port host:99999 localhost "
    f"127.0.0.1 .. %2e%2e \u00e9.example [ bucket:name".split()
) | st.sampled_from(["", "a b", "x" * 300])
_PARTS = st.sampled_from(["a", "..", ".", "", "%2F", "#", "?", "a::b", " ", "\x00", "\n", "\u202e"])
_PATHS = st.lists(_PARTS | _TEXT).map("/".join)
_QUERIES = st.sampled_from(["", "?x=1", f"?X-Amz-Signature={CANARY}", f"?token={CANARY}&a=b", f"?sig={CANARY}#f", "#f"])
addresses = st.tuples(_PROTOCOLS, _AUTHORITIES, st.just("/") | st.just(""), _PATHS, _QUERIES).map("".join)


@pytest.mark.slow
@QUICK
@given(addresses)
def test_an_address_is_read_or_refused_and_then_stays_what_it_is(text):
    try:
        address = read_address(text, environment={})
    except AddressError as error:
        assert str(error) and error.advice
        assert CANARY not in str(error) + error.advice or not holds_secret(text)
        return
    again = read_address(address.text, environment={})
    assert (again.protocol, again.place) == (address.protocol, address.place) or address.is_local
    assert address.protocol == address.protocol.lower()


@pytest.mark.slow
@QUICK
@given(addresses)
def test_inputs_models_and_outputs_raise_the_farm_s_own_errors(text):
    for read in (
        lambda: check_place(text, LIMITS),
        lambda: read_input_address(text),
        lambda: check_model_uri(text, LIMITS),
    ):
        try:
            read()
        except InputError as error:
            assert str(error)
    if not text.strip().lower().startswith(("file", "/", ".", "~")) and "://" in text:
        try:
            open_store(text)
        except (RenderFarmError, AddressError) as error:
            assert str(error)


@pytest.mark.slow
@QUICK
@given(addresses)
def test_what_is_shown_is_one_line_without_secrets(text):
    shown = shown_uri(text)
    assert len(shown) <= 300
    if holds_secret(text):
        assert CANARY not in shown
