"""The life of the service on a Linux machine with a real systemd: from the wheel to nothing left.

    python tests/long/service_life.py [--archive FILE]

Needs root, systemd's programs and this repository's environment; takes about five minutes, most of which is waiting
for the watchdog. The machine is booted in namespaces of this one (`booted_machine`), has no network but loopback,
and is gone afterwards. Installed from a wheel of this tree; what the wheel needs is lent by this environment.
Prints a transcript with times, and a table of what was checked; exit code 1 when anything was not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
for _folder in ("tests/long", "tests", ""):
    sys.path.insert(0, str(REPOSITORY / _folder))

from booted_machine import BootedMachine, Unbootable, install_into  # noqa: E402
from bundles import tiny_bundle  # noqa: E402

AGENT = "/opt/scopewatch/bin/edge-agent"
SCOPE = "/data/titan"
STATE = "/var/lib/scopewatch"
# Not the service's: logs of the machine itself, its users and its own clocks.
NOT_OURS = re.compile(
    r"^(opt/|var/log/|var/lib/systemd/|var/lib/postgresql|var/cache/|etc/(passwd|group|shadow|gshadow|sub[ug]id)-?$"
    r"|etc/(machine-id|hostname|\.updated|resolv\.conf)|var/\.updated|data/|home/em/data/|var/lib/(dbus|logrotate|apt)"
    r"|root/\.cache|home/em/\.(bash|profile)|etc/\.pwd\.lock|run/|tmp/|var/spool|var/mail|var/backups)"
)


class Story:
    """What happens, when, and whether it is as it should be."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.verdicts: list[tuple[bool, str]] = []

    def tell(self, text: str) -> None:
        for line in text.rstrip("\n").splitlines() or [""]:
            print(f"{time.monotonic() - self.began:7.1f} s  {line}", flush=True)

    def chapter(self, title: str) -> None:
        print(flush=True)
        self.tell(f"== {title}")

    def check(self, is_so: bool, what: str) -> None:
        self.verdicts.append((is_so, what))
        self.tell(f"{'ok' if is_so else 'NOT SO':<7}{what}")

    def ended(self) -> int:
        print(flush=True)
        wrong = [what for is_so, what in self.verdicts if not is_so]
        self.tell(f"{len(self.verdicts)} checks, {len(wrong)} not as they should be")
        for what in wrong:
            self.tell(f"NOT SO {what}")
        return 1 if wrong else 0


