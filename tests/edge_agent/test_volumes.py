"""What kind of volume a folder lies on, by lines such as each system gives them."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.watching import volumes
from edge_agent.watching.volumes import Volume, is_unc, volume_of


@dataclass(frozen=True)
class Mount:
    mountpoint: str
    fstype: str
    opts: str = "rw"


@pytest.mark.parametrize(
    ("fstype", "opts", "is_share"),
    [
        ("ext4", "rw", False),
        ("NTFS", "rw,fixed", False),
        ("NTFS", "rw,remote", True),
        ("tmpfs", "rw", False),
        ("cifs", "rw", True),
        ("smb3", "rw", True),
        ("smbfs", "rw", True),
        ("nfs", "rw", True),
        ("nfs4", "rw", True),
        ("9p", "rw", True),
        ("fuse.sshfs", "rw", True),
        ("fuse.rclone", "rw", True),
        ("fuse.smbnetfs", "rw", True),
        ("fuse.bindfs", "rw", False),
        ("fuseblk", "rw", False),
        ("ext4", "rw,remotefs_is_no_word", False),
    ],
)
def test_shares_are_known_by_their_kind(tmp_path, fstype, opts, is_share):
    mounts = [Mount("/", "overlay"), Mount(str(tmp_path), fstype, opts)]

    assert volume_of(tmp_path / "session", lambda: mounts).is_share is is_share


@pytest.mark.parametrize(
    ("fstype", "folder_times"),
    [("vfat", False), ("exFAT", False), ("FAT32", False), ("ext4", True), ("NTFS", True), ("cifs", True)],
)
def test_fat_does_not_keep_the_times_of_folders(tmp_path, fstype, folder_times):
    assert volume_of(tmp_path, lambda: [Mount(str(tmp_path), fstype)]).folder_times is folder_times


def test_the_nearest_mount_counts_and_the_last_of_two_in_one_place(tmp_path):
    place = tmp_path / "mnt"
    mounts = [Mount(str(place), "ext4"), Mount(str(place), "nfs"), Mount("/", "ext4")]

    assert volume_of(place / "x", lambda: mounts).is_share
    assert not volume_of(tmp_path / "mnt2", lambda: mounts).is_share


def test_a_link_is_followed_to_the_share(tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")

    assert volume_of(tmp_path / "link", lambda: [Mount(str(tmp_path / "share"), "nfs")]).is_share


@pytest.mark.parametrize(
    ("path", "unc"),
    [
        (r"\\server\share\x", True),
        (r"\\?\UNC\server\share", True),
        (r"\\?\C:\data", False),
        (r"\\.\pipe\x", False),
        (r"C:\data", False),
        ("/data", False),
        ("//data", False),
    ],
)
def test_a_server_of_windows_is_known_by_its_name(path, unc):
    assert is_unc(path) is unc


def test_a_server_of_windows_needs_no_list_of_mounts():
    assert volume_of(Path(r"\\server\share"), lambda: pytest.fail("asked")).is_share


def test_a_list_that_cannot_be_had_makes_it_a_local_disk(tmp_path):
    def refuse():
        raise PermissionError(13, "no")

    assert volume_of(tmp_path, refuse) == Volume()


def test_a_list_that_does_not_come_makes_it_a_local_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "_PATIENCE_SECONDS", 0.05)
    answer = threading.Event()

    assert volume_of(tmp_path, lambda: answer.wait(10) and []) == Volume()
    answer.set()


@pytest.mark.skipif(os.name != "posix", reason="asks a Linux system")
def test_for_real_the_temporary_folder_is_local(tmp_path):
    assert volume_of(tmp_path) == Volume(is_share=False, folder_times=True)
