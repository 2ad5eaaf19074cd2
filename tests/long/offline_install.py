"""Archive to first classified file without a network, upgrade, uninstall: `python tests/long/offline_install.py`.

Needs Linux, root, /usr/bin/python3.11 and, where --archives DIR holds none yet, the package index. Everything but
the making of the archives happens on a machine of its own: a file system laid over this one, in which every changed
file is seen, and a network namespace without routes, with an empty environment; once as a person without rights and
once as root. Prints a line for each figure, exits 1 at the first that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.markers import default_environment
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "long")]

from booted_machine import BootedMachine, Unbootable  # noqa: E402
from bundles import tiny_bundle  # noqa: E402

from edge_agent.packing.licences import normal_name  # noqa: E402
from edge_agent.packing.target import Target, wheel_runs_on  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON = "3.11"
PYTHON_HERE = f"/usr/bin/python{PYTHON}"
PERSON, HOME = 1000, "/home/person"
LEFT_OUT = {"scipy", "matplotlib", "h5py", "hdf5plugin", "flatbuffers", "packaging", "protobuf", "sympy"}
OURS = re.compile(r"\.json$|\.heatmap\.png$")
THE_MACHINES = re.compile(
    r"/var/(log|cache|spool|backups|lib/(systemd|postgresql|dbus|logrotate|apt))/|/run/|/etc/\.updated|/var/\.updated"
)
"""What a booted machine writes by itself."""
BELOW_SECONDS, BELOW_MB, BELOW_CHARACTERS = 300, 300, 260
DEEP_PREFIX = (
    r"C:\Users\a-name-of-twenty-chr\AppData\Local\Programs\scopewatch\versions\10.10.10-10"
    r"\env\Lib\site-packages"
)
LAY_OVER = """
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
mount --rbind /dev "$0/root/dev"
mount -t proc proc "$0/root/proc"
exec chroot "$0/root" env -i HOME="$1" setpriv --reuid="$2" --regid="$2" --clear-groups "${@:3}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--archives", type=Path, help="archives of an earlier run, or where to keep this one's"
    )
    asked = parser.parse_args()
    if os.geteuid() != 0 or not Path(PYTHON_HERE).exists():
        raise SystemExit(f"this needs root and {PYTHON_HERE}")
    with tempfile.TemporaryDirectory(prefix="offline-install-", dir="/var/tmp") as folder:
        work = Path(folder)
        work.chmod(0o755)
        archives = asked.archives or work / "archives"
        model = tiny_bundle(work / "tiny-1")
        for platform in ("linux_x86_64", "win_amd64"):
            if not list(archives.glob(f"*-{platform}-*")):
                make(platform, archives, "--model", str(model))
        # Not from /tmp, of which the booted machine has its own.
        linux, windows = (Path(shutil.copy(*archives.glob(kind), work)) for kind in ("*.tar.gz", "*.zip"))
        micrograph = real_micrograph(work)
        journey(
            linux, micrograph, Machine(work / "own", PERSON), "a person", f"{HOME}/.local/share/scopewatch"
        )
        journey(linux, micrograph, Machine(work / "pc", 0), "root", "/opt/scopewatch")
        with_service(linux, micrograph, work / "booted")
        with_runtime(micrograph, work / "runtime")
        embeddable_rules(linux, micrograph, work / "embeddable")
        dependencies_are_whole(unpacked(linux, work / "linux"), Target("linux_x86_64", PYTHON))
        windows_archive(unpacked(windows, work / "windows"))
    print("everything holds")


