"""From a data set to a bundle: `tune`, `train`, `crossvalidate`, `learning-curve`, `export`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands.limits import Folds as FoldsRun
from trainer.commands.limits import StrangersFolder
from trainer.commands.options import (
    DataSetFolder,
    MapMethod,
    RecipeName,
    Seed,
    bundle_name,
    chosen_recipe,
    import_tensorflow,
    listed_option,
    numbers_option,
    range_option,
)
from trainer.terminal import figures_table, imported_text, progress, say, trust_text

if TYPE_CHECKING:
    from trainer.preparing.crops import DataSet

Folds = Annotated[int, typer.Option(help="How many folds; no group is in two of them.")]


def tune(
    dataset: DataSetFolder,
    study: Annotated[Path, typer.Option(help="Folder of the search (made, or continued).")],
    trials: Annotated[int, typer.Option(help="Trials in all, by all processes that share the search.")] = 20,
    finalists: Annotated[int, typer.Option(help="How many of them are fine-tuned.")] = 4,
    storage: Annotated[
        str | None,
        typer.Option(help="Optuna URL, or journal:FILE on a network folder; by default SQLite in the study."),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Score heads in so many grouped folds instead of the validation part.")
    ] = 0,
    recipe: RecipeName = None,
    seed: Seed = 0,
) -> None:
    """Search the best recipe: heads on frozen features, then fine-tuning; continues where it was interrupted."""
    import_tensorflow()
    from trainer.preparing.crops import load_dataset
    from trainer.searching.study_result import study_text
    from trainer.searching.tuning import tune as search

    with progress() as shown:
        result = search(
            load_dataset(dataset),
            study,
            trials=trials,
            finalists=finalists,
            base=chosen_recipe(recipe, {}),
            storage=storage,
            folds=folds,
            seed=seed,
            progress=shown,
            told=say,
        )
    say(study_text(result))


def train(
    dataset: DataSetFolder,
    run: Annotated[Path, typer.Option(help="Folder of the run (made, or continued).")],
    backbone: Annotated[
        str | None, typer.Option(help="efficientnet-lite0, inceptionv3-mixed7 or mobilenetv2.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, none, or a .weights.h5 file.")] = None,
    recipe: RecipeName = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate of fine-tuning.")] = None,
    fine_tune_from: Annotated[str | None, typer.Option(help="Backbone layer after which to fit.")] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="best: lowest validation loss, with early stopping; last: the last epoch."),
    ] = None,
    members: Annotated[
        int, typer.Option(help="Train an ensemble of so many seeds; export makes one bundle of it.")
    ] = 1,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--new", help="Want a run there, or want none. Without: go on if there is one."
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Fine-tune a network on the training part; continues where it was interrupted."""
    import_tensorflow()
    from trainer.fitting.ensemble import train_ensemble
    from trainer.fitting.live_display import training_display
    from trainer.fitting.run_folder import read_history
    from trainer.fitting.training import train as train_run
    from trainer.preparing.crops import load_dataset

    changes = {"backbone": backbone, "weights": weights, "epochs": epochs, "learning_rate": learning_rate}
    chosen = chosen_recipe(recipe, {**changes, "fine_tune_from": fine_tune_from, "keep": keep})
    data = load_dataset(dataset)
    with training_display(data.labels, read_history(run)) as shown:
        if members > 1:
            train_ensemble(
                data, run, chosen, members=members, seed=seed, resume=resume,
                progress=shown.progress, told=shown.told, watched=shown.watched,
            )  # fmt: skip
        else:
            train_run(
                data, run, chosen, seed=seed, resume=resume,
                progress=shown.progress, told=shown.told, watched=shown.watched,
            )  # fmt: skip
    say(f"run: {run}")
    say(f"next: edge-trainer export {run} BUNDLE --name NAME --version 1")


