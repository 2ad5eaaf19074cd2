"""Fuzz of what is read beside micrographs: the configuration, sidecars on the disk, lines between processes.

    python tests/faults/fuzz_config.py [--files 20000] [--seed 0]

The bars: a configuration is used or refused with `ConfigRefused`, which names the file and the line; of what is
used, each value comes from a line in which its key stands, and none that is not the default says that it is. A
sidecar that is cut, zeroed, torn or of another state never counts as an answer; a protocol line is understood or
refused with the one exception that its reader promises.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent)]

from edge_agent.config import AgentConfig, ConfigRefused  # noqa: E402
from edge_agent.config_file import Loaded, loaded  # noqa: E402
from edge_agent.files import FileStamp  # noqa: E402
from edge_agent.output_places import OutputPlan  # noqa: E402
from edge_agent.protocol import (  # noqa: E402
    Job,
    NotUnderstood,
    Ready,
    Refused,
    UsualRanges,
    WorkerSettings,
    greeting_line,
    job_line,
    read_finding,
    read_greeting,
    read_job,
    read_settings,
    settings_line,
)
from edge_agent.sidecar import Finding, Twin, finding_on_record, is_about, modified_utc, read_record  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = """\
# what a person wrote
folders = ["/data/session", "~/microscope", "relative"]
output = "/results"
model = "particle-shape"
include = ["*.dm3", "*.dm4"]
exclude = ["*thumb*"]
quiet_seconds = 1.5
share_quiet_seconds = 3
scan_seconds = 10.0
newest_first = true
memory_limit_mib = 4096
yield_above_cpu_percent = 60
free_space_floor_mib = 1024
heatmap = false
trusted_keys = ["ed25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
state = "state"

[page]
enabled = true
port = 8747

[events]
webhook_url = "https://lims.example.org/in"  # a comment
mqtt_url = 'mqtts://broker:8883/scope/findings'

[instrument]
name = '''
Titan,
room 12'''
camera = "OneView"

[instrument.pixel_size_nm]
40000 = 0.25
"1.2e6" = 0.008

[retention]
heatmap_days = 365
log_files = 5
log_mib = 10
"""
_VALUES = (
    "1", "-1", "0", "1e400", "nan", "inf", "-inf", '""', '"x"', "true", "[]", "[1]", '["a", ["b"]]', "{}",
    "{a = 1}", "1979-05-27T07:32:00Z", "07:32:00", "0x7fffffffffffffff", "9" * 5000, '"\\u0000"',
    '"~nobody-here/x"',
    '"' + "n" * 5000 + '"', '["~nobody-here"]', '["\\u0000"]', "'''\n'''", '["*", "a/b"]', "99999999999999999999",
    "[" * 3000 + "]" * 3000, "{a=" * 3000 + "1" + "}" * 3000, '"\\ud800"', "1_000", "+0.0", '"//server/share"',
    "'\\\\evil\\x'",
    "'C:\\data'", '"C:\\data"', '"http://[::1"', '"mqtt://b:99999/t"', '"ed25519:AAAA"', '"/etc/x"',
    '"""\n"', "[\n1,\n# x\n]", '{"40000" = 0.1, "4e4" = 0.2}', '{"-1" = 1}', '{"1" = nan}', '{"" = 1}',
)  # fmt: skip
_LINES = ("[table]", "[[folders]]", "folders.x = 1", "= 1", "quiet_seconds", "a.b.c = 1", '"" = 1', "\x00",
          "\ufeff", "folders = 1", "no_such_key = 1", "[" * 2000,
          "[page]", "[instrument.pixel_size_nm]", "[page.port]", "[[events]]", "page.prot = 1", "4e4 = 1",
          "40k = 1", "nan = 1", "40000.5 = 1", "[instrument]\nname = 'x'", "[no_such_table]", '"po\\u0072t" = 1',
          "instrument.pixel_size_nm.1e999 = 1")  # fmt: skip
_PLACED = re.compile(r":(\d+)?:? ")


def config_mutant(rng: random.Random) -> bytes:
    """Return a configuration with wrong values, a strange line, or cut off as an editor leaves it."""
    lines = CONFIG.splitlines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, what = rng.randrange(1, len(lines)), rng.randrange(8)
        name, equals, _value = lines[at].partition(" = ")
        if what < 5 and equals:
            lines[at] = f"{name} = {rng.choice(_VALUES)}"
        elif what < 6:
            lines.insert(at, rng.choice(_LINES))
        elif what == 6:
            key = rng.choice(list(AgentConfig.model_fields))
            lines = [line for line in lines if not line.startswith((f"{key} ", f"[{key}"))]
            lines.insert(1, f"{key} = {rng.choice(_VALUES)}")
        else:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    data = bytearray("\n".join(lines).encode("utf-8", "surrogatepass"))
    return _torn(rng, data, rng.choice((0, 0, 0, 0, 1, 2)))


def _torn(rng: random.Random, data: bytearray, injuries: int) -> bytes:
    for _ in range(injuries):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 8, 100))
        what = rng.randrange(5)
        if what == 0:
            del data[at:]
        elif what == 1:
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif what == 2:
            data[at : at + size] = rng.randbytes(len(data[at : at + size]))
        elif what == 3:
            data[at:at] = data[at : at + size]
        elif data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
    return bytes(data)


