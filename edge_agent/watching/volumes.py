"""What kind of volume a folder lies on: a network share or a local disk, and whether its folders' times tell.

Asked of the system's list of mounts. The question may hang on a dead share or fail; the answer is then that of
a local disk, for a wrong guess costs time and no file.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_PATIENCE_SECONDS: Final = 2.0
_SHARES: Final = frozenset(
    {
        "cifs", "smb", "smb2", "smb3", "smbfs", "nfs", "nfs4", "9p", "afs", "afpfs", "webdav", "davfs", "ncpfs",
        "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "vboxsf", "virtiofs", "prl_fs",
    }
)  # fmt: skip
_SHARES_IN_USER_SPACE: Final = frozenset(
    {
        "sshfs", "rclone", "smbnetfs", "gvfsd-fuse", "davfs", "s3fs", "gcsfuse", "ceph-fuse", "glusterfs",
        "vmhgfs-fuse", "juicefs", "cifs",
    }
)  # fmt: skip
_FAT: Final = frozenset({"fat", "fat12", "fat16", "fat32", "vfat", "msdos", "exfat"})


@dataclass(frozen=True, slots=True)
class Volume:
    """`folder_times`: whether a folder's modification time changes when a file is made in it."""

    is_share: bool = False
    folder_times: bool = True


class Mount(Protocol):
    """One line of the system's list of mounts."""

    mountpoint: str
    fstype: str
    opts: str


def volume_of(folder: Path, mounts: Callable[[], Iterable[Mount]] | None = None) -> Volume:
    """Return the kind of volume that `folder` lies on, after two seconds at the latest; never raises."""
    answers: list[Volume] = []

    def ask() -> None:
        # Whatever is wrong with the list of mounts, a local disk is the right guess.
        try:
            answers.append(_judge(os.path.realpath(folder), (mounts or _mounts)()))
        except Exception:
            answers.append(Volume())

    if is_unc(str(folder)):
        return Volume(is_share=True)
    thread = threading.Thread(target=ask, name="kind of volume", daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    return answers[0] if answers else Volume()


def is_unc(path: str) -> bool:
    r"""Whether a path names a server of Windows: \\server\share, also behind \\?\UNC\."""
    text = path.replace("/", "\\") if sys.platform == "win32" else path
    return text.upper().startswith("\\\\?\\UNC\\") or (
        text.startswith("\\\\") and not text.startswith(("\\\\?\\", "\\\\.\\"))
    )


def _mounts() -> Iterable[Mount]:
    import psutil

    mounts: Iterable[Mount] = psutil.disk_partitions(all=True)
    return mounts


def _judge(path: str, mounts: Iterable[Mount]) -> Volume:
    best: Mount | None = None
    for mount in mounts:
        # Of two mounts in one place the later one is seen.
        if _lies_on(path, mount.mountpoint) and (
            best is None or len(mount.mountpoint) >= len(best.mountpoint)
        ):
            best = mount
    if best is None:
        return Volume()
    kind = best.fstype.lower()
    return Volume(
        is_share=kind in _SHARES
        or (kind.startswith("fuse.") and kind.removeprefix("fuse.") in _SHARES_IN_USER_SPACE)
        or "remote" in best.opts.lower().split(","),
        # Windows leaves the time of a folder on FAT as it was when a file is made in it.
        folder_times=kind not in _FAT,
    )


def _lies_on(path: str, mountpoint: str) -> bool:
    path, top = os.path.normcase(path), os.path.normcase(mountpoint).rstrip("/\\")
    return path == top or path.startswith((f"{top}/", f"{top}\\"))
