"""How a DM3 or DM4 file is damaged: where its numbers stand, and what is done to them.

Independent of the reader: the walk below finds the fields of a sound file for the mutations to aim at.
Everything is drawn from the `random.Random` that is passed in, so that a number names one file for ever.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

LARGEST_FILE = 2**20
_VALUE_BYTES = {2: 2, 3: 4, 4: 2, 5: 4, 6: 4, 7: 8, 8: 1, 9: 1, 10: 1, 11: 8, 12: 8}
_NAMES = (
    b"Data", b"DataType", b"PixelDepth", b"Dimensions", b"ImageList", b"ImageData", b"ImageRef", b"", b".",
    b"1", b"99999999", b"\x00", b"Units", b"Scale", b"ImageSource", b"Thumbnails", b"ImageIndex", b"a" * 60_000,
)  # fmt: skip
_DECISIVE = (
    "Dimensions", "PixelDepth", "DataType", "ImageRef", "ImageSource", "ImageIndex", "Scale", "Voltage",
    "Magnification", "Acquisition Time",
)  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A number of the tree: what it counts, where it stands; `name` is its tag's path."""

    kind: str
    start: int
    size: int
    name: str = ""


@dataclass
class Layout:
    """Where things stand in one sound file: fields, whole entries, arrays of pixels (start, bytes)."""

    version: int
    fields: list[Field] = field(default_factory=list)
    entries: list[tuple[int, int]] = field(default_factory=list)
    arrays: list[tuple[Field, int]] = field(default_factory=list)
    end: int = 0

    @property
    def word(self) -> int:
        return 4 if self.version == 3 else 8


def layout_of(data: bytes) -> Layout:
    """Walk a sound file. Raises ValueError, struct.error or IndexError on any other."""
    version = int.from_bytes(data[:4], "big")
    if version not in (3, 4):
        raise ValueError(f"version {version}")
    layout = Layout(version)
    layout.fields += [Field("version", 0, 4), Field("length", 4, layout.word)]
    layout.fields.append(Field("order", 4 + layout.word, 4))
    layout.end = _Walk(data, layout).group(8 + layout.word, "")
    return layout


class _Walk:
    def __init__(self, data: bytes, layout: Layout) -> None:
        self.data, self.layout, self.word = data, layout, layout.word

    def number(self, kind: str, at: int, size: int, name: str) -> int:
        self.layout.fields.append(Field(kind, at, size, name))
        return int.from_bytes(self.data[at : at + size], "big")

    def group(self, at: int, name: str) -> int:
        entries = self.number("entries", at + 2, self.word, name)
        at += 2 + self.word
        for place in range(entries):
            at = self.entry(at, name, place + 1)
        return at

    def entry(self, at: int, parent: str, place: int) -> int:
        start = at
        kind = self.number("entry kind", at, 1, parent)
        length = self.number("name length", at + 1, 2, parent)
        label = self.data[at + 3 : at + 3 + length].decode("latin-1") or str(place)
        at += 3 + length
        name = f"{parent}.{label}"
        if self.layout.version == 4:
            self.number("tag bytes", at, 8, name)
            at += 8
        if kind == 20:
            at = self.group(at, name)
        elif self.data[at : at + 4] == b"%%%%":
            at = self.value(at + 4, name)
        else:
            raise ValueError(f"no tag at {at}")
        self.layout.entries.append((start, at))
        return at

    def value(self, at: int, name: str) -> int:
        self.number("info count", at, self.word, name)
        kind = self.number("type", at + self.word, self.word, name)
        at += 2 * self.word
        if kind in _VALUE_BYTES:
            self.layout.fields.append(Field("value", at, _VALUE_BYTES[kind], name))
            return at + _VALUE_BYTES[kind]
        if kind == 18:
            return at + 4 + self.number("text length", at, 4, name)
        if kind == 15:
            at, size = self.struct(at, name)
            return at + size
        if kind == 20:
            return self.array(at, name)
        raise ValueError(f"type {kind} at {at}")

    def struct(self, at: int, name: str) -> tuple[int, int]:
        fields = self.number("struct fields", at + self.word, self.word, name)
        at, size = at + 2 * self.word, 0
        for _ in range(fields):
            size += _VALUE_BYTES[self.number("struct type", at + self.word, self.word, name)]
            at += 2 * self.word
        return at, size

    def array(self, at: int, name: str) -> int:
        kind = self.number("array type", at, self.word, name)
        at += self.word
        if kind == 15:
            at, size = self.struct(at, name)
        else:
            size = _VALUE_BYTES[kind]
        count = self.number("array count", at, self.word, name)
        if name.endswith("ImageData.Data"):
            self.layout.arrays.append((self.layout.fields[-1], count * size))
        return at + self.word + count * size


