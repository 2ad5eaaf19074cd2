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


_MADE: dict[tuple[object, ...], dict[str, bytes]] = {}
"""Files by what was asked for: each is made once and then written again."""


def plain_bundle(folder: Path, version: str = "1", *, seed: int = 0) -> Path:
    """A tiny bundle of this version in a new folder, not signed."""
    return _once((version, seed), folder, lambda: tiny_bundle(folder, version=version, seed=seed))


def signed_bundle(folder: Path, version: str = "1", *, seed: int = 0, key: Ed25519PrivateKey = KEY) -> Path:
    """The same, signed."""

    def make() -> None:
        plain_bundle(folder, version, seed=seed)
        sign_bundle(folder, key)

    return _once((version, seed, public_line_of(key)), folder, make)


def _once(what: tuple[object, ...], folder: Path, make: Callable[[], object]) -> Path:
    if what not in _MADE:
        make()
        _MADE[what] = {file.name: file.read_bytes() for file in folder.iterdir()}
        return folder
    folder.mkdir(parents=True)
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
