"""What a bundle answers, shown and published: `evaluate`, `report`, `explain`, `publish`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.options import DataSetFolder, PartName, Seed, import_tensorflow, listed_option
from trainer.terminal import evaluation_text, progress, say


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    dataset: DataSetFolder,
    split: Annotated[PartName, typer.Option(help="Part to score.")] = PartName.test,
    masks: Annotated[Path | None, typer.Option(help="Folder of instance masks, to score the map.")] = None,
    cross_validation: Annotated[
        Path | None, typer.Option(help="Folder of edge-trainer crossvalidate, to be recorded beside it.")
    ] = None,
    labels_table: Annotated[
        Path | None,
        typer.Option(help="CSV with a column `file`; its other columns become ways to look at the accuracy."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print evaluation.json on stdout.")] = False,
    seed: Seed = 0,
) -> None:
    """Score a bundle on held-out micrographs through the agent's own classifier."""
    from trainer.preparing.crops import load_dataset
    from trainer.preparing.split import read_labels_table
    from trainer.scoring.cross_validation import read_cross_validation
    from trainer.scoring.evaluation import evaluate as evaluate_bundle

    folds = read_cross_validation(cross_validation) if cross_validation else None
    with progress() as shown:
        result = evaluate_bundle(
            bundle,
            load_dataset(dataset),
            split.value,
            masks=masks,
            cross_validation=folds,
            table=read_labels_table(labels_table) if labels_table else None,
            seed=seed,
            progress=shown,
        )
    if json:  # UTF-8 whatever the console's encoding, as JSON must be
        sys.stdout.buffer.write(result.model_dump_json(indent=1, by_alias=True).encode() + b"\n")
        sys.stdout.buffer.flush()
    say(evaluation_text(result))
    say(f"next: edge-trainer report {bundle}")


def report(
    bundle: Annotated[Path, typer.Argument(help="Folder of an evaluated bundle.")],
    dataset: Annotated[
        Path | None, typer.Option(help="The data set, if it was moved since the evaluation.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default BUNDLE-report.html.")] = None,
    curve: Annotated[
        Path | None, typer.Option(help="Folder of edge-trainer learning-curve; by default one is measured.")
    ] = None,
    measure_curve: Annotated[
        bool, typer.Option(help="Measure the learning curve on frozen features where none is recorded.")
    ] = True,
    seed: Seed = 0,
) -> None:
    """Write one self-contained HTML file: figures, curves, calibration, mistakes, galleries of maps."""
    import_tensorflow()
    from trainer.preparing.crops import load_dataset
    from trainer.showing.report import write_report

    with progress() as shown:
        file = write_report(
            bundle,
            dataset=load_dataset(dataset) if dataset else None,
            out=out,
            curve=curve,
            measure_curve=measure_curve,
            seed=seed,
            progress=shown,
        )
    say(f"report: {file}")


def explain(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    dataset: DataSetFolder,
    out: Annotated[Path, typer.Option(help="Folder for the figure: PDF, PNG, caption, table.")] = Path(
        "explain"
    ),
    split: Annotated[PartName, typer.Option(help="Part to choose from.")] = PartName.test,
    classes: Annotated[str | None, typer.Option(help="Classes to show, comma-separated.")] = None,
    count: Annotated[int, typer.Option(help="Random micrographs of each class.")] = 2,
    files: Annotated[
        str | None,
        typer.Option(help="Micrographs to show instead, comma-separated, as dataset.csv names them."),
    ] = None,
    columns: Annotated[int, typer.Option(help="Pairs side by side on a page 180 mm wide.")] = 2,
    seed: Seed = 0,
) -> None:
    """Draw the figure for a paper: micrograph and class activation map side by side, with scale bars."""
    from trainer.preparing.crops import load_dataset
    from trainer.showing.explain import explain as draw

    with progress() as shown:
        draw(
            bundle,
            load_dataset(dataset),
            out,
            part=split.value,
            classes=listed_option(classes) or (),
            count=count,
            files=listed_option(files) or (),
            columns=columns,
            seed=seed,
            progress=shown,
        )
    say(f"figure: {out / 'explain.pdf'}, its pages as PNG beside it")


def publish(
    bundle: Annotated[Path, typer.Argument(help="Folder of an evaluated bundle.")],
    models: Annotated[
        Path | None, typer.Option(help="Folder of published models; by default that of the repository.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Taken as by every stage; nothing is drawn here.")] = 0,
) -> None:
    """Verify an evaluated bundle, replay its golden cases, and copy it to the published models."""
    from trainer.exporting.publish import publish as publish_bundle

    say(f"published: {publish_bundle(bundle, models)}")
