"""How files are opened beside their writer, copied as one state, and written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_agent import files, shared_opening
from edge_agent.files import (
    FileLayer,
    SourceChanged,
    identify,
    is_our_temporary,
    is_regular_file,
    make_folders,
    read_whole,
    remove_durably,
    snapshot,
    stamp_of,
    write_durably,
)
from edge_agent.shared_opening import (
    Kernel32,
    NotARegularFile,
    is_held_by_writer,
    open_on_windows,
    open_shared,
    system_path,
)

MIB = 2**20


def open_paths() -> set[str]:
    """Return what this process holds open that is a real path."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return found


# Opening


def make_socket(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.close()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(Path.mkdir, "a folder", id="folder"),
        pytest.param(os.mkfifo, "a FIFO", id="fifo"),
        pytest.param(make_socket, "a socket", id="socket"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "a device", id="device behind a link"),
    ],
)
@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, make, name):
    path = tmp_path / "a.dm3"
    make(path)
    with pytest.raises(NotARegularFile, match=f"is {name}, not a regular file, and was not opened.*a.dm3"):
        open_shared(path)


@pytest.mark.timeout(10)
def test_a_fifo_that_comes_between_stat_and_open_does_not_hang(tmp_path):
    path = tmp_path / "a.dm3"
    os.mkfifo(path)
    with pytest.raises(NotARegularFile, match="is a FIFO"):
        shared_opening._open_on_posix(path)
    assert str(path) not in open_paths()


def test_an_opened_file_blocks_and_is_not_inherited(tmp_path):
    path = tmp_path / "a.dm3"
    path.write_bytes(b"content")
    with open_shared(path) as handle:
        assert os.get_blocking(handle.fileno())
        assert not os.get_inheritable(handle.fileno())
        assert handle.read() == b"content"


def test_the_writer_may_rename_replace_and_delete_while_we_read(tmp_path):
    path = tmp_path / "a.dm3"
    path.write_bytes(b"first")
    with open_shared(path) as handle:
        path.rename(tmp_path / "b.dm3")
        path.write_bytes(b"second")
        path.unlink()
        assert handle.read() == b"first"


# Snapshot


def test_a_small_file_is_copied_and_closed_before_the_caller_sees_it(tmp_path):
    path = tmp_path / "a.dm3"
    content = os.urandom(200_000)
    path.write_bytes(content)
    with snapshot(path, MIB) as copy:
        assert str(path) not in open_paths()
        path.unlink()
        assert copy.handle.read() == content
    assert copy.in_memory
    assert copy.source.sha256 == hashlib.sha256(content).hexdigest()
    assert copy.source.path == path
    assert copy.source.stamp.size_bytes == 200_000


def test_a_large_file_is_read_through_its_own_handle(tmp_path):
    path = tmp_path / "a.dm3"
    path.write_bytes(b"head" + bytes(200_000) + b"tail")
    with snapshot(path, 1000) as copy:
        assert not copy.in_memory
        assert copy.source.sha256 is None
        assert copy.handle.read(4) == b"head"
        copy.handle.seek(-4, os.SEEK_END)
        assert copy.handle.read() == b"tail"
    assert copy.handle.closed


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 131_073])
def test_the_fingerprint_is_the_same_above_and_below_the_limit(tmp_path, size):
    path = tmp_path / "a.dm3"
    path.write_bytes(os.urandom(size))
    with snapshot(path, MIB) as small, snapshot(path, size - 1) as large:
        assert (small.in_memory, large.in_memory) == (True, False)
        assert small.source.fingerprint == large.source.fingerprint
    kind, length, modified, digest = small.source.fingerprint.split(":")
    assert (kind, int(length), int(modified)) == ("fp1", size, path.stat().st_mtime_ns)
    assert len(digest) == 32


@pytest.mark.parametrize(
    ("place", "differs"),
    [
        pytest.param(0, True, id="first byte"),
        pytest.param(65_535, True, id="end of the head"),
        pytest.param(100_000, False, id="middle: only the times would tell"),
        pytest.param(299_999, True, id="last byte"),
    ],
)
def test_the_fingerprint_sees_head_and_tail(tmp_path, place, differs):
    path = tmp_path / "a.dm3"
    content = bytearray(300_000)
    path.write_bytes(content)
    os.utime(path, ns=(0, 10**18))
    with snapshot(path, 0) as before:
        pass
    content[place] = 1
    path.write_bytes(content)
    os.utime(path, ns=(0, 10**18))
    with snapshot(path, 0) as after:
        pass
    assert (before.source.fingerprint != after.source.fingerprint) is differs


