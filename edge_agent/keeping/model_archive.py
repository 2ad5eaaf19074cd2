"""A bundle that comes as one ZIP file: its files are read in memory, nothing is unpacked to the disk.

Only this module opens archives. What it gives is as unverified as a folder's files.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from edge_agent.bundle_files import LARGEST_FILE_BYTES, BundleRefused, is_plain_name
from edge_agent.model_names import MANIFEST

MOST_ENTRIES: Final = 200
_ENCRYPTED: Final = 0x1
_BLOCK_BYTES: Final = 1 << 20


class BundleArchive:
    """A ZIP with a bundle's files, at its top or in one folder. Closes with `close`."""

    def __init__(self, path: Path) -> None:
        """Open the archive. Raises BundleRefused."""
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise BundleRefused(f"{path}: is neither a bundle folder nor a ZIP of one ({error})") from None
        try:
            self._entries = self._plain_entries()
        except BaseException:
            self._zip.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """The files in it."""
        return tuple(self._entries)

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()

    def read(self, name: str, limit_bytes: int = LARGEST_FILE_BYTES) -> bytes:
        """See BundleSource."""
        entry = self._entries.get(name)
        if entry is None:
            raise FileNotFoundError(2, "not in the archive", name)
        data = bytearray()
        try:
            with self._zip.open(entry) as opened:
                # What the archive says of an entry's size is only what it says.
                while block := opened.read(_BLOCK_BYTES):
                    data += block
                    if len(data) > limit_bytes:
                        raise BundleRefused(f"{self.path}: {name} is larger than any bundle file may be")
        except (
            OSError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise BundleRefused(f"{self.path}: {name} cannot be read ({error})") from None
        return bytes(data)

    def _plain_entries(self) -> dict[str, zipfile.ZipInfo]:
        listed = self._zip.infolist()
        if len(listed) > MOST_ENTRIES:
            raise BundleRefused(f"{self.path}: {len(listed)} entries, more than any bundle has")
        files = [entry for entry in listed if not entry.is_dir()]
        top = _folder_of([entry.filename for entry in files])
        found: dict[str, zipfile.ZipInfo] = {}
        for entry in files:
            name = entry.filename.removeprefix(top)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if not is_plain_name(name) or kind not in (0, stat.S_IFREG) or entry.flag_bits & _ENCRYPTED:
                raise BundleRefused(f"{self.path}: {entry.filename!r} is no plain file of a bundle")
            if name in found:
                raise BundleRefused(f"{self.path}: {entry.filename!r} stands in it twice")
            found[name] = entry
        return found


def _folder_of(names: list[str]) -> str:
    """The one folder that holds the manifest, with its slash; empty for an archive without one."""
    if MANIFEST in names:
        return ""
    parents = {PurePosixPath(name).parent.as_posix() for name in names if name.endswith(f"/{MANIFEST}")}
    one = parents.pop() if len(parents) == 1 else ""
    return f"{one}/" if one and is_plain_name(one) else ""
