from __future__ import annotations

import pytest

from edge_agent.packing.package_errors import PackageRefused
from edge_agent.packing.target import Target, target_of, wheel_runs_on

WINDOWS, LINUX = Target("win_amd64", "3.11"), Target("linux_x86_64", "3.12")


@pytest.mark.parametrize(
    ("file", "target", "runs"),
    [
        pytest.param("rich-15.0.0-py3-none-any.whl", WINDOWS, True, id="pure"),
        pytest.param("colorama-0.4.6-py2.py3-none-any.whl", WINDOWS, True, id="two Pythons"),
        pytest.param("numpy-2.4.6-cp311-cp311-win_amd64.whl", WINDOWS, True, id="this Python, this platform"),
        pytest.param("numpy-2.4.6-cp312-cp312-win_amd64.whl", WINDOWS, False, id="newer Python"),
        pytest.param("numpy-2.4.6-cp311-cp311t-win_amd64.whl", WINDOWS, False, id="free-threaded"),
        pytest.param("numpy-2.4.6-cp311-cp311-win32.whl", WINDOWS, False, id="32-bit"),
        pytest.param("numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl", WINDOWS, False, id="Linux on Windows"),
        pytest.param("cryptography-50.0.2-cp311-abi3-win_amd64.whl", WINDOWS, True, id="stable ABI of this Python"),
        pytest.param("psutil-7.2.2-cp37-abi3-win_amd64.whl", WINDOWS, True, id="stable ABI of an older one"),
        pytest.param("x-1-cp313-abi3-win_amd64.whl", WINDOWS, False, id="stable ABI of a newer one"),
        pytest.param("x-1-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", LINUX, True, id="glibc"),
        pytest.param("x-1-cp312-cp312-manylinux_2_34_x86_64.whl", LINUX, False, id="newer glibc"),
        pytest.param("x-1-cp312-cp312-musllinux_1_2_x86_64.whl", LINUX, False, id="musl"),
        pytest.param("x-1-cp312-cp312-manylinux_2_28_aarch64.whl", LINUX, False, id="ARM"),
        pytest.param("x-1-1build-py3-none-any.whl", LINUX, True, id="build number"),
        pytest.param("ncempy-1.16.tar.gz", LINUX, False, id="no wheel"),
    ],
)  # fmt: skip
def test_a_wheels_name_says_where_it_runs(file: str, target: Target, runs: bool) -> None:
    assert wheel_runs_on(file, target) is runs


def test_names() -> None:
    assert (WINDOWS.label, LINUX.label) == ("win_amd64-py311", "linux_x86_64-py312")
    assert WINDOWS.words == "Windows 10 or 11, 64-bit Intel or AMD, Python 3.11"
    assert LINUX.words == "Linux with glibc 2.28 or newer, 64-bit Intel or AMD, Python 3.12"


@pytest.mark.parametrize(
    ("platform", "python", "message"),
    [
        pytest.param(
            "macosx_11_0_arm64",
            "3.11",
            "--platform macosx_11_0_arm64: no archive is made for this; choose win_amd64 or linux_x86_64",
            id="platform",
        ),
        pytest.param(
            "win_amd64",
            "3.10",
            "--python 3.10: no archive is made for this; choose 3.11, 3.12, 3.13",
            id="Python",
        ),
    ],
)
def test_what_no_lock_is_there_for_is_refused(platform: str, python: str, message: str) -> None:
    with pytest.raises(PackageRefused) as refused:
        target_of(platform, python)
    assert str(refused.value) == message
