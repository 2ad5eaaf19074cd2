"""From raw folders to a data set: `prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.options import Seed, listed_option
from trainer.terminal import progress, say


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
    chosen = listed_option(classes)
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
