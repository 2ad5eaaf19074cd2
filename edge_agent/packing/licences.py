"""What an archive or an installation hands on of other people's work: licence, its text, and where the source is.

Read from the wheels or the installed packages themselves, so that the list cannot fall behind. Only this module
knows where a package keeps its licence.
"""

from __future__ import annotations

import email
import importlib.metadata
import re
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

import edge_agent
from edge_agent.packing.wheelhouse import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from email.message import Message

    from edge_agent.model_bundle import Bundle
    from edge_agent.packing.python_runtime import PythonRuntime

OWN: Final = "scopewatch"
_TEXT: Final = re.compile(r"(?i)(licen[cs]e|copying|notice|third[-_ ]?party)[^/]*")
_NO_TEXT: Final = (".py", ".pyi", ".pyc", ".h", ".json")
_COPYLEFT: Final = re.compile(r"\b(?:A|L)?GPL", re.IGNORECASE)
_SPDX: Final = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")
_REQUIRED_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_LICENCE_FIELD: Final = 80
_MOST_TEXTS_NAMED: Final = 3
PYTHON_LICENCE: Final = "PSF-2.0"
VENDORED: Final = Path(edge_agent.__file__).parent / "page" / "static" / "vendor"
UPLOT_VERSION: Final = "1.6.32"


@dataclass(frozen=True, slots=True)
class LicenceText:
    """A text as its owner wrote it, and the name it keeps."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Part:
    """One piece that is handed on."""

    name: str
    version: str
    kind: Literal["package", "model", "python", "script"]
    licence: str
    """An SPDX expression where its owner states one, else the owner's words."""
    texts: tuple[LicenceText, ...]
    file: str = ""
    """Its place in the archive; empty in an installation."""
    sha256: str = ""
    requires: tuple[str, ...] = ()

    @property
    def is_copyleft(self) -> bool:
        """Whether whoever hands it on has to hand on its source too."""
        return _COPYLEFT.search(self.licence) is not None

    @property
    def is_expression(self) -> bool:
        """Whether the licence is written as an SPDX expression."""
        return _SPDX.fullmatch(self.licence.replace("(", "").replace(")", "")) is not None

    @property
    def folder(self) -> str:
        """Where its texts lie below `licences/`."""
        return f"{self.name}-{self.version}"


def part_of_wheel(path: Path, place: str) -> Part:
    """Read a wheel. Raises OSError, zipfile.BadZipFile."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(info))
        texts = [LicenceText(_flat(name), archive.read(name)) for name in names if _holds_licence(name)]
    return _part(metadata, texts, place, sha256_of(path))


def part_of_installed(name: str) -> Part | None:
    """Read an installed package; None where it is not there."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    metadata = email.message_from_string(found.read_text("METADATA") or "")
    texts = [
        LicenceText(str(file.locate()), b"") for file in found.files or () if _holds_licence(file.as_posix())
    ]
    return _part(metadata, texts, "", "")


def part_of_model(bundle: Bundle, place: str) -> Part:
    """Read a verified bundle: its own licence, and its THIRD_PARTY.md where it was made from others' weights."""
    texts = []
    for name in ("LICENSE", "THIRD_PARTY.md"):
        file = bundle.path / name
        if name in bundle.manifest.sha256:
            texts.append(LicenceText(name, file.read_bytes()))
    manifest = bundle.manifest
    return Part(
        manifest.name,
        manifest.version,
        "model",
        manifest.licence or "not stated",
        tuple(texts),
        place,
        bundle.sha256,
    )


def part_of_runtime(runtime: PythonRuntime, place: str) -> Part:
    """Read a checked Python that goes into an archive."""
    texts = () if runtime.licence is None else (LicenceText("LICENSE.txt", runtime.licence),)
    return Part("CPython", runtime.version, "python", PYTHON_LICENCE, texts, place, sha256_of(runtime.path))


def part_of_page(place: str) -> Part:
    """The one script of others that the operator's page is made with, lying unchanged in scopewatch's own wheel."""
    licence = (VENDORED / "uPlot-LICENSE.txt").read_bytes()
    script = VENDORED / "uPlot.iife.min.js"
    return Part(
        "uplot", UPLOT_VERSION, "script", "MIT", (LicenceText("LICENSE", licence),), place, sha256_of(script)
    )


def installed_parts(names: Iterable[str]) -> tuple[Part, ...]:
    """Every one of these packages that is installed here, scopewatch itself first."""
    found = [part_of_installed(name) for name in (OWN, *sorted(names))]
    return tuple(part for part in found if part is not None)


