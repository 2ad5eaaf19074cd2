"""When a bundle does not answer: `trust` measures it, `operating-point` moves the line."""

import enum
from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.commands.keys import telling_lost_signature
from trainer.commands.options import DataSetFolder, Seed
from trainer.terminal import progress, say, trust_text


class HeldOutPart(enum.StrEnum):
    """Parts of a data set that a network was not fitted to."""

    validation = "validation"
    test = "test"


Acceptance = Annotated[
    float, typer.Option(min=0.01, max=1, help="Share of good micrographs that is to be accepted.")
]
Accuracy = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Accept as many as this accuracy of accepted answers allows instead."),
]
Version = Annotated[str | None, typer.Option(help="Of the new bundle; by default the old one's.")]
Folds = Annotated[
    Path | None,
    typer.Option(
        "--folds",
        exists=True,
        file_okay=False,
        help="Run folder of edge-trainer crossvalidate on the same data: measure on its folds instead.",
    ),
]
StrangersFolder = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Pictures that are none of the classes, a sub-folder for each kind; only measured on.",
    ),
]


def trust(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    dataset: DataSetFolder,
    out: Annotated[Path, typer.Argument(help="Folder of the new bundle.")],
    split: Annotated[HeldOutPart, typer.Option(help="Part to measure on.")] = HeldOutPart.validation,
    folds: Folds = None,
    strangers: StrangersFolder = None,
    drawn: Annotated[int, typer.Option(min=0, help="Simulated strangers of each kind.")] = 20,
    acceptance: Acceptance = 0.95,
    accuracy: Accuracy = None,
    version: Version = None,
    seed: Seed = 0,
) -> None:
    """Measure on held-out micrographs when a bundle is not to answer: temperature, novelty, guards, thresholds."""
    from trainer.preparing.crops import load_dataset
    from trainer.trusting.trust import Goal, Strangers, TrustOrder
    from trainer.trusting.trust import trust as trust_bundle

    part: Literal["validation", "test"] = "test" if split is HeldOutPart.test else "validation"
    goal, given = Goal(acceptance, accuracy), Strangers(strangers, drawn)
    order = TrustOrder(part, folds, goal, given, version, seed)
    with telling_lost_signature(bundle, out), progress() as shown:
        _, record = trust_bundle(bundle, load_dataset(dataset), out, order, progress=shown)
    say(trust_text(record))
    say(f"bundle: {out}")
    say(f"next: edge-trainer evaluate {out} {dataset}")


def operating_point(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle with limits.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new bundle.")],
    acceptance: Acceptance = 0.95,
    accuracy: Accuracy = None,
    confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest probability of an answer, given by hand.")
    ] = None,
    novelty: Annotated[
        float | None, typer.Option(min=0.001, help="Highest novelty of an answer, given by hand.")
    ] = None,
    version: Version = None,
    seed: Seed = 0,
) -> None:
    """Write the same network with another line between answering and abstaining; says what that costs and buys."""
    from trainer.trusting.moving import move_operating_point
    from trainer.trusting.operating_point import Goal

    goal = Goal(acceptance, accuracy)
    with telling_lost_signature(bundle, out):
        _, record = move_operating_point(
            bundle, out, goal, confidence=confidence, novelty=novelty, version=version, seed=seed
        )
    say(trust_text(record))
    say(f"bundle: {out}")
