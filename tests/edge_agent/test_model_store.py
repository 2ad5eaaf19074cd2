"""The store on the disk: which model it chooses, and what is left of it after damage, a kill, a full disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bundles import tiny_bundle
from filelock import FileLock

from edge_agent import model_names
from edge_agent.files import FileLayer
from edge_agent.keeping import model_store as model_store_module
from edge_agent.keeping.model_intake import add, roll_back, use
from edge_agent.keeping.model_store import Chosen, ModelStore, StoreRefused, StoreUnreadable

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny-1, tiny-2, tiny-3 and, as shipped, base-1."""
    folder = tmp_path_factory.mktemp("made")
    for version in ("1", "2", "3"):
        tiny_bundle(folder / f"tiny-{version}", version=version, seed=int(version))
    base = tiny_bundle(folder / "shipped" / "base-1", seed=9)
    manifest = (base / "manifest.json").read_text().replace('"name": "tiny"', '"name": "base"')
    (base / "manifest.json").write_text(manifest)
    return folder


@pytest.fixture(autouse=True)
def shipped(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(model_names, "_model_roots", lambda: iter([made / "shipped"]))
    return made / "shipped" / "base-1"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "state")


@pytest.fixture
def filled(store: ModelStore, made: Path) -> ModelStore:
    """tiny-1 was used, then tiny-2."""
    for version in ("1", "2"):
        add(store, made / f"tiny-{version}")
        use(store, f"tiny-{version}")
    return store


def answers(chosen: Chosen | None) -> tuple[str | None, str | None]:
    """Folder and note."""
    assert chosen is not None
    return None if chosen.model is None else Path(chosen.model).name, chosen.note


def test_without_a_store_the_shipped_model_answers_and_nothing_is_written(store: ModelStore):
    assert store.chosen(None) == Chosen(None, None, "base 1 (shipped)")
    store.worked(store.chosen(None))
    assert store.failed(store.chosen(None), "broken") is None
    assert not store.folder.exists()


def test_the_current_model_answers_with_the_hash_that_was_accepted(filled: ModelStore, made: Path):
    chosen = filled.chosen(None)

    assert chosen.model == str(filled.folder / "bundles" / "tiny-2")
    assert chosen.title == "tiny 2 (unsigned)"
    assert chosen.manifest_sha256 == filled.record().entry("tiny-2").manifest_sha256
    copied = {file.name: file.read_bytes() for file in Path(chosen.model).iterdir()}
    assert copied == {file.name: file.read_bytes() for file in (made / "tiny-2").iterdir()}


@pytest.mark.parametrize(
    ("asked", "folder", "in_store"),
    [
        pytest.param("tiny", "tiny-2", True, id="the current one of a name"),
        pytest.param("tiny-1", "tiny-1", True, id="exactly"),
        pytest.param("base", "base-1", False, id="a shipped name"),
        pytest.param("base-1", "base-1", False, id="a shipped one exactly"),
        pytest.param("other", "other", False, id="nobody knows it: the worker says so"),
    ],
)
def test_a_name_is_looked_up_in_the_store_first(filled: ModelStore, asked: str, folder: str, in_store: bool):
    chosen = filled.chosen(asked)
    assert (Path(chosen.model).name, chosen.in_store, chosen.note) == (folder, in_store, None)


def test_a_path_is_that_bundle(filled: ModelStore, made: Path):
    assert filled.chosen(str(made / "tiny-3")) == Chosen(
        str(made / "tiny-3"), None, str(made / "tiny-3"), str(made / "tiny-3")
    )


def test_removing_the_folder_returns_to_the_shipped_model(filled: ModelStore):
    before = filled.revision()
    shutil.rmtree(filled.folder)
    assert answers(filled.chosen(None)) == (None, None)
    assert filled.revision() != before


# --- failures ---


def test_a_failure_returns_to_the_last_good_model_and_is_remembered(filled: ModelStore, tmp_path: Path):
    before = filled.revision()

    other = filled.failed(filled.chosen(None), "golden replay")

    assert answers(other) == ("tiny-1", "tiny-2 was refused (golden replay)")
    again = ModelStore(tmp_path / "state")
    assert answers(again.chosen(None)) == answers(other)
    assert again.record().entry("tiny-2").refused.reason == "golden replay"
    assert filled.revision() == again.revision() != before
    assert answers(filled.failed(filled.chosen(None), "too")) == (None, "tiny-1 was refused (too)")


