"""What a bundle answers: `evaluate`, `faithfulness`, `report`, `explain`, `optimise`, `publish`, `flips`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.keys import opened_key, telling_lost_signature
from trainer.commands.options import DataSetFolder, PartName, Seed, import_tensorflow, listed_option
from trainer.terminal import evaluation_text, print_json, progress, say


class MethodName(StrEnum):
    """How the map of `explain` is made."""

    bundle = "bundle"
    cam = "cam"
    gradcam = "gradcam"
    hirescam = "hirescam"
    occlusion = "occlusion"


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
    with telling_lost_signature(bundle), progress() as shown:
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
    if json:
        print_json(result)
    say(evaluation_text(result))
    say(f"next: edge-trainer report {bundle}")


def flips(
    before: Annotated[Path, typer.Argument(help="Folder of the bundle that answered so far.")],
    after: Annotated[Path, typer.Argument(help="Folder of the bundle that is to answer.")],
    dataset: DataSetFolder,
    split: Annotated[PartName, typer.Option(help="Part to compare them on.")] = PartName.test,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON on stdout.")] = False,
) -> None:
    """Say which answers a later bundle mends and which it breaks, held out and labelled on the operator's page."""
    from trainer.preparing.crops import load_dataset
    from trainer.scoring.flips import find_flips, flips_text

    with progress() as shown:
        found = find_flips(before, after, load_dataset(dataset), split.value, progress=shown)
    if json:
        print_json(found)
    say(flips_text(found))


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
    columns: Annotated[
        int,
        typer.Option(
            help="Pairs side by side on a page 180 mm wide; with --map-of every twice as many maps."
        ),
    ] = 2,
    method: Annotated[
        MethodName, typer.Option(help="The bundle's own map, another of the same graph, or occlusion (slow).")
    ] = MethodName.bundle,
    map_of: Annotated[
        str | None,
        typer.Option(metavar="CLASS|every", help="Whose map; by default that of the class answered."),
    ] = None,
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
            method=method.value,
            map_of=map_of,
            seed=seed,
            progress=shown,
        )
    say(f"figure: {out / 'explain.pdf'}, its pages as PNG beside it")


def publish(
    bundle: Annotated[Path, typer.Argument(help="Folder of an evaluated bundle.")],
    models: Annotated[
        Path | None, typer.Option(help="Folder of published models; by default that of the repository.")
    ] = None,
    bioimageio: Annotated[
        Path | None,
        typer.Option(
            help="Write a package for bioimage.io to this .zip; into --models only if that is named."
        ),
    ] = None,
    authors: Annotated[
        str | None, typer.Option(help="For that package: who made the model, comma-separated.")
    ] = None,
    cite: Annotated[
        str | None, typer.Option(help="For that package: what to cite, `TEXT | DOI`, several separated by ;")
    ] = None,
    sign_with: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY", help="Sign what is published with this private key (edge-trainer new-key)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the picture on the package's cover.")] = 0,
) -> None:
    """Verify an evaluated bundle, replay its golden cases, and copy it to the published models."""
    from trainer.exporting.bioimageio import Credits, citations
    from trainer.exporting.publish import publish as publish_bundle
    from trainer.exporting.publish import publish_package

    if bioimageio is not None:
        named = Credits(listed_option(authors) or (), citations(cite or ""))
        say(f"package for bioimage.io: {publish_package(bundle, bioimageio, named, seed=seed)}")
    if bioimageio is None or models is not None:
        key = None if sign_with is None else opened_key(sign_with)
        published = publish_bundle(bundle, models, sign_with=key)
        with telling_lost_signature(bundle, published):
            say(f"published: {published}{'' if key is None else ', signed'}")


def optimise(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    dataset: DataSetFolder,
    out: Annotated[Path, typer.Argument(help="Folder of the new bundle.")],
    split: Annotated[PartName, typer.Option(help="Part to measure on.")] = PartName.validation,
    least_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Mean correlation of a form's maps with the float graph's.")
    ] = 0.98,
    most_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Of accuracy, plain and class-balanced.")
    ] = 0.01,
    most_novelty_apart: Annotated[
        float, typer.Option(min=0, help="Largest change of a micrograph's novelty, as a fraction of it.")
    ] = 0.1,
    least_decisions_kept: Annotated[
        float, typer.Option(min=0, max=1, help="Share of micrographs decided as with the float graph.")
    ] = 0.98,
    pictures: Annotated[
        int | None, typer.Option(min=1, help="Measure on so many micrographs only, drawn by chance.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Of the new bundle; by default the old one with -optimised.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Measure a tidied graph and 8-bit ones beside the bundle's own, and write the best as a new bundle."""
    from trainer.exporting.optimising import OptimiseOrder, optimisation_text
    from trainer.exporting.optimising import optimise as optimise_bundle
    from trainer.preparing.crops import load_dataset

    order = OptimiseOrder(
        split.value,
        least_agreement,
        most_loss,
        most_novelty_apart,
        least_decisions_kept,
        pictures,
        version,
        seed,
    )
    with telling_lost_signature(bundle, out), progress() as shown:
        found = optimise_bundle(bundle, load_dataset(dataset), out, order, progress=shown)
    say(optimisation_text(found))
    say(f"next: edge-trainer evaluate {out} {dataset}")


def faithfulness(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    dataset: DataSetFolder,
    split: Annotated[PartName, typer.Option(help="Part to measure on.")] = PartName.test,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of instance masks, to hold maps against.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Micrographs, drawn by chance.")] = 60,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Of cam, gradcam, hirescam, occlusion, comma-separated; by default all but the last."
        ),
    ] = None,
    occlusion: Annotated[
        bool, typer.Option("--occlusion", help="Measure occlusion maps too (slow).")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print faithfulness.json on stdout.")] = False,
    seed: Seed = 0,
) -> None:
    """Measure whether the map shows what answers hang on: deletion, random weights, masks, cost."""
    from trainer.preparing.crops import load_dataset
    from trainer.scoring.faithfulness import measure_faithfulness
    from trainer.scoring.map_verdicts import faithfulness_text

    with telling_lost_signature(bundle), progress() as shown:
        result = measure_faithfulness(
            bundle,
            load_dataset(dataset),
            split.value,
            masks=masks,
            count=count,
            methods=listed_option(methods) or (),
            occlusion=occlusion,
            seed=seed,
            progress=shown,
        )
    if json:
        print_json(result)
    say(faithfulness_text(result))
    say(f"next: edge-trainer report {bundle}")
