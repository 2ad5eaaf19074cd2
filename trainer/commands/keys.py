"""Who vouches for a model: `new-key`, `sign`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trainer.terminal import say

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSWORD_VARIABLE: Final = "SCOPEWATCH_KEY_PASSWORD"  # noqa: S105 - the name of a variable
KeyFile = Annotated[Path, typer.Option("--key", help="The private key, a file of edge-trainer new-key.")]


def new_key(
    file: Annotated[Path, typer.Argument(help="New file for the private key; keep it off microscope PCs.")],
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help=f"Ask for a password (or take it from {PASSWORD_VARIABLE}).")
    ] = False,
) -> None:
    """Make a key pair to sign models with; prints the public line for `trusted_keys` on stdout."""
    from edge_agent.signatures import key_id, write_new_key

    line = write_new_key(file, _password(confirm=True) if encrypt else None)
    say(f"private key {key_id(line)}: {file}; who has it can sign models. Its public line, for trusted_keys:")
    typer.echo(line)


def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    key: KeyFile,
) -> None:
    """Verify a bundle and sign it in place; anything that changes it afterwards takes the signature off."""
    from trainer.exporting.signing import sign_bundle

    say(f"{bundle}: signed by {sign_bundle(bundle, opened_key(key))}")


def opened_key(file: Path) -> "Ed25519PrivateKey":
    """Read a private key, asking for its password where it has one."""
    from trainer.exporting.signing import load_key

    return load_key(file, _password)


@contextlib.contextmanager
def telling_lost_signature(bundle: Path, out: Path | None = None) -> Iterator[None]:
    """Say so where a command writes a bundle (`out`, or the same one) that the old signature does not fit."""
    from trainer.exporting.signing import is_signed

    before = is_signed(bundle)
    yield
    written = bundle if out is None else out
    if before and not is_signed(written):
        say(f"{written}: the signature no longer fitted and is gone; edge-trainer sign puts a new one")


def _password(*, confirm: bool = False) -> bytes:
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is None:
        given = str(
            typer.prompt("Password of the key", hide_input=True, confirmation_prompt=confirm, err=True)
        )
    if not given:
        raise typer.BadParameter("the password is empty")
    return given.encode()
