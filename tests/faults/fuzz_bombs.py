"""Files that are small on the disk and ask for much: sizes, counts, depths, holes, and what refusing them costs.

python tests/faults/fuzz_dm.py bombs     prints time and memory of each, by `read_micrograph` from a file
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "edge_agent"))

from dm_builder import Array, Hole, Image, dm_pieces, document, write_pieces
from fuzz_mutations import with_length
from PIL import Image as Pillow

Pieces = list[bytes | Hole]
GREY = Image(1, 2, [(4, 1.0, "nm"), (3, 1.0, "nm")], bytes(24), element=2)


def bombs() -> dict[str, tuple[Pieces, str]]:
    """Return name -> pieces of the file and the exception's name that it deserves. All of them are refused."""
    return {**_sizes(), **_holes(), **_trees(), **_exports()}


def _claiming(axes: list[int], data: Any = bytes(1000), version: int = 3, **change: Any) -> Pieces:
    image = Image(10, 2, [(size, 1.0, "nm") for size in axes], bytes(4), element=4)
    tree = document(image)
    tree["ImageList"][0]["ImageData"] |= {"Data": Array(4, len(data) // 2, data), **change}
    return dm_pieces(tree, version)


def _sizes() -> dict[str, tuple[Pieces, str]]:
    side = 2**31 - 1
    huge = {"Data": Array(4, 2**31 - 1, bytes(1000))}
    return {
        "1 kB claims 2^31 x 2^31": (_claiming([side, side]), "DamagedFile"),
        "1 kB claims 2^31 x 2^31, DM4": (_claiming([side, side], version=4), "DamagedFile"),
        "1 kB claims 16 axes of 2^31": (_claiming([side] * 16), "NotAnImage"),
        "1 kB claims an array of 4 GiB": (_claiming([2**16, 2**15], **huge), "DamagedFile"),
        "1 kB claims an array of 2^65 bytes": (
            _claiming([side, side], version=4, Data=Array(4, 2**64 - 1, bytes(1000))), "DamagedFile"),
        "1 kB claims pixels of 2^31 bytes": (_claiming([20, 25], PixelDepth=side), "DamagedFile"),
    }  # fmt: skip


def _holes() -> dict[str, tuple[Pieces, str]]:
    def hole(columns: int, rows: int, frames: int = 1, version: int = 4) -> Pieces:
        axes = [(columns, 1.0, "nm"), (rows, 1.0, "nm"), (frames, 1.0, "")]
        return dm_pieces(document(Image(2, 4, axes[: 3 if frames > 1 else 2], element=6)), version)

    return {
        "sparse 3.6 GB, 30,000 x 30,000": (hole(30_000, 30_000, version=3), "DamagedFile"),
        "sparse 128 GiB stack of 32,768 x 32,768": (hole(32_768, 32_768, 32), "DamagedFile"),
        "sparse 64 GiB of zeros": ([Hole(2**36), b"\0"], "IncompleteFile"),
        "sparse 64 GiB behind a header": ([*dm_pieces(document(GREY)), Hole(2**36), b"\0"], "IncompleteFile"),
    }


def _trees() -> dict[str, tuple[Pieces, str]]:
    deep = b"\x14\x00\x00\x01\x00\x00\x00\x00\x01" * 50_000
    word = struct.pack(">I", 2**32 - 1)
    sound = b"".join(map(bytes, dm_pieces(document(GREY))))
    fields = b"".join(number.to_bytes(4, "big") for number in (100, *[0, 2] * 100, 0))
    trees = {
        "a struct of 2^32-1 fields": {"a": Array(15, 0, word)},
        "arrays in arrays, 4,000 deep": {"a": Array(20, 20, (20).to_bytes(4, "big") * 4000)},
        "3,000 structs of 100 fields": {"a": [Array(15, 0, fields)] * 3000},
        "100,000 tags": {str(number): [1] * 1000 for number in range(100)},
        "60 groups with names of 65,000 characters": _nested(60, "n" * 65_000),
        "2,000 tags below 20 names of 200 characters": _nested(
            20, "n" * 200, {str(i): 1 for i in range(2000)}
        ),
        "3,000 images": {"ImageList": [GREY.tree()] * 3000},
    }
    return {
        "groups 50,000 deep": ([with_length(sound[:12] + deep[3:] + bytes(8))], "DamagedFile"),
        "2^32-1 tags": ([sound[:14] + word + sound[18:]], "DamagedFile"),
        "2^64-1 tags, DM4": ([_with_word(dm_pieces(document(GREY), 4), 18, b"\xff" * 8)], "DamagedFile"),
    } | {name: (dm_pieces(document(GREY) | tree), "DamagedFile") for name, tree in trees.items()}


def _nested(depth: int, name: str, inner: dict[str, Any] | None = None) -> dict[str, Any]:
    tree: dict[str, Any] = inner or {"x": 1}
    for _ in range(depth):
        tree = {name: tree}
    return tree


def _with_word(pieces: Pieces, at: int, word: bytes) -> bytes:
    data = b"".join(map(bytes, pieces))
    return data[:at] + word + data[at + len(word) :]


def _exports() -> dict[str, tuple[Pieces, str]]:
    tif = {name: ([_tif(*how)], "DamagedFile") for name, how in {
        "TIFF of 16 x 16 that claims 60,000 x 40,000": ([(256, 60_000), (257, 40_000)], 1, b""),
        "TIFF with 20,000 entries for the same megabyte": ([(273, 2**18)] * 20_000, 1, bytes(2**20)),
        "TIFF with 20,000 pages for the same megabyte": ([(273, 2**18)], 20_000, bytes(2**20)),
    }.items()}  # fmt: skip
    text = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 * 10**6)))
    return tif | {
        "PNG of 100 bytes that claims 2^31 x 2^31": ([_png(2**31 - 1, 2**31 - 1, b"x")], "DamagedFile"),
        "PNG of 100 bytes that claims 13,000 x 13,000": ([_png(13_000, 13_000, b"x")], "DamagedFile"),
        "PNG with texts of 50 MB": ([_png(4, 4, bytes(20), text)], "DamagedFile"),
        "JPEG of 2,000 scans": ([_jpeg(2000)], "DamagedFile"),
    }  # fmt: skip


