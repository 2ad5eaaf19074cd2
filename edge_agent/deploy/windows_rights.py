r"""Who could change what a Windows service runs and goes by. Not verified on Windows.

A service that starts a Python which ordinary users can replace hands its account to them. `C:\scopewatch`, made by
an administrator, is such a folder: it inherits "modify" for all users from `C:\`. Only this module reads access
lists. Masks and names of accounts (SIDs) are those of winnt.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import SimpleNamespace
    from typing import Any

INHERIT_ONLY: Final = 0x08
_ALLOWED: Final = 0  # ACCESS_ALLOWED_ACE_TYPE
_FULL: Final = 0x10000000  # GENERIC_ALL
# DELETE, WRITE_DAC, WRITE_OWNER, FILE_DELETE_CHILD: what is in the way can be replaced.
_REPLACE: Final = 0x00010000 | 0x00040000 | 0x00080000 | 0x00000040 | _FULL
# FILE_WRITE_DATA (a file in it), FILE_APPEND_DATA (a folder in it), GENERIC_WRITE.
_ADD: Final = 0x00000002 | 0x00000004 | 0x40000000
_TRUSTED: Final = frozenset(
    {
        "S-1-5-18",  # SYSTEM
        "S-1-5-32-544",  # Administrators
        "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",  # TrustedInstaller
        "S-1-3-0",  # CREATOR OWNER, whoever that is: see the owner
    }
)


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """One line of an access list."""

    kind: int
    flags: int
    mask: int
    sid: str
    name: str


@dataclass(frozen=True, slots=True)
class AccessList:
    """Owner and lines of a file or folder."""

    owner_sid: str
    owner_name: str
    entries: tuple[AccessEntry, ...]


class AccessLists(Protocol):
    """The one question to Windows."""

    def access_list(self, path: str) -> AccessList:
        """Return the access list of a file or folder. Raises OSError."""


def changeable_by(path: PureWindowsPath, lists: AccessLists) -> Iterator[str]:
    """Yield `PLACE: WHO can change it` for a folder of code and every folder above it."""
    for place in (path, *path.parents):
        found = lists.access_list(str(place))
        rights = _REPLACE | _ADD if place == path else _REPLACE
        who = {entry.name for entry in found.entries if _gives(entry, rights)}
        if found.owner_sid not in _TRUSTED:
            who.add(found.owner_name)
        if who:
            yield f"{place}: {', '.join(sorted(who))} can change it"


def _gives(entry: AccessEntry, rights: int) -> bool:
    applies = entry.kind == _ALLOWED and not entry.flags & INHERIT_ONLY
    return applies and bool(entry.mask & rights) and entry.sid not in _TRUSTED


class Win32AccessLists:
    """`AccessLists` by pywin32's `win32security`."""

    def __init__(self, win32security: SimpleNamespace) -> None:
        self._security = win32security

    def access_list(self, path: str) -> AccessList:
        """GetFileSecurity: owner and discretionary access list; one without a list is open to everybody."""
        security = self._security
        wanted = security.OWNER_SECURITY_INFORMATION | security.DACL_SECURITY_INFORMATION
        found = security.GetFileSecurity(path, wanted)
        owner, dacl = found.GetSecurityDescriptorOwner(), found.GetSecurityDescriptorDacl()
        entries = [AccessEntry(_ALLOWED, 0, _FULL, "S-1-1-0", "Everyone")]
        if dacl is not None:
            entries = [self._entry(dacl.GetAce(number)) for number in range(dacl.GetAceCount())]
        return AccessList(security.ConvertSidToStringSid(owner), self._name(owner), tuple(entries))

    def _entry(self, line: Sequence[Any]) -> AccessEntry:
        (kind, flags), mask, sid = line[0], line[1], line[-1]
        return AccessEntry(
            kind, flags, mask & 0xFFFFFFFF, self._security.ConvertSidToStringSid(sid), self._name(sid)
        )

    def _name(self, sid: object) -> str:
        try:
            name, domain, _ = self._security.LookupAccountSid(None, sid)
        except self._security.error:
            return str(self._security.ConvertSidToStringSid(sid))
        return f"{domain}\\{name}" if domain else str(name)


def owned_by_others(path: PureWindowsPath, lists: AccessLists) -> Iterator[str]:
    """Yield `PLACE: belongs to WHO` when a folder was made by somebody who is no administrator."""
    found = lists.access_list(str(path))
    if found.owner_sid not in _TRUSTED:
        yield f"{path}: belongs to {found.owner_name}"


def closing_commands(data: Path, state: Path, service: str) -> tuple[tuple[str, ...], ...]:
    r"""Return the commands that let nobody but administrators, and in `state` the service, write below `data`.

    What lies below %ProgramData% inherits that every user may make files there: a planted model store or
    configuration would be the service's. Accounts are given by number, because their names differ by language.
    """
    system, administrators, users = "*S-1-5-18", "*S-1-5-32-544", "*S-1-5-32-545"
    return (
        ("icacls", str(data), "/setowner", administrators, "/T", "/C", "/Q"),
        (
            "icacls", str(data), "/inheritance:r", "/grant:r", f"{system}:(OI)(CI)F",
            f"{administrators}:(OI)(CI)F", f"{users}:(OI)(CI)RX", "/Q",
        ),
        ("icacls", str(state), "/reset", "/T", "/C", "/Q"),
        ("icacls", str(state), "/grant", f"{service}:(OI)(CI)M", "/Q"),
    )  # fmt: skip


def code_folders(python: Path, package: Path) -> tuple[PureWindowsPath, ...]:
    """Return the folders whose content the service runs."""
    return tuple(dict.fromkeys((PureWindowsPath(python).parent, PureWindowsPath(package))))