def licences_text(parts: Sequence[Part], sources: Sequence[str], *, place: str = "licences/") -> str:
    """Return the list as Markdown: what it means in plain words, then a table of every part."""
    copyleft = [part for part in parts if part.is_copyleft]
    rows = "".join(_row(part, sources, place) for part in parts)
    return (
        f"# Licences\n\n{_words(copyleft, sources)}\n"
        f"| part | version | licence | its text | its source |\n| --- | --- | --- | --- | --- |\n{rows}"
    )


def _words(copyleft: Sequence[Part], sources: Sequence[str]) -> str:
    named = ", ".join(f"{part.name} {part.version}" for part in copyleft)
    where = (
        "Their complete source travels with this archive: scopewatch's wheel is its source (it holds nothing "
        f"compiled), the other lies in `sources/` ({', '.join(sources)})."
        if sources
        else "Their source: scopewatch's files as installed are its source; ncempy's is at "
        "https://pypi.org/project/ncempy/ and in `sources/` of every offline archive."
    )
    return (
        "scopewatch reads DigitalMicrograph files with classes of ncempy, which is under the GNU General Public "
        "License, version 3 or later; scopewatch is under the same licence for that reason.\n\n"
        "What that means for a laboratory:\n\n"
        "- Use is free: any number of PCs, any purpose, paid work included. Micrographs, labels, sidecars and "
        "heatmaps are yours; the licence says nothing about them.\n"
        "- Changing it for yourselves is free, and nobody has to be told.\n"
        "- Whoever hands a copy to somebody outside the house (on a stick, with an instrument, on a web page) "
        "hands on the same rights: with this licence, and with the source. Passing on the archive "
        "whole is enough.\n\n"
        f"Under such a licence here: {named or 'nothing'}. {where}\n\n"
        "Every other part may be passed on as it is, with its licence text, which is included.\n"
    )


def _row(part: Part, sources: Sequence[str], place: str) -> str:
    texts = ", ".join(f"{place}{part.folder}/{text.name}" if place else text.name for text in part.texts)
    if place and len(part.texts) > _MOST_TEXTS_NAMED:
        texts = f"{place}{part.folder}/ ({len(part.texts)} texts)"
    elif not place and len(part.texts) > 1:
        texts = f"{part.texts[0].name} and {len(part.texts) - 1} more"
    source = _source(part, sources) if part.is_copyleft else "not asked for"
    return f"| {part.name} | {part.version} | {part.licence} | {texts or _no_text(part)} | {source} |\n"


def _source(part: Part, sources: Sequence[str]) -> str:
    """Where the source of a part under copyleft is; what holds nothing compiled is its own source."""
    if part.name == OWN or part.kind == "model":
        return part.file or "the installed files"
    archives = [name for name in sources if name.startswith(f"{part.name}-{part.version}")]
    return f"sources/{archives[0]}" if archives else f"https://pypi.org/project/{part.name}/{part.version}/"


def _no_text(part: Part) -> str:
    return "in its runtime" if part.kind == "python" else f"its owner packs none; {part.licence}"


def _part(metadata: Message, texts: Sequence[LicenceText], place: str, sha256: str) -> Part:
    required = []
    for line in metadata.get_all("Requires-Dist", []):
        match = _REQUIRED_NAME.match(line)
        if match is not None and "extra ==" not in line:
            required.append(normal_name(match.group()))
    name = normal_name(metadata["Name"])
    # The wheel of pip holds each of its licences twice; an installed text has a name only.
    distinct = {text.content or text.name: text for text in texts}
    return Part(
        name,
        metadata["Version"],
        "package",
        _licence(metadata),
        tuple(distinct.values()),
        place,
        sha256,
        tuple(sorted(set(required))),
    )


def _licence(metadata: Message) -> str:
    stated = str(metadata["License-Expression"] or "").strip()
    if stated:
        return stated
    classified = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier", [])
        if line.startswith("License ::")
    ]
    short = str(metadata["License"] or "").strip()
    if short and "\n" not in short and len(short) <= _LONGEST_LICENCE_FIELD:
        return short
    return " / ".join(classified) or "not stated"


def normal_name(name: str) -> str:
    """A package's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _holds_licence(name: str) -> bool:
    path = PurePosixPath(name)
    in_folder = ".dist-info/licenses/" in name
    return (
        not name.endswith("/")
        and (in_folder or _TEXT.fullmatch(path.name) is not None)
        and path.suffix not in _NO_TEXT
    )


def _flat(name: str) -> str:
    """A licence's place in a wheel as one file name."""
    for marker in (".dist-info/licenses/", ".dist-info/"):
        if marker in name:
            return name.partition(marker)[2].replace("/", "_")
    return name.replace("/", "_")


def this_python() -> Part:
    """The Python that is running; it was not brought by scopewatch unless an archive carried it."""
    version = ".".join(str(number) for number in sys.version_info[:3])
    return Part("CPython", version, "python", PYTHON_LICENCE, ())
