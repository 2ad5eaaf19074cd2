"""Signs a bundle: whoever holds the private key vouches for every file that the manifest names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.bundle_files import BundleFolder
from edge_agent.files import write_durably
from edge_agent.model_bundle import (
    MANIFEST,
    BundleRefused,
    bundle_of,
    manifest_json,
    read_contents,
    read_manifest,
)
from edge_agent.signatures import (
    KeyRefused,
    NotSigned,
    is_encrypted,
    key_id,
    public_line_of,
    read_private_key,
    signed,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def load_key(file: Path, password: Callable[[], bytes]) -> Ed25519PrivateKey:
    """Read a private key; `password` is asked only where it is encrypted. Raises KeyRefused, OSError."""
    pem = file.read_bytes()
    try:
        return read_private_key(pem, password() if is_encrypted(pem) else None)
    except KeyRefused as error:
        raise KeyRefused(f"{file}: {error}; edge-trainer new-key makes one") from None


def sign_bundle(folder: Path, key: Ed25519PrivateKey) -> str:
    """Verify a bundle, put the signature into its manifest, and return the key's id.

    Its other files are not touched; the manifest is the old or the new one at every moment.

    Raises:
        BundleRefused: the bundle is not as its manifest says.

    """
    contents = read_contents(BundleFolder(folder))
    manifest = bundle_of(contents).manifest
    try:
        data = signed(manifest_json(manifest.model_copy(update={"signature": ""})), key)
    except NotSigned as error:
        raise BundleRefused(f"{folder / MANIFEST}: {error}; rename that key and export again") from None
    write_durably(folder / MANIFEST, data)
    line = public_line_of(key)
    read_contents(BundleFolder(folder), trusted_keys=(line,))
    return key_id(line)


def is_signed(folder: Path) -> bool:
    """Whether a bundle's manifest carries a signature, whoever's; False where there is no bundle."""
    try:
        return bool(read_manifest(folder).signature)
    except BundleRefused:
        return False