class Machine:
    """This machine with a layer over it that takes every change, without a network. `user` 0 is root."""

    def __init__(self, work: Path, user: int) -> None:
        self._layer, self.user = work, user
        for name in ("upper", "work", "root"):
            (work / name).mkdir(parents=True)
        self.home = "/root" if user == 0 else HOME
        self.session = f"{self.home}/session"
        run(self.command("mkdir", "-p", self.session, user=0))
        run(self.command("chown", "-R", f"{user}:{user}", self.home if user else self.session, user=0))

    def command(self, *command: str, user: int | None = None) -> list[str]:
        """The command line that runs a command there, in one process from end to end."""
        who = self.user if user is None else user
        isolate = ["unshare", "--mount", "--net", "bash", "-euc", LAY_OVER, str(self._layer)]
        return [*isolate, self.home, str(who), *command]

    def run(self, *command: str) -> str:
        return run(self.command(*command))

    def put(self, file: Path, name: str) -> str:
        """A file comes into the folder that is watched."""
        self.run("cp", str(file), f"{self.session}/{name}")
        return f"{self.session}/{name}"

    def changed(self) -> set[str]:
        """Every new or changed file and every new folder, wherever on the machine; not what was removed."""
        upper, found = self._layer / "upper", set()
        for folder, folders, files in os.walk(upper):
            below = Path("/", Path(folder).relative_to(upper))
            there = (
                name for name in files if not Path(folder, name).is_char_device()
            )  # a removed file's mark
            found |= {str(below / name) for name in there}
            found |= {str(below / name) for name in folders if not (below / name).exists()}
        return found


def make(platform: str, output: Path, *options: str) -> Path:
    began = time.monotonic()
    command = [
        "package-offline",
        "--platform",
        platform,
        "--python",
        PYTHON,
        "--output",
        str(output),
        *options,
    ]
    agent_here(*command)
    (made,) = output.glob(f"*-{platform}-*")
    figure(f"{made.name}, {made.stat().st_size / 1e6:.0f} MB", f"made in {time.monotonic() - began:.0f} s")
    return made


def journey(archive: Path, micrograph: Path, machine: Machine, who: str, prefix: str) -> None:
    """Install, first file, live, models, upgrade, uninstall, as one person would do it."""
    before, copied = machine.changed(), f"/tmp/{archive.name.removesuffix('.tar.gz')}"
    began = time.monotonic()
    machine.run("tar", "-xzf", str(archive), "-C", "/tmp")
    machine.run("sh", f"{copied}/install.sh")
    agent = f"{prefix}/bin/edge-agent"
    first = machine.put(micrograph, "first.dm3")
    said = machine.run(agent, "classify", first)
    seconds = time.monotonic() - began
    outcome = json.loads(machine.run("cat", f"{first}.json"))["outcome"]
    must(outcome == "classified", f"{who}: first file {outcome}: {said.splitlines()[0]}")
    must(
        seconds < BELOW_SECONDS,
        f"{who}: archive to first classified file ({micrograph.name}): {seconds:.1f} s",
    )
    size_mb = int(machine.run("du", "-sm", prefix).split()[0])
    must(size_mb < BELOW_MB, f"{who}: installed in {prefix}: {size_mb} MB")
    live(machine, agent, micrograph, who)
    listed = machine.run(agent, "models", "list").splitlines()
    must(any("tiny-1" in line for line in listed), f"{who}: the chosen model is in the store")
    versions = machine.run("ls", f"{prefix}/versions").split()
    machine.run("sh", f"{copied}/install.sh")
    upgraded = machine.run("ls", f"{prefix}/versions").split()
    must(len(upgraded) == 1 and upgraded != versions, f"{who}: upgrade in place: {versions} -> {upgraded}")
    machine.run(agent, "check")
    machine.run(agent, "doctor")
    every_module_loads(machine, prefix, who)
    packed_again(machine, copied, prefix, who)
    machine.run("sh", f"{prefix}/uninstall.sh")
    machine.run("rm", "-r", copied)
    session = {f"{machine.session}/{name}" for name in ("first.dm3", "second.dm3")}
    left = machine.changed() - before - session
    foreign = sorted(path for path in left if not OURS.search(path))
    must(
        not foreign,
        f"{who}: after uninstall {len(left)} files are left, all sidecars and heatmaps: {foreign}",
    )


def live(machine: Machine, agent: str, micrograph: Path, who: str) -> None:
    """`watch` classifies a file that comes, and Ctrl-C ends it."""
    command, said = machine.command(agent, "watch", machine.session), ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            said = line.strip()
            if " watches " in line:
                machine.put(micrograph, "second.dm3")
            if "second.dm3" in line:
                process.send_signal(signal.SIGINT)
    is_there = f"{machine.session}/second.dm3.json" in machine.changed()
    must(is_there and process.returncode == 0, f"{who}: watch, a new file, Ctrl-C: {said}")


