"""Which files a list of paths stands for, and that one bad file never ends a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent import batch as batch_module
from edge_agent.batch import NothingToDo, Tally, classify_all, gather
from edge_agent.classifier import Classifier
from edge_agent.model_bundle import open_bundle
from edge_agent.sidecar import Finding


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder of files with the names that people have."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "d/a.dm3",
        "d/B.DM4",
        "d/notes.txt",
        "d/sub/c.dm3",
        "d/sub/deep/e.dm3",
        "x/a.dm3",
        "x/f.tif",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    (tmp_path / "d" / "a.dm3.json").write_bytes(b"{}")
    (tmp_path / "d" / "link.dm3").symlink_to(tmp_path / "x" / "a.dm3")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d", target_is_directory=True)
    return tmp_path


def names(tree: Path, *paths: str, **options: object) -> list[str]:
    return [str(path.relative_to(tree)) for path in gather(map(Path, paths), **options).files]


@pytest.mark.parametrize(
    ("paths", "options", "files"),
    [
        pytest.param(["d"], {}, ["d/B.DM4", "d/a.dm3"], id="a folder, not those in it"),
        pytest.param(
            ["d"],
            {"recursive": True},
            ["d/B.DM4", "d/a.dm3", "d/sub/c.dm3", "d/sub/deep/e.dm3"],
            id="recursive",
        ),
        pytest.param(
            ["d/notes.txt", "x/f.tif"], {}, ["d/notes.txt", "x/f.tif"], id="named files, whatever they are"
        ),
        pytest.param(["d/link.dm3"], {}, ["d/link.dm3"], id="a named link"),
        pytest.param(["x"], {"include": ["*.tif", "*.png"]}, ["x/f.tif"], id="other patterns"),
        pytest.param(["d/a.dm3", "d", "./d/../d"], {}, ["d/a.dm3", "d/B.DM4"], id="each file once"),
    ],
)
def test_what_a_list_of_paths_stands_for(tree, paths, options, files):
    assert names(tree, *paths, **options) == files


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        pytest.param(["nowhere"], {}, "{tree}/nowhere: there is no such file or folder", id="missing"),
        pytest.param(
            ["d"],
            {"include": ["*.png"]},
            "{tree}/d: no file matches *.png; add --recursive to look into the folders in it",
            id="nothing here, folders inside",
        ),
        pytest.param(["x"], {"include": ["*.png"]}, "{tree}/x: no file matches *.png", id="nothing here"),
    ],
)
def test_nothing_to_do_is_said_so(tree, paths, options, message):
    with pytest.raises(NothingToDo) as error:
        gather(map(Path, paths), **options)

    assert str(error.value) == message.format(tree=tree)


def test_folders_left_out_are_counted(tree):
    assert gather([Path("d")]).folders_left_out == 1
    assert gather([Path("d")], recursive=True).folders_left_out == 0


def test_equal_names_from_several_paths_do_not_clash_when_mirrored(tree):
    batch = gather([Path("d"), Path("x/a.dm3")], output=Path("out"))

    places = {batch.plan.place(path).sidecar for path in batch.files}

    assert places == {tree / "out/d/a.dm3.json", tree / "out/d/B.DM4.json", tree / "out/x/a.dm3.json"}


def test_a_folder_is_mirrored_directly(tree):
    batch = gather([Path("d")], recursive=True, output=Path("out"))

    assert batch.plan.place(tree / "d/sub/c.dm3").sidecar == tree / "out/sub/c.dm3.json"


def test_each_file_is_examined_and_a_fault_in_one_is_its_finding(
    tmp_path, tiny, micrograph_bytes, monkeypatch
):
    for name in ("a.dm3", "bad.dm3", "c.dm3"):
        (tmp_path / name).write_bytes(micrograph_bytes)
    examine = batch_module.examine
    monkeypatch.setattr(
        batch_module, "examine", lambda path, *a: 1 / 0 if path.stem == "bad" else examine(path, *a)
    )

    findings = list(classify_all(gather([tmp_path]), Classifier(open_bundle(tiny)), heatmap=False))

    assert [finding.outcome for finding in findings] == ["classified", "failed", "classified"]
    assert findings[1].reason == "unforeseen ZeroDivisionError: division by zero"
    assert not (tmp_path / "a.dm3.heatmap.png").exists()


@pytest.mark.parametrize(
    ("outcomes", "all_read"),
    [
        (["classified", "not_an_image"], True),
        (["classified", "unreadable"], False),
        (["failed"], False),
        (["refused"], False),
        (["vanished"], False),
    ],
)
def test_a_tally_knows_whether_every_file_was_read(outcomes, all_read):
    tally = Tally()
    for outcome in outcomes:
        answer = {"label": "rod", "decision": "accept"} if outcome == "classified" else {}
        tally.add(Finding(Path("a.dm3"), outcome, **answer))

    assert tally.all_read is all_read
    assert sum(tally.outcomes.values()) == len(outcomes)
    assert tally.labels["rod"] == outcomes.count("classified")


def test_a_tally_keeps_the_labels_of_answers_and_the_reasons_of_abstentions():
    tally = Tally()
    for decision, reasons in (
        ("accept", ()),
        ("ungated", ()),
        ("abstain", ("novel", "blurred")),
        ("abstain", ("novel",)),
    ):
        finding = Finding(Path("a.dm3"), "classified", label="rod", decision=decision, reasons=reasons)
        tally.add(finding)

    assert tally.outcomes == {"classified": 4}
    assert tally.decisions == {"accept": 1, "ungated": 1, "abstain": 2}
    assert tally.labels == {"rod": 2}
    assert tally.reasons == {"novel": 2, "blurred": 1}
