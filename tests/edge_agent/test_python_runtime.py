"""Synthetic archives of the two kinds; python.org's own and python-build-standalone's cannot be had here."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from edge_agent.packing.package_errors import PackageRefused
from edge_agent.packing.python_runtime import read_runtime
from edge_agent.packing.target import Target

if TYPE_CHECKING:
    from pathlib import Path

WINDOWS, LINUX = Target("win_amd64", "3.11"), Target("linux_x86_64", "3.11")
EMBEDDABLE = "python.org's Windows embeddable package (64-bit)"
STANDALONE = "an install_only .tar.gz of python-build-standalone (x86_64-unknown-linux-gnu)"


def pe(machine: int) -> bytes:
    return b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0" + struct.pack("<H", machine)


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + struct.pack("<H", machine) + bytes(44)


def embeddable(path: Path, *, digits: str = "311", machine: int = 0x8664, extra: str = "") -> Path:
    names = {
        "python.exe": pe(machine),
        f"python{digits}.dll": b"MZ",
        f"python{digits}.zip": b"PK",
        f"python{digits}._pth": b"python311.zip\r\n.\r\n\r\n#import site\r\n",
        "LICENSE.txt": b"A. HISTORY OF THE SOFTWARE",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (names | ({extra: b""} if extra else {})).items():
            archive.writestr(name, content)
    return path


def standalone(path: Path, *, python: str = "3.11", machine: int = 62, extra: str = "") -> Path:
    names = {
        f"python/bin/python{python}": elf(machine),
        f"python/lib/python{python}/os.py": b"",
        f"python/lib/python{python}/LICENSE.txt": b"A. HISTORY OF THE SOFTWARE",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (names | ({extra: b""} if extra else {})).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_an_embeddable_package_is_taken_with_its_licence(tmp_path: Path) -> None:
    runtime = read_runtime(embeddable(tmp_path / "python-3.11.9-embed-amd64.zip"), WINDOWS)

    assert (runtime.version, runtime.licence) == ("3.11.9", b"A. HISTORY OF THE SOFTWARE")


def test_a_standalone_build_is_taken_with_its_licence(tmp_path: Path) -> None:
    name = "cpython-3.11.14+20261010-x86_64-unknown-linux-gnu-install_only.tar.gz"
    runtime = read_runtime(standalone(tmp_path / name), LINUX)

    assert (runtime.version, runtime.licence) == ("3.11.14", b"A. HISTORY OF THE SOFTWARE")


@pytest.mark.parametrize(
    ("made", "target", "message"),
    [
        pytest.param(
            lambda path: embeddable(path, digits="312"), WINDOWS,
            f"holds python312.dll, and of python.exe, python311._pth, python311.dll, python311.zip not all; give "
            f"{EMBEDDABLE} of Python 3.11", id="another version",
        ),
        pytest.param(
            lambda path: embeddable(path, machine=0x14C), WINDOWS,
            f"python.exe is not for 64-bit Intel or AMD; give {EMBEDDABLE} of Python 3.11", id="32-bit",
        ),
        pytest.param(
            lambda path: embeddable(path, machine=0xAA64), WINDOWS,
            f"python.exe is not for 64-bit Intel or AMD; give {EMBEDDABLE} of Python 3.11", id="ARM",
        ),
        pytest.param(
            lambda path: embeddable(path, extra="../../evil.dll"), WINDOWS,
            f"holds '../../evil.dll', which leads out of its folder; give {EMBEDDABLE} of Python 3.11",
            id="way out",
        ),
        pytest.param(
            standalone, WINDOWS, f"is not {EMBEDDABLE} (File is not a zip file)", id="the other kind",
        ),
        pytest.param(
            lambda path: standalone(path, python="3.13"), LINUX,
            f"holds no python/bin/python3.11; give {STANDALONE} of Python 3.11", id="another version, Linux",
        ),
        pytest.param(
            lambda path: standalone(path, machine=183), LINUX,
            f"python/bin/python3.11 is not for 64-bit Intel or AMD; give {STANDALONE} of Python 3.11",
            id="ARM, Linux",
        ),
        pytest.param(
            lambda path: standalone(path, extra="/etc/passwd"), LINUX,
            f"holds '/etc/passwd', which leads out of its folder; give {STANDALONE} of Python 3.11",
            id="absolute path",
        ),
    ],
)  # fmt: skip
def test_what_would_not_run_there_is_refused(
    tmp_path: Path, made: object, target: Target, message: str
) -> None:
    path = tmp_path / "runtime"
    made(path)  # type: ignore[operator]

    with pytest.raises(PackageRefused) as refused:
        read_runtime(path, target)
    assert str(refused.value) == f"{path}: {message}"


@pytest.mark.parametrize("cut", [0, 10, 100])
@pytest.mark.parametrize("target", [WINDOWS, LINUX], ids=["zip", "tar"])
def test_half_a_file_is_refused(tmp_path: Path, target: Target, cut: int) -> None:
    path = tmp_path / "half"
    (embeddable if target.is_windows else standalone)(path)
    path.write_bytes(path.read_bytes()[:cut])

    with pytest.raises(PackageRefused, match="is not "):
        read_runtime(path, target)
