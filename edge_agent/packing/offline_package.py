"""One archive that installs the agent on a PC without a network: what goes into it, in which order, and where.

Everything that can be refused is looked at before anything is downloaded; the archive appears under its name only
when it is whole. Read `make_package` first.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tomllib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

import edge_agent
from edge_agent.packing.archive_file import pack
from edge_agent.packing.archive_texts import fill_in, scripts
from edge_agent.packing.licences import (
    LicenceText,
    Part,
    licences_text,
    part_of_model,
    part_of_page,
    part_of_runtime,
    part_of_wheel,
)
from edge_agent.packing.lock_file import LockedFile, agent_lock, build_lock, pip_lock, sources_lock
from edge_agent.packing.own_wheel import own_wheel
from edge_agent.packing.package_errors import PackageFailed, PackageRefused
from edge_agent.packing.python_runtime import PythonRuntime, read_runtime
from edge_agent.packing.sbom import sbom_json
from edge_agent.packing.wheelhouse import fetch_source, fetch_wheels, install_tools, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from edge_agent.model_bundle import Bundle
    from edge_agent.packing.target import Target

SUMS: Final = "SHA256SUMS"
_WORK_PREFIX: Final = ".scopewatch-offline-"


@dataclass(frozen=True, slots=True)
class PackagePlan:
    """What was asked for. `wheels`: a folder that holds every locked file, in place of the index."""

    target: Target
    output: Path
    models: tuple[str, ...] = ()
    runtime: Path | None = None
    config: Path | None = None
    wheels: Path | None = None

    @property
    def name(self) -> str:
        """The archive's name without its ending, and the folder in it."""
        return f"scopewatch-{edge_agent.__version__}-{self.target.label}"

    @property
    def path(self) -> Path:
        """Where the archive will be."""
        return self.output / f"{self.name}.{'zip' if self.target.is_windows else 'tar.gz'}"


@dataclass(frozen=True, slots=True)
class OfflinePackage:
    """A finished archive."""

    path: Path
    size_bytes: int
    sha256: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Locks:
    """The locked files that go into an archive; tests bring their own."""

    agent: tuple[LockedFile, ...]
    pip: tuple[LockedFile, ...]
    sources: tuple[LockedFile, ...]

    @staticmethod
    def of(target: Target) -> Locks:
        """The locks that came with this version. Raises PackageFailed."""
        return Locks(agent_lock(target), pip_lock(), sources_lock())


@dataclass(frozen=True, slots=True)
class _Checked:
    """What may go in, after everything that can be refused was looked at."""

    shipped: tuple[Bundle, ...]
    chosen: tuple[Bundle, ...]
    runtime: PythonRuntime | None


def steps(plan: PackagePlan, locks: Locks) -> int:
    """How often `make_package` will advance."""
    return len(locks.agent) + len(locks.pip) + len(locks.sources) + len(plan.models) + 3


def make_package(
    plan: PackagePlan, locks: Locks, advance: Callable[[], None] = lambda: None
) -> OfflinePackage:
    """Make the archive.

    Raises PackageRefused and BundleRefused (what was asked for), PackageFailed (network, hashes, disk), OSError.
    """
    checked = _check(plan)
    advance()
    with _disk_faults(plan.output), _work_folder(plan.output) as work:
        tree = work / plan.name
        wheels = _gather(plan, locks, tree, work, advance)
        parts = _describe(checked, tree, wheels, advance)
        _write_texts(plan, locks, checked, tree, parts)
        _write_sums(tree)
        archive = work / plan.path.name
        pack(tree, archive, plan.name)
        _put_into_place(archive, plan.path)
    advance()
    return OfflinePackage(plan.path, plan.path.stat().st_size, sha256_of(plan.path), tuple(parts))


def _check(plan: PackagePlan) -> _Checked:
    from edge_agent.model_bundle import open_bundle, shipped_models

    if plan.wheels is not None and not plan.wheels.is_dir():
        raise PackageRefused(f"--wheels {plan.wheels}: is not a folder")
    if plan.output.exists() and not plan.output.is_dir():
        raise PackageRefused(f"--output {plan.output}: is a file, not a folder")
    if plan.runtime is not None and not plan.runtime.is_file():
        raise PackageRefused(f"--python-runtime {plan.runtime}: no such file")
    runtime = None if plan.runtime is None else read_runtime(plan.runtime, plan.target)
    if plan.config is not None:
        _check_config(plan.config, plan.target)
    shipped = tuple(open_bundle(folder) for folder in shipped_models())
    chosen = {(found.manifest.name, found.manifest.version): found for found in map(open_bundle, plan.models)}
    inside = {(found.manifest.name, found.manifest.version) for found in shipped}
    return _Checked(shipped, tuple(one for key, one in chosen.items() if key not in inside), runtime)


def _check_config(file: Path, target: Target) -> None:
    """Paths of another system mean nothing here: such a file need only be TOML."""
    from edge_agent.config import ConfigRefused, configure

    try:
        if target.is_windows == (sys.platform == "win32"):
            configure(file)
        else:
            tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except ConfigRefused as error:
        raise PackageRefused(f"--config: {error}") from error
    except (OSError, ValueError) as error:
        raise PackageRefused(f"--config {file}: cannot be read as TOML ({error})") from error


