"""From raw folders to a data set, and what training will see of it: `example`, `prepare`, `preview`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from trainer.commands.options import (
    DataSetFolder,
    RecipeName,
    Seed,
    chosen_recipe,
    import_tensorflow,
    listed_option,
)
from trainer.terminal import progress, say

if TYPE_CHECKING:
    from trainer.preparing.screening import ScreeningRule


def example(
    folder: Annotated[Path, typer.Argument(help="Folder for the class folders (made, or continued).")],
    files: Annotated[int, typer.Option(help="Files of each class.")] = 24,
    samples: Annotated[int, typer.Option(help="Samples of each class, a sub-folder each.")] = 4,
    size: Annotated[int, typer.Option(help="Side of a picture in pixels.")] = 1024,
    flaws: Annotated[bool, typer.Option(help="Draw one file in six as a bad one.")] = True,
    seed: Seed = 0,
) -> None:
    """Draw a simulated laboratory to try everything on: dm3 files of eight materials, some of them bad."""
    from trainer.materials.simulated_materials import draw_materials

    with progress() as shown:
        drawn = draw_materials(
            folder, files_per_class=files, samples_per_class=samples, size_px=size, seed=seed, flaws=flaws,
            progress=shown,
        )  # fmt: skip
    say(f"{len(drawn)} simulated files in {folder}; what is wrong with which stands in drawn.csv")
    say(f"next: edge-trainer prepare {folder} DATASET --split folder")


def prepare(
    raw: Annotated[
        Path,
        typer.Argument(
            help="Folder of class folders (or train, val, test with class folders) of micrographs."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the data set (made, or continued).")],
    split: Annotated[
        str | None,
        typer.Option(
            help="What stays together: micrograph (default), folder, session, day, or column:NAME of "
            "--labels-table. every-third tears micrographs apart, for comparison only. Without it, train, val and "
            "test folders are taken as they are."
        ),
    ] = None,
    session_gap_hours: Annotated[
        float, typer.Option(help="A longer pause of a microscope begins a new session.")
    ] = 2.0,
    utc_offset_hours: Annotated[float, typer.Option(help="The lab's time zone, for --split day.")] = 0.0,
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
    screening: Annotated[
        bool, typer.Option(help="Drop copies saved again, empty, saturated and blurred pictures.")
    ] = True,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            help="Another threshold, NAME=VALUE, as least_sharpness=0.01; may be given several times."
        ),
    ] = None,
    overrides: Annotated[
        Path | None, typer.Option(help="CSV of what a person decided (saved by the contact sheet).")
    ] = None,
    corrections: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="ROOT",
            help="Folder with label files of the operator's page (*.label.json) anywhere below; may be given "
            "several times.",
        ),
    ] = None,
    corrections_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Largest part of a class's training micrographs that corrections not given blind may add.",
        ),
    ] = 0.3,
    contact_sheet: Annotated[
        bool, typer.Option(help="Write the page that shows every crop, kept or dropped and why.")
    ] = True,
    workers: Annotated[int | None, typer.Option(help="Processes that read; by default one a core.")] = None,
    seed: Seed = 0,
) -> None:
    """Read, screen, cut and deal labelled micrographs to the parts; nothing in RAW is changed."""
    from edge_agent.preprocessing import Preprocessing, TilePlan
    from trainer.preparing.contact_sheet import write_contact_sheet
    from trainer.preparing.corrections import read_corrections
    from trainer.preparing.crops import Order, summary
    from trainer.preparing.crops import prepare as prepare_crops
    from trainer.preparing.overrides import read_overrides
    from trainer.preparing.split import SplitRule

    tiles = TilePlan(divisions=divisions, field_of_view_nm=field_of_view_nm)
    decided = read_overrides(overrides) if overrides else None
    with progress() as shown:
        said = read_corrections(corrections, out, shown) if corrections else None
    order = Order(
        preprocessing=Preprocessing(input_px=input_px, tiles=tiles),
        split=SplitRule(
            by=split or "micrograph",
            test=test,
            validation=validation,
            part_column=part_column,
            session_gap_hours=session_gap_hours,
            utc_offset_hours=utc_offset_hours,
        ),
        cache_px=input_px,
        screening=_screening(screening, threshold or []),
        labels_table=labels_table,
        classes=listed_option(classes),
        overrides=decided,
        corrections=said,
        corrections_share=corrections_share,
        as_laid_out=split is None,
        seed=seed,
    )
    with progress() as shown:
        dataset = prepare_crops(raw, out, order, progress=shown, embed=_features, workers=workers)
        sheet = write_contact_sheet(dataset, overrides=decided, progress=shown) if contact_sheet else None
    say(summary(dataset))
    if sheet:
        say(f"look through it and overrule: {sheet}")
    say(f"next: edge-trainer preview {out}, then edge-trainer train {out} --run RUN")


def _screening(on: bool, thresholds: list[str]) -> "ScreeningRule":
    """The rule with the thresholds that were given; pydantic says what is wrong with a value."""
    from trainer.preparing.screening import ScreeningRule

    given = {}
    for text in thresholds:
        name, equals, value = text.partition("=")
        if not equals or name not in ScreeningRule.model_fields:
            known = ", ".join(sorted(set(ScreeningRule.model_fields) - {"on", "likeness"}))
            raise typer.BadParameter(f"--threshold {text}: it is NAME=VALUE, and the names are {known}")
        given[name] = value
    return ScreeningRule.model_validate({"on": on, **given})


def _features(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """What tells near-duplicates apart; TensorFlow is imported only where there may be some, and quietly."""
    from trainer.preparing.near_duplicates import lite0_features

    import_tensorflow()
    return lite0_features(pictures)


def preview(
    dataset: DataSetFolder,
    out: Annotated[
        Path | None, typer.Option(help="The PNG picture; by default preview.png in the data set.")
    ] = None,
    crops: Annotated[
        str | None, typer.Option(help="Crops or files to show, comma-separated, as dataset.csv names them.")
    ] = None,
    count: Annotated[int, typer.Option(help="Random crops of each class.")] = 1,
    views: Annotated[int, typer.Option(help="Augmented views of each crop.")] = 10,
    recipe: RecipeName = None,
    seed: Seed = 0,
) -> None:
    """Draw what augmentation does to training crops."""
    import_tensorflow()
    from trainer.preparing.crops import load_dataset
    from trainer.showing.preview import preview as draw

    target = out if out is not None else dataset / "preview.png"
    with progress() as shown:
        draw(
            load_dataset(dataset),
            chosen_recipe(recipe, {}).augmentation,
            target,
            crops=listed_option(crops) or (),
            count=count,
            views=views,
            seed=seed,
            progress=shown,
        )
    say(f"picture: {target}")
