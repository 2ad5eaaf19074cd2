"""One archive to send to whoever helps: what the agent did and on what kind of PC, without names or images.

`edge-agent support`. Works without a running agent and with a damaged installation: standard library only. Only
this module decides what goes in; `redaction` what a text may say.
"""

from __future__ import annotations

import getpass
import io
import json
import locale
import os
import platform
import re
import socket
import sqlite3
import sys
import time
import tomllib
import zipfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent import __version__
from edge_agent.diagnosing import agent_checks
from edge_agent.diagnosing.diagnosis import as_json
from edge_agent.diagnosing.doctor import (
    EXIT_FAILED,
    PROGRAM,
    OneLineParser,
    Question,
    print_lines,
    run_doctor,
)
from edge_agent.diagnosing.installation import all_packages, version_lines
from edge_agent.diagnosing.redaction import Redactor
from edge_agent.diagnosing.vocabulary import our_words
from edge_agent.files import write_durably
from edge_agent.model_names import shipped_models
from edge_agent.shared_opening import open_shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MIB: Final = 1024 * 1024
_LOG_MIB: Final = 8
_LOG: Final = "agent.log"
_LARGEST_RECORD_BYTES: Final = 1 * _MIB
_MOST_NAMES: Final = 50_000
_LONGEST_LINE: Final = 64 * 1024
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
_NAME_VARIABLES: Final = ("USER", "USERNAME", "LOGNAME", "SUDO_USER", "USERDOMAIN")
_HOST_VARIABLES: Final = ("HOSTNAME", "COMPUTERNAME", "USERDNSDOMAIN", "LOGONSERVER")
_SETTINGS: Final = (
    "SCOPEWATCH_",
    "OMP_",
    "OPENBLAS_",
    "PYTHON",
    "LANG",
    "LC_",
    "NOTIFY_SOCKET",
    "INVOCATION_ID",
)
_README: Final = """scopewatch {version}: support archive
=====================================

Please look through these files before you send them to anybody.

{listing}
LEFT OUT
- micrographs, heatmaps and sidecars: none is in here
- names of people, PCs, folders and files, e-mail addresses, addresses on the network: replaced by tokens such as
  <user>, <host>, <folder-2>, <file-3>.dm3, <email-1>, <address-1>; within this archive one token is one name, and
  the list of what they stand for is kept nowhere
- passwords, keys, and everything of a URL but its scheme
- every word that is not one of the agent's own: it reads <word-7>
- comments and texts of the configuration, for example what an instrument is called
- log lines older than the newest {log_mib} MiB

A name that consists of the agent's own words only ("round particle") can have stayed where it stands without its
folder. That is why a person should look.

{notes}"""


class SupportFailed(Exception):
    """No archive could be written; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to put where. `output` is the archive's path, None a new name in the current folder."""

    output: Path | None = None
    config: Path | None = None
    log_mib: int = _LOG_MIB
    doctor: bool = True


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive, and what README.txt says about it."""

    name: str
    about: str
    data: bytes


def write_support(wanted: Wanted) -> tuple[Path, int]:
    """Write the archive and return its path and size in bytes. Raises SupportFailed."""
    output = wanted.output or Path(time.strftime("scopewatch-support-%Y%m%d-%H%M%S.zip"))
    if output.exists():
        raise SupportFailed(f"{output}: exists already; name another file with --output")
    data = _archive(wanted)
    try:
        write_durably(output.absolute(), data)
    except OSError as error:
        raise SupportFailed(f"{output}: cannot be written: {error.strerror or error}; use --output") from None
    return output.absolute(), len(data)


def _archive(wanted: Wanted) -> bytes:
    settings, _ = agent_checks.settings_of(wanted.config, ())
    notes: list[str] = []
    redactor = _redactor(settings)
    _learn_names(redactor, settings.state, notes)
    members = list(_members(wanted, settings, redactor, notes))
    listing = "".join(f"- {member.name}: {member.about}\n" for member in members)
    told = "".join(f"NOTE: {redactor.text(note)}\n" for note in notes)
    readme = _README.format(version=__version__, listing=listing, log_mib=wanted.log_mib, notes=told)
    return _zipped([Member("README.txt", "", readme.encode()), *members])


def _members(
    wanted: Wanted, settings: agent_checks.Settings, redactor: Redactor, notes: list[str]
) -> Iterator[Member]:
    yield Member("versions.txt", "versions of scopewatch, Python and every package", _versions(redactor))
    yield _json("system.json", "what kind of PC this is", redactor.value(_system()))
    if wanted.doctor:
        lines = [as_json(line) for line in run_doctor(Question(config=wanted.config))]
        yield _json("doctor.json", "what `edge-agent doctor` says", redactor.value(lines))
    yield from _configuration(settings, redactor)
    yield from _records(settings.state, redactor, notes)
    yield _json(
        "state-folder.json", "what lies in the state folder", redactor.value(_listing(settings.state))
    )
    yield from _logs(settings.state, redactor, wanted.log_mib * _MIB)


def _redactor(settings: agent_checks.Settings) -> Redactor:
    roots = [*settings.folders, settings.state, settings.output, settings.file, Path.home(), Path(sys.prefix)]
    known = [str(root) for root in roots if root is not None]
    models = [folder.name for folder in shipped_models()]
    return Redactor(our_words(), _user_names(), _host_names(), known, models)


def _user_names() -> set[str]:
    """The person's names as far as the PC knows them: log-on name, home folder, full name."""
    names = {os.environ.get(variable, "") for variable in _NAME_VARIABLES} | {Path.home().name}
    with suppress(OSError, KeyError, ImportError):
        names.add(getpass.getuser())
    with suppress(ImportError, KeyError, AttributeError):
        import pwd

        full = pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
        names |= {part for part in re.split(r"[\s.]+", full) if len(part) > 2}
    return {name for name in names if name}