def every_module_loads(machine: Machine, prefix: str, who: str) -> None:
    """With the locked packages alone; none of those that were left out is there."""
    code = (
        "import importlib, importlib.util, pkgutil, edge_agent\n"
        f"there = [name for name in {sorted(LEFT_OUT)} if importlib.util.find_spec(name)]\n"
        "names = [one.name for one in pkgutil.walk_packages(edge_agent.__path__, 'edge_agent.')]\n"
        "print(len([importlib.import_module(name) for name in names if '__main__' not in name]), there)\n"
    )
    said = machine.run(f"{prefix}/current/env/bin/python", "-P", "-c", code).strip()
    must(said.endswith("[]"), f"{who}: modules that load, and left out packages that are there: {said}")


def packed_again(machine: Machine, copied: str, prefix: str, who: str) -> None:
    """From what is installed the same wheel comes out, file by file, as the one that went in."""
    code = (
        "import importlib.metadata, pathlib; from edge_agent.packing.own_wheel import packed_again; "
        "print(packed_again(importlib.metadata.distribution('scopewatch'), pathlib.Path('/tmp')))"
    )
    again = machine.run(f"{prefix}/current/env/bin/python", "-c", code).strip()
    compare = (
        "import sys, zipfile\n"
        "for wheel in map(zipfile.ZipFile, sys.argv[1:]):\n"
        "    print(sorted((one.filename, one.CRC) for one in wheel.infolist() if '/RECORD' not in one.filename))\n"
    )
    wheel = f"{copied}/wheels/{again.rpartition('/')[2]}"
    first, second = machine.run(PYTHON_HERE, "-c", compare, again, wheel).splitlines()
    machine.run("rm", again)
    must(
        first == second,
        f"{who}: packed again from the installation, the same wheel: {first.count('(')} files",
    )


def with_service(archive: Path, micrograph: Path, work: Path) -> None:
    """`install.sh --service FOLDER` under a real systemd, an upgrade while the service runs, the uninstall."""
    machine, session, copied = (
        BootedMachine(work),
        "/data/session",
        f"/srv/{archive.name.removesuffix('.tar.gz')}",
    )
    agent, script = "/opt/scopewatch/bin/edge-agent", f"{copied}/install.sh"
    try:
        machine.boot()
        machine.run("useradd", "-m", "em")
        machine.run("mkdir", "-p", session)
        machine.run("chown", "em", session)
        before = written(work)
        began = time.monotonic()
        machine.run("tar", "-xzf", str(archive), "-C", "/srv")
        machine.run("sh", script, "--service", session)
        for name in ("first", "second"):
            machine.run("cp", str(micrograph), f"{session}/{name}.dm3", user="em")
            wait_for(
                lambda name=name: (
                    machine.run("test", "-e", f"{session}/{name}.dm3.json", check=False).returncode == 0
                )
            )
            if name == "first":
                must(True, f"service: archive to first classified file: {time.monotonic() - began:.1f} s")
                first = machine.run("systemctl", "show", "scopewatch", "-p", "MainPID", "--value").stdout
                machine.run("sh", script)
                second = machine.run("systemctl", "show", "scopewatch", "-p", "MainPID", "--value").stdout
                must(first != second, "service: restarted by the upgrade, and classifying")
        must(
            "tiny-1 " in machine.run(agent, "models", "list").stdout,
            "service: the chosen model is in its store",
        )
        machine.run("sh", "/opt/scopewatch/uninstall.sh")
        must(
            not machine.run("systemctl", "list-unit-files", "scopewatch.service", check=False).stdout.count(
                "scopewatch"
            ),
            "service: gone",
        )
        machine.run("rm", "-r", copied)
        left = sorted(written(work) - before)
        ours = [path for path in left if path.startswith(f"{session}/")]
        foreign = [path for path in left if path not in ours and not THE_MACHINES.match(path)]
        must(
            not foreign,
            f"service: after uninstall {len(ours)} files in the session, and nothing of ours elsewhere: {foreign}",
        )
    except Unbootable as why:
        figure("service", f"not tried: {why}")
    finally:
        machine.destroy()


