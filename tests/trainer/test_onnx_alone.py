"""The README's example with onnxruntime and Pillow alone does what it says, without this project's code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle
from limits_by_hand import with_limits
from PIL import Image

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import Bundle, open_bundle
from edge_agent.simulation import SHAPES, draw_field
from trainer.exporting.onnx_metadata import stamped

REPOSITORY = Path(__file__).resolve().parents[2]
MARK = "<!-- onnx example -->"
BLOCK = re.compile(re.escape(MARK) + r"\s*```python\n(.*?)```", re.DOTALL)
FIRST = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("edge_agent", "trainer", "onnx", "tensorflow", "scipy"):
            raise ImportError(f"{name} is not to be used here")

sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def example() -> str:
    """The block in the README."""
    found = BLOCK.search((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert found, "README.md holds no example behind its mark"
    return found.group(1)


def alone(folder: Path, model: bytes, picture: Path) -> tuple[str, float, tuple[int, int], tuple[int, int]]:
    """Label, probability, cell of the peak and cells of the map, as the example prints them."""
    (folder / "alone.py").write_text(example(), encoding="utf-8")
    (folder / "model.onnx").write_bytes(model)
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", FIRST, "alone.py", "model.onnx", picture.name],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(.+) (0\.\d+|1\.0+) peak in cell (\d+), (\d+) of \((\d+), (\d+)\)\n", done.stdout)
    assert found, done.stdout
    row, column, rows, columns = (int(number) for number in found.groups()[2:])
    return found.group(1), float(found.group(2)), (row, column), (rows, columns)


def drawn(folder: Path, shape: str, crop: tuple[slice, slice], size_px: int = 1024) -> Path:
    """A simulated micrograph as an 8-bit PNG."""
    pixels = draw_field(shape, np.random.default_rng(5), size_px=size_px).pixels[crop].astype(np.float64)
    low, high = np.quantile(pixels, (0.001, 0.999))
    file = folder / f"{shape}.png"
    Image.fromarray(np.clip(255 * (pixels - low) / (high - low), 0, 255).astype(np.uint8)).save(file)
    return file


def compare(folder: Path, bundle: Bundle, picture: Path) -> None:
    label, probability, cell, cells = alone(folder, bundle.model_bytes, picture)
    expected = Classifier(bundle).classify(read_micrograph(picture))
    assert label == expected.label
    assert probability == pytest.approx(expected.probability, abs=0.01)
    assert cells == expected.cam.values.shape
    # Two cells may be equally strong; the printed one is the agent's peak but for rounding.
    peak = float(expected.cam.values.max())
    assert expected.cam.values[cell] == pytest.approx(peak, abs=0.02 * max(1.0, abs(peak)))


@pytest.mark.parametrize(
    ("shape", "crop"),
    [
        pytest.param(SHAPES[0], np.s_[:, :], id="square, shrunk"),
        pytest.param(SHAPES[1], np.s_[:520, :], id="oblong, shrunk"),
        pytest.param(SHAPES[2], np.s_[:300, :300], id="square, enlarged"),
    ],
)
def test_the_shipped_network_says_what_the_agent_says(
    tmp_path: Path, shape: str, crop: tuple[slice, slice]
) -> None:
    bundle = open_bundle()
    model = stamped(bundle.model_bytes, bundle.manifest)
    given = Bundle(bundle.path, bundle.manifest, model, bundle.sha256)
    compare(tmp_path, given, drawn(tmp_path, shape, crop))


@pytest.mark.parametrize("limits", [False, True], ids=["without limits", "with novelty and limits"])
def test_any_bundle_can_be_used_so(tmp_path: Path, limits: bool) -> None:
    folder = tiny_bundle(tmp_path / "tiny-1")
    bundle = open_bundle(with_limits(folder, tmp_path / "limited-1") if limits else folder)
    compare(tmp_path, bundle, drawn(tmp_path, SHAPES[0], np.s_[:200, :], size_px=512))