def config_complaint(file: Path) -> tuple[str, str | None]:
    """Return what became of a configuration, and what is wrong with that (None where nothing is)."""
    try:
        found = loaded(file)
    except ConfigRefused as error:
        return "refused", _misplaced(file, str(error))
    except Exception as error:
        return type(error).__name__, f"{type(error).__name__}: {str(error)[:200]}"
    config = found.config
    paths = (*config.folders, config.state, config.output or Path("/data"))
    odd = [path for path in paths if not path.is_absolute() or "\0" in str(path)]
    if odd:
        return "used", f"paths that cannot be {odd}"
    return "used", _without_origin(file, found)


def _misplaced(file: Path, text: str) -> str | None:
    """Say which complaint names no line of the file, or says nothing of what is wrong there."""
    lines = file.read_bytes().count(b"\n") + 1
    # Values that people wrote may hold newlines; the first line counts.
    placed = _PLACED.match(text.removeprefix(str(file)))
    if not text.startswith(str(file)) or placed is None:
        return f"not about the file: {text[:100]!r}"
    if placed[1] is not None and not 1 <= int(placed[1]) <= lines:
        return f"line {placed[1]} of {lines}: {text[:100]!r}"
    is_unplaced = placed[1] is None and "is not valid TOML" not in text and "cannot be read" not in text
    return f"no line: {text[:100]!r}" if is_unplaced else None


def _without_origin(file: Path, found: Loaded) -> str | None:
    """Say which value that is not the default is said to be one, or comes from a line without its key."""
    lines, default = file.read_text("utf-8-sig").splitlines(), AgentConfig(state=found.config.state)
    for key, origin in found.origins.items():
        table, _, name = key.rpartition(".")
        parts = (getattr(config, table) if table else config for config in (found.config, default))
        value, usual = (getattr(part, name) for part in parts)
        if origin == "default":
            if value != usual:
                return f"{key} is {value!r} by default"
        elif name not in lines[int(origin.rpartition(":")[2]) - 1] and "\\u" not in str(lines):
            return f"{key} from {origin}: {lines[int(origin.rpartition(':')[2]) - 1]!r}"
    return None


STAMP = FileStamp(size_bytes=8388608, modified_ns=1_777_777_777_123_456_789, device=1, inode=2)


def sidecar_values(stamp: FileStamp = STAMP, label: str = "round") -> dict[str, object]:
    """Return a sidecar with every part in it, as a JSON object."""
    return {
        "schema": "scopewatch.sidecar/1", "outcome": "classified", "reason": None,
        "source": {"path": "/data/a.dm3", "bytes": stamp.size_bytes, "modified": modified_utc(stamp).isoformat(),
                   "sha256": "ab" * 32, "fingerprint": "fp1:1"},
        "micrograph": {
            "shape": [64, 64], "dtype": "int16", "pixel_size_nm": [0.12, 0.12], "dataset_index": 1,
            "frame_index": None, "datasets": ["thumbnail", "image"], "acquired": None, "acquired_text": "5/3/2026",
            "instrument": {"voltage_kv": 200.0, "magnification": 4e4, "imaging_mode": None, "operation_mode": None,
                           "signal": "HAADF", "device": "camera"}},
        "prediction": {"label": label, "decision": "accept", "reasons": [],
                       "probabilities": {"rod": 0.1, "round": 0.9}, "novelty": None, "novelty_threshold": None,
                       "tiles": [{"box_px": [0, 0, 64, 64], "probabilities": {"rod": 0.1, "round": 0.9}}]},
        "cam": {"label": label, "method": "cam", "box_px": [0, 0, 64, 64], "grid": [1, 2], "values": [[0.0, 1.5]],
                "composition": "mean_where_overlapping", "heatmap": "a.dm3.heatmap.png",
                "heatmap_sha256": "cd" * 32},
        "model": {"name": "m", "version": "1", "sha256": "ef" * 32},
        "agent": {"version": "0.1.0", "host": "scope", "settled": None, "finished": "2026-05-03T03:09:40Z",
                  "milliseconds": {"read": 1.0, "preprocess": 2.0, "infer": 3.0, "heatmap": 4.0, "write": 5.0}},
    }  # fmt: skip


