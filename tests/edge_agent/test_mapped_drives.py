"""Paths that a service would not find. Not verified on Windows: the drives are a table."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest

from edge_agent.deploy.mapped_drives import is_unc, refuse_mapped, unc_of
from edge_agent.deploy.service_plan import ServiceRefused

DRIVES = SimpleNamespace(share_of={"Z:": r"\\nas\titan", "Y:": "\\\\nas\\root\\"}.get)


@pytest.mark.parametrize(
    ("path", "unc"),
    [
        pytest.param(r"Z:\2026\oct", r"\\nas\titan\2026\oct", id="mapped"),
        pytest.param(r"z:\2026", r"\\nas\titan\2026", id="small letter"),
        pytest.param("Z:\\", "\\\\nas\\titan\\", id="the drive itself"),
        pytest.param(r"Y:\a", r"\\nas\root\a", id="a share that ends with a backslash"),
        pytest.param(r"D:\data", None, id="a disk"),
        pytest.param(r"\\nas\titan\2026", None, id="UNC already"),
        pytest.param("/data/scope", None, id="no drive at all"),
    ],
)
def test_what_a_path_is_called_by_every_log_on(path, unc):
    assert unc_of(path, DRIVES) == (None if unc is None else PureWindowsPath(unc))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (r"\\nas\titan\x", True),
        (r"\\?\UNC\nas\titan\x", True),
        (r"\\?\C:\data", False),
        (r"C:\data", False),
        ("/data", False),
    ],
)
def test_paths_that_name_a_server(path, expected):
    assert is_unc(path) is expected


def test_a_refusal_names_the_path_that_works():
    with pytest.raises(ServiceRefused) as error:
        refuse_mapped([r"Z:\2026", r"D:\data", r"Y:\out"], DRIVES)
    assert str(error.value).splitlines() == [
        r"Z:\2026: a mapped drive exists for your log-on only, and a service has none; write \\nas\titan\2026",
        r"Y:\out: a mapped drive exists for your log-on only, and a service has none; write \\nas\root\out",
    ]
    refuse_mapped([Path(r"D:\data")], DRIVES)
