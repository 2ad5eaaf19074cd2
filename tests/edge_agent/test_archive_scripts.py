"""The scripts of an archive: the shell ones run with a stand-in for the agent, PowerShell's at least parse."""

from __future__ import annotations

import ensurepip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from small_wheels import locked, small_wheel

from edge_agent.packing import archive_texts, offline_package
from edge_agent.packing.offline_package import Locks, PackagePlan, make_package
from edge_agent.packing.target import Target

FOLDER = Path(archive_texts.__file__).parent / "archive"
SCRIPTS = sorted(path for path in FOLDER.iterdir() if path.suffix in (".sh", ".ps1", ".cmd"))
POWERSHELL = [path for path in SCRIPTS if path.suffix == ".ps1"]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
STAND_IN = """
import os, pathlib, sys
said = f"{edition} {' '.join(sys.argv[1:])}"
here = pathlib.Path(os.environ["STAND_IN"])
with (here / "said").open("a") as log:
    log.write(said + "\\n")
answers = (here / "answers").read_text().splitlines() if (here / "answers").exists() else []
told = [line.split(" -> ") for line in answers]
words, code = next(((words, code) for asked, code, *words in told if said.startswith(asked)), ([], 0))
print(*words, sep="\\n")
sys.exit(int(code))
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the shell scripts are for Linux")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    done = subprocess.run(["shellcheck", str(FOLDER / script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", POWERSHELL, ids=lambda path: path.name)
def test_powershell_parses(path: Path) -> None:
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_powershell")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))

    assert not parser.parse(path.read_bytes()).root_node.has_error
    without_last_brace = path.read_bytes().rpartition(b"}")[0]
    assert parser.parse(without_last_brace).root_node.has_error


@pytest.mark.parametrize("path", [*SCRIPTS, *FOLDER.glob("*.in")], ids=lambda path: path.name)
def test_scripts_are_ascii(path: Path) -> None:
    """Windows PowerShell reads a script without a mark in the code page of the PC."""
    assert path.read_bytes().isascii()


@pytest.mark.parametrize("path", POWERSHELL, ids=lambda path: path.name)
def test_powershell_names_no_variable_in_front_of_a_colon(path: Path) -> None:
    """`"$name: text"` asks for the variable `text` of a drive `name`."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"\$(?!env:|global:)\w+:", text) == []


def stand_in(folder: Path, edition: str) -> Path:
    """A wheel called scopewatch that notes what it is asked and answers as it is told."""
    file = small_wheel(folder, "scopewatch")
    with zipfile.ZipFile(folder / file.file, "a") as archive:
        for name in ("__init__", "packing/__init__"):
            archive.writestr(f"edge_agent/{name}.py", "")
        archive.writestr("edge_agent/__main__.py", f"edition = {edition!r}\n{STAND_IN}")
        archive.writestr(
            "edge_agent/packing/installing.py", f"edition = {edition + ' installing'!r}\n{STAND_IN}"
        )
    return folder / file.file


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two unpacked archives with stand-ins, `old` and `new`."""
    folder = tmp_path_factory.mktemp("archives")
    (bundled,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    shutil.copy(bundled, folder)
    pip = locked(folder / bundled.name, "pip")
    found = {}
    for edition in ("old", "new"):
        patch = pytest.MonkeyPatch()
        patch.setattr(
            offline_package, "own_wheel", lambda into, wheels, edition=edition: stand_in(into, edition)
        )
        patch.setattr(
            offline_package,
            "fetch_wheels",
            lambda files, _target, into, **_: [shutil.copy(folder / one.file, into) for one in files],
        )
        plan = PackagePlan(Target("linux_x86_64", PYTHON), folder / edition, wheels=folder)
        made = make_package(plan, Locks((small_wheel(folder, "alpha"),), (pip,), ()))
        patch.undo()
        with tarfile.open(made.path) as archive:
            archive.extractall(folder / edition, filter="data")
        found[edition] = folder / edition / plan.name
    return found


class Pc:
    """A home, a prefix, and what the stand-in was asked."""

    def __init__(self, folder: Path) -> None:
        self.home, self.prefix, self._notes = (
            folder / "home",
            folder / "apps" / "scopewatch",
            folder / "notes",
        )
        for made in (self.home, self._notes):
            made.mkdir(exist_ok=True)

    def answers(self, *lines: str) -> None:
        (self._notes / "answers").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def run(self, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "STAND_IN": str(self._notes)}
        return subprocess.run(
            ["sh", str(script), *arguments], env=environment, capture_output=True, text=True
        )

    def install(self, archive: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        where = ("--user", "--prefix", str(self.prefix), "--python", sys.executable)
        return self.run(archive / "install.sh", *where, *arguments)

    @property
    def said(self) -> list[str]:
        """What the stand-in was asked since the last look."""
        log = self._notes / "said"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    @property
    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.prefix / "versions").iterdir())


NO_SERVICE = (
    "old service status -> 1 -> edge-agent: no service is installed",
    "new service status -> 1 -> edge-agent: no service is installed",
    "old status -> 1",
    "new status -> 1",
)
RUNNING = "old service status -> 0 -> service       active (running) -> config        /home/me/my agent.toml"
STOPPED = "old service status -> 1 -> service       inactive (dead)"


@pytest.fixture
def pc(tmp_path: Path) -> Pc:
    return Pc(tmp_path)


@pytest.fixture(scope="module")
def installed_once(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A PC with the old version, and a copy of it: an installation works only in its own place."""
    folder = tmp_path_factory.mktemp("pc")
    pc = Pc(folder)
    pc.answers(*NO_SERVICE)
    assert pc.install(archives["old"]).returncode == 0
    assert pc.said == ["old check"]
    return folder, Path(shutil.copytree(folder, f"{folder}-copy", symlinks=True))


