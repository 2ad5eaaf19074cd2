"""A watcher on a bench: real files, and a clock, events, a journal and a kind of volume set by the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.watcher import Watcher
from edge_agent.watching.volumes import Volume

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUIET, SCAN = 1.0, 10.0


@dataclass
class FakeHints:
    """An event source that the test fires by hand."""

    made: list[FakeHints]
    error: OSError | None = None
    folder: Path | None = None
    living: bool = False
    tell: Callable[[str], None] = lambda path: None
    overflow: Callable[[], None] = lambda: None

    def start(self, folder, on_change, on_overflow):
        if self.error is not None:
            raise self.error
        self.folder, self.living, self.tell, self.overflow = folder, True, on_change, on_overflow
        self.made.append(self)

    def alive(self):
        return self.living

    def stop(self):
        self.living = False


@dataclass(frozen=True)
class State:
    """In which state a file was done."""

    size_bytes: int
    modified_ns: int
    recorded: bool = True


@dataclass
class Known:
    """A journal in a dictionary."""

    states: dict[Path, State] = field(default_factory=dict)
    asked: list[Path] = field(default_factory=list)

    def of(self, path):
        self.asked.append(path)
        return self.states.get(path)

    def in_folder(self, folder):
        self.asked.append(folder)
        return {path.name: state for path, state in self.states.items() if path.parent == folder}

    def folders_below(self, root):
        return {path.parent for path in self.states if path.is_relative_to(root)}

    def note(self, path, *, recorded=True):
        found = path.stat()
        self.states[path] = State(found.st_size, found.st_mtime_ns, recorded)


@dataclass
class Bench:
    """A watcher over one folder, with its clock, its events and its journal."""

    folder: Path
    now: float = 0.0
    known: Known = field(default_factory=Known)
    hints: list[FakeHints] = field(default_factory=list)
    hint_error: OSError | None = None
    options: dict[str, object] = field(default_factory=dict)
    volume: Volume = field(default_factory=Volume)

    def __post_init__(self):
        self.restart()

    def restart(self, folders=None, **options):
        """Put another watcher in place of the present one."""
        self.options |= options
        self.watcher = Watcher(
            folders or [self.folder],
            self.known,
            quiet_seconds=QUIET,
            scan_seconds=SCAN,
            hints=lambda: FakeHints(self.hints, self.hint_error),
            volume=lambda folder: self.volume,
            clock=lambda: self.now,
            **self.options,
        )

    def write(self, name, content=b"1234", *, hint=True):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if hint:
            self.tell(path)
        return path

    def tell(self, path):
        for hints in self.hints:
            if hints.living:
                hints.tell(str(path))

    def after(self, seconds):
        """Let time pass, then look once; return the names handed out."""
        self.now += seconds
        return [str(quiet.path.relative_to(self.folder)) for quiet in self.watcher.step()]

    def until_quiet(self):
        return self.after(0) + self.after(QUIET)

    def later(self, seconds, step=1.0):
        """Let time pass in steps, as it does; return the names handed out."""
        names = []
        for _ in range(int(seconds / step)):
            names += self.after(step)
        return names

    def done(self, name):
        self.known.note(self.folder / name)
        self.watcher.release(self.folder / name)

    @property
    def events(self):
        return self.watcher.health().folders[0].events

    @property
    def scans(self):
        return self.watcher.health().scans