def _host_names() -> set[str]:
    names = {os.environ.get(variable, "").strip("\\") for variable in _HOST_VARIABLES}
    with suppress(OSError):
        names |= {socket.gethostname(), platform.node()}
    return {part for name in names for part in (name, name.partition(".")[0]) if part}


def _learn_names(redactor: Redactor, state: Path, notes: list[str]) -> None:
    """Names of micrographs stand in the journal; knowing them, they are recognised in the middle of a sentence."""
    for journal in sorted(state.glob("journal*")):
        if journal.suffix not in (".sqlite", ".db", ".sqlite3"):
            continue
        try:
            with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as connection:
                rows = connection.execute("SELECT name FROM files LIMIT ?", (_MOST_NAMES,))
                for (name,) in rows:
                    redactor.learn_file(os.fsdecode(name) if isinstance(name, bytes) else str(name))
        except sqlite3.Error as error:
            notes.append(f"the journal {journal.name} cannot be read: {error}")


def _versions(redactor: Redactor) -> bytes:
    packages = [f"{redactor.package(name)}=={version}" for name, version in all_packages()]
    return "\n".join([*version_lines(), "", *packages, ""]).encode()


def _system() -> dict[str, Any]:
    """Facts without a name in them; `PATH` and the like stay out."""
    memory = None
    with suppress(OSError, ValueError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
    return {
        "system": platform.system(),
        "release": _release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_mib": memory,
        "encoding": locale.getpreferredencoding(False),
        "seconds_from_utc": -time.timezone,
        "frozen": bool(getattr(sys, "frozen", False)),
        "is_venv": sys.prefix != sys.base_prefix,
        "variables": sorted(name for name in os.environ if name.startswith(_SETTINGS)),
    }


def _release() -> str:
    """The numbers of the kernel, or of Windows; what somebody appended to them may be a name."""
    told = platform.version() if sys.platform == "win32" else platform.release()
    found = re.match(r"\d+(?:\.\d+){0,3}", told)
    return found.group() if found else "unknown"


def _configuration(settings: agent_checks.Settings, redactor: Redactor) -> Iterator[Member]:
    """The file, without comments and free texts; where it is no TOML, its keys."""
    if settings.file is None:
        return
    try:
        text = settings.file.read_text("utf-8-sig", "replace")[:_LARGEST_RECORD_BYTES]
    except OSError as error:
        yield Member(
            "configuration.txt", "why the configuration cannot be read", f"{error.strerror}\n".encode()
        )
        return
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        about = "the keys of the configuration, which is no TOML"
        yield Member("configuration.txt", about, _keys_of(text, str(error), redactor).encode())
        return
    plain = json.loads(json.dumps(values, default=str))
    yield _json("configuration.json", "the configuration file, as JSON", redactor.value(plain))


def _keys_of(text: str, error: str, redactor: Redactor) -> str:
    keys = [f"{number}: {_key_of(line, redactor)}" for number, line in enumerate(text.splitlines(), 1)]
    return "\n".join([redactor.text(error), *keys, ""])


def _key_of(line: str, redactor: Redactor) -> str:
    """Only a key of TOML stays of a line whose end nobody knows."""
    found = re.match(r"\s*(\[{0,2}[\w.-]+\]{0,2})\s*(=?)", line)
    return f"{redactor.text(found.group(1))} {found.group(2)} ..." if found else "..."


def _records(state: Path, redactor: Redactor, notes: list[str]) -> Iterator[Member]:
    """Every small JSON file of the state folder and of those in it: status, heartbeat, store."""
    found = sorted({*state.glob("*.json"), *state.glob("*/store.json")})
    for path in found:
        name = path.relative_to(state).as_posix()
        if path.parent == state and path.name not in ("status.json", "heartbeat.json", "store.json"):
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            notes.append(f"{path.name} cannot be read: {error.strerror or error}")
            continue
        yield _record(f"state/{redactor.path(name)}", data, redactor, notes)


def _record(name: str, data: bytes, redactor: Redactor, notes: list[str]) -> Member:
    try:
        if len(data) > _LARGEST_RECORD_BYTES:
            raise ValueError("too large")
        return _json(name, "as the agent wrote it", redactor.value(json.loads(data)))
    except (ValueError, RecursionError) as error:
        notes.append(f"{name} holds {len(data)} bytes that are no record of ours ({type(error).__name__})")
        return Member(name, "damaged: left out", b"")


def _listing(state: Path) -> list[dict[str, Any]]:
    found = []
    with suppress(OSError):
        for path in sorted(state.iterdir()):
            with suppress(OSError):
                size = path.stat().st_size
                found.append({"path": str(path), "bytes": size, "modified": _utc(path.stat().st_mtime)})
    return found


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _logs(state: Path, redactor: Redactor, limit_bytes: int) -> Iterator[Member]:
    """The newest lines of the log and of its earlier files."""
    files = sorted(state.glob(f"{_LOG}*"), key=_age)
    for path in files:
        if limit_bytes <= 0 or not re.fullmatch(re.escape(_LOG) + r"(\.\d+)?", path.name):
            continue
        try:
            data = _tail(path, limit_bytes)
        except OSError as error:
            told = f"cannot be read: {error.strerror or error}\n"
            yield Member(f"logs/{path.name}", "the log", told.encode())
            continue
        limit_bytes -= path.stat().st_size
        lines = (log_line(line, redactor) for line in data.decode("utf-8", "replace").splitlines())
        yield Member(f"logs/{path.name}", "the log", "".join(f"{line}\n" for line in lines).encode())


def _age(path: Path) -> int:
    number = path.suffix.removeprefix(".")
    return int(number) if number.isdigit() else 0


def _tail(path: Path, limit_bytes: int) -> bytes:
    """Return the end of a file, from the start of a line on; the agent can rotate it meanwhile."""
    with open_shared(path) as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - limit_bytes))
        data = handle.read(limit_bytes)
    return data if size <= limit_bytes else data.partition(b"\n")[2]


