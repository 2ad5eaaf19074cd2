"""The second look: what the present model fixed and broke of what people labelled, and what it leaves alone."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bundles import tiny_bundle
from page_archive import Laboratory, ask

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import open_bundle
from edge_agent.output_places import OutputPlan
from edge_agent.page import second_look
from edge_agent.page.flips import Flips, Labelled, ModelName, read_flips, write_flips
from edge_agent.page.second_look import SecondLook
from edge_agent.page.second_look_routes import routes
from edge_agent.processes.worker_process import WORKER_COMMAND
from edge_agent.protocol import WorkerSettings
from edge_agent.simulation import dm3_bytes, draw_field

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

SHAPES = ("round", "rod", "faceted", "round")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two models that answer differently: what one calls rod, the other may call round."""
    folder = tmp_path_factory.mktemp("bundles")
    return tiny_bundle(folder / "old", seed=0), tiny_bundle(folder / "new", seed=3, version="2")


@pytest.fixture(scope="module")
def micrographs():
    return [dm3_bytes(draw_field(shape, np.random.default_rng(n), 128)) for n, shape in enumerate(SHAPES)]


@pytest.fixture
def laboratory(tmp_path, bundles):
    settings = WorkerSettings(str(bundles[1]), OutputPlan(), owner="0" * 8)
    made = Laboratory(tmp_path, settings=settings)
    yield made
    made.close()


@pytest.fixture
def labelled(laboratory, bundles, micrographs):
    """Micrographs that the old model answered, each labelled with what the new one says; and one with nonsense."""
    old, new = (Classifier(open_bundle(str(path))) for path in bundles)
    findings = [laboratory.save(f"{n}.dm3", data, old) for n, data in enumerate(micrographs)]
    answers = [new.classify(read_micrograph(finding.path)).label for finding in findings]
    return findings, answers