def _gather(
    plan: PackagePlan, locks: Locks, tree: Path, work: Path, advance: Callable[[], None]
) -> tuple[Path, ...]:
    """Bring every locked file and scopewatch's own wheel, and return the wheels that will be installed."""
    wheels, pip, sources = tree / "wheels", tree / "pip", tree / "sources"
    for folder in (wheels, pip, sources):
        folder.mkdir(parents=True)
    fetch_wheels(locks.agent, plan.target, wheels, wheels=plan.wheels, advance=advance)
    fetch_wheels(locks.pip, plan.target, pip, wheels=plan.wheels, advance=advance)
    own = own_wheel(wheels, wheels=plan.wheels)
    advance()
    tools = work / "tools"
    if locks.sources and not all(plan.wheels and (plan.wheels / one.file).is_file() for one in locks.sources):
        install_tools(build_lock(), tools, wheels=plan.wheels)
    for file in locks.sources:
        fetch_source(file, sources, tools, wheels=plan.wheels)
        advance()
    return own, *(wheels / file.file for file in locks.agent), *(pip / file.file for file in locks.pip)


def _describe(
    checked: _Checked, tree: Path, wheels: Sequence[Path], advance: Callable[[], None]
) -> list[Part]:
    """Copy models and runtime, and list every part of the archive."""
    parts = [part_of_wheel(path, path.relative_to(tree).as_posix()) for path in wheels]
    parts.append(part_of_page(f"{parts[0].file}, edge_agent/page/static/vendor/"))
    parts += [part_of_model(bundle, f"{parts[0].file}, edge_agent/models/") for bundle in checked.shipped]
    for bundle in checked.chosen:
        name = f"{bundle.manifest.name}-{bundle.manifest.version}"
        _copy_model(bundle, tree / "models" / name)
        parts.append(part_of_model(bundle, f"models/{name}"))
        advance()
    if checked.runtime is not None:
        place = tree / "runtime" / checked.runtime.path.name
        place.parent.mkdir()
        shutil.copyfile(checked.runtime.path, place)
        parts.append(part_of_runtime(checked.runtime, f"runtime/{place.name}"))
    return parts


def _copy_model(bundle: Bundle, folder: Path) -> None:
    """Copy what the manifest names, signature and all, and look whether the copy is still what was verified."""
    from edge_agent.model_bundle import MANIFEST, open_bundle

    folder.mkdir(parents=True)
    for name in (MANIFEST, *bundle.manifest.sha256):
        shutil.copyfile(bundle.path / name, folder / name)
    if open_bundle(folder).manifest != bundle.manifest:
        raise PackageRefused(f"{bundle.path}: changed while it was packed; run this again")


def _write_texts(
    plan: PackagePlan, locks: Locks, checked: _Checked, tree: Path, parts: Sequence[Part]
) -> None:
    own = parts[0]
    lock = "".join(file.requirement for file in locks.agent)
    _text(tree / "requirements.txt", f"{lock}{own.name}=={own.version} --hash=sha256:{own.sha256}\n")
    _text(tree / "LICENCES.md", licences_text(parts, [file.file for file in locks.sources]))
    _text(tree / "sbom.cdx.json", sbom_json(parts))
    for part in parts:
        for text in part.texts:
            _licence(tree / "licences" / part.folder, text)
    if plan.config is not None:
        shutil.copyfile(plan.config, tree / "config.toml")
    values = {
        "VERSION": edge_agent.__version__,
        "PYTHON": plan.target.python,
        "DIGITS": plan.target.digits,
        "TARGET": plan.target.words,
        "NAME": plan.name,
        "ARCHIVE": plan.path.name,
        "PIP": locks.pip[0].file,
        "RUNTIME": "" if checked.runtime is None else checked.runtime.path.name,
    }
    for name, template in scripts(plan.target):
        _text(tree / name, fill_in(template, values))


def _licence(folder: Path, text: LicenceText) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / text.name).write_bytes(text.content)


def _text(path: Path, content: str) -> None:
    path.write_bytes(content.encode())


def _write_sums(tree: Path) -> None:
    """List the SHA-256 of every file, as sha256sum does; the install scripts check it first."""
    files = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
    _text(tree / SUMS, "".join(f"{sha256_of(tree / name)}  {name}\n" for name in files))


def _put_into_place(archive: Path, path: Path) -> None:
    with archive.open("rb+") as handle:
        os.fsync(handle.fileno())
    archive.replace(path)


@contextmanager
def _work_folder(output: Path) -> Iterator[Path]:
    """A folder beside the result, gone afterwards; what a killed run left there goes too."""
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    for left in output.glob(f"{_WORK_PREFIX}*"):
        process = left.name.removeprefix(_WORK_PREFIX)
        if not process.isdigit() or not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    work = output / f"{_WORK_PREFIX}{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # the archive lies in it, as it should
                output.rmdir()


@contextmanager
def _disk_faults(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free_mb = shutil.disk_usage(output).free / 1e6
        raise PackageFailed(
            f"{output}: the disk is full ({free_mb:.0f} MB free, about 500 MB are needed); nothing was left there"
        ) from error