def append(path: Path) -> None:
    with path.open("ab") as handle:
        handle.write(b"more")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)


def cut(path: Path) -> None:
    os.truncate(path, 10)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


CHANGES = [
    pytest.param(append, id="grew"),
    pytest.param(cut, id="was cut"),
    pytest.param(replace, id="was replaced by an equal file"),
    pytest.param(touch, id="was touched"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_during_the_one_read_is_refused(tmp_path, monkeypatch, change):
    path = tmp_path / "a.dm3"
    path.write_bytes(bytes(5000))

    def open_while_written(opened: Path):
        change(opened)
        return open_shared(opened)

    monkeypatch.setattr(files, "open_shared", open_while_written)
    with pytest.raises(SourceChanged, match=r"changed while it was read.*a\.dm3"), snapshot(path, MIB):
        pytest.fail("a moving file was handed out")


def test_a_file_that_grew_under_equal_times_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.dm3"
    path.write_bytes(bytes(5000))
    before = stamp_of(path)
    append(path)
    monkeypatch.setattr(files, "stamp_of", lambda _: before)
    with pytest.raises(SourceChanged, match="changed while it was read"), snapshot(path, MIB):
        pytest.fail("a moving file was handed out")


@pytest.mark.parametrize("change", CHANGES)
def test_a_large_file_that_changes_while_it_is_used_is_refused(tmp_path, change):
    path = tmp_path / "a.dm3"
    path.write_bytes(bytes(5000))
    with pytest.raises(SourceChanged), snapshot(path, 100):
        change(path)
    assert str(path) not in open_paths()


def test_a_reader_that_stumbles_over_a_moving_file_reports_the_change(tmp_path):
    path = tmp_path / "a.dm3"
    path.write_bytes(bytes(5000))
    with pytest.raises(SourceChanged) as caught, snapshot(path, 100):
        cut(path)
        raise ValueError("nonsense seen")
    assert str(caught.value.__cause__) == "nonsense seen"


def test_a_readers_own_error_passes_when_nothing_changed(tmp_path):
    path = tmp_path / "a.dm3"
    path.write_bytes(bytes(5000))
    with pytest.raises(ValueError, match="nonsense"), snapshot(path, 100):
        raise ValueError("nonsense")
    assert str(path) not in open_paths()


@pytest.mark.parametrize("limit", [0, MIB], ids=["large", "small"])
def test_a_missing_file_is_simply_not_found(tmp_path, limit):
    with pytest.raises(FileNotFoundError), snapshot(tmp_path / "gone.dm3", limit):
        pytest.fail("nothing was there")


# Writing


class Recorder(FileLayer):
    """The real system, with a record of the calls and one call that fails a number of times."""

    def __init__(self, failing: str = "", error: BaseException | None = None, times: int = 10**6) -> None:
        self.calls: list[str] = []
        self.pauses: list[float] = []
        self.failing, self.error, self.times = failing, error, times

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.failing and self.times > 0:
            self.times -= 1
            assert self.error is not None
            raise self.error

    def create(self, path):
        self.note("create")
        assert is_our_temporary(path)
        return super().create(path)

    def write(self, descriptor, data):
        self.note("write")
        return super().write(descriptor, data[:100_000])

    def fsync(self, descriptor):
        self.note("fsync")
        super().fsync(descriptor)

    def close(self, descriptor):
        super().close(descriptor)
        self.note("close")

    def replace(self, source, target):
        self.note("replace")
        super().replace(source, target)

    def unlink(self, path):
        self.note("unlink")
        super().unlink(path)

    def make_folder(self, folder):
        self.note("make_folder")
        super().make_folder(folder)

    def fsync_folder(self, folder):
        self.note("fsync_folder")
        super().fsync_folder(folder)

    def pause(self, seconds):
        self.pauses.append(seconds)


def windows(code: int) -> OSError:
    error = OSError(errno.EACCES, "held")
    error.winerror = code
    return error


def test_the_order_of_a_durable_write(tmp_path):
    layer = Recorder()
    write_durably(tmp_path / "a.json", bytes(250_000), layer)
    assert layer.calls == ["create", "write", "write", "write", "fsync", "close", "replace", "fsync_folder"]
    assert (tmp_path / "a.json").read_bytes() == bytes(250_000)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


@pytest.mark.parametrize("data", [b"", b"new", os.urandom(300_000)], ids=["empty", "short", "long"])
@pytest.mark.parametrize("there", [None, b"old"], ids=["new file", "over an old one"])
def test_written_bytes_arrive(tmp_path, data, there):
    path = tmp_path / "a.json"
    if there is not None:
        path.write_bytes(there)
    write_durably(path, data)
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    link = tmp_path / "a.json"
    link.symlink_to(target)
    write_durably(link, b"new")
    assert target.read_bytes() == b"precious"
    assert not link.is_symlink()


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"


FAILURES = [
    pytest.param(OSError(errno.ENOSPC, "disk full"), id="disk full"),
    pytest.param(OSError(errno.EIO, "failing disk"), id="failing disk"),
    pytest.param(KeyboardInterrupt(), id="interrupted"),
]


@pytest.mark.parametrize("call", ["create", "write", "fsync", "close", "replace"])
@pytest.mark.parametrize("error", FAILURES)
def test_any_failure_leaves_the_old_file_and_no_temporary_one(tmp_path, call, error):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_durably(path, b"new", Recorder(call, error))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_error_is_told_when_even_the_clean_up_fails(tmp_path):
    class Dying(Recorder):
        def unlink(self, path):
            raise OSError(errno.EROFS, "read-only now")

    with pytest.raises(OSError, match="disk full"):
        write_durably(tmp_path / "a.json", b"new", Dying("fsync", OSError(errno.ENOSPC, "disk full")))
    assert all(is_our_temporary(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize("code", [5, 32, 33])
@pytest.mark.parametrize("times", [1, 9])
def test_a_target_held_for_a_moment_on_windows_is_tried_again(tmp_path, code, times):
    layer = Recorder("replace", windows(code), times)
    write_durably(tmp_path / "a.json", b"new", layer)
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert len(layer.pauses) == times
    assert sum(layer.pauses) < 2.6


def test_a_target_held_for_good_is_given_up_and_cleaned(tmp_path):
    layer = Recorder("replace", windows(32))
    with pytest.raises(OSError, match="held"):
        write_durably(tmp_path / "a.json", b"new", layer)
    assert 2.4 < sum(layer.pauses) < 2.6
    assert list(tmp_path.iterdir()) == []


def test_other_windows_errors_are_not_waited_for(tmp_path):
    layer = Recorder("replace", windows(112))
    with pytest.raises(OSError, match="held"):
        write_durably(tmp_path / "a.json", b"new", layer)
    assert layer.pauses == []


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        pytest.param(errno.EINVAL, True, id="CIFS: no fsync for folders"),
        pytest.param(errno.ENOTSUP, True, id="FUSE: not supported"),
        pytest.param(errno.EIO, False, id="failing disk"),
    ],
)
def test_a_folder_that_cannot_be_forced_to_the_disk(tmp_path, monkeypatch, code, passes):
    def refuse(descriptor: int) -> None:
        raise OSError(code, "fsync")

    monkeypatch.setattr(os, "fsync", refuse)
    if passes:
        FileLayer().fsync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match="fsync"):
            FileLayer().fsync_folder(tmp_path)
    assert str(tmp_path) not in open_paths()


def test_a_removal_is_forced_to_the_disk(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    layer = Recorder()

    remove_durably(path, layer)
    remove_durably(path, layer)

    assert layer.calls == ["unlink", "fsync_folder", "unlink"]
    assert not path.exists()


def test_folders_are_made_from_above_and_each_is_forced_to_the_disk(tmp_path):
    layer = Recorder()

    make_folders(tmp_path / "a" / "b", layer)
    make_folders(tmp_path / "a" / "b", layer)

    assert layer.calls == ["make_folder", "fsync_folder"] * 2
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_another_makes_at_the_same_moment_is_as_good(tmp_path):
    class Overtaken(FileLayer):
        def make_folder(self, folder):
            super().make_folder(folder)
            super().make_folder(folder)

    make_folders(tmp_path / "a" / "b", Overtaken())

    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("size", [0, 10, 3 * MIB, 3 * MIB + 1])
def test_a_file_is_identified_without_being_kept(tmp_path, size):
    path = tmp_path / "a.dm3"
    path.write_bytes(os.urandom(size))

    found = identify(path, 3 * MIB)

    with snapshot(path, 3 * MIB) as copy:
        assert found == copy.source
    assert (found.sha256 is None) == (size > 3 * MIB)


def test_a_small_file_is_read_whole_up_to_the_limit(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"0123456789")

    assert read_whole(path, 10) == b"0123456789"
    assert read_whole(path, 9) is None
    assert read_whole(tmp_path / "missing", 10) is None


@pytest.mark.skipif(os.name == "nt", reason="pipes, and links without a privilege, are POSIX")
@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "FIFO"])
def test_nothing_but_a_regular_file_is_read(tmp_path, kind):
    path = tmp_path / "a.json"
    (tmp_path / "target").write_bytes(b"secret")
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / ("target" if kind == "link" else "nothing"))

    assert read_whole(path, 100) is None
    assert not is_regular_file(path)
    assert is_regular_file(tmp_path / "target")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (".scopewatch-0011223344556677.tmp", True),
        ("a.dm3", False),
        (".a.tmp", False),
        ("scopewatch-1.tmp", False),
    ],
)
def test_our_temporary_files_are_known_by_name(name, ours):
    assert is_our_temporary(Path("folder") / name) is ours


