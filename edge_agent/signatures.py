"""Who vouches for a model: Ed25519 signatures over a bundle's manifest, which names the hash of every other file.

A signature stands in the manifest it covers, as `ed25519:KEY ID:BASE64`. It covers every byte of the file but
that value itself, read at the one place where the key `signature` is written; only the one canonical spelling of
the value is taken, so no byte of a signed manifest can be changed unnoticed. Only this module knows the forms of
keys and signatures. No numpy here: the agent's own process reads keys, too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOMAIN: Final = b"scopewatch.bundle/1\n"
"""Stands before the manifest in what is signed: no signature made for something else can be used here."""
_KEY_BYTES: Final = 32
_PREFIX: Final = "ed25519:"
_PUBLIC: Final = re.compile(r"ed25519:([A-Za-z0-9+/]{43}=)")
_VALUE: Final = re.compile(rb"ed25519:([0-9a-f]{16}):([A-Za-z0-9+/]{86}==)")
_PLACE: Final = re.compile(rb'"signature": "([^"\\]*)"')
_KEY_NAME: Final = re.compile(rb'"signature"\s*:')


class KeyRefused(Exception):
    """A key cannot be used; the text says which and why."""


class NotSigned(Exception):
    """A manifest is not signed by a trusted key; the text says what was seen instead."""


def key_id(public_line: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a public key. Raises KeyRefused."""
    return _id_of(_public_bytes(public_line))


def signer_of(manifest: bytes, trusted_keys: Sequence[str]) -> str:
    """Return the id of the trusted key (a line `ed25519:...`) that signed the bytes of a manifest.

    Raises NotSigned, and KeyRefused where a trusted key is none.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    keys = {_id_of(raw): raw for raw in map(_public_bytes, trusted_keys)}
    before, value, after = _around_signature(manifest)
    found = _VALUE.fullmatch(value)
    if found is None:
        raise NotSigned(
            "it is not signed" if not value else "its signature is none of the form ed25519:ID:BASE64"
        )
    signer, signature = found[1].decode(), _canonical(found[2])
    if signer not in keys:
        raise NotSigned(f"it is signed by the key {signer}, which is not trusted here")
    try:
        Ed25519PublicKey.from_public_bytes(keys[signer]).verify(signature, DOMAIN + before + after)
    except InvalidSignature:
        raise NotSigned(
            f"the signature of {signer} does not fit: the manifest was changed after it"
        ) from None
    return signer


def signed(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the manifest with its `signature` (an empty text, or an earlier signature) replaced.

    Raises NotSigned where there is not exactly one place for it.
    """
    before, _, after = _around_signature(manifest)
    signature = base64.b64encode(key.sign(DOMAIN + before + after))
    return before + f"{_PREFIX}{key_id(public_line_of(key))}:".encode() + signature + after


def public_line_of(key: Ed25519PrivateKey) -> str:
    """Return the public half as the line that goes into `trusted_keys`."""
    return _PREFIX + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def write_new_key(file: Path, password: bytes | None = None) -> str:
    """Make a key pair, write the private half (PEM, PKCS8, mode 0600) to a new file, return the public line.

    Raises FileExistsError, OSError.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    # Open to its owner alone from the first moment on, and never in the place of another key.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(pem)
        out.flush()
        os.fsync(out.fileno())
    return public_line_of(key)


def is_encrypted(pem: bytes) -> bool:
    """Whether a private key needs a password."""
    return b"ENCRYPTED" in pem


def read_private_key(pem: bytes, password: bytes | None = None) -> Ed25519PrivateKey:
    """Read the private half of a key pair. Raises KeyRefused."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password if is_encrypted(pem) else None)
    except TypeError:
        raise KeyRefused("it is encrypted, and needs its password") from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = (
            "the password is wrong, or it is damaged" if is_encrypted(pem) else "it is no private key in PEM"
        )
        raise KeyRefused(wrong) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyRefused(f"it is no Ed25519 key ({type(key).__name__})")
    return key


def _around_signature(manifest: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands before, in and after the quotes of the one `signature`; NotSigned where there is not one."""
    keys, places = len(_KEY_NAME.findall(manifest)), list(_PLACE.finditer(manifest))
    if keys > 1:
        raise NotSigned(f"the key signature stands in it {keys} times")
    if not places:
        raise NotSigned("it is not signed")
    start, end = places[0].span(1)
    return manifest[:start], manifest[start:end], manifest[end:]


def _canonical(text: bytes) -> bytes:
    """Decode base64 that is written the one way its bytes are; the last digit holds four bits that say nothing."""
    value = base64.b64decode(text, validate=True)
    if base64.b64encode(value) != text:
        raise NotSigned("its signature is not written in canonical base64")
    return value


def _public_bytes(line: str) -> bytes:
    found = _PUBLIC.fullmatch(line.strip())
    if found is not None:
        try:
            raw = base64.b64decode(found[1], validate=True)
        except binascii.Error:
            raw = b""
        if len(raw) == _KEY_BYTES and base64.b64encode(raw).decode() == found[1]:
            return raw
    raise KeyRefused(
        f"{line[:80]!r} is no public key; it is the line `ed25519:...` that edge-trainer new-key prints"
    )


def _id_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]
