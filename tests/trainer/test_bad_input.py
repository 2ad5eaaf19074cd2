"""Bad input, a full disk, Ctrl-C and kills, through the commands: one clear message, nothing lost, and a way on.

The long tier, with many more moments: `python tests/long/interrupted_trainer.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from toy_trainer import CHATTER, Answer, Started, weights_of
from toys import LABELS, LONG_TIER, RECIPE, draw_raw, picture

from trainer import cli
from trainer.fitting.run_folder import WEIGHTS, read_history
from trainer.preparing.crops import load_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from full_disk import small_disk, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from full_disk import SmallDisk

    Run = Callable[..., tuple[int, str]]

SMALL = ("--input-px", 64, "--test", 0.25, "--validation", 0.25, "--no-screening")
needs_root = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], toy_backbone: None
) -> Run:
    """Run a command in this process: exit code and what it said."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["edge-trainer", *map(str, arguments)])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = b"".join(capfdbinary.readouterr()).decode()
        assert "Traceback" not in said
        kept = [line for line in said.splitlines() if not line.startswith(CHATTER)]
        return int(caught.value.code or 0), "\n".join(kept)

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The toy's recipe as a file, with one epoch of each stage."""
    file = tmp_path / "recipe.json"
    file.write_text(RECIPE.model_copy(update={"epochs": 1}).model_dump_json())
    return file


def one_line(said: str) -> bool:
    """Whether it is one line that begins with the program's name."""
    return said.startswith("edge-trainer: ") and "\n" not in said


def classes(folder: Path, **pictures: int) -> Path:
    """Class folders with so many pictures each: discs in those whose name begins with d, else stripes."""
    for label, number in pictures.items():
        (folder / label).mkdir(parents=True)
        for seed in range(number):
            Image.fromarray(picture("disc" if label[0] == "d" else "stripes", seed)).save(
                folder / label / f"{label}{seed}.png"
            )
    return folder


# --- folders that are not what they should be -----------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "options", "code", "words"),
    [
        pytest.param(
            {"disc": 4, "stripes": 4, "wires": 0}, (), 2, ["wires: the folder of class 'wires' is empty"],
            id="an empty class",
        ),
        pytest.param(
            {"disc": 4, "stripes": 4, "wires": 0}, ("--classes", "disc,stripes,wires"), 2,
            ["class 'wires' has no usable micrograph (no picture file in it)"], id="an empty class, asked for",
        ),
        pytest.param({"disc": 4}, (), 2, ["needs two classes", "found disc"], id="one class"),
        pytest.param({}, (), 2, ["has no class folders"], id="nothing at all"),
        pytest.param(
            {"disc": 1, "stripes": 1}, (), 0,
            ["class 'disc' has no crop in", "class 'stripes' has no crop in"], id="one image per class",
        ),
    ],
)  # fmt: skip
def test_folders_with_little_in_them(
    run: Run, tmp_path: Path, pictures: dict[str, int], options: tuple[str, ...], code: int, words: list[str]
) -> None:
    raw = classes(tmp_path / "raw", **pictures)
    raw.mkdir(exist_ok=True)
    seen, said = run("prepare", raw, tmp_path / "data", *SMALL, *options)
    assert seen == code, said
    assert [word for word in words if word not in said] == []
    assert code == 0 or one_line(said)


def test_one_image_per_class_ends_in_one_line_that_says_what_is_missing(
    run: Run, tmp_path: Path, recipe: Path, bundle: Path
) -> None:
    data = tmp_path / "data"
    assert run("prepare", classes(tmp_path / "raw", disc=1, stripes=1), data, *SMALL)[0] == 0
    trained, said = run("train", data, "--run", tmp_path / "run", "--recipe", recipe)
    assert trained == 0 or one_line(said), said
    code, said = run("evaluate", bundle, data)
    assert code in (1, 2)
    assert one_line(said), said
    assert "test" in said


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "empty.dm3": lambda path: path.touch(),
    "half.dm3": lambda path: path.write_bytes(bytes.fromhex("00000003000100000000000101000000") + bytes(99)),
    "text.dm3": lambda path: path.write_text("not a micrograph"),
    "half.png": lambda path: path.write_bytes(_png()[:300]),
    "bytes.tif": lambda path: path.write_bytes(os.urandom(500)),
    "folder.dm3": lambda path: path.mkdir(),
    "nowhere.png": lambda path: path.symlink_to("lost.png"),
    "black.png": lambda path: Image.new("L", (80, 80)).save(path),
    "one pixel.png": lambda path: Image.new("L", (1, 1)).save(path),
}