@pytest.fixture
def pc_with_old(installed_once: tuple[Path, Path]) -> Pc:
    folder, copy = installed_once
    shutil.rmtree(folder)
    shutil.copytree(copy, folder, symlinks=True)
    return Pc(folder)


@linux_only
def test_install_use_upgrade_uninstall(pc: Pc, archives: dict[str, Path]) -> None:
    pc.answers(*NO_SERVICE)
    before = sorted(pc.home.parent.rglob("*"))  # answers among them

    installed = pc.install(archives["old"])

    assert installed.returncode == 0, installed.stderr
    assert pc.said == ["old check"]
    command = pc.home / ".local" / "bin" / "edge-agent"
    assert pc.run(command.resolve(), "classify", "a b.dm3").returncode == 0
    assert pc.said == ["old classify a b.dm3"]
    assert (pc.prefix / "current" / "LICENCES.md").is_file()
    first = pc.versions

    upgraded = pc.install(archives["new"])

    assert upgraded.returncode == 0, upgraded.stderr
    assert pc.said == ["new check", "old service status --user", "new status"]
    assert len(pc.versions) == 1
    assert pc.versions != first
    subprocess.run([str(command), "status"], env={"STAND_IN": str(pc._notes)}, check=False)
    assert pc.said == ["new status"]

    removed = pc.run(pc.prefix / "uninstall.sh")

    assert removed.returncode == 0, removed.stderr
    assert pc.said == [
        "new service status --user",
        "new status",
        "new installing leftovers --user",
    ]
    assert sorted(pc.home.parent.rglob("*")) == before


@linux_only
@pytest.mark.parametrize(
    ("answers", "code", "asked", "edition"),
    [
        pytest.param(
            (RUNNING,),
            0,
            [
                "new check",
                "old service status --user",
                "new service install --user --config /home/me/my agent.toml",
            ],
            "new",
            id="a running service goes on with the new version",
        ),
        pytest.param(
            (STOPPED,),
            0,
            ["new check", "old service status --user", "new service install --user --no-start"],
            "new",
            id="a stopped service stays stopped",
        ),
        pytest.param(
            ("new check -> 1",), 1, ["new check"], "old", id="a version that fails its check is not installed"
        ),
        pytest.param(
            (RUNNING, "new service install -> 1"),
            1,
            [
                "new check",
                "old service status --user",
                "new service install --user --config /home/me/my agent.toml",
                "old service install --user --config /home/me/my agent.toml",
            ],
            "old",
            id="a service that does not start with the new version gets the old one back",
        ),
    ],
)
def test_an_upgrade_ends_with_a_version_that_works(
    pc_with_old: Pc,
    archives: dict[str, Path],
    answers: tuple[str, ...],
    code: int,
    asked: list[str],
    edition: str,
) -> None:
    pc = pc_with_old
    pc.answers(*answers)

    upgraded = pc.install(archives["new"])

    assert (upgraded.returncode, pc.said) == (code, asked), upgraded.stderr
    assert len(pc.versions) == 1
    pc.run(pc.prefix / "bin" / "edge-agent", "models", "list")
    assert pc.said == [f"{edition} models list"]


