"""The commands: one line for an error, an exit code that says whose it is, and a way on from every stage."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from bundles import tiny_bundle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from toys import RECIPE

from edge_agent.model_bundle import open_bundle
from edge_agent.signatures import key_id
from trainer import cli
from trainer.exporting import export as exporting
from trainer.exporting.signing import sign_bundle
from trainer.fitting import live_display, training
from trainer.fitting.run_folder import read_history, read_record
from trainer.preparing.crops import load_dataset
from trainer.scoring import cross_validation as crossing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from limited import Limited

    from trainer.preparing.crops import DataSet

    Run = Callable[..., tuple[int, str, str]]

COMMANDS = (
    "example", "prepare", "preview", "tune", "train", "crossvalidate", "learning-curve", "export",
    "import-checkpoint", "optimise", "evaluate", "faithfulness", "report", "explain", "publish",
    "trust", "operating-point",
)  # fmt: skip
WITHOUT_CHANCE = ("flips", "new-key", "sign")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], toy_backbone: None
) -> Run:
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edge-trainer", *map(str, arguments)])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, error = capfdbinary.readouterr()
        kept = [
            line for line in error.decode().splitlines() if not line.startswith(("I0000", "E0000", "W0000"))
        ]
        return int(caught.value.code or 0), out.decode(), "\n".join(kept)

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The toy's recipe as a file, with one epoch."""
    file = tmp_path / "recipe.json"
    file.write_text(RECIPE.model_copy(update={"epochs": 1}).model_dump_json())
    return file


# --- from raw micrographs to a published model ----------------------------------------------------


def test_every_stage_ends_well_and_says_what_comes_next(
    run: Run, raw: Path, recipe: Path, tmp_path: Path
) -> None:
    data, folder, bundle = tmp_path / "data", tmp_path / "run", tmp_path / "bundle"
    code, out, said = run(
        "prepare",
        raw,
        data,
        "--input-px",
        64,
        "--test",
        0.25,
        "--validation",
        0.25,
        "--seed",
        1,
        "--no-screening",
    )
    assert (code, out) == (0, "")
    assert "32 crops of 32 micrographs" in said
    assert "no micrograph, content, near-duplicate or group stands in two parts" in said

    code, out, said = run("train", data, "--run", folder, "--recipe", recipe, "--seed", 2)
    assert (code, out) == (0, "")
    assert "head epoch 1: loss " in said
    assert "fine-tuning epoch 1: loss " in said
    assert said.splitlines()[-2:] == [
        f"run: {folder}",
        f"next: edge-trainer export {folder} BUNDLE --name NAME --version 1",
    ]

    code, out, said = run(
        "export", folder, bundle, "--name", "toy", "--version", 2, "--views", "identity, flip_x", "--seed", 3
    )
    assert (code, out) == (0, "")
    assert "parity on 32 crops: " in said
    assert said.splitlines()[-1] == f"next: edge-trainer evaluate {bundle} {data.resolve()}"

    code, out, said = run("evaluate", bundle, data, "--json", "--seed", 4)
    assert code == 0
    assert json.loads(out)["figures"]["micrographs"] == 8
    assert said.startswith("toy-2 on test\n8 micrographs in 8 groups; class-balanced accuracy ")
    assert "\ndisc        4 " in said

    code, out, said = run("publish", bundle, "--models", tmp_path / "models", "--seed", 5)
    assert (code, out) == (0, "")
    assert said == f"published: {tmp_path / 'models' / 'toy-2'}"


def test_cross_validation_and_its_record_in_the_evaluation(
    run: Run, dataset: DataSet, recipe: Path, bundle: Path, tmp_path: Path
) -> None:
    code, out, said = run(
        "crossvalidate", dataset.root, "--run", tmp_path / "cv", "--folds", 2, "--recipe", recipe, "--seed", 1
    )
    assert (code, out) == (0, "")
    assert said.splitlines()[0].startswith("class-balanced accuracy by fold: ")
    assert "(2 folds)" in said.splitlines()[1]
    assert run("evaluate", bundle, dataset.root, "--cross-validation", tmp_path / "cv")[0] == 0
    stored = json.loads((bundle / "evaluation.json").read_bytes())
    assert stored["cross_validation"] == json.loads((tmp_path / "cv" / crossing.RESULT).read_bytes())


