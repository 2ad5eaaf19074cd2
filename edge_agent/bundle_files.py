"""The bytes of a bundle, each file read once: what was verified is what is used, whatever the disk holds later.

Only this module opens the files of a bundle.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_FILE_BYTES: Final = 1 << 30
# On Windows a colon names a stream of another file or another drive.
_FILE_NAME: Final = re.compile(r"[^/\\:\x00-\x1f]{1,255}")


class BundleRefused(Exception):
    """A bundle must not be used; the message names the file, what was seen and what to do."""


class BundleSource(Protocol):
    """Where the files of a bundle come from: a folder, or an archive of one."""

    @property
    def path(self) -> Path:
        """The folder or archive."""

    def read(self, name: str, limit_bytes: int = LARGEST_FILE_BYTES) -> bytes:
        """Return a file's bytes. Raises BundleRefused; FileNotFoundError where there is none of that name."""


@dataclass(frozen=True, slots=True)
class BundleFolder:
    """A bundle as a folder. Links in it are followed only where the installation itself may consist of them."""

    path: Path
    follow_links: bool = False

    def read(self, name: str, limit_bytes: int = LARGEST_FILE_BYTES) -> bytes:
        """See BundleSource."""
        file = self.path / name
        try:
            found = file.stat() if self.follow_links else file.lstat()
            if stat.S_ISLNK(found.st_mode):
                raise BundleRefused(f"{file}: is a link, not a file; copy what it leads to (cp -L)")
            if not stat.S_ISREG(found.st_mode):  # reading a pipe would never end
                raise BundleRefused(f"{file}: named in the manifest, is not a file")
            if found.st_size > limit_bytes:
                raise BundleRefused(f"{file}: {found.st_size} bytes, more than any bundle file may have")
            with file.open("rb") as opened:
                return opened.read(found.st_size)  # of one that grew meanwhile, no more than was allowed
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BundleRefused(
                f"{file}: named in the manifest, cannot be read ({error.strerror}); copy the bundle again"
            ) from error


def is_plain_name(name: str) -> bool:
    """Whether a name can only be that of a file in the bundle itself."""
    return _FILE_NAME.fullmatch(name) is not None and name not in (".", "..")