def test_a_model_asked_for_by_its_full_name_gives_way_to_another_of_the_name(filled: ModelStore):
    other = filled.failed(filled.chosen("tiny-2"), "golden replay")
    assert answers(other) == ("tiny-1", "tiny-2 is refused (golden replay)")
    other = filled.failed(other, "too")
    assert answers(other) == (None, "tiny-2 is refused (golden replay)")


def test_a_path_or_a_shipped_model_has_no_other(filled: ModelStore, made: Path):
    assert filled.failed(filled.chosen(str(made / "tiny-3")), "broken") is None
    assert filled.failed(filled.chosen("base"), "broken") is None
    assert filled.record().history[-1].what == "used"


def test_a_failure_that_cannot_be_written_holds_for_this_process(
    filled: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = filled.revision()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_store_module, "write_durably", full)
    other = filled.failed(filled.chosen(None), "golden replay")

    assert answers(other) == ("tiny-1", "tiny-2 was refused (golden replay)")
    assert answers(filled.chosen(None))[0] == "tiny-1"
    assert filled.revision() != before
    assert answers(ModelStore(tmp_path / "state").chosen(None))[0] == "tiny-2"


def test_that_a_model_worked_changes_no_choice_and_is_written_once(filled: ModelStore):
    chosen, before = filled.chosen(None), filled.revision()
    filled.worked(chosen)
    written = (filled.folder / "store.json").read_bytes()
    filled.worked(chosen)

    assert filled.revision() == before
    assert filled.record().entry("tiny-2").worked is not None
    assert (filled.folder / "store.json").read_bytes() == written


def test_the_revision_costs_no_reading_while_nothing_changes(
    filled: ModelStore, monkeypatch: pytest.MonkeyPatch
):
    before = filled.revision()
    monkeypatch.setattr(ModelStore, "_read", lambda self: pytest.fail("read again"))
    assert filled.revision() == before


@pytest.mark.parametrize("act", ["use", "rollback", "add"])
def test_the_revision_differs_after_another_choice(filled: ModelStore, made: Path, act: str):
    seen = ModelStore(filled.folder.parent)
    add(filled, made / "tiny-3")
    before = seen.revision()
    if act == "use":
        use(filled, "tiny-3")
    elif act == "rollback":
        roll_back(filled)
    else:
        add(filled, made / "tiny-3")
    assert seen.revision() != before


# --- store.json is damaged, foreign, held ---

