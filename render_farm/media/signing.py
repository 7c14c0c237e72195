"""Signatures of films and posters: C2PA manifests, made and read by `c2pa-python` (the extra `provenance`).

A signature covers pictures, tables and the XMP marker. It holds random ids and its time, so a film that is signed twice
has two contents.
"""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from render_farm.errors import InputError, ProvenanceError, StorageFullError
from render_farm.extras import install_advice
from render_farm.media.fetching.fetch import fetch
from render_farm.media.ffmpeg import is_full
from render_farm.media.limits import InputLimits
from render_farm.media.provenance import SOFTWARE, Marker
from render_farm.media.provenance_settings import ProvenanceSettings

_MOST_PEM_BYTES = 1 << 20
_PACKAGES = ("c2pa", "cryptography")
_LIBRARY_SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    # Looking at a file reaches no network, and `sign` itself looks at what it has signed.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_UNTRUSTED = "signingCredential.untrusted"


@dataclass(frozen=True, kw_only=True)
class SigningKeys:
    """A certificate with its chain, and its key. Read them by `read_keys`."""

    certificate: bytes
    private_key: bytes = field(repr=False)
    """PKCS #8."""
    algorithm: str
    """C2PA's name of it."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a signed file says, and whether it is true."""

    signer: str
    """Common name or organisation of the certificate."""
    issuer: str
    problems: tuple[str, ...]
    """C2PA's codes of what is wrong. Empty: nobody has changed the file since it was signed."""


def check_installed() -> None:
    """ModuleNotFoundError for what signing needs."""
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def read_keys(settings: ProvenanceSettings) -> SigningKeys:
    """The certificate and the key that the settings name. ProvenanceError for what cannot sign, StorageError when a
    store does not answer. No message holds a key, or where it is."""
    settings.check()
    try:
        check_installed()
    except ModuleNotFoundError as error:
        raise ProvenanceError(f"signing: {error.msg}", advice=install_advice(error.name)) from error
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    pem = {name: _pem(name, str(getattr(settings, name))) for name in ("certificate", "private_key")}
    try:
        public = x509.load_pem_x509_certificates(pem["certificate"])[0].public_key()
    except ValueError:
        raise ProvenanceError("[provenance] certificate holds no certificate in PEM") from None
    try:
        private = serialization.load_pem_private_key(pem["private_key"], password=None)
    except TypeError:
        raise ProvenanceError("[provenance] private_key is encrypted", advice="give it unencrypted") from None
    except ValueError:
        raise ProvenanceError("[provenance] private_key holds no private key in PEM") from None
    if public != private.public_key():
        raise ProvenanceError("[provenance] private_key is not that of the certificate")
    plain = serialization.NoEncryption()
    return SigningKeys(
        certificate=pem["certificate"],
        private_key=private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
        algorithm=_algorithm(public),
    )


def sign(path: Path, marker: Marker, keys: SigningKeys) -> str:
    """Put a signature into a film or a poster, check it, and return the signer's name. ProvenanceError when that fails,
    StorageFullError when the disk is full."""
    import c2pa

    part = path.with_name(f"signed-{path.name}")
    try:
        # An empty address of a time-stamping service would be asked, and None is none.
        info = c2pa.C2paSignerInfo(keys.algorithm, keys.certificate, keys.private_key, None)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context.from_dict(_LIBRARY_SETTINGS) as context,
            c2pa.Builder.from_json(json.dumps(_manifest(marker)), context) as builder,
        ):
            builder.sign_file(path, part, signer)
    except c2pa.C2paError as error:
        part.unlink(missing_ok=True)
        if is_full(str(error)):
            raise StorageFullError(f"cannot sign {path.name}: {error}") from error
        raise ProvenanceError(f"cannot sign {path.name}: {error}", advice=_CERTIFICATE_ADVICE) from error
    part.replace(path)
    found = read_signature(path)
    if found is None or found.problems:
        problems = ", ".join(found.problems) if found else "there is none"
        raise ProvenanceError(f"the signature of {path.name} does not hold: {problems}", advice=_CERTIFICATE_ADVICE)
    return found.signer


_CERTIFICATE_ADVICE = (
    "`render-farm doctor` tries the certificate. An authority must have issued it for signing documents or mail, and "
    "it must be valid today"
)


def try_signing(keys: SigningKeys) -> str:
    """Sign a small picture, to find out whether the keys can. Returns the signer's name. ProvenanceError when they
    cannot."""
    import tempfile

    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="render-farm-") as folder:
        path = Path(folder, "picture.jpg")
        Image.new("RGB", (16, 16)).save(path)
        return sign(path, Marker(job_id="test", model="none", model_version="", software=SOFTWARE), keys)


def read_signature(path: str | os.PathLike[str]) -> Signature | None:
    """The signature of a film or a picture, checked against its bytes. None when it has none. Nobody is asked whether
    the certificate is one to trust. ModuleNotFoundError without the extra `provenance`."""
    check_installed()
    import c2pa

    try:
        with (
            open(path, "rb") as file,
            c2pa.Context.from_dict(_LIBRARY_SETTINGS) as context,
            c2pa.Reader(None, file, context=context) as reader,
        ):
            manifest, results = reader.get_active_manifest() or {}, reader.get_validation_results() or {}
    except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):  # the latter for what is no picture at all
        return None
    except c2pa.C2paError as error:
        return Signature(signer="", issuer="", problems=(" ".join(str(error).split())[:300],))
    failures = results.get("activeManifest", {}).get("failure", [])
    about = manifest.get("signature_info") or {}
    return Signature(
        signer=str(about.get("common_name") or about.get("issuer") or ""),
        issuer=str(about.get("issuer") or ""),
        problems=tuple(dict.fromkeys(str(one["code"]) for one in failures if one["code"] != _UNTRUSTED)),
    )


def _pem(name: str, uri: str) -> bytes:
    data = io.BytesIO()
    try:
        fetch(uri, data, max_bytes=_MOST_PEM_BYTES, limits=InputLimits())
    except InputError as error:
        reason = error.message.rpartition(": ")[2]
        raise ProvenanceError(f"[provenance] {name} cannot be read: {reason}", advice=_EVERYWHERE) from None
    return data.getvalue()


_EVERYWHERE = "every worker reads it, so it must be there on each machine, or on an object store"


def _algorithm(key: Any) -> str:
    """C2PA's name of the way to sign with a key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPublicKey):
        return "ps256"
    raise ProvenanceError(
        "[provenance] the certificate has a key of a kind that C2PA does not allow",
        advice="P-256, P-384, P-521, Ed25519 and RSA are allowed",
    )


def _manifest(marker: Marker) -> dict[str, Any]:
    name, _, version = marker.software.partition(" ")
    created = {
        "action": "c2pa.created",
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "digitalSourceType": marker.source_type,
        "softwareAgent": {"name": marker.model, "version": marker.model_version},
    }
    return {
        "title": marker.job_id,
        "claim_generator_info": [{"name": name, "version": version}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
