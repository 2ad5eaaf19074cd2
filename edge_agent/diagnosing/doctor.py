"""Whether this PC is fit for the agent, told before anything heavy is imported: `edge-agent doctor`.

Also `python -m edge_agent.diagnosing.doctor`, which works when the installation is broken: nothing but the standard
library is imported here, whatever may crash or hang is tried in a process apart. Only this module decides the
order of checks. What concerns Windows is marked in the output: it was not verified on Windows.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from edge_agent import __version__
from edge_agent.diagnosing import agent_checks, pc_checks
from edge_agent.diagnosing.apart import run_python
from edge_agent.diagnosing.diagnosis import Line, as_json, fail, from_json, marked, skip, summary_of, text_of
from edge_agent.diagnosing.installation import needed_glibc
from edge_agent.diagnosing.windows_facts import RealWindows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from edge_agent.diagnosing.agent_checks import Settings

PROGRAM: Final = "edge-agent"
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
_FOLDER_SECONDS: Final = 60.0
_FOLDER_PROGRAM: Final = "from edge_agent.diagnosing.folder_checks import main; main()"


@dataclass(frozen=True, slots=True)
class Question:
    """What doctor was asked: folders (else the configuration's), and a configuration file."""

    folders: tuple[Path, ...] = ()
    config: Path | None = None


def run_doctor(question: Question) -> Iterator[Line]:
    """Yield each line as soon as it is known. Raises nothing: a check that fails in itself is a line too."""
    settings, about_config = agent_checks.settings_of(question.config, question.folders)
    about_service, is_system = agent_checks.service_line()
    yield from _safely("python", partial(_python, is_system))
    for name, check in _pc_checks(settings):
        yield from _safely(name, check)
    yield marked(about_config)
    sound_config = settings.file if about_config.verdict == "ok" else None
    yield from _safely("agent", partial(_agent, settings, sound_config))
    yield marked(about_service)
    for folder in settings.folders:
        yield from _safely("folder", partial(folder_lines_apart, folder, settings))
    if not settings.folders:
        yield marked(
            skip(
                "folder", "none was named, nor configured: name the save folder (`edge-agent doctor FOLDER`)"
            )
        )


def _python(is_system: bool) -> Iterable[Line]:
    changeable_by = pc_checks.who_can_change(Path(sys.prefix))
    return pc_checks.python_lines(changeable_by=changeable_by, is_service=is_system)


def _pc_checks(settings: Settings) -> Iterator[tuple[str, Callable[[], Iterable[Line]]]]:
    windows = RealWindows() if sys.platform == "win32" else None
    memory = windows.memory_mib() if windows is not None else pc_checks.memory_on_linux()
    floor, places = settings.free_space_floor_mib, _written(settings)
    yield "processor", partial(pc_checks.processor_lines, windows=windows)
    yield "memory", lambda: [pc_checks.memory_line(memory, settings.memory_limit_mib)]
    if windows is not None:
        yield "VC++ runtime", lambda: [pc_checks.runtime_line(windows)]
    else:
        yield "C library", lambda: [pc_checks.glibc_line(needed=needed_glibc())]
    yield "packages", pc_checks.package_lines
    yield "clock", lambda: [pc_checks.clock_line()]
    yield (
        "disks",
        lambda: [
            pc_checks.disk_line("the state", settings.state, floor),
            *(pc_checks.disk_line("outputs", place, floor) for place in places),
        ],
    )
    yield "antivirus", lambda: [pc_checks.antivirus_line(settings.state, places, windows=windows)]
    yield "sleep", lambda: [pc_checks.power_line(windows)]


def _written(settings: Settings) -> tuple[Path, ...]:
    return (settings.output,) if settings.output is not None else settings.folders


def _agent(settings: Settings, sound_config: Path | None) -> Iterator[Line]:
    yield agent_checks.state_line(settings.state)
    running = agent_checks.running_agent(settings.state)
    yield agent_checks.running_line(running, settings.state)
    yield agent_checks.port_line(settings.page_enabled, settings.page_port, running)
    yield agent_checks.model_line(settings.model, config=sound_config)


def folder_lines_apart(folder: Path, settings: Settings, seconds: float = _FOLDER_SECONDS) -> Iterator[Line]:
    """Judge one folder in a process of its own: a dead share holds that process, and is a line here."""
    asked = {
        "folder": str(folder),
        "output": None if settings.output is None else str(settings.output),
        "include": settings.include,
        "quiet_seconds": settings.quiet_seconds,
        "share_quiet_seconds": settings.share_quiet_seconds,
    }
    end = run_python(_FOLDER_PROGRAM, [json.dumps(asked)], seconds=seconds)
    for text in end.output.splitlines():
        yield from_json(json.loads(text))
    if end.code is None:
        yield fail(
            "folder answers",
            f"{folder} did not answer within {seconds:g} s",
            "see whether the network share or the disk is there; other folders are watched meanwhile",
        )
    elif not end.well:
        yield fail("folder answers", f"{folder}: {end.why}", "send this report to the makers of scopewatch")


def _safely(name: str, check: Callable[[], Iterable[Line]]) -> Iterator[Line]:
    """Give a check's lines; a fault in one must not hide what the others see."""
    try:
        for line in check():
            yield marked(line)
    except Exception as error:
        seen = f"the check itself failed: {type(error).__name__}: {error}"
        yield marked(fail(name, seen, "send this report to the makers of scopewatch"))


class OneLineParser(argparse.ArgumentParser):
    """Arguments whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run doctor, print its lines, and return the exit code: 0 when nothing fails."""
    parser = OneLineParser(prog=f"{PROGRAM} doctor", description="Say whether this PC is fit for the agent.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="where micrographs are saved")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout and nothing else there")
    asked = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    lines = []
    for line in run_doctor(Question(tuple(asked.folders), asked.config)):
        lines.append(line)
        if not asked.json:
            print_lines("\n".join(text_of(line)))
    if asked.json:
        report = {
            "schema_name": "scopewatch.doctor/1",
            "version": __version__,
            "lines": [*map(as_json, lines)],
        }
        print_lines(json.dumps(report, indent=2))
    else:
        print_lines(summary_of(lines))
    return EXIT_FAILED if any(line.verdict == "fail" for line in lines) else 0


def print_lines(text: str) -> None:
    """Print, with what could steer a terminal or is foreign to its encoding escaped; a closed pipe is no fault."""
    plain = "\n".join(_printable(line) for line in text.split("\n"))
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(plain.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except OSError:
        return


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


if __name__ == "__main__":
    sys.exit(main())