@linux_only
def test_models_and_settings_are_handed_to_the_agent_and_a_service_is_asked_for(
    pc: Pc, archives: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(archives["old"], copy)
    for model in ("tiny-1", "tiny-2"):
        (copy / "models" / model).mkdir(parents=True)
    (copy / "config.toml").write_text("", encoding="utf-8")
    (tmp_path / "day one").mkdir()

    done = pc.install(copy, "--service", str(tmp_path / "day one"))

    assert done.returncode == 0, done.stderr
    assert pc.said == [
        "old check",
        f"old installing config {copy}/config.toml --user",
        f"old service install --user {tmp_path}/day one",
        f"old models add {copy}/models/tiny-1/",
        f"old models add {copy}/models/tiny-2/",
    ]


@linux_only
@pytest.mark.parametrize(
    ("damage", "arguments", "code", "message"),
    [
        pytest.param(
            lambda pc, copy: (copy / "wheels" / "alpha-1.0-py3-none-any.whl").write_bytes(b"PK"),
            (),
            1,
            "{copy}: a file is missing or differs from SHA256SUMS; copy the archive again and unpack it anew",
            id="a damaged wheel",
        ),
        pytest.param(
            lambda pc, copy: (copy / "README.txt").unlink(),
            (),
            1,
            "{copy}: a file is missing or differs from SHA256SUMS; copy the archive again and unpack it anew",
            id="a missing file",
        ),
        pytest.param(
            lambda pc, copy: (pc.prefix.mkdir(parents=True), (pc.prefix / "data").touch()),
            (),
            2,
            "{prefix}: holds something that is not scopewatch; choose another folder with --prefix",
            id="somebody else's folder",
        ),
        pytest.param(
            lambda pc, copy: None,
            ("--python", "/bin/true"),
            2,
            f"/bin/true: is not Python {PYTHON}",
            id="no Python",
        ),
        pytest.param(lambda pc, copy: None, ("--colour",), 2, "--colour: not known", id="unknown option"),
        pytest.param(
            lambda pc, copy: None,
            ("--service", "/no/such"),
            2,
            "/no/such: no such folder; --service takes the folders to watch",
            id="a folder to watch that is not there",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(
    pc: Pc,
    archives: dict[str, Path],
    tmp_path: Path,
    damage: object,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(archives["old"], copy)
    damage(pc, copy)  # type: ignore[operator]
    before = sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(copy))

    done = pc.install(copy, *arguments)

    assert done.returncode == code
    last = done.stderr.splitlines()[-1]
    assert last == f"install.sh: {message.format(copy=copy, prefix=pc.prefix)}"
    after = sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(copy))
    assert [path for path in after if path not in before and path != pc.prefix.parent] == []


@linux_only
def test_uninstall_leaves_what_is_not_its_own_and_refuses_what_is_no_installation(
    pc_with_old: Pc, archives: dict[str, Path], tmp_path: Path
) -> None:
    pc = pc_with_old
    (pc.prefix / "a.dm3.json").write_text("{}", encoding="utf-8")

    pc.answers("old status -> 0")
    running = pc.run(archives["old"] / "uninstall.sh", "--prefix", str(pc.prefix))
    assert running.returncode == 1
    assert running.stderr == (
        "uninstall.sh: an agent is still running; stop it (Ctrl-C where it runs) and run this again\n"
    )
    pc.answers(*NO_SERVICE)
    removed = pc.run(archives["old"] / "uninstall.sh", "--prefix", str(pc.prefix), "--keep-settings")

    assert removed.returncode == 0
    assert "old installing leftovers --user" not in pc.said
    assert [path.name for path in pc.prefix.iterdir()] == ["a.dm3.json"]
    assert f"{pc.prefix}: stays, because something else lies in it" in removed.stdout
    refused = pc.run(archives["old"] / "uninstall.sh", "--prefix", str(tmp_path))
    assert (refused.returncode, refused.stderr) == (
        2,
        f"uninstall.sh: {tmp_path}: no installation of scopewatch; name its folder with --prefix\n",
    )