def written(work: Path) -> set[str]:
    upper = work / "upper"
    files = (path for path in upper.rglob("*") if not path.is_dir() and not path.is_char_device())
    return {str(Path("/", path.relative_to(upper))) for path in files}


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit("nothing within 60 s")
        time.sleep(0.2)


def with_runtime(micrograph: Path, work: Path) -> None:
    """A copy of this Python, laid out as python-build-standalone's, stands for one: none is to be had here."""
    work.mkdir()
    runtime = work / f"cpython-{PYTHON}.0-stand-in-install_only.tar.gz"
    base = Path(sys.base_prefix)
    skipped = {"site-packages", "test", "tests", "__pycache__", "idlelib", "ensurepip"}

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if skipped & set(Path(entry.name).parts) or entry.name.endswith(".a") else entry

    with tarfile.open(runtime, "w:gz", compresslevel=1) as archive:
        archive.add(Path(base / "bin" / f"python{PYTHON}").resolve(), f"python/bin/python{PYTHON}")
        archive.add(base / "lib" / f"python{PYTHON}", f"python/lib/python{PYTHON}", filter=kept)
        for library in base.glob("lib/libpython*.so*"):
            archive.add(library.resolve(), f"python/lib/{library.name}")
    made = make("linux_x86_64", work / "archives", "--python-runtime", str(runtime))
    machine, prefix = Machine(work / "machine", PERSON), f"{HOME}/apps"
    before, copied = machine.changed(), f"/tmp/{made.name.removesuffix('.tar.gz')}"
    machine.run("tar", "-xzf", str(made), "-C", "/tmp")
    machine.run("sh", f"{copied}/install.sh", "--prefix", prefix)
    code = "import sys; print(sys.base_prefix)"
    where = machine.run(f"{prefix}/current/env/bin/python", "-c", code).strip()
    must(where.startswith(prefix), f"a Python that came along runs the agent: {where}")
    machine.run(f"{prefix}/bin/edge-agent", "classify", machine.put(micrograph, "first.dm3"))
    figure(
        "installed with it", f"{machine.run('du', '-sm', prefix).split()[0]} MB (a Python built on this PC)"
    )
    machine.run("sh", f"{prefix}/uninstall.sh")
    machine.run("rm", "-r", copied)
    left = machine.changed() - before
    foreign = sorted(path for path in left if not path.startswith(f"{machine.session}/first.dm3"))
    must(not foreign, f"uninstalled with it: nothing is left: {foreign}")


def embeddable_rules(archive: Path, micrograph: Path, work: Path) -> None:
    """What install.ps1 does with python.org's embeddable package, done here: CPython obeys a ._pth on Linux too."""
    work.mkdir()
    machine, python = Machine(work / "machine", 0), work / "python"
    library = Path(sys.base_prefix) / "lib" / f"python{PYTHON}"
    shutil.copy(Path(sys.base_prefix, "bin", f"python{PYTHON}").resolve(), python)
    shutil.copytree(library / "lib-dynload", work / "lib-dynload")
    with zipfile.ZipFile(work / "python.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in library.rglob("*.py"):
            if not {"site-packages", "test", "tests"} & set(file.parts):
                packed.write(file, file.relative_to(library))
    site = f"lib/python{PYTHON}/site-packages"
    (work / site).mkdir(parents=True)
    (work / "python._pth").write_text(
        f"python.zip\nlib-dynload\n.\n{site}\n\nimport site\n", encoding="utf-8"
    )
    root = unpacked(archive, work / "copied")
    (pip,) = (root / "pip").iterdir()
    install = [
        str(python),
        "-I",
        str(pip / "pip"),
        "--isolated",
        "--quiet",
        "install",
        "--no-index",
        "--no-deps",
    ]
    install += ["--require-hashes", "--no-cache-dir", "--disable-pip-version-check", "--find-links"]
    machine.run(*install, str(root / "wheels"), "--requirement", str(root / "requirements.txt"))
    machine.run(str(python), "-P", "-m", "edge_agent", "check")
    first = machine.put(micrograph, "first.dm3")
    machine.run(str(python), "-P", "-m", "edge_agent", "classify", first)
    must(
        f"{first}.json" in machine.changed(),
        "pip, check and a file under a ._pth, as in the embeddable package",
    )


def windows_archive(root: Path) -> None:
    target = Target("win_amd64", PYTHON)
    wheels = sorted((root / "wheels").iterdir())
    wrong = [path.name for path in wheels if not wheel_runs_on(path.name, target)]
    must(not wrong, f"Windows: {len(wheels)} wheels, all for win_amd64 or any: {wrong}")
    with tempfile.TemporaryDirectory() as empty:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--no-deps",
            "--no-index",
            "--require-hashes",
        ]
        command += [
            "--platform",
            "win_amd64",
            "--python-version",
            PYTHON,
            "--only-binary",
            ":all:",
            "--target",
            empty,
        ]
        said = run([*command, "--find-links", str(root / "wheels"), "-r", str(root / "requirements.txt")])
    would = next(line for line in said.splitlines() if line.startswith("Would install")).split()[2:]
    must(len(would) == len(wheels), f"Windows: the lock resolves: {len(would)} packages")
    dependencies_are_whole(root, target)
    longest = (
        len(DEEP_PREFIX) + 1 + max(len(name) for path in wheels for name in zipfile.ZipFile(path).namelist())
    )
    must(longest < BELOW_CHARACTERS, f"Windows: the longest path would have {longest} characters")


