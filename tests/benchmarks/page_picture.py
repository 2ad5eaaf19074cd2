"""Draws `.github/page.png`, the README's first picture: the operator's page while the agent works.

`python tests/benchmarks/page_picture.py [--out FILE]`

The real agent with the shipped model, the simulated microscope, headless Chromium at 1280 x 900. The last file is a
clear field that the model accepts; where it does not, another is saved.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "browser"))

from page_rig import LivePage, chromium_running, until, visiting  # noqa: E402

from edge_agent.simulation import dm3_bytes, draw_field  # noqa: E402

WIDTH, HEIGHT = 1280, 900
BEFORE = 40
LEAST_PROBABILITY = 0.9
LARGEST_BYTES = 600_000
COLOURS = (256, 192, 128)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / ".github" / "page.png")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        LivePage(Path(place), environment={"LOGNAME": "ana"}) as page,
        chromium_running() as browser,
    ):
        page.save(BEFORE, size_px=1024)
        with visiting(browser, page, viewport={"width": WIDTH, "height": HEIGHT}) as visit:
            tab = visit.tab()
            until(lambda: a_good_moment(page, tab), "a clear label", 120)
            tab.wait_for_timeout(1500)
            content = as_png(tab.screenshot())
    given.out.write_bytes(content)
    print(f"{given.out}: {len(content)} bytes")


def a_good_moment(page: LivePage, tab: Any) -> bool:
    """Save one more clear field; whether it is accepted, and drawn with its map."""
    seeds = page.__dict__.setdefault("seeds", iter(range(100)))
    seed = next(seeds)
    field = draw_field("round", np.random.default_rng(seed), 1024)
    if not field.clear:
        return False
    done = sum(page.agent.status()["done"].values())
    (page.folder / f"session_{BEFORE + 1 + seed:04d}.dm3").write_bytes(dm3_bytes(field))
    page.agent.wait_for(done + 1, 60)
    last = page.agent.status()["last"]
    if last["decision"] != "accept" or last["label"] != "round" or last["probability"] < LEAST_PROBABILITY:
        return False
    latest = tab.locator("#latest")
    drawn = latest.locator("canvas[data-drawn]")
    until(
        lambda: drawn.count() and drawn.first.get_attribute("data-drawn") == latest.get_attribute("data-id"),
        "the picture is drawn",
    )
    return True


def as_png(content: bytes) -> bytes:
    """With as many colours as `LARGEST_BYTES` allows."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    for colours in COLOURS:
        stream = io.BytesIO()
        few = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(stream, "PNG", optimize=True)
        if stream.tell() <= LARGEST_BYTES:
            return stream.getvalue()
    raise SystemExit(f"more than {LARGEST_BYTES} bytes even with {COLOURS[-1]} colours")


if __name__ == "__main__":
    main()
