"""Signatures of films and posters."""

from __future__ import annotations

import numpy as np
import pytest

from render_farm.errors import ProvenanceError, StorageFullError, UsageError
from render_farm.media.mp4 import Mp4Writer, probe_mp4
from render_farm.media.poster import write_poster
from render_farm.media.provenance import Marker, read_marker, xmp_packet
from render_farm.media.provenance_settings import ProvenanceSettings
from render_farm.media.signing import read_keys, read_signature, sign, try_signing
from tests.helpers.signing_keys import write_signing_keys

pytest.importorskip("c2pa", reason="it comes with the extra `provenance`")
MARKER = Marker(job_id="night-7", model="tiny", model_version="0a1b", software="render_farm 1.2")
FRAMES = [np.full((32, 48, 3), level * 40, np.uint8) for level in range(5)]


def settings(folder, **kind):
    chain, key = write_signing_keys(folder, **kind)
    return ProvenanceSettings(certificate=str(chain), private_key=str(key))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return read_keys(settings(tmp_path_factory.mktemp("keys")))


def film(path):
    with Mp4Writer(path, width=48, height=32, fps=8, xmp=xmp_packet(MARKER)) as writer:
        for frame in FRAMES:
            writer.append(frame)
    return path


def test_a_signed_film_plays_and_keeps_its_marker(tmp_path, keys):
    path = film(tmp_path / "video.mp4")
    before = probe_mp4(path)
    assert read_signature(path) is None
    assert sign(path, MARKER, keys) == "Example Signer"
    found = read_signature(path)
    assert (found.signer, found.issuer, found.problems) == ("Example Signer", "Example Films", ())
    assert probe_mp4(path) == before and read_marker(path) == MARKER
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_one_flipped_bit_anywhere_does_not_validate(tmp_path, keys):
    """In the pictures, the marker, the tables and the signature itself."""
    path = film(tmp_path / "video.mp4")
    sign(path, MARKER, keys)
    whole = path.read_bytes()
    places = {
        "pictures": whole.index(b"mdat") + 40,
        "marker": whole.index(b"night-7"),
        "tables": whole.index(b"stsz") + 12,
        "certificate": whole.index(b"Example Signer"),
        "claim": whole.index(b"trainedAlgorithmicMedia"),
    }
    for name, place in places.items():
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert read_signature(path).problems, name


def test_a_poster_is_signed_too(tmp_path, keys):
    path = tmp_path / "poster.jpg"
    write_poster(FRAMES[2], path, xmp=xmp_packet(MARKER))
    sign(path, MARKER, keys)
    assert read_signature(path).problems == () and read_marker(path) == MARKER
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    assert read_signature(path).problems


@pytest.mark.parametrize("kind", ["p256", "ed25519", "rsa"])
def test_kinds_of_keys(tmp_path, kind):
    assert try_signing(read_keys(settings(tmp_path, kind=kind))) == "Example Signer"


def test_an_expired_certificate_signs_nothing(tmp_path):
    with pytest.raises(ProvenanceError):
        try_signing(read_keys(settings(tmp_path, expired=True)))


def test_keys_that_cannot_sign_are_named_and_never_shown(tmp_path):
    good = settings(tmp_path)
    (tmp_path / "other").mkdir()
    other = settings(tmp_path / "other")
    text = tmp_path / "text.pem"
    text.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    for certificate, private_key, said in [
        (good.certificate, other.private_key, "not that of the certificate"),
        (good.certificate, str(text), "private_key holds no private key"),
        (str(text), good.private_key, "certificate holds no certificate"),
        (good.certificate, str(tmp_path / "gone.pem"), "private_key cannot be read: there is no such file"),
    ]:
        with pytest.raises(ProvenanceError, match=said) as caught:
            read_keys(ProvenanceSettings(certificate=certificate, private_key=private_key))
        assert "c2VjcmV0" not in str(caught.value) and private_key not in str(caught.value)
    assert "PRIVATE" not in repr(read_keys(good))


def test_an_encrypted_key_is_refused(tmp_path):
    from cryptography.hazmat.primitives import serialization

    good = settings(tmp_path)
    path = tmp_path / "key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"x")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    with pytest.raises(ProvenanceError, match="encrypted"):
        read_keys(good)


def test_a_full_disk_is_no_fault_of_the_keys(tmp_path, keys, monkeypatch):
    import c2pa

    def full(*arguments):
        raise c2pa.C2paError("Io: No space left on device (os error 28)")

    path = film(tmp_path / "video.mp4")
    monkeypatch.setattr(c2pa.Builder, "sign_file", full)
    with pytest.raises(StorageFullError):
        sign(path, MARKER, keys)
    assert read_signature(path) is None


@pytest.mark.parametrize(
    "values", [{"certificate": "a"}, {"private_key": "a"}, {"certificate": "a", "private_key": "b", "mark": False}]
)
def test_settings_that_cannot_work(values):
    with pytest.raises(UsageError):
        ProvenanceSettings(**values).check()