def crossvalidate(
    dataset: DataSetFolder,
    run: Annotated[Path, typer.Option(help="Folder of the folds (made, or continued).")],
    folds: Folds = 5,
    masks: Annotated[Path | None, typer.Option(help="Folder of instance masks, to score the maps.")] = None,
    recipe: RecipeName = None,
    seed: Seed = 0,
) -> None:
    """Train and score once per fold: an accuracy with its spread; finished folds are not computed again."""
    from trainer.preparing.crops import load_dataset

    import_tensorflow()
    from trainer.scoring.cross_validation import cross_validate

    with progress() as shown:
        result = cross_validate(
            load_dataset(dataset),
            run,
            chosen_recipe(recipe, {}),
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


def learning_curve(
    dataset: DataSetFolder,
    run: Annotated[Path, typer.Option(help="Folder for what is computed (made, or continued).")],
    full: Annotated[
        bool, typer.Option("--full", help="Train for every point, instead of a head on frozen features.")
    ] = False,
    folds: Folds = 5,
    fractions: Annotated[
        str, typer.Option(help="Parts of the training micrographs, comma-separated.")
    ] = "0.125,0.25,0.5,0.75,1",
    recipe: RecipeName = None,
    seed: Seed = 0,
) -> None:
    """Measure the accuracy against the number of training micrographs, to see whether there are enough."""
    import_tensorflow()
    from trainer.preparing.crops import load_dataset
    from trainer.scoring.accuracy_curve import CURVE
    from trainer.scoring.learning_curve import frozen_learning_curve, full_learning_curve
    from trainer.showing.learning_curve_chart import draw_learning_curve

    data, parts = load_dataset(dataset), _fractions(fractions)
    with progress() as shown:
        if full:
            chosen = chosen_recipe(recipe, {})
            curve = full_learning_curve(
                data, run, chosen, folds=folds, fractions=parts, seed=seed, progress=shown
            )
        else:
            curve = frozen_learning_curve(data, run, folds=folds, fractions=parts, seed=seed, progress=shown)
    curve.write(run / CURVE)
    draw_learning_curve(curve).savefig(run / "learning_curve.png", dpi=150)
    for point in curve.points:
        say(
            f"{point.micrographs:6.0f} micrographs in {point.groups:.0f} groups: class-balanced accuracy "
            f"{point.balanced_accuracy:.3f} (standard error {point.standard_error:.3f})"
        )
    say(curve.statement)
    say(f"picture: {run / 'learning_curve.png'}")


def _fractions(text: str) -> tuple[float, ...]:
    try:
        parts = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise typer.BadParameter(f"--fractions {text}: numbers with commas between them are wanted") from None
    if not 0 < parts[0] <= parts[-1] == 1:
        raise typer.BadParameter(f"--fractions {text}: they lie between 0 and 1, and the last one is 1")
    return parts


def export(
    run: Annotated[
        Path, typer.Argument(help="Folder of a finished run, of an ensemble, or of crossvalidate.")
    ],
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
    trust: Annotated[
        bool,
        typer.Option(
            "--trust/--no-trust", help="Measure on the validation part (or --folds) when it is not to answer."
        ),
    ] = True,
    folds: FoldsRun = None,
    strangers: StrangersFolder = None,
    seed: Seed = 0,
) -> None:
    """Convert a run to an ONNX bundle with a CAM head, prove that both compute the same, and give it limits."""
    import_tensorflow()
    from pydantic import TypeAdapter

    from edge_agent.preprocessing import View
    from trainer.exporting.export import BundleNotes
    from trainer.exporting.export import export as export_run
    from trainer.fitting.ensemble import members_of
    from trainer.fitting.run_folder import read_record
    from trainer.preparing.crops import load_dataset

    described = BundleNotes(
        name=name,
        version=version,
        licence=licence,
        notes=notes.read_text(encoding="utf-8") if notes else "",
        views=TypeAdapter(tuple[View, ...]).validate_python([view.strip() for view in views.split(",")]),
    )
    if intended_use is not None:
        described = replace(described, intended_use=intended_use)
    data = load_dataset(dataset if dataset is not None else Path(read_record(members_of(run)[0]).dataset))
    with progress() as shown:
        written = export_run(run, data, bundle, described, seed=seed, progress=shown)
    parity = written.manifest.parity
    say(
        f"parity on {parity.crops} crops: {parity.probabilities:.1e} in probabilities, {parity.cam:.1e} of the "
        f"peak in the map (at most {parity.tolerance:.0e})"
    )
    if trust:
        _give_limits(bundle, data, folds, strangers, seed)
    say(f"bundle: {bundle}")
    say(f"next: edge-trainer evaluate {bundle} {data.root}")


def _give_limits(
    bundle: Path, data: "DataSet", folds: Path | None, strangers: Path | None, seed: int
) -> None:
    """A bundle whose data set held nothing out is whole without limits; it says so in each answer."""
    from trainer.trusting.trust import NothingHeldOut, Strangers, TrustError, TrustOrder, trust_in_place

    order = TrustOrder(folds=folds, strangers=Strangers(strangers), seed=seed)
    try:
        with progress() as shown:
            record = trust_in_place(bundle, data, order, progress=shown)
    except NothingHeldOut as error:
        say(f"no limits, its answers will be ungated: {error}")
    except TrustError as error:
        raise TrustError(f"{error}; {bundle} is written, without limits") from error
    except KeyboardInterrupt:
        say(f"{bundle} is written, without limits; edge-trainer trust {bundle} {data.root} OUT gives it some")
        raise
    else:
        say(trust_text(record))


def import_checkpoint(
    file: Annotated[
        Path,
        typer.Argument(
            help="A trained CNN: .keras, .h5, SavedModel folder, TensorFlow checkpoint, or .onnx."
        ),
    ],
    bundle: Annotated[Path, typer.Argument(help="Folder for the bundle (must not exist).")],
    labels: Annotated[
        str, typer.Option(help="Class names in the order of the network's answers, comma-separated.")
    ],
    architecture: Annotated[
        str | None,
        typer.Option(help="For weights alone: NAME or NAME:LAST_LAYER, such as inceptionv3:mixed7."),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(help="Side in px of the pictures it was trained on, where the file does not say."),
    ] = None,
    value_range: Annotated[
        str, typer.Option(help="What black and white were in training: 0..1, -1..1, 0..255.")
    ] = "0..1",
    mean: Annotated[
        str | None, typer.Option(help="Taken off each channel after that, comma-separated.")
    ] = None,
    spread: Annotated[str | None, typer.Option(help="Each channel is divided by it after that.")] = None,
    divisions: Annotated[int, typer.Option(help="Boxes along each side: 1 whole field, 2 quadrants.")] = 1,
    method: Annotated[MapMethod, typer.Option(help="How the map is computed.")] = MapMethod.auto,
    name: Annotated[
        str | None, typer.Option(help="Name of the model; by default the bundle's folder's.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version, such as 1 or 1.2.")] = "1",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "not stated",
    intended_use: Annotated[str | None, typer.Option(help="One or two sentences for the manifest.")] = None,
    seed: Seed = 0,
) -> None:
    """Make a bundle of a CNN that was trained elsewhere: its answers as they were, a map in its graph."""
    from trainer.importing.foreign_graph import Colours
    from trainer.importing.import_checkpoint import ImportOrder
    from trainer.importing.import_checkpoint import import_checkpoint as make_bundle

    order = ImportOrder(
        labels=listed_option(labels) or (),
        name=name or bundle_name(bundle, version),
        version=version,
        architecture=architecture,
        input_px=input_size,
        value_range=range_option(value_range),
        colours=Colours(numbers_option("--mean", mean), numbers_option("--spread", spread)),
        divisions=divisions,
        method=method.value,
        licence=licence,
    )
    if intended_use is not None:
        order = replace(order, intended_use=intended_use)
    with progress() as shown:
        written = make_bundle(file, bundle, order, seed=seed, progress=shown)
    say(imported_text(written.manifest))
    say(f"bundle: {bundle}")
    shown_by = f"edge-trainer explain {bundle} DATASET"
    if written.manifest.tensors.cam is not None:
        shown_by = f"edge-agent classify FILES --model {bundle}"
    say(f"next: {shown_by}; edge-trainer evaluate {bundle} DATASET")