# Windows, with a fake edge: none of this was run on Windows


LONG = "x" * 250


@pytest.mark.parametrize(
    ("path", "platform", "expected"),
    [
        pytest.param("/data/" + LONG, "linux", "/data/" + LONG, id="not on Linux"),
        pytest.param(r"C:\data\a.dm3", "win32", r"C:\data\a.dm3", id="short"),
        pytest.param("C:\\data\\" + LONG, "win32", "\\\\?\\C:\\data\\" + LONG, id="long"),
        pytest.param("\\\\nas\\em\\" + LONG, "win32", "\\\\?\\UNC\\nas\\em\\" + LONG, id="long on a share"),
        pytest.param("\\\\?\\C:\\" + LONG, "win32", "\\\\?\\C:\\" + LONG, id="long already"),
    ],
)
def test_long_paths_get_their_windows_form(path, platform, expected):
    assert system_path(Path(path), platform) == expected


class FakeWindows:
    """kernel32 and the C runtime: hands out a real descriptor for the file that a test names."""

    INVALID = 2**64 - 1

    def __init__(self, real: Path, error: int = 0, file_type: int = 1, no_descriptor: bool = False) -> None:
        self.real, self.error, self.file_type, self.no_descriptor = real, error, file_type, no_descriptor
        self.opened: list[tuple[object, ...]] = []
        self.closed: list[int] = []

    def edge(self) -> Kernel32:
        # Plain functions, because ctypes' own take attributes such as argtypes and restype.
        library = SimpleNamespace(
            CreateFileW=lambda *arguments: self.create(*arguments),
            GetFileType=lambda handle: self.file_type,
            CloseHandle=lambda handle: self.closed.append(handle),
        )
        return Kernel32(library, self.descriptor, lambda: self.error)

    def create(self, *arguments: object) -> int:
        self.opened.append(arguments)
        return self.INVALID if self.error else 77

    def descriptor(self, handle: int, flags: int) -> int:
        assert handle == 77
        if self.no_descriptor:
            raise OSError(errno.EMFILE, "too many open files")
        return os.open(self.real, flags)