def dependencies_are_whole(root: Path, target: Target) -> None:
    """Whatever a package asks for lies beside it in a version that it takes, but for what was left out."""
    system = ("win32", "Windows", "nt") if target.is_windows else ("linux", "Linux", "posix")
    names = ("sys_platform", "platform_system", "os_name", "python_version", "python_full_version", "extra")
    here = dict(zip(names, (*system, target.python, f"{target.python}.9", ""), strict=True))
    environment = default_environment() | here
    packages = {}
    for path in (root / "wheels").iterdir():
        with zipfile.ZipFile(path) as archive:
            (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
            metadata = message_from_bytes(archive.read(name))
        packages[normal_name(metadata["Name"])] = metadata
    missing = []
    for name, metadata in packages.items():
        for wanted in map(Requirement, metadata.get_all("Requires-Dist", [])):
            if wanted.marker is None or wanted.marker.evaluate(environment):
                found = packages.get(normal_name(wanted.name))
                if found is None and normal_name(wanted.name) not in LEFT_OUT:
                    missing.append(f"{name} needs {wanted}")
                elif found is not None and not wanted.specifier.contains(found["Version"], prereleases=True):
                    missing.append(f"{name} needs {wanted}, {found['Version']} is there")
    must(
        not missing,
        f"{target.label}: all that {len(packages)} packages ask for is there or was left out: {missing}",
    )


def unpacked(archive: Path, into: Path) -> Path:
    into.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(into)
    else:
        run(["tar", "-xzf", str(archive), "-C", str(into)])
    (root,) = (path for path in into.iterdir() if path.name.startswith("scopewatch-"))
    return root


def real_micrograph(work: Path) -> Path:
    """A real one that is a micrograph, not a spectrum; where there are none, a simulated one."""
    shared = Path(os.environ.get("SCOPEWATCH_SHARED_DATA", REPOSITORY.parent / "shared" / "data")) / "dm3"
    for path in sorted(shared.rglob("*.dm3")):
        trial = Path(shutil.copy(path, work / path.name))
        agent_here("classify", str(trial), check=False)
        sidecar = trial.with_name(f"{trial.name}.json")
        if sidecar.exists() and json.loads(sidecar.read_bytes())["outcome"] == "classified":
            return trial
    print(f"no real micrograph below {shared}: a simulated one instead")
    agent_here("simulate", str(work / "simulated"), "--files", "1")
    return next((work / "simulated").glob("*.dm3"))


def agent_here(*arguments: str, check: bool = True) -> str:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return run([sys.executable, "-m", "edge_agent", *arguments], env=environment, check=check)


def run(command: list[str], *, env: dict[str, str] | None = None, check: bool = True) -> str:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, env=env, text=True, **streams)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def figure(what: str, value: str) -> None:
    print(f"    {what}: {value}", flush=True)


def must(holds: bool, what: str) -> None:
    print(f"{'ok ' if holds else 'BAD'} {what}", flush=True)
    if not holds:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