def say(laboratory, finding, label, number, **changes):
    """Put a word into the journal, as the label desk does."""
    shown = {"label": finding.label, "model_sha256": finding.model_sha256}
    values = {"action": "correct", "void": 0, "shown": shown, "content": finding.sha256} | changes
    record = json.dumps({"id": f"e{number}", "label": label, "shown": values["shown"]})
    folder, name = str(finding.path.parent).encode(), finding.path.name.encode()

    def work(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO labels (event, batch, content, folder, name, at_us, by, action, label, blind, undoes, "
            "void, written, record) VALUES (?, 'b', ?, ?, ?, ?, 'ab', ?, ?, 0, NULL, ?, 1, ?)",
            (
                f"e{number}", values["content"], folder, name, number, values["action"], label, values["void"],
                record,
            ),
        )  # fmt: skip

    laboratory.journal.change(work)


def look_of(laboratory, may_work=lambda: True, **given) -> SecondLook:
    look = SecondLook(laboratory.archive, may_work, **given)
    laboratory.home._parts = replace(laboratory.home._parts, second_look=look)
    return look


def finished(look, seconds=40.0):
    look.start()
    until = time.monotonic() + seconds
    while (told := look.told())["running"]:
        assert time.monotonic() < until, told
        time.sleep(0.02)
    return told


def test_what_is_fixed_broken_and_the_same(laboratory, labelled):
    findings, answers = labelled
    kinds = []
    for number, (finding, answer) in enumerate(zip(findings, answers, strict=True)):
        # The person agrees with the new model, except for the third, where with the old one.
        label = finding.label if number == 2 else answer
        say(laboratory, finding, label, number)
        was, now = finding.label == label, answer == label
        kinds.append("same" if was == now else "fixed" if now else "broken")
    assert {"fixed", "broken"} <= set(kinds), "else these two models show nothing"

    told = finished(look_of(laboratory))

    kind_of = {
        laboratory.number_of(finding.path): kind for finding, kind in zip(findings, kinds, strict=True)
    }
    flipped = dict.fromkeys(told["fixed"], "fixed") | dict.fromkeys(told["broken"], "broken")
    assert flipped == {number: kind for number, kind in kind_of.items() if kind != "same"}
    assert (told["same"], told["missing"], told["done"], told["total"]) == (kinds.count("same"), 0, 4, 4)
    assert told["before"] == {"sha256": findings[0].model_sha256, "name": "tiny", "version": "1"}
    assert (told["after"]["name"], told["after"]["version"]) == ("tiny", "2")
    assert told["error"] is None and told["at"].endswith("Z")


def contents_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_sidecar_journal_or_label_is_touched(laboratory, labelled):
    findings, answers = labelled
    say(laboratory, findings[0], answers[0], 1)
    before = contents_below(laboratory.watched)
    rows = laboratory.home.history.newest(10)

    finished(look_of(laboratory))

    assert contents_below(laboratory.watched) == before
    assert laboratory.home.history.newest(10) == rows
    assert not (laboratory.state / "second-look").exists()


def test_what_counts_as_a_label(laboratory, labelled):
    findings, answers = labelled
    first, second, third, fourth = findings
    say(laboratory, first, "rod", 1)
    say(laboratory, first, answers[0], 2)
    say(laboratory, first, "rod", 3, void=1)
    say(laboratory, second, None, 4, action="not_in_list")
    say(laboratory, third, answers[2], 5, shown={"label": "rod", "model_sha256": None})
    say(laboratory, fourth, answers[3], 6)
    say(laboratory, fourth, None, 7, action="not_in_list")

    told = finished(look_of(laboratory))

    assert told["total"] == 1, "the first alone, by its last word that counts"
    assert told["broken"] == []


def test_labels_that_were_given_under_this_very_model_tell_nothing(laboratory, labelled, bundles):
    findings, answers = labelled
    now = open_bundle(str(bundles[1])).sha256
    say(laboratory, findings[0], answers[0], 1, shown={"label": "rod", "model_sha256": now})

    assert finished(look_of(laboratory))["total"] == 0


def gone(finding):
    finding.path.unlink()


def changed(finding):
    finding.path.write_bytes(finding.path.read_bytes() + b"\x00")


def cut(finding):
    finding.path.write_bytes(finding.path.read_bytes()[:1000])


def folder_instead(finding):
    finding.path.unlink()
    finding.path.mkdir()


def test_micrographs_that_are_others_now_are_counted(laboratory, labelled):
    findings, answers = labelled
    for number, (finding, answer) in enumerate(zip(findings, answers, strict=True)):
        say(laboratory, finding, answer, number)
    for harm, finding in zip((gone, changed, cut, folder_instead), findings, strict=True):
        harm(finding)

    told = finished(look_of(laboratory))

    assert (told["missing"], told["done"], told["error"]) == (4, 4, None)


def test_a_moved_micrograph_is_found_by_its_content(laboratory, labelled, bundles, micrographs):
    findings, answers = labelled
    say(laboratory, findings[0], answers[0], 1)
    findings[0].path.unlink()
    old = Classifier(open_bundle(str(bundles[0])))
    laboratory.save("sub/moved.dm3", micrographs[0], old)

    assert finished(look_of(laboratory))["missing"] == 0


def test_new_files_come_first(laboratory, labelled):
    findings, answers = labelled
    say(laboratory, findings[0], answers[0], 1)
    free = threading.Event()
    look = look_of(laboratory, free.is_set)

    look.start()
    time.sleep(0.3)
    assert look.told() | {"running": True} == look.told() and look.told()["done"] == 0
    assert look._thread.is_alive()
    free.set()

    assert finished(look)["done"] == 1


def test_a_restart_keeps_what_was_found_by_content(laboratory, labelled):
    findings, answers = labelled
    for number, (finding, answer) in enumerate(zip(findings, answers, strict=True)):
        say(laboratory, finding, answer, number)
    told = finished(look_of(laboratory))

    again = look_of(laboratory).told()

    assert again == told
    laboratory.journal.forget([finding.path for finding in findings])
    assert look_of(laboratory).told()["fixed"] == [], "what is gone has no entry"


@pytest.mark.parametrize(
    "text", ["", "{}", "[1", '{"schema": "scopewatch.second-look/2", "looks": []}', "null"]
)
def test_a_damaged_memory_is_none(laboratory, text):
    (laboratory.state / "second-look.json").write_text(text)

    told = look_of(laboratory).told()

    assert (told["after"], told["total"], told["running"]) == (None, 0, False)


def test_one_look_for_each_two_models_is_kept(tmp_path):
    path = tmp_path / "second-look.json"
    for number in range(8):
        write_flips(
            path, Flips(total=number, before=ModelName(sha256=str(number // 2)), after=ModelName(sha256="x"))
        )

    assert [flips.total for flips in read_flips(path)] == [7, 5, 3, 1]


@pytest.mark.parametrize(
    ("shown", "given", "now", "kind"),
    [
        pytest.param("rod", "round", "round", "fixed", id="was wrong, is right"),
        pytest.param("rod", "rod", "round", "broken", id="was right, is wrong"),
        pytest.param("rod", "rod", "rod", "same", id="right both times"),
        pytest.param("rod", "round", "faceted", "same", id="wrong in another way"),
        pytest.param(None, "round", "round", "fixed", id="had no answer"),
        pytest.param("rod", "round", None, "missing", id="has no answer now"),
    ],
)
def test_what_an_answer_is_counted_as(shown, given, now, kind):
    flips = Flips(total=1).with_answer(Labelled("c", given, shown, "m", ()), now)

    told = {
        "fixed": len(flips.fixed),
        "broken": len(flips.broken),
        "same": flips.same,
        "missing": flips.missing,
    }
    assert told == {"fixed": 0, "broken": 0, "same": 0, "missing": 0} | {kind: 1}
    assert flips.done == 1


# --- what goes wrong


def test_a_model_that_is_refused_is_said(laboratory, labelled, tmp_path):
    findings, answers = labelled
    say(laboratory, findings[0], answers[0], 1)
    settings = replace(laboratory.archive.settings, manifest_sha256="0" * 64)
    laboratory.archive = replace(laboratory.archive, settings=settings)

    told = finished(look_of(laboratory))

    assert told["error"].startswith("the model cannot be used: ")


def poisoned(name: str) -> tuple[str, ...]:
    prologue = (
        "import os; from edge_agent import worker; sound = worker.examine; worker.examine = "
        f"lambda path, *rest: os.kill(os.getpid(), 9) if {name!r} in path.name else sound(path, *rest)"
    )
    return (*WORKER_COMMAND[:-1], WORKER_COMMAND[-1].replace("; main()", f"; {prologue}; main()"))


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
@pytest.mark.parametrize(
    ("name", "missing", "error"),
    [
        pytest.param("1.dm3", 1, None, id="one file"),
        pytest.param(".dm3", 2, "the worker ended 3 times", id="every file"),
    ],
)
def test_a_file_that_kills_the_worker_costs_only_itself(laboratory, labelled, name, missing, error):
    findings, answers = labelled
    for number, (finding, answer) in enumerate(zip(findings, answers, strict=True)):
        say(laboratory, finding, answer, number)

    told = finished(look_of(laboratory, command=poisoned(name)))

    assert told["missing"] == missing
    assert (told["error"] or "").startswith(error or "")


def test_a_file_that_hangs_is_given_up(laboratory, labelled, monkeypatch):
    findings, answers = labelled
    say(laboratory, findings[0], answers[0], 1)
    monkeypatch.setattr(second_look, "FILE_SECONDS", 1.0)
    *python, program = poisoned("0.dm3")
    command = (*python, program.replace("os.kill(os.getpid(), 9)", "__import__('time').sleep(60)"))

    assert finished(look_of(laboratory, command=command))["missing"] == 1


def test_closing_gives_it_up_at_once(laboratory, labelled):
    findings, answers = labelled
    say(laboratory, findings[0], answers[0], 1)
    look = look_of(laboratory, lambda: False)
    look.start()

    look.close()

    look._thread.join(5)
    assert look.told()["error"] == "the agent is ending or changing over"
    look.start()
    assert not look.told()["running"], "it begins nothing more"


def test_over_http(laboratory, labelled):
    findings, answers = labelled
    say(laboratory, findings[0], answers[0], 1)
    free = threading.Event()
    look = look_of(laboratory, free.is_set)

    (before,) = ask(routes, laboratory.home, "/api/flips")
    (begun, again) = ask(routes, laboratory.home, "/api/flips", "/api/flips", method="POST", body=b"{}")
    free.set()
    told = finished(look)
    (after,) = ask(routes, laboratory.home, "/api/flips")

    assert json.loads(before.body)["running"] is False
    assert json.loads(begun.body)["running"] and json.loads(again.body)["running"]
    assert json.loads(after.body) == told and told["total"] == 1


def test_without_a_service_there_is_none(laboratory):
    laboratory.home.meet(None)

    assert [one.status for one in ask(routes, laboratory.home, "/api/flips")] == [503]
