"""The command line of the trainer: `edge-trainer prepare | train | crossvalidate | export | evaluate | publish`.

Every stage reads files and writes files, can be interrupted and started again, and shows its progress on stderr.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import os
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trainer.terminal import epoch_line, evaluation_text, figures_table, progress, say

if TYPE_CHECKING:
    from pydantic import ValidationError

    from trainer.run_folder import Recipe

app = typer.Typer(
    help="Trains a classifier on a lab's own labelled micrographs and exports it for edge-agent.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
PROGRAM: Final = "edge-trainer"
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
_NEEDED: Final = ("tensorflow", "tf2onnx", "onnx")
_USAGE: Final = frozenset({"BackboneError", "BundleRefused", "PrepareError", "RunError"})
"""Errors about what was given, found before any work; by name, so that `--help` need not import TensorFlow."""


class _PartName(enum.StrEnum):
    """Parts of a data set, as an option's choices."""

    test = "test"
    validation = "validation"
    train = "train"


DataSetFolder = Annotated[Path, typer.Argument(help="Folder made by edge-trainer prepare.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn by chance.")]


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
) -> None:
    """Nothing to do: `main` has taken `--verbose` out already, wherever it stood."""


@app.command()
def prepare(
    raw: Annotated[
        Path, typer.Argument(help="Folder of class folders with dm3, dm4, tif, png or jpg files.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the data set (made, or continued).")],
    split: Annotated[
        str, typer.Option(help="What stays together: micrograph, folder, or column:NAME of --labels-table.")
    ] = "micrograph",
    classes: Annotated[str | None, typer.Option(help="Class folders to take, comma-separated.")] = None,
    labels_table: Annotated[
        Path | None,
        typer.Option(help="CSV with a column `file` and further ones for --split, --part-column."),
    ] = None,
    part_column: Annotated[str | None, typer.Option(help="Column with ready-made parts.")] = None,
    test: Annotated[float, typer.Option(help="Fraction for the test part.")] = 0.2,
    validation: Annotated[float, typer.Option(help="Fraction for the validation part.")] = 0.15,
    input_px: Annotated[int, typer.Option(help="Side of the square whose area the network sees.")] = 448,
    divisions: Annotated[int, typer.Option(help="1: the whole field; 2: quadrants; n: an n x n grid.")] = 1,
    field_of_view_nm: Annotated[
        float | None, typer.Option(help="Cut boxes of this side in nm instead (calibrated files only).")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Read, cut and deal labelled micrographs to train, validation and test; nothing in RAW is changed."""
    from edge_agent.preprocessing import Preprocessing, TilePlan
    from trainer.crops import prepare as prepare_crops
    from trainer.crops import summary
    from trainer.split import SplitRule

    rule = Preprocessing(
        input_px=input_px, tiles=TilePlan(divisions=divisions, field_of_view_nm=field_of_view_nm)
    )
    parts = SplitRule(by=split, test=test, validation=validation, part_column=part_column)
    chosen = tuple(name.strip() for name in classes.split(",")) if classes else None
    with progress() as shown:
        dataset = prepare_crops(
            raw,
            out,
            preprocessing=rule,
            split=parts,
            cache_px=input_px,
            labels_table=labels_table,
            classes=chosen,
            seed=seed,
            progress=lambda done, total: shown("micrographs", done, total),
        )
    say(summary(dataset))


@app.command()
def train(
    dataset: DataSetFolder,
    run: Annotated[Path, typer.Option(help="Folder of the run (made, or continued).")],
    backbone: Annotated[
        str | None, typer.Option(help="efficientnet-lite0, inceptionv3-mixed7 or mobilenetv2.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, none, or a .weights.h5 file.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file with fields of the recipe.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate of fine-tuning.")] = None,
    fine_tune_from: Annotated[str | None, typer.Option(help="Backbone layer after which to fit.")] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="best: lowest validation loss, with early stopping; last: the last epoch."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Fine-tune a network on the training part; continues where it was interrupted."""
    _import_tensorflow()
    from trainer.crops import load_dataset
    from trainer.training import train as train_run

    changes = {"backbone": backbone, "weights": weights, "epochs": epochs, "learning_rate": learning_rate}
    chosen = _recipe(recipe, {**changes, "fine_tune_from": fine_tune_from, "keep": keep})
    with progress() as shown:
        kept = train_run(
            load_dataset(dataset),
            run,
            chosen,
            seed=seed,
            progress=shown,
            told=lambda epoch: say(epoch_line(epoch)),
        )
    say(f"weights: {kept}")
    say(f"next: edge-trainer export {run} BUNDLE --name NAME --version 1")


@app.command()
def crossvalidate(
    dataset: DataSetFolder,
    run: Annotated[Path, typer.Option(help="Folder of the folds (made, or continued).")],
    folds: Annotated[int, typer.Option(help="How many folds; no group is in two of them.")] = 5,
    masks: Annotated[Path | None, typer.Option(help="Folder of instance masks, to score the maps.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file with fields of the recipe.")] = None,
    seed: Seed = 0,
) -> None:
    """Train and score once per fold: an accuracy with its spread; finished folds are not computed again."""
    from trainer.crops import load_dataset

    _import_tensorflow()
    from trainer.cross_validation import cross_validate

    with progress() as shown:
        result = cross_validate(
            load_dataset(dataset),
            run,
            _recipe(recipe, {}),
            folds=folds,
            seed=seed,
            masks=masks,
            progress=shown,
        )
    say(f"class-balanced accuracy by fold: {', '.join(f'{value:.3f}' for value in result.by_fold)}")
    say(
        f"mean {result.balanced_accuracy_mean:.3f}, standard error {result.balanced_accuracy_standard_error:.3f} "
        f"({folds} folds)"
    )
    say(figures_table(result.pooled))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    bundle: Annotated[Path, typer.Argument(help="Folder for the bundle (must not exist).")],
    name: Annotated[str, typer.Option(help="Name of the model: lower case, digits, hyphens.")] = "model",
    version: Annotated[str, typer.Option(help="Version, such as 1 or 1.2.")] = "1",
    dataset: Annotated[
        Path | None, typer.Option(help="The data set, if it was moved since training.")
    ] = None,
    notes: Annotated[Path | None, typer.Option(help="Markdown put into the model card.")] = None,
    intended_use: Annotated[str | None, typer.Option(help="One or two sentences for the manifest.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "GPL-3.0-or-later",
    views: Annotated[
        str, typer.Option(help="Views averaged, comma-separated: identity, flip_x, flip_y, rot180.")
    ] = "identity",
    seed: Seed = 0,
) -> None:
    """Convert a run to an ONNX bundle with a CAM head, and prove that both compute the same."""
    _import_tensorflow()
    from pydantic import TypeAdapter

    from edge_agent.preprocessing import View
    from trainer.crops import load_dataset
    from trainer.export import BundleNotes
    from trainer.export import export as export_run
    from trainer.run_folder import read_record

    described = BundleNotes(
        name=name,
        version=version,
        licence=licence,
        notes=notes.read_text(encoding="utf-8") if notes else "",
        views=TypeAdapter(tuple[View, ...]).validate_python([view.strip() for view in views.split(",")]),
    )
    if intended_use is not None:
        described = replace(described, intended_use=intended_use)
    data = load_dataset(dataset if dataset is not None else Path(read_record(run).dataset))
    with progress() as shown:
        written = export_run(run, data, bundle, described, seed=seed, progress=shown)
    parity = written.manifest.parity
    say(
        f"parity on {parity.crops} crops: {parity.probabilities:.1e} in probabilities, {parity.cam:.1e} of the "
        f"peak in the map (at most {parity.tolerance:.0e})"
    )
    say(f"bundle: {bundle}")
    say(f"next: edge-trainer evaluate {bundle} {data.root}")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    dataset: DataSetFolder,
    split: Annotated[_PartName, typer.Option(help="Part to score.")] = _PartName.test,
    masks: Annotated[Path | None, typer.Option(help="Folder of instance masks, to score the map.")] = None,
    cross_validation: Annotated[
        Path | None, typer.Option(help="Folder of edge-trainer crossvalidate, to be recorded beside it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print evaluation.json on stdout.")] = False,
    seed: Seed = 0,
) -> None:
    """Score a bundle on held-out micrographs through the agent's own classifier."""
    from trainer.crops import load_dataset
    from trainer.cross_validation import read_cross_validation
    from trainer.evaluation import evaluate as evaluate_bundle

    folds = read_cross_validation(cross_validation) if cross_validation else None
    with progress() as shown:
        result = evaluate_bundle(
            bundle,
            load_dataset(dataset),
            split.value,
            masks=masks,
            cross_validation=folds,
            seed=seed,
            progress=shown,
        )
    if json:  # UTF-8 whatever the console's encoding, as JSON must be
        sys.stdout.buffer.write(result.model_dump_json(indent=1, by_alias=True).encode() + b"\n")
        sys.stdout.buffer.flush()
    say(evaluation_text(result))


@app.command()
def publish(
    bundle: Annotated[Path, typer.Argument(help="Folder of an evaluated bundle.")],
    models: Annotated[
        Path | None, typer.Option(help="Folder of published models; by default that of the repository.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Taken as by every stage; nothing is drawn here.")] = 0,
) -> None:
    """Verify an evaluated bundle, replay its golden cases, and copy it to the published models."""
    from trainer.publish import publish as publish_bundle

    say(f"published: {publish_bundle(bundle, models)}")


def _recipe(file: Path | None, changes: dict[str, Any]) -> Recipe:
    """The recipe of a file, or the default one, with what the options change."""
    from trainer.run_folder import Recipe

    base = Recipe.model_validate_json(file.read_bytes()) if file else Recipe()
    given = {name: value for name, value in changes.items() if value is not None}
    return Recipe.model_validate({**base.model_dump(), **given})


def _import_tensorflow() -> None:
    """Import TensorFlow with its start-up chatter kept off the terminal; no setting of its own does that."""
    with tempfile.TemporaryFile() as chatter:
        terminal = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            importlib.import_module("tensorflow").config.list_logical_devices()
        except BaseException:
            chatter.seek(0)
            os.write(terminal, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def main() -> None:
    """Run a command: an error is one line on stderr; exit 2 for what was given, 1 for work that failed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        say(f"{PROGRAM} needs {', '.join(missing)}; install them, in the clone: pip install -e '.[train]'")
        raise SystemExit(EXIT_USAGE)
    # Before TensorFlow and Keras are imported: another backend would not know our layers, and notes on which
    # instructions the processor has bury the one line that matters.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments, verbose = _without_verbose(sys.argv[1:])
    try:
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # Typer turns KeyboardInterrupt into this, and says nothing
            say(f"{PROGRAM}: interrupted; the same command goes on from here")
    except Exception as error:
        if verbose:
            traceback.print_exception(error)
        code, message = _verdict(error)
        say(f"{PROGRAM}: {' '.join(message.split())}")
    raise SystemExit(code if isinstance(code, int) else 0)


def _without_verbose(arguments: list[str]) -> tuple[list[str], bool]:
    """Take `--verbose` out wherever it stands before a `--`, so that nobody has to know its place."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--verbose"]
    return options + arguments[end:], len(options) < end


def _verdict(error: Exception) -> tuple[int, str]:
    """Return exit code and message."""
    from pydantic import ValidationError

    if isinstance(error, typer.TyperException):
        return EXIT_USAGE, f"{error.format_message()} (see {PROGRAM} --help)"
    if isinstance(error, ValidationError):
        return EXIT_USAGE, _first_fault(error)
    if type(error).__name__ in _USAGE:
        return EXIT_USAGE, str(error)
    if isinstance(error, FileNotFoundError | FileExistsError):
        return EXIT_USAGE, _os_text(error)
    if isinstance(error, OSError):
        return EXIT_FAILED, _os_text(error)
    if type(error).__module__.startswith(("trainer.", "edge_agent.")):
        return EXIT_FAILED, str(error)
    return EXIT_FAILED, f"unforeseen {type(error).__name__}: {error} (--verbose shows where)"


def _os_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{error.title}: {f'{where}: ' if where else ''}{fault['msg']} (it is {fault['input']!r:.80})"


if __name__ == "__main__":
    main()
