"""What a signature covers, how keys are written, and that there is one spelling of each only."""

from __future__ import annotations

import base64
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from vouched_bundles import KEY, STRANGER, TRUSTED

from edge_agent.signatures import (
    DOMAIN,
    KeyRefused,
    NotSigned,
    key_id,
    public_line_of,
    read_private_key,
    signed,
    signer_of,
    write_new_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNSIGNED = b'{\n  "name": "tiny",\n  "signature": "",\n  "licence": "x"\n}\n'
SIGNED = signed(UNSIGNED, KEY)
VALUE = SIGNED.split(b'"signature": "')[1].split(b'"')[0]


def refusal(manifest: bytes, trusted_keys: tuple[str, ...] = TRUSTED) -> str:
    with pytest.raises(NotSigned) as refused:
        signer_of(manifest, trusted_keys)
    return str(refused.value)


def test_a_signed_manifest_names_its_signer():
    assert signer_of(SIGNED, TRUSTED) == key_id(TRUSTED[0]) == "56475aa75463474c"
    assert SIGNED.startswith(b'{\n  "name": "tiny",\n  "signature": "ed25519:56475aa75463474c:')
    assert SIGNED.replace(VALUE, b"") == UNSIGNED


def test_one_of_several_trusted_keys_is_enough():
    assert signer_of(SIGNED, (public_line_of(STRANGER), *TRUSTED)) == key_id(TRUSTED[0])


def test_signing_again_replaces_the_signature():
    assert signed(SIGNED, KEY) == SIGNED
    assert signer_of(signed(SIGNED, STRANGER), (public_line_of(STRANGER),)) == key_id(
        public_line_of(STRANGER)
    )


def test_every_flipped_bit_is_noticed():
    for at in range(len(SIGNED)):
        for bit in range(8):
            flipped = SIGNED[:at] + bytes([SIGNED[at] ^ 1 << bit]) + SIGNED[at + 1 :]
            with pytest.raises(NotSigned):
                signer_of(flipped, TRUSTED)


def bits_that_say_nothing() -> bytes:
    """The same 64 bytes in another spelling: the last digit before the padding holds four bits too many."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = VALUE[:-3] + bytes([alphabet[alphabet.index(VALUE[-3]) + 1]]) + b"=="
    assert base64.b64decode(other.split(b":")[2]) == base64.b64decode(VALUE.split(b":")[2])
    return other


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        pytest.param(UNSIGNED, "it is not signed", id="empty signature"),
        pytest.param(b'{"signature": null}', "it is not signed", id="none"),
        pytest.param(b"{}", "it is not signed", id="no such key"),
        pytest.param(b"", "it is not signed", id="nothing at all"),
        pytest.param(
            SIGNED.replace(VALUE, bits_that_say_nothing()),
            "its signature is not written in canonical base64",
            id="bits of the last digit that say nothing",
        ),
        pytest.param(SIGNED.replace(b"==", b"="), "its signature is none of the form", id="less padding"),
        pytest.param(SIGNED.replace(b"==", b""), "its signature is none of the form", id="no padding"),
        pytest.param(
            SIGNED.replace(b"ed25519:", b"ED25519:"), "its signature is none of the form", id="case"
        ),
        pytest.param(SIGNED.replace(VALUE, VALUE + b" "), "its signature is none of the form", id="blank"),
        pytest.param(SIGNED.replace(VALUE, b"\\u0065" + VALUE[1:]), "it is not signed", id="escaped"),
        pytest.param(SIGNED.replace(b'": "ed', b'":  "ed'), "it is not signed", id="blank before the value"),
        pytest.param(SIGNED.replace(b"tiny", b"Tiny"), "the manifest was changed after it", id="a name"),
        pytest.param(SIGNED + b"\n", "the manifest was changed after it", id="a line more"),
        pytest.param(SIGNED[:-1], "the manifest was changed after it", id="a line break less"),
        pytest.param(SIGNED.replace(b"\n", b"\r\n"), "the manifest was changed after it", id="line breaks"),
        pytest.param(b"\xef\xbb\xbf" + SIGNED, "the manifest was changed after it", id="byte order mark"),
        pytest.param(
            SIGNED.replace(b"{\n", b'{\n "signature": "",', 1),
            "the key signature stands in it 2 times",
            id="a second signature",
        ),
        pytest.param(
            SIGNED.replace(b"{\n", b'{\n "signature" :null,', 1),
            "the key signature stands in it 2 times",
            id="a second one, spelt otherwise",
        ),
    ],
)
def test_what_is_not_the_signed_text_is_refused(manifest: bytes, told: str):
    assert told in refusal(manifest)


def test_another_key_is_told():
    theirs = signed(UNSIGNED, STRANGER)
    assert refusal(theirs) == (
        f"it is signed by the key {key_id(public_line_of(STRANGER))}, which is not trusted here"
    )


def test_anothers_signature_under_a_trusted_name_does_not_fit():
    theirs = signed(UNSIGNED, STRANGER).replace(key_id(public_line_of(STRANGER)).encode(), VALUE[8:24])
    assert "does not fit" in refusal(theirs)


def test_a_signature_made_for_something_else_is_worth_nothing():
    before, after = UNSIGNED.split(b'""')
    bare = base64.b64encode(KEY.sign(before + b'""' + after))
    assert "does not fit" in refusal(UNSIGNED.replace(b'""', b'"' + VALUE[:25] + bare + b'"'))
    assert DOMAIN == b"scopewatch.bundle/1\n"


def test_there_must_be_one_place_for_a_signature():
    with pytest.raises(NotSigned, match="stands in it 2 times"):
        signed(b'{"made_with": {"signature": "x"}, "signature": ""}', KEY)


# --- keys ---


def test_a_new_key_is_its_owners_alone_and_never_replaces_another(tmp_path: Path):
    line = write_new_key(tmp_path / "lab.key")

    key = read_private_key((tmp_path / "lab.key").read_bytes())
    assert public_line_of(key) == line
    assert stat.S_IMODE((tmp_path / "lab.key").stat().st_mode) == 0o600
    before = (tmp_path / "lab.key").read_bytes()
    with pytest.raises(FileExistsError):
        write_new_key(tmp_path / "lab.key")
    assert (tmp_path / "lab.key").read_bytes() == before


def test_an_encrypted_key_opens_with_its_password_only(tmp_path: Path):
    line = write_new_key(tmp_path / "lab.key", b"correct horse")
    pem = (tmp_path / "lab.key").read_bytes()

    assert b"ENCRYPTED PRIVATE KEY" in pem
    assert public_line_of(read_private_key(pem, b"correct horse")) == line
    with pytest.raises(KeyRefused, match="the password is wrong"):
        read_private_key(pem, b"wrong")
    with pytest.raises(KeyRefused, match="it is encrypted, and needs its password"):
        read_private_key(pem)


def elliptic() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("pem", "told"),
    [
        pytest.param(lambda: b"", "it is no private key in PEM", id="nothing"),
        pytest.param(lambda: TRUSTED[0].encode(), "it is no private key in PEM", id="a public line"),
        pytest.param(elliptic, "it is no Ed25519 key", id="another kind of key"),
    ],
)
def test_what_is_no_private_key_is_told(pem: Callable[[], bytes], told: str):
    with pytest.raises(KeyRefused, match=told):
        read_private_key(pem())


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="empty"),
        pytest.param(TRUSTED[0].removeprefix("ed25519:"), id="no kind"),
        pytest.param(TRUSTED[0].replace("ed25519", "rsa"), id="another kind"),
        pytest.param(TRUSTED[0][:-1], id="no padding"),
        pytest.param(TRUSTED[0][:-2] + "5=", id="bits that say nothing"),
        pytest.param("ed25519:" + base64.b64encode(bytes(31)).decode(), id="too short"),
        pytest.param(TRUSTED[0] + " lab", id="a comment"),
    ],
)
def test_what_is_no_public_key_is_told(line: str):
    with pytest.raises(
        KeyRefused, match=r"is no public key; it is the line `ed25519:\.\.\.` that edge-trainer"
    ):
        signer_of(SIGNED, (line,))


def test_blanks_around_a_public_line_do_no_harm():
    assert signer_of(SIGNED, (f" {TRUSTED[0]}\n",)) == key_id(TRUSTED[0])
