"""From a data set to a bundle: `train`, `crossvalidate`, `export`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.options import DataSetFolder, RecipeFile, Seed, chosen_recipe, import_tensorflow
from trainer.terminal import epoch_line, figures_table, progress, say


def train(
    dataset: DataSetFolder,
    run: Annotated[Path, typer.Option(help="Folder of the run (made, or continued).")],
    backbone: Annotated[
        str | None, typer.Option(help="efficientnet-lite0, inceptionv3-mixed7 or mobilenetv2.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, none, or a .weights.h5 file.")] = None,
    recipe: RecipeFile = None,
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
    import_tensorflow()
    from trainer.crops import load_dataset
    from trainer.training import train as train_run

    changes = {"backbone": backbone, "weights": weights, "epochs": epochs, "learning_rate": learning_rate}
    chosen = chosen_recipe(recipe, {**changes, "fine_tune_from": fine_tune_from, "keep": keep})
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


def crossvalidate(
    dataset: DataSetFolder,
    run: Annotated[Path, typer.Option(help="Folder of the folds (made, or continued).")],
    folds: Annotated[int, typer.Option(help="How many folds; no group is in two of them.")] = 5,
    masks: Annotated[Path | None, typer.Option(help="Folder of instance masks, to score the maps.")] = None,
    recipe: RecipeFile = None,
    seed: Seed = 0,
) -> None:
    """Train and score once per fold: an accuracy with its spread; finished folds are not computed again."""
    from trainer.crops import load_dataset

    import_tensorflow()
    from trainer.cross_validation import cross_validate

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
    import_tensorflow()
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
