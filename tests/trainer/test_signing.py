"""Signing a bundle: what is signed was verified, and nothing that is changed afterwards keeps its signature."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from bundles import tiny_bundle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.model_bundle import MANIFEST, BundleRefused, open_bundle, read_manifest
from edge_agent.signatures import KeyRefused, key_id, public_line_of, write_new_key
from trainer.exporting.bundle_writer import add_file
from trainer.exporting.publish import publish
from trainer.exporting.signing import is_signed, load_key, sign_bundle
from trainer.scoring.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.preparing.crops import DataSet

    Run = Callable[..., tuple[int, str, str]]

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = (public_line_of(KEY),)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny-1")


def test_a_signed_bundle_is_the_same_but_for_its_signature(tiny: Path) -> None:
    before = {file.name: file.read_bytes() for file in tiny.iterdir()}
    assert sign_bundle(tiny, KEY) == key_id(TRUSTED[0])

    after = {file.name: file.read_bytes() for file in tiny.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {MANIFEST}
    manifests = [json.loads(files[MANIFEST]) for files in (before, after)]
    assert manifests[0].pop("signature") is None
    assert manifests[1].pop("signature").startswith(f"ed25519:{key_id(TRUSTED[0])}:")
    assert manifests[0] == manifests[1]
    assert open_bundle(tiny, trusted_keys=TRUSTED).signed_by == key_id(TRUSTED[0])


def test_signing_twice_gives_the_same_bytes_and_another_key_replaces_the_first(tiny: Path) -> None:
    sign_bundle(tiny, KEY)
    once = (tiny / MANIFEST).read_bytes()
    sign_bundle(tiny, KEY)
    assert (tiny / MANIFEST).read_bytes() == once
    other = Ed25519PrivateKey.generate()
    sign_bundle(tiny, other)
    assert open_bundle(tiny, trusted_keys=(public_line_of(other),)).signed_by == key_id(public_line_of(other))
    with pytest.raises(BundleRefused, match="which is not trusted here"):
        open_bundle(tiny, trusted_keys=TRUSTED)


def test_what_is_not_sound_is_not_signed(tiny: Path) -> None:
    (tiny / "golden.npz").write_bytes(b"x")
    before = (tiny / MANIFEST).read_bytes()
    with pytest.raises(BundleRefused, match=r"golden\.npz: SHA-256 is"):
        sign_bundle(tiny, KEY)
    assert (tiny / MANIFEST).read_bytes() == before


def test_a_manifest_with_two_places_for_a_signature_is_not_signed(tiny: Path) -> None:
    text = (tiny / MANIFEST).read_text().replace('"made_with": {}', '"made_with": {"signature": "me"}')
    (tiny / MANIFEST).write_text(text)
    with pytest.raises(BundleRefused, match="the key signature stands in it 2 times; rename that key"):
        sign_bundle(tiny, KEY)


def test_a_file_that_comes_later_takes_the_signature_off(tiny: Path) -> None:
    sign_bundle(tiny, KEY)
    add_file(tiny, "notes.txt", b"later")
    assert read_manifest(tiny).signature is None
    assert not is_signed(tiny)


def test_no_bundle_is_not_signed(tmp_path: Path) -> None:
    assert not is_signed(tmp_path)


def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(KeyRefused, match=r"x: it is no private key in PEM; edge-trainer new-key makes one"):
        load_key(tmp_path / "x", lambda: b"")


def test_the_password_is_asked_for_an_encrypted_key_only(tmp_path: Path) -> None:
    asked: list[str] = []

    def password() -> bytes:
        asked.append("asked")
        return b"secret"

    plain, locked = write_new_key(tmp_path / "plain"), write_new_key(tmp_path / "locked", b"secret")
    assert public_line_of(load_key(tmp_path / "plain", password)) == plain
    assert asked == []
    assert public_line_of(load_key(tmp_path / "locked", password)) == locked
    assert asked == ["asked"]


def test_what_is_published_is_signed_where_a_key_is_given(
    bundle: Path, dataset: DataSet, tmp_path: Path
) -> None:
    evaluate(bundle, dataset, "test")
    sign_bundle(bundle, KEY)
    assert not is_signed(publish(bundle, tmp_path / "unsigned"))
    target = publish(bundle, tmp_path / "signed", sign_with=KEY)
    assert open_bundle(target, trusted_keys=TRUSTED).signed_by == key_id(TRUSTED[0])