@dataclass(frozen=True)
class Seed:
    """A sound file to begin with."""

    name: str
    data: bytes
    layout: Layout


def seed_of(name: str, data: bytes) -> Seed:
    return Seed(name, data, layout_of(data))


def cut_down(data: bytes, side: int = 16) -> bytes:
    """Return a large file with its whole tag tree and small pictures: every axis at most `side` long."""
    layout = layout_of(data)
    changed = bytearray(data)
    for count, size in reversed(layout.arrays):  # from the back, so that places before stay where they are
        place = count.name.removesuffix(".Data")
        axes = [f for f in layout.fields if f.kind == "value" and f.name.startswith(f"{place}.Dimensions.")]
        before = after = 1
        for axis in axes:
            length = int.from_bytes(data[axis.start : axis.start + axis.size], "little")
            before, after = before * length, after * min(side, length)
        elements = int.from_bytes(data[count.start : count.start + count.size], "big")
        wanted = size * after // max(1, before)
        if not elements or before * wanted != size * after or wanted % (size // elements):
            continue
        _cut_picture(changed, axes, side, count, (wanted, size, elements))
    return with_length(bytes(changed))


def _cut_picture(
    data: bytearray, axes: list[Field], side: int, count: Field, sizes: tuple[int, int, int]
) -> None:
    wanted, size, elements = sizes
    begin = count.start + count.size
    for axis in axes:
        length = int.from_bytes(data[axis.start : axis.start + axis.size], "little")
        data[axis.start : axis.start + axis.size] = min(side, length).to_bytes(axis.size, "little")
    data[count.start : begin] = (wanted * elements // size).to_bytes(count.size, "big")
    del data[begin + wanted : begin + size]


def with_length(data: bytes) -> bytes:
    """Make the header promise what is there."""
    if data[:4] == b"\x00\x00\x00\x04":
        return data[:4] + struct.pack(">Q", max(0, len(data) - 24)) + data[12:]
    return data[:4] + struct.pack(">I", max(0, len(data) - 20)) + data[8:]


def mutant(rng: random.Random, seeds: list[Seed], donors: list[Seed]) -> bytes:
    """Return one damaged file: one to four injuries, then half of the time a header that fits again."""
    seed = rng.choice(seeds)
    work = _Work(rng, donors, seed, bytearray(seed.data), seed.layout.fields)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(_INJURIES)(work)
        del work.data[LARGEST_FILE:]
    data = bytes(work.data)
    return with_length(data) if rng.random() < 0.5 and len(data) > 24 else data


@dataclass
class _Work:
    """A file under the knife. After a change of length fields no longer stand quite where they did."""

    rng: random.Random
    seeds: list[Seed]
    seed: Seed
    data: bytearray
    fields: list[Field]

    def place(self) -> int:
        """Half of the time among the first bytes of the tree, where most of the structure is."""
        end = max(1, len(self.data))
        return self.rng.randrange(min(end, 2000) if self.rng.random() < 0.5 else end)

    def entry(self, seed: Seed) -> tuple[int, int]:
        return self.rng.choice(seed.layout.entries or [(seed.layout.end, seed.layout.end)])

    def replace(self, start: int, end: int, new: bytes) -> None:
        self.data[start:end] = new

    def put(self, at: Field, number: int, order: str) -> None:
        self.data[at.start : at.start + at.size] = (number % 256**at.size).to_bytes(at.size, order)  # type: ignore[arg-type]


def _interesting(work: _Work, at: Field, order: str) -> int:
    now = int.from_bytes(work.data[at.start : at.start + at.size], order)  # type: ignore[arg-type]
    bits = 8 * at.size
    choices = [
        0, 1, 2, 3, 4, 15, 18, 20, 21, 64, 100, 101, 127, 128, 255, 256, 1000, 65535, 65536, 100_000, 2**20,
        now + 1, now - 1, now * 2, now // 2, now ^ (1 << work.rng.randrange(bits)), len(work.data), 2**28,
        2**31 - 1, 2**31, 2**32 - 1, 2**32, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 2**bits - 1,
        2**bits - work.rng.randrange(1, 100), work.rng.getrandbits(bits), work.rng.randrange(32),
    ]  # fmt: skip
    return work.rng.choice(choices)


def _tree_number(work: _Work) -> None:
    structure = [found for found in work.fields if found.kind != "value"]
    kinds = sorted({found.kind for found in structure})
    kind = work.rng.choice(kinds)  # by kind, or names and types would have nearly all the hits
    at = work.rng.choice([found for found in structure if found.kind == kind])
    work.put(at, _interesting(work, at, "big"), "big")


def _decisive_value(work: _Work) -> None:
    values = [f for f in work.fields if f.kind == "value" and any(name in f.name for name in _DECISIVE)]
    at = work.rng.choice(values or work.fields)
    if at.size in (4, 8) and work.rng.random() < 0.3:
        odd = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-40, 3e38, -0.0, 1e300, 2.0**63)
        number = work.rng.choice(odd)
        code = "<d" if at.size == 8 else "<f"
        bits = struct.pack(code, number if code == "<d" or abs(number) < 3.1e38 else float("inf"))
        work.replace(at.start, at.start + at.size, bits)
    else:
        work.put(at, _interesting(work, at, "little"), "little")


def _bit_flips(work: _Work) -> None:
    for _ in range(work.rng.choice((1, 1, 2, 4, 16))):
        if work.data:
            work.data[work.place() % len(work.data)] ^= 1 << work.rng.randrange(8)


def _odd_bytes(work: _Work) -> None:
    at, size = work.place(), work.rng.choice((1, 2, 4, 8))
    number = work.rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63))
    new = (number % 256**size).to_bytes(size, work.rng.choice(("big", "little")))
    work.replace(at, at + size, new)


