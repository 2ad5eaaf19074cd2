"""What people do with folders: renaming, culling, odd names, several roots, mirrors; and clocks that jump.

python tests/faults/folders.py          all cases in full, about three minutes; `--only CASE`, `--shard I/N`
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cases import (
    Case,
    Figures,
    Scale,
    cases_main,
    missing,
    outcome,
    record_of,
    save,
    save_all,
    seconds_until,
    sidecar,
    speck_dm3,
)
from harness import _MAIN, Agent, Bar, heatmap_fault, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
YEAR_SECONDS: Final = 365 * 24 * 3600


# --- renames and culling ---------------------------------------------------------------------------------------


def renamed(scale: Scale, folder: Path) -> Figures:
    """Finished files are renamed, moved, copied, and their folder is renamed: the answers go with them."""
    each = scale.pick(50, 5)
    scope, other = folder / "scope", folder / "other"
    ways = ("renamed", "moved", "other-root", "copied", "folder")
    with Agent(scope, other, place=folder / "agent") as agent:
        agent.start().wait_ready()
        first = {way: save_all(scope / f"{way}-before", range(100 * place, 100 * place + each))
                 for place, way in enumerate(ways)}  # fmt: skip
        agent.wait_for(lambda: not missing(_all(first.values())), 240, "the first answers")
        before = {way: [record_of(path) or {} for path in paths] for way, paths in first.items()}
        agent.wait_for(len(ways) * each, 10)
        counts_before = agent.status()["since_start"]
        second = {way: _carry(way, paths, scope, other) for way, paths in first.items()}
        agent.wait_for(lambda: not missing(_all(second.values())), 120, "the new names have their answers")
        agent.wait_for(lambda: _named_rightly(_all(moved for way, moved in second.items() if way != "folder")), 60,
                       "every record names its file")  # fmt: skip
        orphans = (len(ways) - 2) * each
        with suppress(AssertionError):
            agent.wait_for(lambda: agent.status()["orphaned"] == orphans, 20, "the orphans are listed")
        status = agent.status()
    pairs = [pair for way in ways for pair in zip(before[way], second[way], strict=True)]
    inferred = [path for way in ways for path in second[way] if _inferred_anew(way, record_of(path) or {})]
    copies = [path for path in inferred if path in set(second["copied"])]
    return {
        "renamed_files": len(pairs),
        "renamed_inferred": len(inferred) - len(copies),
        "renamed_copies_inferred": len(copies),
        # Their records lay beside them and still name the folder as it was: the answers stand, and are kept.
        "renamed_records_with_folder's_old_name": sum(
            not _named_rightly([path]) for path in second["folder"]
        ),
        "renamed_other_answer": sum(not _same_answer(earlier, record_of(path)) for earlier, path in pairs),
        "renamed_heatmap_wrong": sum(_heatmap_wrong(path) for _, path in pairs),
        "renamed_orphans_not_listed": abs(orphans - status.get("orphaned", 0)),
        "renamed_note": f"inferred {[path.parent.name for path in inferred][:6]}; counts {counts_before} -> "
        f"{status['since_start']}; orphaned {status.get('orphaned')}",
    }


def _all(groups: Iterable[Sequence[Path]]) -> list[Path]:
    return [path for group in groups for path in group]


def _carry(way: str, paths: Sequence[Path], scope: Path, other: Path) -> list[Path]:
    source = paths[0].parent
    target = {"renamed": source, "other-root": other / "from-scope"}.get(way, scope / f"{way}-after")
    if way == "folder":
        source.rename(target)
        return [target / path.name for path in paths]
    target.mkdir(exist_ok=True)
    carried = []
    for place, path in enumerate(paths):
        new = target / f"{way}-{place}.DM3"
        if way == "copied":
            shutil.copy2(path, new)
        else:
            path.rename(new)
        carried.append(new)
    return carried


def _named_rightly(paths: Iterable[Path]) -> bool:
    return all((record_of(path) or {"source": {"path": ""}})["source"]["path"] == str(path) for path in paths)


def _inferred_anew(way: str, record: dict[str, Any]) -> bool:
    """Whether the network was asked again: then the time that it took stands in the record."""
    # In a folder that was renamed the records of the first examination lie beside their files still.
    return way != "folder" and (record.get("agent") or {}).get("milliseconds", {}).get("infer") is not None


def _same_answer(earlier: dict[str, Any], record: dict[str, Any] | None) -> bool:
    return record is not None and all(
        record[part] == earlier[part] for part in ("prediction", "model", "outcome")
    )


def _heatmap_wrong(path: Path) -> bool:
    record = read_record(sidecar(path))
    if record is None or record.cam is None or record.cam.heatmap != f"{path.name}.heatmap.png":
        return True
    return heatmap_fault(record, sidecar(path)) is not None


def culled(scale: Scale, folder: Path) -> Figures:
    """Micrographs are deleted: their records are listed, `tidy` shows them, `tidy --yes` removes them alone."""
    number = scale.pick(300, 20)
    scope = folder / "scope"
    with Agent(scope, place=folder / "agent", heatmap=True) as agent:
        agent.start().wait_ready()
        paths = save_all(scope, range(number)) + save_all(scope / "sub", range(number, 2 * number))
        agent.wait_for(2 * number, 240)
        gone, kept = paths[::2], paths[1::2]
        for path in gone:
            path.unlink()
        with suppress(AssertionError):
            agent.wait_for(lambda: agent.status()["orphaned"] == len(gone), 20, "the orphans are listed")
        listed = agent.status().get("orphaned", 0)
        shown = _command(agent, "tidy")
        left_by_showing = sum(sidecar(path).exists() for path in gone)
        removed = _command(agent, "tidy", "--yes")
        time.sleep(scale.pick(6.0, 0.0))
        status = agent.status()
    return {
        "culled_files": len(gone),
        "culled_orphans_not_listed": abs(len(gone) - listed),
        "culled_not_shown": sum(str(sidecar(path)) not in shown.stdout for path in gone),
        "culled_removed_by_showing": len(gone) - left_by_showing,
        "culled_not_removed": sum(_outputs(path) > 0 for path in gone),
        "culled_kept_files_hurt": sum(_outputs(path) != 2 for path in kept)
        + sum(not path.exists() for path in kept),
        "culled_still_listed": status.get("orphaned", 0),
        "culled_examined_again": sum(status["since_start"].values()) - 2 * number,
        "culled_note": f"exit codes {shown.returncode}, {removed.returncode}; {shown.stdout.splitlines()[-2:]}; "
        f"{removed.stdout.splitlines()[-1:]}",
    }


def _outputs(path: Path) -> int:
    return sidecar(path).exists() + path.with_name(f"{path.name}.heatmap.png").exists()


def _command(agent: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-P", "-c", _MAIN, *arguments, "--config", str(agent.config_file)),
        env=os.environ | {"TMPDIR": str(agent.place / "tmp")},
        capture_output=True, text=True, timeout=120, check=False, errors="replace",
    )  # fmt: skip


# --- names -----------------------------------------------------------------------------------------------------

NAMES: Final = (
    "plain.dm3", "UPPER.DM3", "Mixed.Dm3", "x.dm3", "x.DM3", "A.dm3", "a.DM3", "no stem.dm3", ".hidden.dm3",
    "emoji 🔬🧪.dm3", "עברית.dm3", "\u202egpj.dm3", "é-nfc.dm3", "e\u0301-nfd.dm3", "\u212bngström.dm3",
    "new\nline.dm3", "tab\tand\rreturn.dm3", "escape\x1b[31mred.dm3", "trailing.dm3.dm3", "CON.dm3", "nul.dm3",
    "quote\"s'and`ticks.dm3", "$(touch owned).dm3", "-rf.dm3", "%s%d%n.dm3", "back\\slash.dm3",
    "*.dm3", "?.dm3", "semi;colon|pipe.dm3", "[a].dm3", "{}.dm3", "<img src=x onerror=alert(1)>.dm3",
    "=cmd|' calc'!A0.dm3",
    "zero\u200bwidth.dm3", "\ufeffbom.dm3", "long-" + "n" * 234 + ".dm3", "dot..dm3", "twice.json.dm3",
)  # fmt: skip
RAW_NAMES: Final = (b"bad-\xff\xfe.dm3", b"half-\xc3.dm3", b"\xed\xa0\x80surrogate.dm3")
TOO_LONG: Final = ("m" * 251 + ".dm3", "é" * 125 + "x.dm3", "k" * 240 + ".dm3")
OTHERS: Final = ("plain.txt", "plain.dm3.tmp", "plain.dm3.json.bak", "dm3", "notes.dm3x")


def names(scale: Scale, folder: Path) -> Figures:
    """Every name that can be created, and paths longer than the system takes."""
    scope = folder / "scope"
    scope.mkdir()
    good = [scope / name for name in NAMES] + [scope / os.fsdecode(name) for name in RAW_NAMES]
    good.append(_deep(scope, 3_800) / "deep.dm3")
    long = [scope / name for name in TOO_LONG]
    with Agent(scope, place=folder / "agent", heatmap=False) as agent:
        agent.start().wait_ready()
        for number, path in enumerate([*good, *long]):
            save(path, speck_dm3(number))
        for name in OTHERS:
            save(scope / name, speck_dm3(1))
        beyond = _beyond_path_max(scope)
        agent.wait_for(lambda: not missing(good), 90, "every file has its record")
        agent.wait_for(lambda: agent.status()["done"].get("refused", 0) >= len(long), 20, "too long: refused")
        status, text = agent.asked_status(), agent.text() + _own_log(agent)
        human = _command(agent, "status")
    mistaken = [name for name in OTHERS if sidecar(scope / name).exists()]
    return {
        "names_files": len(good) + len(long) + 1,
        "names_not_classified": sum(outcome(path) != "classified" for path in good),
        "names_refused": status["done"].get("refused", 0),
        "names_beyond_path_max_silent": float("cannot be listed" not in text and "too long" not in text),
        "names_not_wanted_examined": len(mistaken),
        "names_forged_lines": sum(line.startswith("line.dm3") for line in text.splitlines()),
        "names_raw_escapes": sum("\x1b" in output for output in (text, human.stdout)),
        "names_note": "; ".join(
            [repr(path.name) for path in good if outcome(path) != "classified"]
            + [repr(beyond[-20:])]
            + mistaken
        ),
    }


def _deep(scope: Path, length: int) -> Path:
    """A folder whose path is about so long."""
    path = scope
    while len(os.fsencode(path)) < length - 60:
        path = path / "a-folder-that-is-one-of-many-in-a-very-deep-tree"
    path.mkdir(parents=True)
    return path


def _beyond_path_max(scope: Path) -> str:
    """A micrograph whose path is longer than the 4,096 bytes that a system call takes."""
    name = "f" * 200
    folder = os.open(scope, os.O_DIRECTORY)
    for _ in range(24):
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = inner
    file = os.open("far.dm3", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    os.write(file, speck_dm3(4_096))
    os.close(file)
    os.close(folder)
    return "/".join([str(scope), *[name] * 24, "far.dm3"])


def _own_log(agent: Agent) -> str:
    return "".join(file.read_text("utf-8", "replace") for file in agent.state.rglob("*.log"))


# --- choosing --------------------------------------------------------------------------------------------------


def choosing(scale: Scale, folder: Path) -> Figures:
    """Two roots, one of them read-only, outputs mirrored, patterns in and out; outputs are never inputs."""
    roots, mirror = [folder / "roots" / name for name in ("a", "b")], folder / "mirror"
    each = scale.pick(100, 8)
    wanted = save_all(roots[0], range(each)) + save_all(roots[0] / "sub", range(each, 2 * each))
    left_out = save_all(roots[0] / "trash" / "inner", range(5)) + save_all(roots[0], range(5), "test-shot")
    with (
        _read_only(roots[0]),
        Agent(
            *roots, place=folder / "agent", output=str(mirror), include=["*.dm3", "*.json", "*.png", "*.PNG"],
            exclude=["trash", "TEST-*"],
        ) as agent,
    ):  # fmt: skip
        agent.start().wait_ready()
        wanted += save_all(roots[1] / "day", range(2 * each, 3 * each))
        left_out += save_all(roots[1] / "Trash", range(5))
        places = [mirror / path.relative_to(folder / "roots") for path in wanted]
        agent.wait_for(lambda: not missing(places), 240, "every file has its record in the mirror")
        time.sleep(scale.pick(12.0, 2.5))
        status = agent.status()
    strays = [path for root in roots for path in root.rglob("*") if path.suffix in (".json", ".png", ".tmp")]
    excluded = [mirror / path.relative_to(folder / "roots") for path in left_out]
    return {
        "choosing_files": len(wanted),
        "choosing_lost": len(missing(places)),
        "choosing_excluded_examined": len(excluded) - len(missing(excluded)),
        "choosing_outputs_in_roots": len(strays),
        "choosing_self_triggered": sum(status["since_start"].values()) - len(wanted),
        "choosing_heatmap_wrong": sum(_heatmap_wrong(path) for path in places),
        "choosing_note": str(status["since_start"]),
    }


@contextmanager
def _read_only(place: Path) -> Iterator[None]:
    subprocess.run(("mount", "--bind", str(place), str(place)), check=True)
    try:
        subprocess.run(("mount", "-o", "remount,bind,ro", str(place)), check=True)
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(place)), check=True)


# --- clocks ----------------------------------------------------------------------------------------------------


def clock_jumps(scale: Scale, folder: Path) -> Figures:
    """The wall clock jumps by a year, forth and back: no wait is longer, nothing is done twice."""
    scope, clock = folder / "scope", folder / "clock"
    environment = {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
    }  # fmt: skip
    jumps = scale.pick(
        ("+0", f"+{YEAR_SECONDS}", "+0", f"-{YEAR_SECONDS}", "+3600", "-3600", "+0"),
        ("+0", f"+{YEAR_SECONDS}", f"-{YEAR_SECONDS}"),
    )
    took, years = [], set()
    clock.write_text("+0\n")
    with Agent(
        scope, place=folder / "agent", environment=environment, heatmap=False, scan_seconds=2.0
    ) as agent:
        agent.start().wait_ready()
        for number, jump in enumerate(jumps):
            clock.write_text(f"{jump}\n")
            paths = save_all(scope, range(10 * number, 10 * number + 5))
            took.append(_answered_in(agent, paths))
            years.add((record_of(paths[0]) or {})["agent"]["finished"][:4])
            time.sleep(scale.pick(1.0, 0.3))
        agent.wait_for(5 * len(jumps), 10)
        time.sleep(scale.pick(3.0, 2.0))
        counts = agent.status()["since_start"]
    return {
        "clock_jumps_files": 5 * len(jumps),
        "clock_jumps_took_effect": float(len(years) > 1),
        "clock_jumps_slowest_seconds": max(took),
        "clock_jumps_done_twice": sum(counts.values()) - 5 * len(jumps),
        "clock_jumps_note": f"records are dated {sorted(years)}; seconds {[round(value, 1) for value in took]}",
    }


def _answered_in(agent: Agent, paths: Sequence[Path]) -> float:
    return seconds_until(agent, lambda: not missing(paths), 60, "the files are done")


CASES: Final = (
    Case(
        "renamed",
        renamed,
        (
            Bar("renamed_inferred"),
            Bar("renamed_other_answer"),
            Bar("renamed_heatmap_wrong"),
            Bar("renamed_orphans_not_listed"),
        ),
    ),
    Case(
        "culled",
        culled,
        (
            Bar("culled_orphans_not_listed"),
            Bar("culled_not_shown"),
            Bar("culled_removed_by_showing"),
            Bar("culled_not_removed"),
            Bar("culled_kept_files_hurt"),
            Bar("culled_examined_again"),
        ),
    ),
    Case(
        "names",
        names,
        (
            Bar("names_not_classified"),
            Bar("names_refused", len(TOO_LONG), at_least=len(TOO_LONG)),
            Bar("names_beyond_path_max_silent"),
            Bar("names_not_wanted_examined"),
            Bar("names_forged_lines"),
            Bar("names_raw_escapes"),
        ),
    ),
    Case(
        "choosing",
        choosing,
        (
            Bar("choosing_lost"),
            Bar("choosing_excluded_examined"),
            Bar("choosing_outputs_in_roots"),
            Bar("choosing_self_triggered"),
            Bar("choosing_heatmap_wrong"),
        ),
        needs=("root",),
    ),
    Case(
        "clock_jumps",
        clock_jumps,
        (
            Bar("clock_jumps_took_effect", 1, at_least=1),
            Bar("clock_jumps_slowest_seconds", 5),
            Bar("clock_jumps_done_twice"),
        ),
        needs=(str(FAKETIME),),
    ),
)

if __name__ == "__main__":
    sys.exit(cases_main("renames, culling, names, mirrors and clocks", CASES))