def test_a_data_set_that_was_moved_can_be_named(
    run: Run, shared_run: Path, dataset: DataSet, tmp_path: Path
) -> None:
    code, _, said = run("export", shared_run, tmp_path / "b", "--dataset", dataset.root, "--no-trust")
    assert code == 0, said
    assert "limits" not in said
    code, _, said = run("export", shared_run, tmp_path / "c", "--dataset", tmp_path)
    assert (code, said.count("\n")) == (2, 0)
    assert "is no finished data set" in said


def test_options_of_the_command_line_win_over_the_recipe_file_and_defaults_do_not(
    run: Run, dataset: DataSet, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", lambda data, folder, chosen, **_: seen.append(chosen) or folder)
    seen: list[Any] = []
    assert run("train", dataset.root, "--run", tmp_path / "r", "--recipe", recipe)[0] == 0
    changes = ("--epochs", 7, "--learning-rate", 0.5, "--keep", "last", "--weights", "imagenet")
    assert run("train", dataset.root, "--run", tmp_path / "r", "--recipe", recipe, *changes)[0] == 0
    assert run("train", dataset.root, "--run", tmp_path / "r")[0] == 0
    from_file = RECIPE.model_copy(update={"epochs": 1})
    assert seen[0] == from_file, "weights none, backbone toy, as the file says"
    assert seen[1] == from_file.model_copy(
        update={"epochs": 7, "learning_rate": 0.5, "keep": "last", "weights": "imagenet"}
    )
    assert (seen[2].backbone, seen[2].weights) == ("efficientnet-lite0", "imagenet")


def test_notes_and_intended_use_reach_the_bundle(run: Run, shared_run: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("## Limits\n\nNur Spielzeug: äöü.\n", encoding="utf-8")
    options = ("--notes", notes, "--intended-use", "Toys.", "--licence", "MIT")
    assert run("export", shared_run, tmp_path / "b", *options)[0] == 0
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_bytes())
    assert (manifest["intended_use"], manifest["licence"]) == ("Toys.", "MIT")
    assert "Nur Spielzeug: äöü." in (tmp_path / "b" / "MODEL_CARD.md").read_text(encoding="utf-8")


# --- errors ---------------------------------------------------------------------------------------


@pytest.fixture
def places(dataset: DataSet, shared_run: Path, bundle: Path, tmp_path: Path, recipe: Path) -> dict[str, str]:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"epochs": -4}')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    return {
        "data": str(dataset.root),
        "run": str(shared_run),
        "bundle": str(bundle),
        "tmp": str(tmp_path),
        "recipe": str(recipe),
    }


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        pytest.param("fly", 2, "No such command 'fly'", id="unknown command"),
        pytest.param("train {data}", 2, "Missing option '--run'", id="missing option"),
        pytest.param(
            "train {data} --run {tmp}/r --eppochs 3", 2, "No such option: --eppochs", id="unknown option"
        ),
        pytest.param(
            "train {data} --run {tmp}/r --epochs many", 2, "Input should be a valid integer", id="no number"
        ),
        pytest.param("evaluate {bundle} {data} --split all", 2, "'all' is not one of", id="unknown part"),
        pytest.param("prepare {tmp}/lost {tmp}/d", 2, "lost: there is no such folder", id="no raw folder"),
        pytest.param(
            "prepare {tmp} {tmp}-d --test 1", 2, "test: Input should be less than 1", id="senseless split"
        ),
        pytest.param(
            "prepare {tmp} {tmp}-d --input-px 5", 2, "input_px: Input should be greater", id="senseless size"
        ),
        pytest.param(
            "train {tmp}/lost --run {tmp}/r",
            2,
            "is no finished data set; run `edge-trainer",
            id="no data set",
        ),
        pytest.param(
            "train {data} --run {tmp}/r --recipe {tmp}/lost", 2, "lost: No such file", id="no recipe"
        ),
        pytest.param(
            "train {data} --run {tmp}/r --recipe {tmp}/broken.json", 2, "Invalid JSON", id="broken recipe"
        ),
        pytest.param(
            "train {data} --run {tmp}/r --recipe {tmp}/odd.json",
            2,
            "Recipe: epochs: Input should be greater than or equal to 0 (it is -4)",
            id="senseless recipe",
        ),
        pytest.param(
            "train {data} --run {tmp}/r --keep first", 2, "keep: Input should be 'best' or 'last'", id="keep"
        ),
        pytest.param(
            "train {data} --run {tmp}/r --backbone resnet",
            2,
            "'resnet' is not known; choose one of",
            id="backbone",
        ),
        pytest.param(
            "train {data} --run {tmp}/r --recipe {recipe} --weights lost.h5",
            2,
            "weights file lost.h5 does not exist",
            id="no weights",
        ),
        pytest.param(
            "train {data} --run {tmp}/full", 2, "not empty and not a run folder", id="a folder of others"
        ),
        pytest.param("train {data} --run {run} --seed 9", 2, "holds a run with another", id="another run"),
        pytest.param(
            "crossvalidate {data} --run {tmp}/cv --folds 99",
            2,
            "has 16 groups, 99 folds need at least 99",
            id="folds",
        ),
        pytest.param(
            "export {tmp} {tmp}/b",
            2,
            "no run.json here and no members; give the folder of a run",
            id="no run",
        ),
        pytest.param(
            "export {run} {bundle}", 2, "exists; choose another folder or remove it first", id="bundle exists"
        ),
        pytest.param("export {run} {tmp}/b --views upside-down", 2, "Input should be 'identity'", id="view"),
        pytest.param("export {run} {tmp}/b --name Big", 2, "name: String should match pattern", id="name"),
        pytest.param("export {run} {tmp}/b --notes {tmp}/lost.md", 2, "lost.md: No such file", id="no notes"),
        pytest.param(
            "evaluate {tmp} {data}", 2, "no manifest.json here; give the folder of a bundle", id="no bundle"
        ),
        pytest.param(
            "evaluate {bundle} {data} --cross-validation {tmp}",
            1,
            "no result of edge-trainer crossvalidate",
            id="no cv",
        ),
        pytest.param(
            "publish {bundle} --models {tmp}/m",
            1,
            "not evaluated; run edge-trainer evaluate",
            id="unevaluated",
        ),
    ],
)
def test_an_error_is_one_line_and_its_code_says_whose_it_is(
    run: Run, places: dict[str, str], line: str, code: int, text: str
) -> None:
    seen, out, said = run(*line.format(**places).split())
    assert text in said
    assert (seen, out) == (code, "")
    assert said.startswith("edge-trainer: ")
    assert "\n" not in said
    assert "Traceback" not in said