def _cut_off(work: _Work) -> None:
    del work.data[work.rng.randrange(20) if work.rng.random() < 0.1 else work.place() :]


def _behind_the_end(work: _Work) -> None:
    size = work.rng.choice((1, 7, 8, 16, 24, 25, 999, 5000))
    work.data += bytes(size) if work.rng.random() < 0.5 else work.rng.randbytes(size)


def _block(work: _Work) -> None:
    at, size = work.place(), work.rng.choice((1, 2, 4, 7, 8, 16, 64, 512, 4096))
    block = bytes(work.data[at : at + size])
    other = work.place()
    what = work.rng.randrange(6)
    if what == 0:
        work.replace(at, at + size, bytes(len(block)))
    elif what == 1:
        work.replace(at, at, block * work.rng.choice((1, 1, 2, 50)))
    elif what == 2:
        work.replace(at, at + size, bytes(work.data[other : other + len(block)]))
        work.replace(other, other + size, block)
    elif what == 3:
        work.replace(at, at, work.rng.randbytes(size))
    elif what == 4:
        work.replace(at, at + size, b"")
    else:
        work.replace(at, at + size, work.rng.randbytes(len(block)))


def _hole(work: _Work) -> None:
    """Zeros up to the end or for some length: what a preallocated file shows before it is filled."""
    at = work.place()
    size = work.rng.choice((64, 1000, len(work.data)))
    work.replace(at, at + size, bytes(len(work.data[at : at + size])))


def _other_name(work: _Work) -> None:
    lengths = [found for found in work.fields if found.kind == "name length"]
    at = work.rng.choice(lengths)
    length = int.from_bytes(work.data[at.start : at.start + 2], "big")
    name = work.rng.choice(_NAMES)
    work.replace(at.start, at.start + 2 + length, len(name).to_bytes(2, "big") + name)


def _graft(work: _Work) -> None:
    """Put an entry of some file over an entry of this one: a tree that parses and says odd things."""
    start, end = work.entry(work.seed)
    donor = work.rng.choice([seed for seed in work.seeds if seed.layout.version == work.seed.layout.version])
    first, last = work.entry(donor)
    work.replace(start, end, donor.data[first:last] * work.rng.choice((1, 1, 1, 2)))


def _splice(work: _Work) -> None:
    donor = work.rng.choice(work.seeds)
    at, there = work.place(), work.rng.randrange(len(donor.data))
    work.replace(at, len(work.data), donor.data[there:])


