"""Write every lock anew: `python tests/long/lock.py`. Needs the package index; makes its tools a throwaway home.

uv resolves pyproject's ranges for each platform and Python without what the agent never imports, and names every
file of every release; of these the one that such a PC would take is written down, with its SHA-256. No address of
an index is written anywhere. `--upgrade` takes the newest releases; without it, what is locked stays locked where
pyproject's ranges still allow it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

from edge_agent.packing.lock_file import FOLDER, LockedFile, read_lock  # noqa: E402
from edge_agent.packing.target import PLATFORMS, PYTHONS, Target, wheel_runs_on  # noqa: E402

NEVER_IMPORTED = {
    "scipy": "only ncempy's other modules use it",
    "matplotlib": "only ncempy's other modules use it",
    "h5py": "only ncempy's other modules use it",
    "hdf5plugin": "only ncempy's other modules use it",
    "flatbuffers": "only onnxruntime's conversion tools use it",
    "packaging": "only onnxruntime's conversion tools use it",
    "protobuf": "only onnxruntime's conversion tools use it",
    "sympy": "only onnxruntime's conversion tools use it",
}
UV_PLATFORM = {"win_amd64": "x86_64-pc-windows-msvc", "linux_x86_64": "x86_64-manylinux_2_28"}
TEST_LOCK = REPOSITORY / "tests" / "requirements-linux_x86_64-py311.txt"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest releases that pyproject allows"
    )
    upgrade = parser.parse_args().upgrade
    with tempfile.TemporaryDirectory(prefix="scopewatch-lock-") as folder:
        work = Path(folder)
        uv = tools(work)
        project = str(REPOSITORY / "pyproject.toml")
        excluded = work / "never_imported.txt"
        excluded.write_text("".join(f"{name}\n" for name in NEVER_IMPORTED), encoding="utf-8")
        agent = [project, "--extra", "mqtt", "--excludes", str(excluded), "--only-binary", ":all:"]
        for target in (Target(platform, python) for platform in PLATFORMS for python in PYTHONS):
            file = FOLDER / f"agent-{target.label}.txt"
            packages = resolve(uv, target, [*agent], work, None if upgrade else file)
            left_out = "".join(f"# Left out: {name} ({why}).\n" for name, why in NEVER_IMPORTED.items())
            write(
                file, f"# The agent on {target.words}.\n{left_out}", [wheel(one, target) for one in packages]
            )
        usual = Target("linux_x86_64", "3.11")
        ask(
            uv,
            work,
            "pip.txt",
            "pip\n",
            "# pip, for a PC that has none.\n",
            None if upgrade else FOLDER / "pip.txt",
        )
        ask(
            uv,
            work,
            "build.txt",
            "hatchling>=1.27\nsetuptools\nwheel\n",
            "# What builds wheels, on the PC that makes an archive.\n",
            None,
        )
        (read,) = {
            one.version for one in read_lock(FOLDER / f"agent-{usual.label}.txt") if one.name == "ncempy"
        }
        (work / "sources.in").write_text(f"ncempy=={read}\n", encoding="utf-8")
        found = resolve(uv, usual, [str(work / "sources.in"), "--no-deps"], work, None)
        write(
            FOLDER / "sources.txt",
            "# Sources that a licence (GPL) asks to be passed on.\n",
            [sdist(found[0])],
        )
        packages = resolve(
            uv,
            usual,
            [project, "--extra", "test", "--only-binary", ":all:"],
            work,
            None if upgrade else TEST_LOCK,
        )
        write(TEST_LOCK, f"# Training and tests on {usual.words}.\n", [wheel(one, usual) for one in packages])


def tools(work: Path) -> str:
    """A home for uv that goes away with `work`."""
    venv.create(work / "tools", with_pip=True)
    python = work / "tools" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "uv"], check=True)
    return str(python.with_name("uv"))


def ask(uv: str, work: Path, name: str, wanted: str, heading: str, kept: Path | None) -> None:
    """Lock what is wanted and needs no particular PC."""
    source = work / name.replace(".txt", ".in")
    source.write_text(wanted, encoding="utf-8")
    target = Target("linux_x86_64", "3.11")
    write(
        FOLDER / name,
        heading,
        [
            wheel(one, target)
            for one in resolve(uv, target, [str(source), "--only-binary", ":all:"], work, kept)
        ],
    )


def resolve(
    uv: str, target: Target, arguments: list[str], work: Path, kept: Path | None
) -> list[dict[str, Any]]:
    """Every package with all its files, as PEP 751 writes them."""
    out = work / "pylock.toml"
    out.unlink(missing_ok=True)
    command = [
        uv,
        "pip",
        "compile",
        *arguments,
        "--format",
        "pylock.toml",
        "--output-file",
        str(out),
        "--quiet",
    ]
    command += ["--no-config", "--no-header"]
    command += ["--python-version", target.python, "--python-platform", UV_PLATFORM[target.platform]]
    if kept is not None and kept.is_file():
        pins = work / "kept.txt"
        lines = kept.read_text(encoding="utf-8").splitlines()
        pins.write_text("".join(f"{line.split()[0]}\n" for line in lines if "==" in line), encoding="utf-8")
        done = subprocess.run([*command, "--constraints", str(pins)], capture_output=True, text=True)
        if done.returncode == 0:
            return list(tomllib.loads(out.read_text(encoding="utf-8"))["packages"])
        print(
            f"{kept.name}: what is locked no longer satisfies pyproject; taking newer releases",
            file=sys.stderr,
        )
    subprocess.run(command, check=True)
    return list(tomllib.loads(out.read_text(encoding="utf-8"))["packages"])


def wheel(package: dict[str, Any], target: Target) -> LockedFile:
    """The wheel that a PC of this kind takes: the first platform tag that any has, then the newest Python tag."""
    fitting = [one for one in package.get("wheels", []) if wheel_runs_on(file_name(one), target)]
    if not fitting:
        raise SystemExit(f"{package['name']} {package['version']}: no wheel for {target.label}")
    return locked(package, min(fitting, key=lambda one: preference(file_name(one), target)))


def preference(file: str, target: Target) -> tuple[int, int, str]:
    python, _, platforms = file.removesuffix(".whl").split("-")[-3:]
    places = [target.platform_tags.index(tag) for tag in platforms.split(".") if tag in target.platform_tags]
    minors = [int(tag[3:] or 0) for tag in python.split(".") if tag.startswith("cp3")]
    return min(places, default=len(target.platform_tags)), -max(minors, default=0), file


def sdist(package: dict[str, Any]) -> LockedFile:
    return locked(package, package["sdist"])


def locked(package: dict[str, Any], file: dict[str, Any]) -> LockedFile:
    return LockedFile(package["name"], package["version"], file_name(file), file["hashes"]["sha256"])


def file_name(file: dict[str, Any]) -> str:
    return str(file.get("name") or file["url"].rpartition("/")[2].partition("#")[0])


def write(path: Path, heading: str, files: list[LockedFile]) -> None:
    made = (
        "# Made by `python tests/long/lock.py`; not to be edited. Each file's name stands above its hash.\n\n"
    )
    text = heading + made + "".join(one.requirement for one in sorted(files, key=lambda one: one.name))
    path.write_text(text, encoding="utf-8")
    print(f"{path.relative_to(REPOSITORY)}: {len(files)} files")


if __name__ == "__main__":
    main()
