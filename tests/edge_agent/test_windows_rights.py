"""Whether somebody could change what a service runs. Not verified on Windows: access lists are tables."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest

from edge_agent.deploy.windows_rights import (
    AccessEntry,
    AccessList,
    Win32AccessLists,
    changeable_by,
    code_folders,
)

SYSTEM, ADMINS, USERS = "S-1-5-18", "S-1-5-32-544", "S-1-5-32-545"
INSTALLER = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
FULL, MODIFY, READ, ADD_FOLDER = 0x1F01FF, 0x1301BF, 0x1200A9, 0x000004
FOLDER = PureWindowsPath(r"C:\Program Files\scopewatch")


def entry(sid: str, mask: int, *, kind: int = 0, flags: int = 0) -> AccessEntry:
    return AccessEntry(kind, flags, mask, sid, {USERS: r"BUILTIN\Users"}.get(sid, sid))


def lists(owner: str = ADMINS, **extra: AccessEntry):
    """Sound access lists, with one line more on `folder` or `top`."""
    sound = (entry(SYSTEM, FULL), entry(ADMINS, FULL), entry(INSTALLER, FULL), entry(USERS, READ))

    def access_list(path: str) -> AccessList:
        more = extra.get("folder") if path == str(FOLDER) else extra.get("top") if path == "C:\\" else None
        owned = owner if path == str(FOLDER) else ADMINS
        return AccessList(owned, owned, sound if more is None else (*sound, more))

    return SimpleNamespace(access_list=access_list)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        pytest.param(lists(), [], id="program files"),
        pytest.param(
            lists(folder=entry(USERS, MODIFY)),
            [rf"{FOLDER}: BUILTIN\Users can change it"],
            id="users may modify",
        ),
        pytest.param(
            lists(folder=entry("S-1-5-11", 0x2)), [rf"{FOLDER}: S-1-5-11 can change it"], id="may add files"
        ),
        pytest.param(lists(folder=entry(USERS, FULL, kind=1)), [], id="a line that denies"),
        pytest.param(lists(folder=entry(USERS, FULL, flags=0x08)), [], id="only for what is made in it"),
        pytest.param(lists(top=entry("S-1-5-11", ADD_FOLDER)), [], id="users may make folders on the disk"),
        pytest.param(
            lists(top=entry(USERS, 0x40)),
            [r"C:\: BUILTIN\Users can change it"],
            id="may delete what is there",
        ),
        pytest.param(
            lists(owner="S-1-5-21-1-2-3-1001"), [rf"{FOLDER}: S-1-5-21-1-2-3-1001 can change it"], id="owner"
        ),
    ],
)
def test_who_can_change_a_folder_of_code(case, said):
    assert list(changeable_by(FOLDER, case)) == said


def test_reading_an_access_list_by_pywin32():
    sids = {"owner": "S-1-5-32-544", "users": USERS, "gone": "S-1-5-21-9"}
    names = {"owner": ("Administrators", "BUILTIN", 4), "users": ("Users", "BUILTIN", 4)}

    class NoSuchAccount(Exception):
        pass

    def look_up(machine: object, sid: str) -> tuple[str, str, int]:
        if sid not in names:
            raise NoSuchAccount
        return names[sid]

    def lines(dacl):
        descriptor = SimpleNamespace(
            GetSecurityDescriptorOwner=lambda: "owner", GetSecurityDescriptorDacl=lambda: dacl
        )
        security = SimpleNamespace(
            OWNER_SECURITY_INFORMATION=1,
            DACL_SECURITY_INFORMATION=4,
            error=NoSuchAccount,
            GetFileSecurity=lambda path, wanted: descriptor if (path, wanted) == ("C:\\x", 5) else None,
            ConvertSidToStringSid=sids.__getitem__,
            LookupAccountSid=look_up,
        )
        return Win32AccessLists(security).access_list("C:\\x")

    aces = [((0, 3), -536870912, "users"), ((0, 0), FULL, "gone")]
    found = lines(SimpleNamespace(GetAceCount=lambda: 2, GetAce=aces.__getitem__))
    assert found == AccessList(
        "S-1-5-32-544",
        r"BUILTIN\Administrators",
        (
            AccessEntry(0, 3, 0xE0000000, USERS, r"BUILTIN\Users"),
            AccessEntry(0, 0, FULL, "S-1-5-21-9", "S-1-5-21-9"),
        ),
    )
    # No list at all means that everybody may do everything.
    assert [line.name for line in lines(None).entries] == ["Everyone"]


def test_which_folders_hold_code():
    assert code_folders(Path(r"C:\py\python.exe"), Path(r"C:\py\Lib\site-packages")) == (
        PureWindowsPath(r"C:\py"), PureWindowsPath(r"C:\py\Lib\site-packages"),
    )  # fmt: skip
