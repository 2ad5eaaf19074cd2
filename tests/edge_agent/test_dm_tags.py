"""The tag tree is never believed: what cannot be is refused before it costs anything."""

from __future__ import annotations

import io
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from dm_builder import Array, Hole, dm_bytes, dm_pieces, document, image_of, write_pieces

from edge_agent.dm_tags import read_tags
from edge_agent.unusable_file import DamagedFile, IncompleteFile

GREY = image_of(np.arange(12, dtype="int16").reshape(3, 4))


def tags_of(data: bytes) -> dict[str, object]:
    return read_tags(io.BytesIO(data), len(data))


def nested(depth: int) -> dict[str, object]:
    tree: dict[str, object] = {"leaf": 1}
    for _ in range(depth):
        tree = {"deeper": tree}
    return tree


@pytest.mark.parametrize("version", [3, 4])
def test_tags_are_found_by_their_path(version):
    tags = tags_of(dm_bytes(GREY, version=version))
    assert tags[".ImageList.1.ImageData.DataType"] == 1
    assert tags[".ImageList.1.ImageData.Data.arraySize"] == 24
    assert tags[".ImageList.1.ImageData.Calibrations.Dimension.2.Units"] == "nm"


def test_more_than_127_tags_without_a_name_keep_their_numbers():
    tags = tags_of(b"".join(map(bytes, dm_pieces({"many": list(range(300))}))))
    assert [tags[f".many.{number}"] for number in (1, 128, 129, 300)] == [0, 127, 128, 299]


def test_text_beyond_the_basic_plane_is_whole_and_broken_text_can_be_written():
    tags = tags_of(b"".join(map(bytes, dm_pieces({"a": "µm \U0001f52c", "b": Array(4, 1, b"\x00\xd8")}))))
    assert tags[".a"] == "µm \U0001f52c"
    assert str(tags[".b"]).encode() == "\ufffd".encode()


@pytest.mark.parametrize(
    ("tree", "seen"),
    [
        pytest.param(nested(80), "depth of 64", id="too deep"),
        pytest.param({"many": [1] * 100_001}, "a group claims 100001 entries", id="too many in a group"),
        pytest.param(
            {str(i): [1] * 999 for i in range(101)}, "more than 100000 tags", id="too many together"
        ),
        pytest.param({"a": Array(99, 1, b"")}, "unknown types [99]", id="unknown element"),
        pytest.param(
            {"a": Array(15, 0, b"\x80" + bytes(3))}, "Too many fields in a struct", id="struct of billions"
        ),
        pytest.param(
            {"a": Array(5, 2**30, b"")}, "an array of 4294967296 bytes ends", id="array of billions"
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(tree, seen):
    data = b"".join(map(bytes, dm_pieces(tree)))
    with pytest.raises(DamagedFile, match="has a damaged tag tree at byte") as caught:
        tags_of(data)
    assert seen in caught.value.reason


def test_names_that_would_fill_the_memory_are_refused():
    tree: dict[str, object] = {f"t{number}": 1 for number in range(2000)}
    for _ in range(20):
        tree = {"n" * 60_000: tree}
    tracemalloc.start()
    with pytest.raises(DamagedFile, match="names of tags of more than 32 MiB"):
        tags_of(b"".join(map(bytes, dm_pieces(tree))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20


def test_arrays_of_arrays_without_end_are_refused():
    data = b"".join(map(bytes, dm_pieces({"a": Array(20, 20, (20).to_bytes(4, "big") * 4000)})))
    with pytest.raises(DamagedFile, match="arrays of arrays without end"):
        tags_of(data)


def test_a_tree_behind_a_hole_of_gigabytes_costs_only_its_tags(tmp_path):
    image = image_of(np.zeros((3, 4), "uint16"))
    image.axes, image.data = [(32768, 1.0, "nm"), (32768, 1.0, "nm"), (8, 1.0, "")], Hole(16 * 2**30)
    path = write_pieces(tmp_path / "large.dm4", dm_pieces(document(image), version=4))
    assert path.stat().st_size > 16 * 2**30
    tracemalloc.start()
    with path.open("rb") as handle:
        tags = read_tags(handle, path.stat().st_size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tags[".ImageList.1.ImageData.Data.arraySize"] == 16 * 2**30
    assert peak < 2**20


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        pytest.param(lambda d: d[:-1], IncompleteFile, "ends right behind its tag tree", id="one byte short"),
        pytest.param(lambda d: d[:-30], IncompleteFile, "its header promises", id="cut"),
        pytest.param(
            lambda d: d[:10],
            IncompleteFile,
            "is only 10 bytes long, less than a DM3 header",
            id="in the header",
        ),
        pytest.param(
            lambda d: d[:4] + bytes(4) + d[8:200], IncompleteFile, "promises nothing yet", id="no length yet"
        ),
        pytest.param(
            lambda d: d[:100] + bytes(len(d) - 100),
            IncompleteFile,
            "holds zeros where tags should follow",
            id="preallocated",
        ),
        pytest.param(
            lambda d: d[:-100] + bytes(100),
            IncompleteFile,
            "holds zeros where tags should follow",
            id="no tail yet",
        ),
        pytest.param(
            lambda d: d[:-120] + bytes(120),
            IncompleteFile,
            "holds zeros in its last",
            id="a hole as an empty group",
        ),
        pytest.param(lambda d: d + bytes(24), None, "", id="a little more is harmless"),
        pytest.param(
            lambda d: d + bytes(999), IncompleteFile, "holds zeros in its last", id="room not yet given back"
        ),
        pytest.param(
            lambda d: d + b"x" * 999, DamagedFile, "has 1007 bytes behind the end", id="something behind"
        ),
        pytest.param(
            lambda d: d[:8] + bytes(4) + d[12:],
            DamagedFile,
            "byte order mark 0; only little-endian",
            id="big-endian",
        ),
        pytest.param(lambda d: b"\x00\x00\x00\x05" + d[4:], DamagedFile, "it begins with b'", id="DM5"),
        pytest.param(
            lambda d: d.replace(b"%%%%", b"%%%!", 1), DamagedFile, "damaged tag tree at byte", id="mark"
        ),
    ],
)
def test_incomplete_and_damaged_are_told_apart(change, error, reason):
    data = change(dm_bytes(GREY))
    if error is None:
        assert tags_of(data)
        return
    with pytest.raises(error) as caught:
        tags_of(data)
    assert reason in caught.value.reason


def test_a_failing_disk_is_no_damage():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 300:
                raise OSError(5, "Input/output error")
            return super().read(size)

    data = dm_bytes(GREY)
    with pytest.raises(OSError, match="Input/output error"):
        read_tags(Failing(data), len(data))


def test_the_handle_stays_open_for_its_owner():
    data = dm_bytes(GREY)
    handle = io.BytesIO(data)
    read_tags(handle, len(data))
    assert not handle.closed


def test_ncempy_comes_without_its_package():
    code = (
        "import sys, edge_agent.micrograph;"
        "heavy = {'tensorflow', 'keras', 'onnx', 'matplotlib', 'scipy', 'h5py', 'ncempy', 'onnxruntime'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