DAMAGED = {
    "empty": b"",
    "cut off": b'{"schema": "scopewatch.store/1", "accep',
    "zeros": bytes(500),
    "no record": b"[1, 2]",
    "no text": b"\xff\xfe\x00",
    "a path for a name": b'{"schema":"scopewatch.store/1","accepted":[{"name":"../../etc","version":"1"}]}',
    "brackets without end": b"[" * 100_000,
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_store_is_moved_aside_and_the_shipped_model_answers(
    filled: ModelStore, text: bytes, caplog: pytest.LogCaptureFixture
):
    file = filled.folder / "store.json"
    before = filled.revision()
    file.write_bytes(text)

    assert filled.revision() != before
    with caplog.at_level(logging.ERROR):
        assert answers(filled.chosen(None)) == (
            None,
            f"{file}: is damaged; add the models again; the shipped model answers",
        )
    assert "the shipped model answers" in caplog.text
    (aside,) = filled.folder.glob("store.json.broken-*")
    assert aside.read_bytes() == text
    # Nobody who looks later is left without a word.
    note = f"{aside}: was the model store and is damaged; add the models again"
    assert answers(ModelStore(filled.folder.parent).chosen(None)) == (None, note)


def test_after_damage_the_models_are_added_again(filled: ModelStore, made: Path):
    (filled.folder / "store.json").write_bytes(b"x")
    add(filled, made / "tiny-2")
    use(filled, "tiny-2")
    assert answers(filled.chosen(None)) == ("tiny-2", None)


def test_a_bundle_of_the_store_itself_can_be_added_again(filled: ModelStore):
    (filled.folder / "store.json").unlink()
    add(filled, filled.folder / "bundles" / "tiny-2")
    use(filled, "tiny-2")
    assert answers(filled.chosen(None)) == ("tiny-2", None)


def test_the_store_of_a_newer_version_is_left_alone(filled: ModelStore, made: Path):
    file = filled.folder / "store.json"
    newer = json.loads(file.read_bytes()) | {"schema": "scopewatch.store/2", "rings": []}
    file.write_text(json.dumps(newer))
    told = (
        f"{file}: is of the form 'scopewatch.store/2', this version reads 'scopewatch.store/1'; "
        f"update scopewatch, or move {filled.folder} away"
    )

    assert answers(filled.chosen(None)) == (None, f"{told}; the shipped model answers")
    for change in (lambda: add(filled, made / "tiny-3"), lambda: use(filled, "tiny-1"), filled.record):
        with pytest.raises(StoreUnreadable) as refused:
            change()
        assert str(refused.value) == told
    assert json.loads(file.read_bytes()) == newer


def test_a_store_that_another_command_holds_is_waited_for_then_told(
    filled: ModelStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model_store_module, "_LOCK_PATIENCE_SECONDS", 0.1)
    with (
        FileLock(filled.folder / "store.lock"),
        pytest.raises(StoreRefused, match="another command is changing the store; try again"),
    ):
        filled.remove("tiny-1")
    assert answers(filled.chosen(None)) == ("tiny-2", None)


def test_commands_and_agents_at_the_same_time_lose_nothing(store: ModelStore, made: Path):
    add(store, made / "tiny-1")
    entry = store.record().entry("tiny-1")

    def note(number: int) -> None:
        other = ModelStore(store.folder.parent)
        changed = {"version": f"1.{number}", "manifest_sha256": f"{number:064x}"}
        other.change(lambda record: record.with_accepted(entry.model_copy(update=changed)))

    threads = [threading.Thread(target=note, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.record().accepted) == 17


# --- whole or not at all ---


def test_a_scanner_that_holds_a_new_bundle_is_waited_for(
    filled: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
):
    """As Windows has it: a folder cannot be renamed while a file in it is open."""
    held, pauses = [4], []

    class Scanned(FileLayer):
        def replace(self, source: Path, target: Path) -> None:
            if source.is_dir() and held[0]:
                held[0] -= 1
                error = PermissionError(13, "Access is denied", str(source))
                error.winerror = 5
                raise error
            super().replace(source, target)

        def pause(self, seconds: float) -> None:
            pauses.append(seconds)

    monkeypatch.setattr(model_store_module, "_FILES", Scanned("store"))
    add(filled, made / "tiny-3")
    use(filled, "tiny-3")
    assert answers(filled.chosen(None)) == ("tiny-3", None)
    assert len(pauses) == 4


def test_a_full_disk_leaves_the_store_as_it_was(
    filled: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
):
    before = {path: path.read_bytes() for path in filled.folder.rglob("*") if path.is_file()}
    write, left = model_store_module.write_durably, [3]

    def fills_up(*arguments: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(model_store_module, "write_durably", fills_up)
    with pytest.raises(OSError, match="No space left"):
        add(filled, made / "tiny-3")

    assert {path: path.read_bytes() for path in filled.folder.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in (filled.folder / "bundles").iterdir()) == ["tiny-1", "tiny-2"]


KILLED = """
import os, sys
from pathlib import Path
from edge_agent.keeping import model_store
from edge_agent.keeping.model_intake import add
from edge_agent.keeping.model_store import ModelStore
from edge_agent.files import FileLayer

class Dies(FileLayer):
    def __init__(self, calls):
        super().__init__("store")
        self.calls = calls
    def count(self):
        self.calls -= 1
        if self.calls == 0:
            os._exit(9)

for name in ("create", "write", "fsync", "close", "replace", "unlink", "make_folder", "fsync_folder"):
    def call(self, *arguments, name=name):
        self.count()
        return getattr(FileLayer, name)(self, *arguments)
    setattr(Dies, name, call)

import shutil
state, fresh, bundle = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
for calls in range(1, 200):
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(fresh, state)
    child = os.fork()
    if child == 0:
        model_store._FILES = Dies(calls)
        add(ModelStore(state), bundle)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    store = ModelStore(state)
    chosen = store.chosen(None)
    added = store.record().entry("tiny-3")
    assert (Path(chosen.model).name, chosen.note) == ("tiny-2", None), (calls, chosen)
    if added is not None:
        from edge_agent.model_bundle import open_bundle
        open_bundle(store.bundle(added), manifest_sha256=added.manifest_sha256)
    add(store, bundle)
    names = sorted(path.name for path in (state / "models" / "bundles").iterdir())
    assert names == ["tiny-1", "tiny-2", "tiny-3"], (calls, names)
    if code == 0:
        print(calls)
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_call_leaves_the_old_choice_and_a_store_that_can_be_added_to(
    filled: ModelStore, made: Path, tmp_path: Path
):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "work"), str(filled.folder.parent), str(made / "tiny-3")],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 20


def test_the_agents_process_loads_no_parser_for_it():
    program = (
        "import sys, edge_agent.keeping.model_store, edge_agent.signatures\n"
        "print({'numpy', 'onnxruntime', 'cryptography'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout == "set()\n", done.stderr
