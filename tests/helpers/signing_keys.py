"""A certificate that may sign films, and its key, made for a test."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any


def write_signing_keys(folder: Path, *, kind: str = "p256", expired: bool = False) -> tuple[Path, Path]:
    """`chain.pem` (the certificate, then that of the authority which issued it) and `key.pem`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    def new_key() -> Any:
        if kind == "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())

    def name(common_name: str) -> x509.Name:
        organisation = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example Films")
        return x509.Name([organisation, x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])

    root_key, key = new_key(), new_key()
    digest = None if kind == "ed25519" else hashes.SHA256()
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30)
    uses = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    uses |= {"encipher_only": False, "decipher_only": False}

    def certificate(subject: str, of_key: Any, *, is_root: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(name("Example Root"), name(subject), of_key.public_key(), 2 - is_root)
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=10 if expired else 60))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **uses),
                critical=True,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        )

    root = certificate("Example Root", root_key, is_root=True)
    leaf = certificate("Example Signer", key, is_root=False).add_extension(
        x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
    )
    pem = serialization.Encoding.PEM
    chain, secret = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(one.sign(root_key, digest).public_bytes(pem) for one in (leaf, root)))
    secret.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return chain, secret