def _png() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(picture("disc", 1)).save(buffer, "PNG")
    return buffer.getvalue()


def test_unreadable_files_are_dropped_each_with_its_reason(run: Run, tmp_path: Path) -> None:
    raw, data = classes(tmp_path / "raw", disc=4, stripes=4), tmp_path / "data"
    for name, make in UNUSABLE.items():
        make(raw / "disc" / name)
    code, said = run("prepare", raw, data, *SMALL)
    assert code == 0, said
    dropped = {Path(crop.source).name: crop.reason for crop in load_dataset(data).crops if not crop.kept}
    assert dropped.keys() == UNUSABLE.keys() - {"folder.dm3"}
    assert all(dropped.values())
    assert f"{len(dropped)} files dropped" in said
    assert len(load_dataset(data).kept) == 8


def test_nothing_but_unreadable_files_in_a_class_is_one_line_with_the_reasons(
    run: Run, tmp_path: Path
) -> None:
    raw = classes(tmp_path / "raw", disc=4, stripes=0)
    (raw / "stripes" / "a.dm3").write_text("not a micrograph")
    code, said = run("prepare", raw, tmp_path / "data", "--classes", "disc,stripes")
    assert code == 2
    assert one_line(said), said
    assert "1 x unreadable: is neither DigitalMicrograph" in said


SHAPES = ((40, 40), (72, 900), (900, 72), (333, 401), (128, 64), (64, 65))


def test_mixed_sizes_are_trained_on_together(run: Run, tmp_path: Path, recipe: Path) -> None:
    raw, data = classes(tmp_path / "raw", disc=6, stripes=6), tmp_path / "data"
    for label in LABELS:
        for at, (rows, columns) in enumerate(SHAPES):
            Image.fromarray(picture(label, 20 + at)).resize((columns, rows)).save(raw / label / f"{at}.tif")
    assert run("prepare", raw, data, *SMALL)[0] == 0
    assert {crop.shape_px for crop in load_dataset(data).kept} >= {*SHAPES}
    code, said = run("train", data, "--run", tmp_path / "run", "--recipe", recipe)
    assert code == 0, said


NAMES = ("Größe µm", "ナノ粒子 $x$ <b>&'\"")


def test_names_beyond_ascii_reach_the_evaluation(run: Run, tmp_path: Path, recipe: Path) -> None:
    place = tmp_path / "Prüfung №1"
    raw, data, folder, bundle = (place / name for name in ("roh ä", "dätä", "läuf", "bündel"))
    draw_raw(tmp_path / "plain", each=6)
    for label, name in zip(LABELS, NAMES, strict=True):
        (raw / name / "Probe é").mkdir(parents=True)
        for at, file in enumerate(sorted((tmp_path / "plain" / label).iterdir())):
            shutil.copy(file, raw / name / "Probe é" / f"сканирование {at} 图.png")
    with_bytes = os.fsencode(raw / NAMES[0]) + b"/\xff\xfe.png"
    if sys.platform == "linux":
        shutil.copy(tmp_path / "plain" / "disc" / "disc00.png", with_bytes)
    for line in (
        ("prepare", raw, data, *SMALL),
        ("train", data, "--run", folder, "--recipe", recipe),
        ("export", folder, bundle),
        ("evaluate", bundle, data),
    ):
        code, said = run(*line)
        assert code == 0, said
    assert load_dataset(data).labels == tuple(sorted(NAMES))
    assert all(name in said for name in NAMES)


# --- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 8) as disk:
        yield disk


