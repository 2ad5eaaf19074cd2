"""Tiny bundles with a signature, and ways to forge what one says."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from bundles import tiny_bundle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.model_bundle import MANIFEST
from edge_agent.signatures import public_line_of
from trainer.exporting.signing import sign_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = (public_line_of(KEY),)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))


_MADE: dict[tuple[str, int, str], dict[str, bytes]] = {}


def signed_bundle(folder: Path, version: str = "1", *, seed: int = 0, key: Ed25519PrivateKey = KEY) -> Path:
    """A tiny bundle of this version in a new folder, signed. Made once, then written again."""
    what = (version, seed, public_line_of(key))
    if what not in _MADE:
        tiny_bundle(folder, version=version, seed=seed)
        sign_bundle(folder, key)
        _MADE[what] = {file.name: file.read_bytes() for file in folder.iterdir()}
        return folder
    folder.mkdir()
    for name, data in _MADE[what].items():
        (folder / name).write_bytes(data)
    return folder


def manifest_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest's JSON as one who has no key; it looks as the trainer would have written it."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and state its hash."""
    (folder / name).write_bytes(data)
    edit(folder, lambda manifest: manifest["sha256"].update({name: hashlib.sha256(data).hexdigest()}))