def log_line(line: str, redactor: Redactor) -> str:
    """Return one line of the log without names: an object of JSON, or text as earlier versions wrote it."""
    if len(line) > _LONGEST_LINE:
        return f"a line of {len(line)} characters was left out"
    if line.startswith("{"):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            return json.dumps(redactor.value(values), ensure_ascii=False)
    return redactor.text(line)


def _json(name: str, about: str, value: object) -> Member:
    return Member(name, about, json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "replace"))


def _zipped(members: Sequence[Member]) -> bytes:
    """Equal members give equal bytes: no time of this PC, no owner."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(zipfile.ZipInfo(member.name, _ZIP_TIME), member.data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the archive, say where it is, and return the exit code."""
    parser = OneLineParser(prog=f"{PROGRAM} support", description="Write an archive for whoever helps.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the archive; a new name here by default")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file")
    parser.add_argument(
        "--log-mib", type=int, default=_LOG_MIB, metavar="N", help="the newest N MiB of the log (8)"
    )
    asked = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    sys.stderr.write("looking at this PC and at the logs; this takes up to a minute\n")
    try:
        path, size = write_support(Wanted(asked.output, asked.config, max(0, asked.log_mib)))
    except SupportFailed as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return EXIT_FAILED
    print_lines(f"{path}: {size / 1024:.0f} KiB")
    print_lines(
        "no image and no name is meant to be in it: look through it before you send it (README.txt first)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