def _tif(entries: list[tuple[int, int]], pages: int, value: bytes) -> bytes:
    """Return a TIFF whose pages all have these entries: (tag, number), or (tag, how many longs of `value`)."""
    page_bytes = 2 + 12 * len(entries) + 4
    start = 8 + page_bytes * pages
    block = b"".join(
        struct.pack("<HHII", tag, 4, number, start) if value else struct.pack("<HHII", tag, 4, 1, number)
        for tag, number in entries
    )
    following = [*(8 + page_bytes * page for page in range(1, pages)), 0]
    head = struct.pack("<H", len(entries)) + block
    return (
        b"II*\x00" + struct.pack("<I", 8) + b"".join(head + struct.pack("<I", n) for n in following) + value
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(columns: int, rows: int, pixels: bytes, between: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + between + body


def _jpeg(scans: int) -> bytes:
    target = io.BytesIO()
    Pillow.new("L", (1000, 1000)).save(target, "JPEG", progressive=True)
    whole = target.getvalue()
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def measure(folder: Path) -> None:
    """Print what refusing each costs: processor time (best of three), and the peak of traced memory."""
    from fuzz_dm import read_once, read_traced

    print(f"{'':48} {'bytes':>15} {'ms':>8} {'MiB':>7}  outcome")
    for name, (pieces, _) in bombs().items():
        path = write_pieces(folder / "bomb.dm3", pieces)
        reading = min((read_once(path) for _ in range(3)), key=lambda reading: reading.cpu_ms)
        _, peak_mib = read_traced(path)
        said = f"{reading.outcome}: {reading.reason[:90]}"
        print(f"{name:48} {path.stat().st_size:15} {reading.cpu_ms:8.1f} {peak_mib:7.1f}  {said}")
        path.unlink()