def test_failed_work_is_1(
    run: Run, shared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting.append_cam_head
    monkeypatch.setattr(
        exporting, "append_cam_head", lambda m, w, b: real(m, w, b + b.dtype.type(50) * (b == b[0]))
    )
    code, _, said = run("export", shared_run, tmp_path / "b")
    assert (code, said.count("\n")) == (1, 0)
    assert "ONNX Runtime differs from Keras by" in said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        pytest.param(
            ZeroDivisionError("by\nzero"), 1, "unforeseen ZeroDivisionError: by zero (--verbose", id="ours"
        ),
        pytest.param(
            OSError(28, "No space left on device", "/x/views.npy"),
            1,
            "/x/views.npy: No space left",
            id="disk",
        ),
        pytest.param(FileNotFoundError(2, "No such file", "/x"), 2, "/x: No such file", id="missing file"),
        pytest.param(training.TrainingFailed("loss is nan"), 1, "loss is nan", id="diverged"),
        pytest.param(
            KeyboardInterrupt(), 130, "interrupted; the same command goes on from here", id="Ctrl-C"
        ),
    ],
)
def test_whatever_happens_it_is_one_line(
    run: Run,
    dataset: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(training, "train", fail)
    seen = run("train", dataset.root, "--run", tmp_path / "r")
    assert seen[0] == code
    assert seen[2].startswith(f"edge-trainer: {said}")
    assert "\n" not in seen[2]


@pytest.mark.parametrize("place", [0, 1, 4])
def test_verbose_shows_the_traceback_wherever_it_stands(run: Run, tmp_path: Path, place: int) -> None:
    arguments = ["train", str(tmp_path), "--run", str(tmp_path / "r")]
    arguments.insert(place, "--verbose")
    code, _, said = run(*arguments)
    assert code == 2
    assert said.startswith("Traceback (most recent call last)")
    assert said.splitlines()[-1].startswith("edge-trainer: ")


def test_an_interrupted_training_goes_on_with_the_same_command(
    run: Run, dataset: DataSet, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> str:
        raise KeyboardInterrupt

    arguments = ("train", dataset.root, "--run", tmp_path / "r", "--recipe", recipe)
    with monkeypatch.context() as patched:
        patched.setattr(live_display, "epoch_line", interrupted)
        assert run(*arguments)[0] == 130
    assert [line.stage for line in read_history(tmp_path / "r")] == ["head"]
    code, _, said = run(*arguments)
    assert code == 0
    assert "head epoch" not in said
    assert [line.stage for line in read_history(tmp_path / "r")] == ["head", "fine-tuning"]
    assert read_record(tmp_path / "r").dataset_fingerprint == load_dataset(dataset.root).fingerprint


# --- limits ---------------------------------------------------------------------------------------


def test_limits_are_measured_and_moved_and_said(
    run: Run, limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.trusting.strangers._SIDE_PX", 128)
    data, one, two = limited.dataset.root, tmp_path / "one", tmp_path / "two"
    code, out, said = run("trust", limited.bare, data, one, "--drawn", 1, "--version", "1.1", "--seed", 1)
    assert (code, out) == (0, "")
    lines = said.splitlines()
    assert (
        lines[0]
        == "measured on the 24 micrographs of the part validation, which the network was not trained on"
    )
    assert lines[1].startswith("temperature ")
    assert lines[-2:] == [f"bundle: {one}", f"next: edge-trainer evaluate {one} {data}"]
    assert open_bundle(one).manifest.version == "1.1"

    code, out, said = run("operating-point", one, two, "--acceptance", 0.6, "--seed", 1)
    assert (code, out) == (0, "")
    assert said.splitlines()[-1] == f"bundle: {two}"
    assert "\naccepted: " in said
    before, after = (open_bundle(path).manifest.thresholds for path in (one, two))
    assert before is not None
    assert after is not None
    assert after.acceptance < before.acceptance  # type: ignore[operator]

    code, _, said = run("operating-point", one, tmp_path / "c", "--confidence", 0.9, "--novelty", 0.75)
    assert code == 0
    assert "limits: probability 0.900, novelty 0.750" in said


MEASURE = "trust {bare} {data} {out}"
MOVE = "operating-point {trusted} {out}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(
            "operating-point {bare} {out}", "has no limits to be moved; run edge-trainer trust", id="bare"
        ),
        pytest.param("operating-point {trusted} {bare}", "exists; choose another folder", id="written over"),
        pytest.param("operating-point {raw} {out}", "no manifest.json here", id="no bundle"),
        pytest.param(
            f"{MOVE} --novelty 0", "'--novelty': Input should be greater", id="a novelty of nothing"
        ),
        pytest.param(f"{MOVE} --confidence 2", "'--confidence': Input should be less", id="beyond certain"),
        pytest.param("trust {bare} {raw} {out}", "is no finished data set", id="no data set"),
        pytest.param("trust {toy} {data} {out}", "was trained on another data set", id="another data set"),
        pytest.param(
            f"{MEASURE} --folds {{raw}}", "no folds here; run edge-trainer crossvalidate", id="no folds"
        ),
        pytest.param(
            f"{MEASURE} --folds nowhere", "'--folds': dir 'nowhere' does not exist", id="folds nowhere"
        ),
        pytest.param(
            f"{MEASURE} --strangers nowhere", "'--strangers': dir 'nowhere' does not", id="strangers"
        ),
        pytest.param(f"{MEASURE} --split train", "'train' is not one of 'validation', 'test'", id="train"),
        pytest.param(f"{MEASURE} --version a/b", "version: String should match pattern", id="a version"),
        pytest.param(f"{MOVE} --version a/b", "version: String should match pattern", id="of another line"),
        pytest.param(f"{MEASURE} --acceptance 2", "'--acceptance': Input should be less", id="more than all"),
        pytest.param("export {run} {out} --strangers nowhere", "'--strangers': dir 'nowhere'", id="export"),
    ],
)
def test_what_was_given_for_limits_and_cannot_be_is_one_line(
    run: Run, limited: Limited, shared_run: Path, shared_bundle: Path, tmp_path: Path,
    line: str, said: str,
) -> None:  # fmt: skip
    places = {
        "bare": limited.bare, "trusted": limited.trusted, "data": limited.dataset.root, "raw": limited.dataset.raw,
        "out": tmp_path / "out", "run": shared_run, "toy": shared_bundle,
    }  # fmt: skip
    code, out, error = run(*(word.format(**places) for word in line.split()))
    assert (code, out) == (2, "")
    assert error.startswith("edge-trainer: ")
    assert said in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_work_that_fails_is_another_exit_code(
    run: Run, limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("trainer.trusting.moving.rewritten", full)
    code, _, error = run("operating-point", limited.trusted, tmp_path / "b")
    assert (code, error.startswith("edge-trainer: x: No space left on device; make room")) == (1, True)


def test_export_without_enough_held_out_says_so_and_writes_the_bundle(
    run: Run, shared_run: Path, dataset: DataSet, tmp_path: Path
) -> None:
    code, out, said = run("export", shared_run, tmp_path / "b")
    assert (code, out) == (0, "")
    (line,) = (line for line in said.splitlines() if line.startswith("no limits"))
    assert line.startswith("no limits, its answers will be ungated: ")
    assert "8 held-out micrographs of 2 classes are too few for limits" in line
    assert ".trusted-" not in line
    assert open_bundle(tmp_path / "b").manifest.thresholds is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_export_gives_limits_in_place_where_it_can(
    run: Run, shared_run: Path, limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def measured(bundle: Path, data: DataSet, order: Any, **_: object) -> Any:
        asked.append((bundle, order.folds, order.strangers.folder, order.seed))
        return limited.record

    monkeypatch.setattr("trainer.trusting.trust.trust_in_place", measured)
    given = ("--folds", limited.dataset.root, "--strangers", limited.dataset.raw, "--seed", 4)
    code, _, said = run("export", shared_run, tmp_path / "b", *given)
    assert code == 0
    assert asked == [(tmp_path / "b", limited.dataset.root, limited.dataset.raw, 4)]
    assert "measured on the 24 micrographs of the part validation" in said


def test_an_export_whose_limits_fail_says_that_the_bundle_is_there(
    run: Run, shared_run: Path, dataset: DataSet, tmp_path: Path
) -> None:
    code, _, said = run("export", shared_run, tmp_path / "b", "--folds", dataset.root)
    assert code == 2
    assert said.splitlines()[-1] == (
        f"edge-trainer: {dataset.root}: no folds here; run edge-trainer crossvalidate first; {tmp_path / 'b'} is "
        "written, without limits"
    )
    assert open_bundle(tmp_path / "b").manifest.thresholds is None


def test_an_export_that_is_interrupted_over_its_limits_says_what_is_there(
    run: Run, shared_run: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.trusting.trust.trust_in_place", interrupted)
    code, _, said = run("export", shared_run, tmp_path / "b")
    assert code == 130
    assert f"{tmp_path / 'b'} is written, without limits; edge-trainer trust {tmp_path / 'b'} " in said
    assert open_bundle(tmp_path / "b").manifest.thresholds is None


# --- what every command has -----------------------------------------------------------------------


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(typer.main.get_command(cli.app).commands) == {*COMMANDS, *WITHOUT_CHANCE}  # type: ignore[attr-defined]


def test_corrections_that_are_not_there_are_told_in_a_line(run: Run, raw: Path, tmp_path: Path) -> None:
    code, _, error = run("prepare", raw, tmp_path / "out", "--corrections", tmp_path / "gone")
    assert (code, error) == (
        2,
        f"edge-trainer: {tmp_path}/gone: there is no such folder; name one that holds label files (--corrections)",
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_stage_takes_a_seed_and_explains_itself(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--seed" in out
    assert out.startswith(f"Usage: edge-trainer {command}")


def test_without_arguments_there_is_help(run: Run) -> None:
    code, out, said = run()
    assert code == 2
    assert "Commands" in out + said


@pytest.mark.parametrize(
    "missing",
    [("tensorflow",), ("tensorflow", "tf2onnx", "onnx"), ("jinja2", "optuna", "sklearn")],
    ids=" ".join,
)
def test_without_the_training_stack_it_says_how_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name in missing else object())
    code, out, said = run("train", "data", "--run", "r")
    assert (code, out) == (2, "")
    assert (
        said
        == f"edge-trainer needs {', '.join(missing)}; install them, in the clone: pip install -e '.[train]'"
    )


def test_another_keras_backend_in_the_environment_does_not_matter(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    run("train", "--help")
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_a_key_is_made_once_and_signs(run: Run, tmp_path: Path) -> None:
    bundle, key = tiny_bundle(tmp_path / "tiny-1"), tmp_path / "lab.key"
    code, line, said = run("new-key", key)
    assert code == 0
    assert line.startswith("ed25519:")
    assert said == (
        f"private key {key_id(line)}: {key}; who has it can sign models. Its public line, for trusted_keys:"
    )
    assert run("new-key", key) == (2, "", f"edge-trainer: {key}: File exists")

    assert run("sign", bundle, "--key", key) == (0, "", f"{bundle}: signed by {key_id(line)}")
    assert open_bundle(bundle, trusted_keys=(line,)).signed_by == key_id(line)
    code, _, said = run("sign", bundle, "--key", bundle / "golden.npz")
    assert (code, said) == (
        2,
        f"edge-trainer: {bundle}/golden.npz: it is no private key in PEM; edge-trainer new-key makes one",
    )


def test_an_encrypted_key_takes_its_password_from_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, key = tiny_bundle(tmp_path / "tiny-1"), tmp_path / "lab.key"
    monkeypatch.setenv("SCOPEWATCH_KEY_PASSWORD", "secret")
    assert run("new-key", key, "--encrypt")[0] == 0
    assert run("sign", bundle, "--key", key)[0] == 0
    monkeypatch.setenv("SCOPEWATCH_KEY_PASSWORD", "wrong")
    code, _, said = run("sign", bundle, "--key", key)
    assert (code, said.split("; ")[0]) == (
        2,
        f"edge-trainer: {key}: the password is wrong, or it is damaged",
    )
    monkeypatch.setenv("SCOPEWATCH_KEY_PASSWORD", "")
    assert "the password is empty" in run("sign", bundle, "--key", key)[2]


def test_a_command_that_changes_a_signed_bundle_says_that_its_signature_is_gone(
    run: Run, bundle: Path, dataset: DataSet
) -> None:
    sign_bundle(bundle, Ed25519PrivateKey.generate())
    told = f"{bundle}: the signature no longer fitted and is gone; edge-trainer sign puts a new one"
    assert told in run("evaluate", bundle, dataset.root)[2].splitlines()
    assert told not in run("evaluate", bundle, dataset.root)[2].splitlines()