def test_on_windows_a_file_is_opened_with_every_kind_of_sharing(tmp_path):
    path = tmp_path / "a.dm3"
    path.write_bytes(b"content")
    fake = FakeWindows(path)
    with open_on_windows(path, fake.edge()) as handle:
        assert handle.read() == b"content"
    generic_read, read_write_delete, open_existing, sequential_scan = 0x80000000, 7, 3, 0x08000000
    assert fake.opened == [
        (str(path), generic_read, read_write_delete, None, open_existing, sequential_scan, None)
    ]
    assert fake.closed == []


@pytest.mark.parametrize(
    ("code", "held"),
    [
        pytest.param(32, True, id="sharing violation"),
        pytest.param(33, True, id="lock violation"),
        pytest.param(5, False, id="access denied"),
    ],
)
def test_on_windows_a_refusal_says_whether_the_writer_still_has_the_file(tmp_path, code, held):
    with pytest.raises(OSError, match=rf"WinError {code}.*a\.dm3") as caught:
        open_on_windows(tmp_path / "a.dm3", FakeWindows(tmp_path, error=code).edge())
    assert is_held_by_writer(caught.value) is held


def test_on_windows_a_pipe_is_refused_and_its_handle_closed(tmp_path):
    fake = FakeWindows(tmp_path, file_type=3)
    with pytest.raises(NotARegularFile, match="no file on a disk"):
        open_on_windows(tmp_path / "a.dm3", fake.edge())
    assert fake.closed == [77]


def test_on_windows_a_handle_without_descriptor_is_closed(tmp_path):
    fake = FakeWindows(tmp_path, no_descriptor=True)
    with pytest.raises(OSError, match="too many open files"):
        open_on_windows(tmp_path / "a.dm3", fake.edge())
    assert fake.closed == [77]


def test_elsewhere_there_is_no_kernel32():
    with pytest.raises(OSError, match="kernel32 exists on Windows only"):
        Kernel32()
