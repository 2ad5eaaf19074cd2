"""A Linux machine with a real systemd as its process 1, in namespaces of this one; needs root.

Its disk is an overlay: this machine's files below, what it writes above, in a folder that survives its reboots and
goes with it. It has a network of its own with nothing but loopback, and its own control groups. Nothing of it is
seen outside, and nothing outside is changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

CONTROLLERS = (
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "systemd",
    "unified",
)
CGROUPS = Path("/sys/fs/cgroup")
BOOT = r"""
set -e
machine=$1
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir=$machine/upper,workdir=$machine/work $machine/root
cd $machine/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs dev -o mode=755
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666,mode=620
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs run -o mode=755
mount -t tmpfs tmpfs tmp -o mode=1777
if [ -d /sys/fs/cgroup/unified ]; then
  mount -t tmpfs tmpfs sys/fs/cgroup -o mode=755
  for name in cpu cpuacct cpuset memory devices freezer blkio pids; do
    [ -d /sys/fs/cgroup/$name ] || continue
    mkdir sys/fs/cgroup/$name; mount -t cgroup cgroup sys/fs/cgroup/$name -o $name
  done
  mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
  mount -t cgroup cgroup sys/fs/cgroup/systemd -o none,name=systemd
  mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
else
  mount -t cgroup2 cgroup2 sys/fs/cgroup
fi
mkdir -p outside
pivot_root . outside
umount -l /outside
rmdir /outside
exec env -i container=scopewatch-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=0 </dev/null
"""


class Unbootable(Exception):
    """No systemd can be booted here; the text says why."""


class BootedMachine:
    """One machine; `boot` and `power_off` as often as one likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        # Two machines at once must not share their groups: each systemd believes that all is its own.
        self._group = f"scopewatch-{sha256(str(folder).encode()).hexdigest()[:12]}"
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def boot(self) -> float:
        """Start process 1 and wait until it says that the machine is up; return the seconds that took."""
        if os.geteuid() != 0:
            raise Unbootable("only root can boot one")
        if not Path("/lib/systemd/systemd").exists():
            raise Unbootable("there is no /lib/systemd/systemd")
        began = time.monotonic()
        groups = [CGROUPS / name / self._group for name in CONTROLLERS if (CGROUPS / name).is_dir()]
        groups = groups or [CGROUPS / self._group]
        for group in groups:
            group.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (group / name).exists():
                    (group / name).write_text((group.parent / name).read_text())
        enter = "; ".join(f"echo $$ > {group}/cgroup.procs" for group in groups)
        apart = "exec unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup bash -c"
        self._process = subprocess.Popen(
            ["bash", "-c", f'{enter}; {apart} "$1" machine "$2"', "start", BOOT, str(self.folder)],
            start_new_session=True,
        )
        self._init = self._first_process()
        while time.monotonic() < began + 90:
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in ("running", "degraded"):
                return time.monotonic() - began
            if self._process.poll() is not None:
                break
            time.sleep(0.5)
        self.destroy()
        raise Unbootable("systemd did not come up within 90 s")

    @property
    def disk(self) -> Path:
        """Its files as it sees them, while it runs."""
        return Path(f"/proc/{self._init}/root")

    def _first_process(self) -> int:
        for _ in range(100):
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            with contextlib.suppress(OSError):
                for child in children.read_text().split():
                    if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                        return int(child)
            time.sleep(0.1)
        self.destroy()
        raise Unbootable("process 1 did not become systemd")

    def run(
        self, *words: str, check: bool = True, timeout: float = 400, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine; as another user by `runuser`."""
        enter = ["nsenter", "-t", str(self._init), "-a", "sh", "-c", 'cd / && exec "$@"', "in"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"]
        if user is not None:
            uid = self.run("id", "-u", user).stdout.strip()
            clean = [
                "runuser", "-u", user, "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
                f"HOME=/home/{user}", f"XDG_RUNTIME_DIR=/run/user/{uid}",
            ]  # fmt: skip
        done = subprocess.run(
            [*enter, *clean, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def outside_pid(self, inside: int) -> int:
        """Return what a process of the machine is called out here, so that it can be signalled."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                line = next(
                    (line for line in status.read_text().splitlines() if line.startswith("NSpid:")), ""
                )
                names = line.split()[1:]
                space = status.with_name("ns") / "pid"
                if len(names) > 1 and names[-1] == str(inside) and space.readlink() == self._space():
                    return int(status.parent.name)
        raise ProcessLookupError(inside)

    def _space(self) -> Path:
        return Path(f"/proc/{self._init}/ns/pid").readlink()

    def power_off(self) -> float:
        """Shut down as a machine does, services stopped in order; return the seconds that took."""
        began = time.monotonic()
        self.run("systemctl", "poweroff", check=False)
        self._process.wait(timeout=120)
        self._process = None
        return time.monotonic() - began

    def destroy(self) -> None:
        """End whatever runs and remove the disk."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init or self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait(timeout=60)
        self._process = None
        groups = [group for name in (*CONTROLLERS, ".") if (group := CGROUPS / name / self._group).is_dir()]
        for _ in range(50):  # its processes take a moment to be gone
            groups = [group for group in groups if not _removed(group)]
            if not groups:
                break
            time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)


def _removed(group: Path) -> bool:
    """Remove a control group with those in it; return whether it is gone."""
    for inner in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            inner.rmdir()
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def install_into(machine: BootedMachine, wheel: Path) -> None:
    """Install a wheel into /opt/scopewatch of the machine, which has no network.

    What the wheel needs is lent by this interpreter's environment.
    """
    lender = Path(sys.executable).absolute().parents[1]
    if not machine.run("test", "-x", "/opt/scopewatch/bin/python", check=False).returncode == 0:
        machine.run("/usr/bin/python3", "-m", "venv", "--without-pip", "/opt/scopewatch")
        (site,) = (machine.disk / "opt/scopewatch/lib").glob("python3*/site-packages")
        lent = lender / "lib" / site.parent.name / "site-packages"
        (site / "lent.pth").write_text(f"{lent}\n")
    pip = (sys.executable, "-m", "pip", "--python", "/opt/scopewatch/bin/python", "install", "--quiet")
    shutil.copy(wheel, machine.disk / "opt")
    machine.run(*pip, "--no-deps", "--no-index", "--force-reinstall", f"/opt/{wheel.name}")
    (machine.disk / "opt" / wheel.name).unlink()
