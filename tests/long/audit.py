"""Ask PyPI's vulnerability service about every locked file: `python tests/long/audit.py`. Needs pypi.org itself.

Runs pip-audit in a throwaway home. Exit code 1: something known is locked; raise its lower bound in pyproject.toml
and run `python tests/long/lock.py --upgrade`. Exit code 2: the service knows none of the packages, so it was not
reached (a mirror of the index hands out files, not advisories) and nothing is said about safety.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

from edge_agent.packing.lock_file import FOLDER  # noqa: E402

LOCKS = [
    *(lock for lock in sorted(FOLDER.glob("*.txt")) if lock.name != "sources.txt"),
    REPOSITORY / "tests" / "requirements-linux_x86_64-py311.txt",
]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="scopewatch-audit-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "pip-audit"], check=True)
        return max(audit(python, lock) for lock in LOCKS)


def audit(python: Path, lock: Path) -> int:
    command = [
        str(python),
        "-m",
        "pip_audit",
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--disable-pip",
    ]
    done = subprocess.run([*command, "--no-deps", "-r", str(lock)], capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"{lock.name}: {done.stderr.strip().splitlines()[-1:]}")
        return 2
    unknown = [one["name"] for one in found if "skip_reason" in one]
    known = [(one["name"], one["version"], bug["id"]) for one in found for bug in one.get("vulns", [])]
    for name, version, bug in known:
        print(f"{lock.name}: {name} {version}: {bug}")
    print(
        f"{lock.name}: {len(found) - len(unknown)} packages asked about, {len(known)} known faults, "
        f"{len(unknown)} unknown to the service"
    )
    if known:
        return 1
    return 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