def _depth_bomb(work: _Work) -> None:
    start, end = work.entry(work.seed)
    word = work.seed.layout.word
    name = work.rng.choice((b"", b"g", b"n" * 5000))
    head = b"\x14" + len(name).to_bytes(2, "big") + name
    head += (b"" if word == 4 else bytes(8)) + b"\x01\x00" + (1).to_bytes(word, "big")
    depth = min(work.rng.choice((10, 50, 62, 63, 64, 65, 100, 50_000)), LARGEST_FILE // len(head))
    work.replace(start, start if work.rng.random() < 0.5 else end, head * depth)


def _array_bomb(work: _Work) -> None:
    """An array of arrays of arrays, or structs with as many fields as they may have, many times."""
    start, end = work.entry(work.seed)
    word = work.seed.layout.word
    lead = b"" if word == 4 else bytes(8)
    fields = [0, work.rng.choice((1, 100, 101, 2**31)), *[0, 2] * 100, work.rng.choice((0, 1, 5))]
    numbers = work.rng.choice(([20] * work.rng.choice((3, 15, 16, 17, 5000)) + [4, 0], [15, *fields]))
    body = b"".join(number.to_bytes(word, "big") for number in (3, 20, *numbers))
    tag = b"\x15\x00\x01a" + lead + b"%%%%" + body
    work.replace(start, end, (tag + bytes(10 * numbers[-1])) * work.rng.choice((1, 20, 200)))


def _width_bomb(work: _Work) -> None:
    """A group of many entries, all there, or one that only claims them."""
    start, end = work.entry(work.seed)
    word = work.seed.layout.word
    there = work.rng.choice((0, 1, 100, 1000, 5000, 15_100))
    claimed = work.rng.choice((there, there, 99_999, 100_001, 2**31, 256**word - 1))
    lead = b"" if word == 4 else bytes(8)
    tag = b"\x15\x00\x00" + lead + b"%%%%" + (1).to_bytes(word, "big") + (10).to_bytes(word, "big") + b"x"
    name = b"w" * work.rng.choice((1, 1, 200, 4000))
    head = b"\x14" + len(name).to_bytes(2, "big") + name + lead + b"\x01\x00" + claimed.to_bytes(word, "big")
    work.replace(start, end, head + tag * there)


def _resized(work: _Work) -> None:
    """Other dimensions, and often an array length that fits them: a size bomb, or a hole as pixels."""
    layout = work.seed.layout
    if not layout.arrays:
        return
    count, size = work.rng.choice(layout.arrays)
    place = count.name.removesuffix("Data") + "Dimensions."
    axes = [f for f in layout.fields if f.kind == "value" and f.name.startswith(place)]
    pixels = 1
    for axis in axes:
        length = work.rng.choice((0, 1, 2, 3, 7, 64, 1000, 2**14, 2**16, 2**31, 2**32 - 1))
        work.put(axis, length, "little")
        pixels *= length
    if work.rng.random() < 0.7:
        work.put(count, pixels * work.rng.choice((1, 2, 4, 8)), "big")
    if work.rng.random() < 0.3 and size < pixels <= LARGEST_FILE // 8:
        begin = count.start + count.size
        work.replace(begin + size, begin + size, bytes(pixels * 8 - size))


def _odd_pixels(work: _Work) -> None:
    """Fill the pixels with one value, or noise: not finite, at the limits of the type, all equal."""
    for count, size in work.seed.layout.arrays:
        begin = count.start + count.size
        unit = work.rng.choice((
            b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f",
            b"\x01\x00\x00\x00", b"\xff" * 4, b"\x00" * 4, b"\x00\x00\x00\x80", b"",
        ))  # fmt: skip
        block = (unit * (size // 4 + 1))[:size] if unit else work.rng.randbytes(size)
        if len(block) == len(work.data[begin : begin + size]):
            start = begin + work.rng.choice((0, size // 2))
            work.replace(start, begin + size, block[start - begin :])


_INJURIES: tuple[Callable[[_Work], None], ...] = (
    _tree_number, _tree_number, _tree_number, _tree_number, _decisive_value, _decisive_value, _decisive_value,
    _bit_flips, _bit_flips, _odd_bytes, _cut_off, _behind_the_end, _block, _block, _hole, _other_name,
    _graft, _graft, _splice, _depth_bomb, _width_bomb, _array_bomb, _resized, _resized, _odd_pixels, _odd_pixels,
)  # fmt: skip
