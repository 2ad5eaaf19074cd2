"""What the fuzzing of DM files reaches: line coverage of the readers, and a search that is guided by it.

`guided` lets atheris (libFuzzer) choose what to mutate by the branches that were reached; its mutations are
those of `fuzz_mutations` where a file still has a walkable tree, and libFuzzer's own elsewhere. It reads below
the file layer, from memory, because a file a round would cost more than the parse.
"""

from __future__ import annotations

import dis
import inspect
import io
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fuzz_dm
from fuzz_mutations import mutant, seed_of

from edge_agent import axis_units, data_kind, dm_file, dm_tags, micrograph
from edge_agent.files import FileStamp, Snapshot, SourceFile

if TYPE_CHECKING:
    import argparse
    from types import CodeType, FrameType

MODULES = (dm_tags, dm_file, data_kind, axis_units, micrograph)


def start(arguments: argparse.Namespace) -> None:
    if arguments.command == "coverage":
        reached = Reached()
        files = fuzz_dm.maker("dm", arguments.seed)
        reached.collect([files.file(number) for number in range(arguments.files)])
        reached.report(f"{arguments.files} mutated files")
        if arguments.corpus:
            reached.collect([path.read_bytes() for path in sorted(arguments.corpus.iterdir())])
            reached.report(f"and the corpus in {arguments.corpus}")
    else:
        _guided(arguments.corpus, arguments.minutes, arguments.seed)


def read_in_memory(data: bytes) -> str:
    """Do what `read_micrograph` does once it has the bytes; return the outcome's name."""
    stamp = FileStamp(len(data), 0, 0, 0)
    copy = Snapshot(SourceFile(Path("fuzzed.dm3"), stamp, "", ""), io.BytesIO(data), in_memory=True)
    try:
        found = micrograph._read(copy, micrograph.PIXEL_LIMIT)
    except micrograph.UnusableFile as error:
        complaint = fuzz_dm._ill_said(error)
        outcome = type(error).__name__
    else:
        complaint, outcome = fuzz_dm.unsafe(found), "accepted"
    if complaint:
        raise AssertionError(complaint)
    return outcome


class Reached:
    """The lines of the reading modules that ran."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = {module.__file__ or "": set() for module in MODULES}

    def collect(self, files: list[bytes]) -> None:
        sys.settrace(self._call)
        try:
            for data in files:
                read_in_memory(data)
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        lines = self.lines.get(frame.f_code.co_filename)
        return None if lines is None else self._line

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self._line

    def report(self, after: str) -> None:
        print(f"lines reached by {after}:")
        for module in MODULES:
            possible = _lines_of_functions(module)
            missed = sorted(possible - self.lines[module.__file__ or ""])
            print(f"  {module.__name__}: {len(possible) - len(missed)} of {len(possible)}, not {missed}")


def _lines_of_functions(module: Any) -> set[int]:
    """Return the lines inside functions; those of the module itself run at import."""
    source = inspect.getsource(module)
    whole = compile(source, module.__file__, "exec")
    return {line for code in _functions(whole) for _, line in dis.findlinestarts(code)
            if line is not None and line != code.co_firstlineno}  # fmt: skip


def _functions(code: CodeType) -> list[CodeType]:
    inner = [constant for constant in code.co_consts if inspect.iscode(constant)]
    own = [found for found in inner if found.co_flags & inspect.CO_OPTIMIZED]
    return own + [deeper for found in inner for deeper in _functions(found)]


def _guided(corpus: Path, minutes: float, seed: int) -> None:
    import atheris

    for module in MODULES:
        classes = [value for value in vars(module).values() if inspect.isclass(value)]
        for holder in (module, *classes):
            for name, value in list(vars(holder).items()):
                if inspect.isfunction(value) and value.__code__.co_filename == module.__file__:
                    setattr(holder, name, atheris.instrument_func(value))
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = [*fuzz_dm.built_seeds(), *fuzz_dm.simulated_seeds(), *fuzz_dm.real_seeds()]
    for number, found in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(found.data)
    started = time.monotonic()

    def mutate(data: bytes, limit: int, number: int) -> bytes:
        rng = random.Random(number)
        try:
            begun = [seed_of("corpus", data)]
        except (ValueError, LookupError, RecursionError):
            begun = []
        if begun and begun[0].layout.entries and rng.random() < 0.8:
            return mutant(rng, begun, seeds)[:limit]
        return bytes(atheris.Mutate(data, limit))

    def one(data: bytes) -> None:
        read_in_memory(data)

    atheris.Setup(
        [sys.argv[0], str(corpus), f"-max_total_time={int(60 * minutes)}", f"-seed={seed + 1}",
         "-max_len=65536", "-rss_limit_mb=1024", "-timeout=5"],
        one, custom_mutator=mutate, internal_libfuzzer=True,
    )  # fmt: skip
    print(f"guided from {len(seeds)} seeds, prepared in {time.monotonic() - started:.0f} s", flush=True)
    atheris.Fuzz()
