"""Small TIFF, PNG and JPEG exports, and how they are damaged."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, TiffImagePlugin

if TYPE_CHECKING:
    import random

_NUMBERS = (0, 1, 2, 3, 4, 5, 8, 16, 255, 256, 257, 258, 259, 273, 277, 279, 32773, 65535, 2**16, 2**20, 2**31 - 1,
            2**31, 2**32 - 1)  # fmt: skip


def export_seeds() -> list[tuple[str, bytes]]:
    """Return (format, content) of the kinds of export that there are."""
    ramp = (np.arange(60 * 80) * 13 % 65536).reshape(60, 80)
    grey, deep, real = ramp.astype("uint8"), ramp.astype("uint16"), ramp.astype("float32")
    colours = Image.fromarray(np.stack([grey, grey, grey], axis=2))
    map_of_colours = Image.fromarray(np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2))
    alpha = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(grey)))
    palette, mask = Image.fromarray(grey).quantize(16), Image.fromarray(grey).convert("1")
    images = (Image.fromarray(grey), Image.fromarray(deep), colours, map_of_colours, alpha, palette, mask)
    seeds = [("PNG", _saved(image, "PNG")) for image in images]
    seeds += [("JPEG", _saved(image, "JPEG", **how))
              for image in (Image.fromarray(grey), colours, map_of_colours)
              for how in ({}, {"progressive": True}, {"restart_marker_rows": 2})]  # fmt: skip
    for compression in (None, "tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"):
        seeds += [("TIFF", _saved(Image.fromarray(pixels), "TIFF", compression=compression))
                  for pixels in (grey, deep, real)]  # fmt: skip
    seeds += [("TIFF", _saved(image, "TIFF")) for image in (colours, palette, mask, map_of_colours)]
    seeds.append(("TIFF", _saved(colours, "TIFF", compression="jpeg")))
    pages = [Image.fromarray(deep) for _ in range(4)]
    seeds.append(("TIFF", _saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])))
    seeds.append(("TIFF", _saved(pages[0], "TIFF", big_tiff=True)))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[282], tags[283] = "ImageJ=1.53\nunit=nm\n", 2.0, 2.0
    seeds.append(("TIFF", _saved(pages[0], "TIFF", tiffinfo=tags)))
    return seeds


def _saved(image: Image.Image, name: str, **how: object) -> bytes:
    target = io.BytesIO()
    image.save(target, name, **how)
    return target.getvalue()


def export_mutant(rng: random.Random, seeds: list[tuple[str, bytes]]) -> bytes:
    """Return one damaged export: one to three injuries, half of them aimed at the format's own numbers."""
    name, sound = rng.choice(seeds)
    data = bytearray(sound)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.5:
            {"PNG": _png_chunk, "JPEG": _jpeg_segment, "TIFF": _tiff_entry}[name](rng, data)
        else:
            _anywhere(rng, data, seeds)
    return bytes(data[: 2**20])


def _anywhere(rng: random.Random, data: bytearray, seeds: list[tuple[str, bytes]]) -> None:
    at, size = rng.randrange(max(1, len(data))), rng.choice((1, 2, 4, 16, 256, 4096))
    block = bytes(data[at : at + size])
    changes = {
        "flip": bytes(byte ^ (1 << rng.randrange(8)) for byte in block[:1]) + block[1:],
        "noise": rng.randbytes(len(block)),
        "zeros": bytes(len(block)),
        "ones": b"\xff" * len(block),
        "remove": b"",
        "repeat": block * rng.choice((2, 3, 40)),
        "number": _number(rng),
        "donor": rng.choice(seeds)[1][at:],
    }
    what = rng.choice((*changes, "flip", "flip", "cut"))
    if what == "cut":
        del data[at:]
    else:
        data[at : at + len(block)] = changes[what]


def _number(rng: random.Random) -> bytes:
    size = rng.choice((1, 2, 4))
    return (rng.choice(_NUMBERS) % 256**size).to_bytes(size, rng.choice(("big", "little")))


def _png_chunk(rng: random.Random, data: bytearray) -> None:
    """Change a chunk's content and make its checksum fit again, or its length."""
    at, places = 8, []
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        places.append((at, length))
        at += 12 + length
    if not places:
        return
    at, length = rng.choice(places)
    end = at + 8 + length
    if rng.random() < 0.2:
        data[at : at + 4] = (rng.choice(_NUMBERS) % 2**32).to_bytes(4, "big")
        return
    if length and end + 4 <= len(data):
        inside = at + 8 + rng.randrange(length)
        new = _number(rng) if rng.random() < 0.7 else rng.randbytes(1)
        data[inside : min(end, inside + len(new))] = new[: end - inside]
    data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))


def _jpeg_segment(rng: random.Random, data: bytearray) -> None:
    """Change a byte of a header segment: tables, dimensions, components, the scan's parameters."""
    at, places = 2, []
    while at + 4 <= len(data) and data[at] == 0xFF:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        places.append((at, length))
        at += 2 + length
    if not places:
        return
    at, length = rng.choice(places)
    inside = at + 1 + rng.randrange(max(1, min(length, 24)))
    new = _number(rng)
    data[inside : inside + len(new)] = new


def _tiff_entry(rng: random.Random, data: bytearray) -> None:
    """Change tag, type, count or value of a directory's entry."""
    if len(data) < 8:
        return
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    at = struct.unpack_from(order + ("Q" if big else "I"), data.ljust(16, b"\0"), 8 if big else 4)[0]
    head, entry_bytes = (8, 20) if big else (2, 12)
    if at + head > len(data):
        return
    entries = int.from_bytes(data[at : at + head], "little" if order == "<" else "big")
    place = at + head + entry_bytes * rng.randrange(max(1, min(entries, 60)))
    start, size = rng.choice(((0, 2), (2, 2), (4, 4), (8, 4), (8, 2), (4, 8)))
    new = (rng.choice(_NUMBERS) % 256**size).to_bytes(size, "little" if order == "<" else "big")
    if place + start + size <= len(data):
        data[place + start : place + start + size] = new