@needs_root
@pytest.mark.parametrize("stage", ["prepare", "train", "export", "evaluate"])
def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(
    run: Run, disk: SmallDisk, recipe: Path, dataset: Any, shared_run: Path, bundle: Path, raw: Path, stage: str
) -> None:  # fmt: skip
    there = Path(shutil.copytree(bundle, disk.folder / "evaluated")) if stage == "evaluate" else disk.folder
    lines = {
        "prepare": ("prepare", raw, disk.folder / "data", *SMALL),
        "train": ("train", dataset.root, "--run", disk.folder / "run", "--recipe", recipe),
        "export": ("export", shared_run, disk.folder / "bundle", "--dataset", dataset.root),
        "evaluate": ("evaluate", there, dataset.root),
    }
    seen = {}
    for free in (0,) if stage == "evaluate" else (0, 40_960):  # its one file is smaller than that
        disk.leave(free)
        seen[free] = run(*lines[stage])
    disk.leave(6 * 2**20)
    code, said = run(*lines[stage])
    assert code == 0, said
    for free, (code, said) in seen.items():
        assert code in (1, 2), f"with {free} bytes free: {said}"
        last = said.splitlines()[-1]
        assert last.startswith("edge-trainer: "), said
        assert str(disk.folder) in last or "make room" in last, said
        assert "space" in last.lower(), said
        assert "unforeseen" not in last
    left = [path.name for path in disk.folder.rglob("*") if path.name.endswith(".tmp")]
    assert left == []


# --- ended at any moment --------------------------------------------------------------------------


@pytest.fixture
def much(tmp_path: Path) -> Path:
    """Enough pictures that several processes cut them."""
    raw = tmp_path / "much"
    for label in LABELS:
        (raw / label).mkdir(parents=True)
        for seed in range(40):
            Image.fromarray(picture(label, seed)).resize((700, 600)).save(raw / label / f"{seed}.tif")
    return raw


INTERRUPTED = "edge-trainer: interrupted; the same command goes on from here"
ENDS = [(signal.SIGINT, {130}), (signal.SIGTERM, {130, 143}), (signal.SIGKILL, {-9})]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def check_end(answer: Answer, codes: set[int]) -> None:
    """One line that says how to go on, where there was somebody left to say it."""
    assert answer.code in codes, answer.said
    assert "Traceback" not in answer.said
    if answer.code > 0:
        assert answer.lines[-1] == INTERRUPTED, answer.said


@pytest.mark.long
@LONG_TIER
@posix
def test_prepare_ended_thrice_goes_on_and_ends_the_same(run: Run, much: Path, tmp_path: Path) -> None:
    data, records = tmp_path / "data", tmp_path / "data" / "cache" / "found"
    line = ("prepare", much, data, *SMALL)

    def done() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in records.glob("*/*.json")}

    before: dict[Path, int] = {}
    for (number, codes), enough in zip(ENDS, (10, 30, 55), strict=True):
        at_least = enough
        # Ctrl-C reaches the worker processes too, the others only the command that was named.
        answer = Started(*line).end(number, lambda: len(done()) >= at_least, group=number == signal.SIGINT)  # noqa: B023
        check_end(answer, codes)
        assert enough <= len(done()) < 80
        assert done() | before == done(), "what was done is not done again"
        before = done()
    assert run(*line)[0] == 0
    assert done() | before == done()
    assert run("prepare", much, tmp_path / "whole", *SMALL)[0] == 0
    assert load_dataset(data).fingerprint == load_dataset(tmp_path / "whole").fingerprint


@pytest.mark.long
@LONG_TIER
@posix
def test_train_ended_twice_goes_on_and_ends_with_the_same_weights(
    run: Run, dataset: Any, tmp_path: Path
) -> None:
    recipe, folder = tmp_path / "recipe.json", tmp_path / "run"
    chosen = RECIPE.model_copy(update={"epochs": 4, "keep": "last"})
    recipe.write_text(chosen.model_dump_json())
    line = ("train", dataset.root, "--recipe", recipe, "--seed", 3)
    seen = 0
    for number, codes in ENDS[1:]:
        until = seen + 1
        answer = Started(*line, "--run", folder).end(number, lambda: len(read_history(folder)) >= until)  # noqa: B023
        check_end(answer, codes)
        assert not (folder / WEIGHTS).exists()
        seen = len(read_history(folder))
        assert seen >= until
    code, said = run(*line, "--run", folder)
    assert code == 0, said
    assert run(*line, "--run", tmp_path / "whole")[0] == 0
    # Another process rounds the last bits of its sums in another order.
    ended, whole = read_history(folder), read_history(tmp_path / "whole")
    assert [line.epoch for line in ended] == [line.epoch for line in whole]
    assert [line.loss for line in ended] == pytest.approx([line.loss for line in whole], rel=1e-4)
    seen, expected = weights_of(folder / WEIGHTS), weights_of(tmp_path / "whole" / WEIGHTS)
    assert seen.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(seen[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
