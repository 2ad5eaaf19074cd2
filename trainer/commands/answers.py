"""What a bundle answers, shown and published: `evaluate`, `publish`."""

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.options import DataSetFolder, Seed
from trainer.terminal import evaluation_text, progress, say


class _PartName(enum.StrEnum):
    """Parts of a data set, as an option's choices."""

    test = "test"
    validation = "validation"
    train = "train"


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
