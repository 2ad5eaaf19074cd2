"""The key of the page: 256 random bits in a file that only the agent's account can read.

Whoever reads `page.token` in the state folder may use the page. It stays over restarts; where it is missing, or
others could read it, a new one is made. On Windows the folder's own rights protect it (not verified there).
Only this module knows the file and its form.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.files import FileLayer, read_whole, write_durably
from edge_agent.shared_opening import system_path

if TYPE_CHECKING:
    from pathlib import Path

KEY_NAME: Final = "page.token"
_OWNER: Final = "key"
"""Owner of the temporary files beside it."""
_KEY_BYTES: Final = 32
_MOST_BYTES: Final = 1024
_OTHERS: Final = 0o077
_FORM: Final = re.compile(rb"[0-9a-f]{64}\s*")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The key, and what `stat` said of its file: another answer of `stat` is another key."""

    text: str
    seen: tuple[int, int, int]


def key_in(state: Path) -> KeyFile:
    """Return the key of this state folder; it is made where there is none. Raises OSError."""
    file = state / KEY_NAME
    found = _read(file)
    if found is None:
        is_replaced = file.is_file()
        found = new_key(state)
        if is_replaced:
            _log.warning("%s: others could read it, or it was no key of the page; a new one is made", file)
    return found


def new_key(state: Path) -> KeyFile:
    """Make another key; the one before lets nobody in any more. Raises OSError."""
    file = state / KEY_NAME
    write_durably(file, f"{secrets.token_hex(_KEY_BYTES)}\n".encode(), _Private(_OWNER))
    # Two may have made one at the same moment; what stands there now is the key.
    found = _read(file)
    if found is None:
        raise OSError(f"{file} cannot be kept to this account on this disk; put the state folder elsewhere")
    return found


def write_private(file: Path, data: bytes) -> None:
    """Write a file that only this account may read. Raises OSError."""
    write_durably(file, data, _Private(_OWNER))


def is_still(key: KeyFile, state: Path) -> bool:
    """Whether the file is the one that this key was read from."""
    try:
        return _seen(os.lstat(state / KEY_NAME)) == key.seen
    except OSError:
        return False


class _Private(FileLayer):
    """Files for one account: also while they are written."""

    def create(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
            flags |= getattr(os, name, 0)
        descriptor = os.open(system_path(path), flags, 0o600)
        if sys.platform != "win32":
            os.fchmod(descriptor, 0o600)  # the mask of the process may have taken the owner's rights
            owner = path.parent.stat()
            if os.geteuid() == 0 and owner.st_uid != 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor


def _read(file: Path) -> KeyFile | None:
    try:
        found = os.lstat(file)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or (sys.platform != "win32" and found.st_mode & _OTHERS):
        return None
    data = read_whole(file, _MOST_BYTES)
    if data is None and not os.access(file, os.R_OK):
        raise PermissionError(f"{file}: only the account of the agent may read the key of the page")
    if data is None or not _FORM.fullmatch(data):
        return None
    return KeyFile(data.decode().strip(), _seen(found))


def _seen(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size