def sidecar_text(values: dict[str, object]) -> bytes:
    return (
        "{\n" + ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in values.items()) + "\n}\n"
    ).encode()


def sidecar_mutant(rng: random.Random) -> tuple[str, bytes]:
    """Return how a sidecar was damaged, and the damaged file; each damage here must be noticed."""
    values = sidecar_values()
    whole = sidecar_text(values)
    end = whole.rindex(b"}")
    at = rng.randrange(end)
    damage = rng.choice(
        ("cut", "zeroed", "empty tail", "torn", "other state", "key gone", "wrong type", "schema", "noise")
    )
    if damage == "cut":
        return damage, whole[:at]
    if damage == "zeroed":
        size = rng.choice((1, 16, 512, 4096))
        return damage, whole[:at] + bytes(len(whole[at : at + size])) + whole[at + size :]
    if damage == "empty tail":
        return damage, whole[:at] + bytes(len(whole) - at)
    if damage == "torn":
        older = sidecar_text(
            sidecar_values(FileStamp(1234, 1_666_666_666_000_000_000, 1, 2), "faceted particles")
        )
        return damage, older[:at] + whole[at:] if rng.random() < 0.5 else whole[:at] + older[at:]
    if damage == "noise":
        return damage, whole[:at] + rng.randbytes(16) + whole[at + 16 :]
    if damage == "other state":
        stamp = FileStamp(
            *rng.choice(((STAMP.size_bytes + 1, STAMP.modified_ns), (STAMP.size_bytes, 1))), 1, 2
        )
        return damage, sidecar_text(sidecar_values(stamp))
    if damage == "schema":
        return damage, sidecar_text(
            values | {"schema": rng.choice(("scopewatch.sidecar/2", "other", None, 1))}
        )
    _change_a_key(rng, values, damage)
    return damage, sidecar_text(values)


def _change_a_key(rng: random.Random, values: dict[str, object], damage: str) -> None:
    part = values[rng.choice(("source", "model", "agent", "prediction", "cam", "micrograph"))]
    assert isinstance(part, dict)
    place = rng.choice((values, part))
    key = rng.choice(sorted(place))
    if damage == "key gone":
        del place[key]
    else:
        place[key] = {"not": ["this"]}


def sidecar_complaint(folder: Path, damage: str, data: bytes) -> tuple[str, str | None]:
    """Ask for the answer on record, with the heatmap in place; whoever believes the file is wrong."""
    path = folder / "a.dm3"
    place = OutputPlan().place(path)
    place.sidecar.write_bytes(data)
    place.heatmap.write_bytes(b"png")
    try:
        finding = finding_on_record(path, STAMP, OutputPlan())
    except Exception as error:
        return type(error).__name__, f"{damage}: {type(error).__name__}: {error}"
    if finding is None:
        return f"{damage}: no answer", None
    record = read_record(place.sidecar)
    if damage == "torn":
        # Two whole records of one layout, cut at the same byte, can make a third that is whole as well; no
        # write of ours can leave that. What it says of the file's state must still be true.
        same = record is not None and is_about(record, STAMP)
    else:
        same = record is not None and record.model_dump(mode="json", by_alias=True) == sidecar_as_read(folder)
    return f"{damage}: answer", None if same else f"{damage}: believed {data[:2000]!r}"


def sidecar_as_read(folder: Path) -> dict[str, object]:
    """Return the undamaged sidecar as it reads: damage that changes nothing (a space) may be believed."""
    path = folder / "sound.json"
    path.write_bytes(sidecar_text(sidecar_values()))
    record = read_record(path)
    assert record is not None
    return record.model_dump(mode="json", by_alias=True)


