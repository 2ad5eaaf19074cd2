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
        pytest.param({"many": [1] * 4001}, "a group claims 4001 entries", id="too many in a group"),
        pytest.param({str(i): [1] * 999 for i in range(5)}, "more than 4000 tags", id="too many together"),
        pytest.param(
            {"many": [Array(15, 0, b"".join(n.to_bytes(4, "big") for n in (100, *[0, 2] * 100, 0)))] * 300},
            "more than 4000 tags",
            id="too many fields of structs",
        ),
        pytest.param({"n" * 3000: {"m" * 2000: 1}}, "a path of 5002 characters", id="names too long"),
        pytest.param(
            {"a" * 1100: {str(i): 1 for i in range(3900)}}, "names of tags of more than", id="names too many"
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


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param({str(i): 1 for i in range(3980)}, id="as many tags as may be"),
        pytest.param({"n" * 1000: {str(i): 1 for i in range(3980)}}, id="and as long names"),
        pytest.param({str(i): Array(10, 990, b"x" * 990) for i in range(1980)}, id="and texts"),
    ],
)
def test_a_file_at_the_limits_is_read_and_takes_little_memory(tree):
    data = b"".join(map(bytes, dm_pieces(tree)))
    tracemalloc.start()
    try:
        assert len(tags_of(data)) >= 1980
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**20


@pytest.mark.parametrize("claimed", [2**31, 2**32 - 1])
def test_tags_that_are_only_claimed_cost_nothing(claimed):
    data = bytearray(dm_bytes(GREY))
    data[14:18] = claimed.to_bytes(4, "big")
    with pytest.raises(DamagedFile, match=f"a group claims {claimed} entries"):
        tags_of(bytes(data))


@pytest.mark.parametrize(
    ("bytes_each", "texts", "seen"),
    [(2**20 + 1, 1, "a value of 1048577 bytes is beyond"), (2**20, 17, "a value of 1048576 bytes is beyond")],
)
def test_texts_that_would_fill_the_memory_are_refused(bytes_each, texts, seen):
    text = (
        b"\x15\x00\x01s%%%%" + b"".join(n.to_bytes(4, "big") for n in (1, 18, bytes_each)) + b"x" * bytes_each
    )
    data = (
        bytes.fromhex("00000003 00000000 00000001 0000") + texts.to_bytes(4, "big") + text * texts + bytes(8)
    )
    with pytest.raises(DamagedFile, match=seen):
        tags_of(data[:4] + (len(data) - 20).to_bytes(4, "big") + data[8:])


def test_groups_fifty_thousand_deep_are_refused():
    group = b"\x14\x00\x00\x01\x00\x00\x00\x00\x01"
    data = dm_bytes(GREY)[:12] + group[3:] + group * 50_000
    with pytest.raises(DamagedFile, match="depth of 64"):
        tags_of(data[:4] + (len(data) - 20).to_bytes(4, "big") + data[8:])


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


def test_memory_that_runs_out_is_no_damage():
    class Exhausted(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 300:
                raise MemoryError
            return super().read(size)

    data = dm_bytes(GREY)
    with pytest.raises(MemoryError):
        read_tags(Exhausted(data), len(data))


def test_the_handle_stays_open_for_its_owner():
    data = dm_bytes(GREY)
    handle = io.BytesIO(data)
    read_tags(handle, len(data))
    assert not handle.closed


def test_numbers_texts_and_structs_are_read_as_ncempy_reads_them(tmp_path):
    tree = {"whole": 7, "real": 0.25, "text": "nm", "group": {"deeper": [1, 2, {"x": 3}]}, "empty": {}}
    for version in (3, 4):
        path = write_pieces(tmp_path / f"a.dm{version}", dm_pieces(document(GREY) | tree, version))
        assert differences(path) == {}


@pytest.mark.parametrize("folder", ["nionswift-io", "rosettasciio", "openNCEM", "pyTEMlib", "SciFiDatasets"])
def test_real_files_are_read_as_ncempy_reads_them(shared_data, folder):
    paths = [path for path in (shared_data / "dm3" / folder).rglob("*.dm[34]") if path.stat().st_size < 2**20]
    assert paths
    assert {path.name: differences(path) for path in paths if differences(path)} == {}


def differences(path):
    """Compare tag by tag with ncempy as it comes, but for what it leaves unread or reads as something else."""
    from ncempy.io.dm import fileDM

    with fileDM(path) as reference:
        theirs = dict(reference.allTags)
    with path.open("rb") as handle:
        ours = read_tags(handle, path.stat().st_size)
    unread = {name.removesuffix(".arraySize") for name in ours}  # of these ncempy has a type and a remark
    theirs = {
        name: value
        for name, value in theirs.items()
        if name in ours or name.removesuffix(".arrayType") not in unread
    }
    return {
        name: (ours.get(name), theirs.get(name))
        for name in ours.keys() | theirs.keys()
        if not same(ours.get(name), theirs.get(name))
    }


def same(ours, theirs):
    if isinstance(ours, str):
        return ours == theirs or theirs == "(Not displayable)"
    if ours is None or theirs is None:
        return False
    return np.array_equal(np.asarray(ours, float), np.asarray(theirs, float), equal_nan=True)


def test_ncempy_parses_without_its_package():
    code = (
        "import sys, edge_agent.dm_tags as dm_tags;"
        "print([base.__module__ for base in vars(dm_tags)['_BoundedDM'].__mro__[1:-1]], 'ncempy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['edge_agent._ncempy_dm'] False"


def test_reading_brings_no_other_parser():
    code = (
        "import sys, edge_agent.micrograph;"
        "heavy = {'tensorflow', 'keras', 'onnx', 'matplotlib', 'scipy', 'h5py', 'ncempy', 'onnxruntime'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