class Life:
    """One machine, and what is done with it."""

    def __init__(self, folder: Path, story: Story) -> None:
        self.folder = folder
        self.story = story
        self.machine = BootedMachine(folder / "machine")
        self.saved = 0

    def agent(self, *words: str, user: str | None = None, code: int | None = 0) -> str:
        """Run `edge-agent` and show what it prints."""
        self.story.tell(f"{user or 'root'}$ edge-agent {' '.join(words)}")
        done = self.machine.run(AGENT, *words, user=user, check=False)
        said = done.stdout + done.stderr
        self.story.tell("".join(f"    {line}\n" for line in said.splitlines()))
        if code is not None and done.returncode != code:
            self.story.check(False, f"exit code {done.returncode} of {words}, expected {code}")
        return said

    def numbers(self) -> dict | None:
        done = self.machine.run(AGENT, "status", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def until(self, what: str, condition, seconds: float = 120) -> float:
        """Wait for a condition and check that it came; return the seconds that took."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if condition():
                took = time.monotonic() - began
                self.story.check(True, f"{what}, after {took:.1f} s")
                return took
            time.sleep(0.25)
        self.story.check(False, f"{what}: not within {seconds:.0f} s")
        return seconds

    def save(self, count: int, folder: str = SCOPE, rate: float = 5.0) -> None:
        """Let the simulated microscope save files, as the account that owns the folder."""
        self.saved += 1
        self.machine.run(
            AGENT, "simulate", folder, "--files", str(count), "--rate", str(rate), "--size", "512",
            "--seed", str(self.saved * 1000), user="em",
        )  # fmt: skip

    @contextlib.contextmanager
    def saving(self, count: int, rate: float) -> Iterator[None]:
        """Let it save files while something else happens."""
        microscope = threading.Thread(target=self.save, args=(count,), kwargs={"rate": rate})
        microscope.start()
        try:
            yield
        finally:
            microscope.join()

    def unanswered(self, folder: str = SCOPE) -> list[str]:
        names = set(self.machine.run("ls", folder).stdout.splitlines())
        return sorted(name for name in names if name.endswith(".dm3") and f"{name}.json" not in names)

    def sidecars(self, folder: str = SCOPE) -> dict[str, dict]:
        place = self.machine.disk / folder.lstrip("/")
        return {file.name: json.loads(file.read_bytes()) for file in sorted(place.glob("*.dm3.json"))}

    def main_pid(self) -> int:
        shown = self.machine.run("systemctl", "show", "scopewatch", "-p", "MainPID", "--value").stdout
        return int(shown.strip() or 0)

    def files(self) -> set[str]:
        """Return what the machine has written since it was made, without what is not ours to leave or take."""
        upper = self.machine.folder / "upper"
        # A character device stands for a file of the machine below that was removed.
        kept = (path for path in upper.rglob("*") if not path.is_dir() and not path.is_char_device())
        found = {path.relative_to(upper).as_posix() for path in kept}
        return {name for name in found if not NOT_OURS.match(name)}

    def check_once_each(self, folder: str = SCOPE) -> None:
        """Nothing lost, nothing doubled: each file has a sidecar of its content, and one line in the log."""
        missing = self.unanswered(folder)
        place = self.machine.disk / folder.lstrip("/")
        wrong = [
            name
            for name, side in self.sidecars(folder).items()
            if side["source"]["sha256"]
            != sha256((place / name.removesuffix(".json")).read_bytes()).hexdigest()
        ]
        self.story.check(
            not missing and not wrong,
            f"each of {len(self.sidecars(folder))} files has a sidecar of its content {missing + wrong or ''}",
        )
        told = Counter()
        for file in sorted((self.machine.disk / STATE.lstrip("/")).glob("agent.log*")):
            for line in map(json.loads, file.read_text("utf-8").splitlines()):
                if line.get("outcome") == "classified" and str(line.get("file", "")).startswith(folder):
                    told[line["file"]] += 1
        doubled = {name: count for name, count in told.items() if count > 1}
        self.story.check(not doubled, f"{len(told)} files classified by the log, none twice {doubled or ''}")

    def temporary(self, folder: str = SCOPE) -> list[str]:
        return self.machine.run("find", folder, "-name", "*.tmp").stdout.split()


def wheels(folder: Path) -> tuple[Path, Path]:
    """Build a wheel of this tree, and one of the same tree that calls itself the next version."""
    tree, built = folder / "tree", []
    for name in ("edge_agent", "trainer", "models", "pyproject.toml", "README.md", "LICENSE"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            tree.mkdir(exist_ok=True)
            shutil.copy(source, tree)
    init = tree / "edge_agent/__init__.py"
    version = re.search(r'__version__ = "(.+)"', init.read_text())[1]
    for number in (version, f"{version}.post1"):
        init.write_text(init.read_text().replace(f'"{version}"', f'"{number}"'))
        project = tree / "pyproject.toml"
        project.write_text(project.read_text().replace(f'version = "{version}"', f'version = "{number}"', 1))
        command = (sys.executable, "-m", "pip", "wheel", "--quiet", str(tree), "--no-deps")
        out = folder / f"wheel-{number}"
        subprocess.run([*command, "--no-build-isolation", "--no-index", "-w", str(out)], check=True)
        built += list(out.glob("*.whl"))
    return built[0], built[1]


def install(life: Life, wheel: Path) -> set[str]:
    story, machine = life.story, life.machine
    story.chapter("installation")
    machine.run("useradd", "-m", "em")
    machine.run("mkdir", "-p", SCOPE)
    before = life.files()
    began = time.monotonic()
    install_into(machine, wheel)
    story.tell(f"installed {wheel.name} into /opt/scopewatch")
    said = life.agent("service", "install", SCOPE, code=2)
    story.check("belongs to root" in said, "a folder of root's is refused with what to do")
    machine.run("chown", "em", SCOPE)
    said = life.agent("service", "install", SCOPE)
    story.check(
        "ready after" in said and "account        em" in said, "installed for the folder's owner, and ready"
    )
    life.save(1)
    life.until("first file classified", lambda: not life.unanswered(), 60)
    story.check(True, f"from wheel to first classified file {time.monotonic() - began:.1f} s")
    exposure = machine.run("systemd-analyze", "security", "scopewatch", "--no-pager").stdout.splitlines()[-1]
    rate = re.search(r"([0-9.]+) [A-Z]+", exposure)
    story.check(bool(rate) and float(rate[1]) <= 1.5, exposure.strip("→ "))
    life.save(20)
    life.until("twenty more files classified", lambda: not life.unanswered())
    life.check_once_each()
    said = life.agent("status", user="nobody")
    story.check("running" in said, "any user may ask for the status")
    story.check(life.agent("service", "status").startswith("service       active"), "service status is well")
    return before


def reboot(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("reboot, with files saved while the machine is off")
    done = {name: side["agent"]["finished"] for name, side in life.sidecars().items()}
    story.tell(f"powered off in {machine.power_off():.1f} s")
    place = machine.folder / "upper" / SCOPE.lstrip("/")
    originals = sorted(place.glob("*.dm3"))[:5]
    for number, file in enumerate(originals):
        shutil.copyfile(file, place / f"while-off-{number}.dm3")
    story.tell(f"booted in {machine.boot():.1f} s")
    life.until("the agent is back and has caught up", lambda: life.numbers() and not life.unanswered())
    again = [
        name
        for name, side in life.sidecars().items()
        if done.get(name, side["agent"]["finished"]) != side["agent"]["finished"]
    ]
    story.check(not again, "nothing that was done was done again")
    life.check_once_each()


def kills(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("kill -9 of the agent and of its worker, while files are saved")
    for title, victim in (("agent", life.main_pid), ("worker", lambda: life.numbers()["worker"]["pid"])):
        pid = victim()
        with life.saving(20, rate=5):
            time.sleep(2)
            waiting = len(life.unanswered())
            machine.run("kill", "-9", str(pid))
            story.tell(
                f"killed the {title} (process {pid}), {waiting} of the files saved so far without an answer"
            )
        life.until(
            f"another {title} works, all files have sidecars",
            lambda pid=pid, victim=victim: (
                life.numbers() and victim() not in (0, pid) and not life.unanswered()
            ),
        )
    life.check_once_each()
    story.check(not life.temporary(), "no temporary file was left")


def hopeless(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("a start that cannot succeed")
    file = machine.disk / "etc/scopewatch/agent.toml"
    good = file.read_text()
    file.write_text(good.replace("folders =", "folder =", 1))
    life.agent("service", "start", code=1)
    life.agent("service", "status", code=1)
    file.write_text(good)
    life.until("corrected, it starts by itself", lambda: life.numbers() is not None, 60)


def by_group(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("a folder of root's that a group may write to")
    folder = "/srv/lab/titan"
    machine.run("groupadd", "lab")
    machine.run("usermod", "-a", "-G", "lab", "em")
    machine.run("mkdir", "-p", folder)
    machine.run("chgrp", "lab", folder)
    said = life.agent("service", "install", folder, "--account", "em", code=2)
    story.check("em may not write there" in said, "a right that is missing is named before anything is done")
    machine.run("chmod", "2775", folder)
    life.agent("service", "install", folder, "--account", "em")
    life.save(2, folder)
    life.until("files are classified", lambda: not life.unanswered(folder))
    machine.run("sh", "-c", f"rm -r {folder} && mkdir {folder} && chgrp lab {folder} && chmod 2775 {folder}")
    life.save(2, folder)
    life.until(
        "removed and made again, it is still watched and written to", lambda: not life.unanswered(folder)
    )
    life.agent("service", "uninstall", "--purge")


def made_up(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("an account that systemd makes up: results in the state folder")
    results = f"{STATE}/results"
    config = machine.disk / "etc/scopewatch/agent.toml"
    config.parent.mkdir()
    config.write_text(f'folders = ["{SCOPE}"]\noutput = "{results}"\n')
    said = life.agent("service", "install")
    story.check("made up by systemd" in said and "ready after" in said, "installed and ready")
    life.until(
        "results are in the state folder",
        lambda: (
            machine.run("sh", "-c", f"ls {results}/*/*.json {results}/*.json | wc -l").stdout.strip()
            not in ("", "0")
        ),
    )
    story.tell(machine.run("ps", "-o", "user,args", "-C", "python").stdout)
    life.agent("status")
    life.agent("service", "uninstall", "--purge")
    story.tell(machine.run("sh", "-c", f"find {STATE}/ | head -8; ls -ld {STATE}").stdout)
    machine.run("rm", "-rf", STATE, "/var/lib/private/scopewatch")


def watchdog(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("an agent that hangs (SIGSTOP)")
    pid = life.main_pid()
    machine.run("kill", "-STOP", str(pid))
    life.save(3)
    life.until("the watchdog replaced it", lambda: life.main_pid() not in (0, pid) and life.numbers(), 150)
    life.until("the files saved meanwhile have sidecars", lambda: not life.unanswered())
    story.tell(
        machine.run(
            "journalctl", "-u", "scopewatch", "-o", "cat", "--no-pager", "-n", "200", "--grep", "atchdog"
        ).stdout
    )


def edits(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("the configuration is edited")
    file = machine.disk / "etc/scopewatch/agent.toml"
    good = file.read_text()
    pid = life.main_pid()
    file.write_text(good.replace("folders =", "folder ="))
    life.until(
        "a bad edit is refused and named", lambda: (life.numbers() or {}).get("config", {}).get("refused"), 30
    )
    story.tell(str(life.numbers()["config"]["refused"]))
    machine.run("mkdir", "-p", "/srv/second/scope")
    machine.run("chown", "em", "/srv/second/scope")
    file.write_text(
        good.replace(f"'{SCOPE}'", f'"{SCOPE}"').replace(f'"{SCOPE}"', f'"{SCOPE}", "/srv/second/scope"', 1)
    )
    life.until(
        "a good edit is taken up", lambda: len((life.numbers() or {"folders": ()})["folders"]) == 2, 30
    )
    story.check(life.main_pid() == pid, "without a restart")
    life.until(
        "and the refusal is over", lambda: life.numbers() and not life.numbers()["config"]["refused"], 30
    )
    done = machine.run("systemctl", "reload", "scopewatch", check=False)
    story.check(done.returncode == 0 and life.main_pid() == pid, f"systemctl reload {done.stderr.strip()}")
    said = life.agent("service", "status", code=None)
    story.check("NOT ALLOWED" in said, "a folder that the unit does not open is named")
    life.agent("service", "install")
    life.save(2, "/srv/second/scope")
    life.until("files in the new folder are classified", lambda: not life.unanswered("/srv/second/scope"))
    file.write_text(good)
    life.agent("service", "install")
    machine.run("rm", "-r", "/srv/second")


def upgrade(life: Life, wheel: Path) -> None:
    story = life.story
    story.chapter("upgrade")
    done = {name: side["agent"]["finished"] for name, side in life.sidecars().items()}
    install_into(life.machine, wheel)
    said = life.agent("service", "install")
    story.check("was " in said, "the upgrade names both versions")
    version = wheel.name.split("-")[1]
    story.check((life.numbers() or {}).get("version") == version, f"the agent that runs is {version}")
    life.save(3)
    life.until("it classifies", lambda: not life.unanswered())
    again = [name for name, at in done.items() if life.sidecars()[name]["agent"]["finished"] != at]
    story.check(not again, "nothing that was done was done again")


def models(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("a model is rolled out, and rolled back")
    bundle = tiny_bundle(life.folder / "tiny-1")
    shutil.copytree(bundle, machine.disk / "opt/tiny-1")
    for words, expected in (
        (("add", "/opt/tiny-1"), None),
        (("use", "tiny-1"), "tiny"),
        (("rollback",), "particle-shape"),
    ):
        life.agent("models", *words, user="em")
        if expected is None:
            continue
        life.until(
            f"{expected} answers",
            lambda expected=expected: ((life.numbers() or {}).get("model") or {}).get("name") == expected,
            60,
        )
        known = set(life.sidecars())
        life.save(2)
        life.until("new files are classified", lambda: not life.unanswered())
        names = {side["model"]["name"] for name, side in life.sidecars().items() if name not in known}
        story.check(names == {expected}, f"their sidecars name {names}")


def stop_and_start(life: Life) -> None:
    story = life.story
    story.chapter("stop and start")
    said = life.agent("service", "stop")
    seconds = float(re.search(r"in ([0-9.]+) s", said)[1])
    story.check(seconds <= 3, f"stopped within 3 s: {seconds} s")
    life.agent("service", "status", code=1)
    life.agent("status", code=1)
    life.agent("service", "start")


def uninstall(life: Life, before: set[str]) -> None:
    story = life.story
    story.chapter("uninstallation")
    results = {name: (life.machine.disk / SCOPE.lstrip("/") / name).read_bytes() for name in life.sidecars()}
    life.agent("service", "uninstall", "--purge")
    left = life.files() - before
    story.check(not left, f"nothing is left but sidecars and heatmaps {sorted(left) or ''}")
    kept = {name: (life.machine.disk / SCOPE.lstrip("/") / name).read_bytes() for name in life.sidecars()}
    story.check(kept == results, f"all {len(results)} sidecars are as they were")
    kinds = Counter("".join(Path(name).suffixes[-2:]) if not name.endswith(".dm3") else ".dm3"
                    for name in life.machine.run("ls", "-A", SCOPE).stdout.splitlines())  # fmt: skip
    story.check(set(kinds) <= {".dm3", ".dm3.json", ".heatmap.png"}, f"in {SCOPE}: {dict(kinds)}")
    life.agent("service", "status", code=1)


def from_archive(life: Life, archive: Path) -> None:
    story, machine = life.story, life.machine
    story.chapter(f"from an offline archive: {archive.name}")
    machine.run(
        "sh", "-c", "rm -rf /opt/scopewatch; mkdir -p /srv/scope; chown em /srv/scope; mkdir /root/stick"
    )
    before = life.files()
    began = time.monotonic()
    shutil.copy(archive, machine.disk / "root/stick")
    machine.run("tar", "-xf", f"/root/stick/{archive.name}", "-C", "/root/stick")
    folder = archive.name.removesuffix(".tar.gz")
    routes = machine.run("ip", "route").stdout.strip()
    story.check(not routes, "the machine has no route to anywhere")
    for step, words in (("install.sh", ("--service", "/srv/scope")), ("uninstall.sh", ())):
        story.tell(f"root# sh {step} {' '.join(words)}")
        place = f"/root/stick/{folder}/{step}"
        done = machine.run("sh", place, *words, check=False)
        story.tell("".join(f"    {line}\n" for line in (done.stdout + done.stderr).splitlines()))
        story.check(done.returncode == 0, f"{step}: exit code {done.returncode}")
        if step == "install.sh":
            machine.run(
                "cp",
                *(f"/data/titan/session_000{number}.dm3" for number in (1, 2, 3)),
                "/srv/scope",
                user="em",
            )
            life.until("first files classified", lambda: not life.unanswered("/srv/scope"))
            story.check(True, f"from archive to first classified file {time.monotonic() - began:.1f} s")
            used = machine.run("du", "-sm", "/opt/scopewatch").stdout.split()[0]
            story.check(int(used) < 300, f"installed size {used} MiB")
    machine.run("rm", "-r", "/root/stick")
    gone = machine.run("test", "-e", "/opt/scopewatch", check=False).returncode != 0
    story.check(gone, "/opt/scopewatch is gone")
    left = {name for name in life.files() - before if not name.startswith("srv/scope/")}
    story.check(not left, f"nothing is left but sidecars and heatmaps {sorted(left)[:9] or ''}")


def own(life: Life) -> None:
    story, machine = life.story, life.machine
    story.chapter("without an administrator: a user unit")
    folder = '/home/em/data/my "scope" 100% $HOME é'
    machine.run("mkdir", "-p", folder)
    machine.run("chown", "-R", "em", "/home/em")
    said = life.agent("service", "install", "--user", folder, user="em", code=2)
    story.check("enable-linger em" in said, "without a log-in it says how to come by a manager of one's own")
    machine.run("loginctl", "enable-linger", "em")
    life.until(
        "em's own manager runs",
        lambda: machine.run("systemctl", "is-active", "user@1001", check=False).stdout.strip() == "active",
        30,
    )
    before = life.files()
    said = life.agent("service", "install", "--user", folder, user="em")
    story.check("ready after" in said, "installed and ready")
    life.save(3, folder)
    life.until("files are classified", lambda: not life.unanswered(folder))
    story.tell(f"powered off in {machine.power_off():.1f} s")
    story.tell(f"booted in {machine.boot():.1f} s")
    life.save(2, folder)
    life.until(
        "after a reboot it classifies again, nobody being logged in", lambda: not life.unanswered(folder)
    )
    life.agent("service", "status", user="em")
    life.agent("service", "uninstall", "--purge", user="em")
    left = life.files() - before
    story.check(not left, f"nothing is left but sidecars and heatmaps {sorted(left) or ''}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", type=Path, help="go through an offline archive for Linux, too")
    archive = parser.parse_args().archive
    signal.signal(signal.SIGTERM, lambda *rest: sys.exit(143))
    story = Story()
    folder = Path(tempfile.mkdtemp(prefix="scopewatch-service-life-"))
    life = Life(folder, story)
    try:
        first, second = wheels(folder)
        story.tell(f"built {first.name} and {second.name}")
        story.tell(
            f"booted in {life.machine.boot():.1f} s: "
            f"{life.machine.run('systemctl', '--version').stdout.splitlines()[0]}"
        )
        before = install(life, first)
        reboot(life)
        kills(life)
        watchdog(life)
        edits(life)
        upgrade(life, second)
        models(life)
        stop_and_start(life)
        hopeless(life)
        uninstall(life, before)
        by_group(life)
        made_up(life)
        own(life)
        if archive is not None:
            from_archive(life, archive)
    except Unbootable as error:
        story.check(False, f"no machine could be booted: {error}")
    finally:
        life.machine.destroy()
        shutil.rmtree(folder, ignore_errors=True)
    return story.ended()


if __name__ == "__main__":
    sys.exit(main())