JOB = Job(Path("/data/a\udce9.dm3"), twins=(Twin(Path("/data/b.dm3"), "ab" * 32),))
_FINDING = Finding(
    JOB.path, "classified", label="round", probability=0.9, sidecar=Path("/data/a.json"), stamp=STAMP,
    novelty=0.3, contrast=0.2, pixel_size_nm=0.12,
)  # fmt: skip
_READY = Ready("m", "1", "ab", 7, UsualRanges(confidence=(0.5, 1.0)))
_SETTINGS = WorkerSettings("m", OutputPlan(Path("/o"), (Path("/a"),)))
READERS: dict[str, tuple[str, Callable[[str], object], type[Exception] | tuple[type[Exception], ...]]] = {
    "finding": (_FINDING.to_json(), lambda line: read_finding(line, JOB), NotUnderstood),
    "finding alone": (_FINDING.to_json(), Finding.from_json, (ValueError, KeyError, TypeError)),
    "greeting": (greeting_line(_READY), read_greeting, NotUnderstood),
    "refusal": (greeting_line(Refused("no")), read_greeting, NotUnderstood),
    "settings": (settings_line(_SETTINGS), read_settings, NotUnderstood),
    "job": (job_line(JOB), read_job, NotUnderstood),
}  # fmt: skip
_JSON = ("null", "1", "-1", "1e999", "NaN", "[]", "{}", '""', '"x"', "true", '["a"]', '{"a": 1}', "1" * 5000,
         "[" * 5000, '"\\ud800"', '"\\u0000"', '[null]')  # fmt: skip


def line_mutant(rng: random.Random, line: str) -> str:
    """Return a line cut, mixed up, or with a value of another type, as a library's stray print makes it."""
    values = json.loads(line)
    what = rng.randrange(4)
    if what == 0:
        return rng.choice(_JSON)
    if what == 1:
        key = rng.choice(sorted(values))
        text = json.dumps({**values, key: "@@"}) if rng.random() < 0.8 else json.dumps({"@@": 1} | values)
        return text.replace('"@@"', rng.choice(_JSON))
    if what == 2:
        del values[rng.choice(sorted(values))]
        return json.dumps(values)
    return _torn(rng, bytearray(line.encode()), rng.choice((1, 2, 3))).decode("utf-8", "surrogateescape")


def line_complaint(name: str, line: str) -> tuple[str, str | None]:
    _, read, promised = READERS[name]
    try:
        understood = read(line)
    except promised:
        return f"{name}: refused", None
    except Exception as error:
        return type(error).__name__, f"{name}: {type(error).__name__}: {error} at {line[:200]!r}"
    odd = _of_another_type(understood) if name == "finding" and isinstance(understood, Finding) else None
    return f"{name}: understood", f"believed {odd} at {line[:300]!r}" if odd else None


def _of_another_type(finding: Finding) -> str | None:
    """Say which value the journal or the status could not take."""
    kinds: dict[str, tuple[type, ...]] = {
        "outcome": (str,), "reason": (str, type(None)), "label": (str, type(None)), "decision": (str, type(None)),
        "probability": (int, float, type(None)), "milliseconds": (int, float), "sha256": (str, type(None)),
        "novelty": (int, float, type(None)), "contrast": (int, float, type(None)),
        "pixel_size_nm": (int, float, type(None)), "inferred": (bool,), "fingerprint": (str, type(None)),
        "model_sha256": (str, type(None)), "reasons": (tuple,),
    }  # fmt: skip
    for name, allowed in kinds.items():
        value = getattr(finding, name)
        if not isinstance(value, allowed) or (isinstance(value, float) and not math.isfinite(value)):
            return f"{name}={value!r}"
    return None if all(isinstance(text, str) for text in finding.reasons) else f"reasons={finding.reasons!r}"


def fuzz(kind: str, files: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Return how often each outcome came, and the complaints."""
    outcomes, complaints = Counter[str](), list[str]()
    for number in range(files):
        rng = random.Random(f"{kind}:{seed}:{number}")
        if kind == "config":
            file = folder / "agent.toml"
            file.write_bytes(config_mutant(rng))
            outcome, complaint = config_complaint(file)
        elif kind == "sidecar":
            outcome, complaint = sidecar_complaint(folder, *sidecar_mutant(rng))
        else:
            name = rng.choice(sorted(READERS))
            outcome, complaint = line_complaint(name, line_mutant(rng, READERS[name][0]))
        outcomes[outcome] += 1
        if complaint:
            complaints.append(f"{number}: {complaint}")
    return outcomes, complaints


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("config", "sidecar", "line"):
            outcomes, complaints = fuzz(kind, arguments.files, arguments.seed, Path(folder))
            print(f"{kind}: {dict(outcomes.most_common())}, {len(complaints)} complaints")
            for complaint in complaints[:10]:
                print(f"  {complaint}")
            failed += len(complaints)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
