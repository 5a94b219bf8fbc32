"""The original's data file: what it gives, and that everything wrong in it is refused by name."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxvae.data.glyphs import load_glyphs, read_npz
from jaxvae.errors import UserError
from jaxvae.outlines import END, HOLE, NEW, PAD, L, M, Q, Z

ROWS = [[NEW, M, L, Q, Z, HOLE, M, Q, Z, END], [NEW, M, L, Z, END], [NEW, M, Q, Q, Z, END]]
IDS = [[0, 0, 0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
LENGTH = 12


def padded(rows, value, dtype):
    return np.array([[*row, *[value] * (LENGTH - len(row))] for row in rows], dtype)


@pytest.fixture
def arrays():
    coords = np.random.default_rng(0).uniform(-1, 1, (3, LENGTH, 4)).astype(np.float32)
    return {
        "seq_cmd": padded(ROWS, PAD, np.uint8),
        "seq_arg": coords,
        "seq_mask": padded([[1] * len(row) for row in ROWS], 0, np.uint8),
        "img_dt": np.zeros((3, 16, 16), np.float16),
        "contour_ids": padded(IDS, -1, np.int16),
        "norm": np.array([[0.001, -0.5, 0.1]] * 3, np.float32),
        "unicode": np.array([65, -1, 0x4E00]),
    }


@pytest.fixture
def save(tmp_path):
    def write(arrays):
        np.savez_compressed(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


def test_rows_become_glyphs_without_padding(arrays, save):
    glyphs = read_npz(save(arrays))
    assert [glyph.commands.tolist() for glyph in glyphs] == ROWS
    assert [glyph.contour_ids.tolist() for glyph in glyphs] == IDS
    for row, glyph in enumerate(glyphs):
        np.testing.assert_array_equal(glyph.coords, arrays["seq_arg"][row, : len(glyph)])
        np.testing.assert_array_equal(glyph.norm, arrays["norm"][row])
    assert [glyph.label for glyph in glyphs] == ["data/row0 U+0041", "data/row1", "data/row2 U+4E00"]
    assert [glyph.em for glyph in glyphs] == [2.0] * 3


def test_topology_is_derived_only_where_it_is_missing(arrays, save):
    assert read_npz(save(arrays))[0].topology.tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 4]
    arrays["seq_topo"] = np.full((3, LENGTH), 7, np.uint8)
    assert read_npz(save(arrays))[0].topology.tolist() == [7] * 10


def test_defaults_of_what_may_be_missing(arrays, save):
    for key in ("contour_ids", "norm", "unicode"):
        del arrays[key]
    glyph = read_npz(save(arrays))[1]
    assert glyph.contour_ids.tolist() == [-1] * 5 and glyph.norm.tolist() == [1, 0, 0] and glyph.codepoint == -1


def test_masked_slots_are_dropped_wherever_they_are(arrays, save):
    arrays["seq_mask"][1, 2] = 0
    arrays["seq_cmd"][2, 3] = PAD
    # What is masked may hold anything.
    arrays["seq_arg"][1, 2] = np.nan
    glyphs = read_npz(save(arrays))
    assert glyphs[1].commands.tolist() == [NEW, M, Z, END]
    assert glyphs[2].commands.tolist() == [NEW, M, Q, Z, END]


def test_the_loader_leaves_out_by_name_what_cannot_be_used(arrays, save):
    arrays["seq_mask"][1] = 0
    glyphs, skipped = load_glyphs(save(arrays), "latin", 9)
    assert [glyph.name for glyph in glyphs] == ["row2"]
    assert skipped.to_json() == {
        "glyph longer than 9 tokens": ["data/row0 U+0041"],
        "glyph without contours": ["data/row1"],
    }


WRONG = {
    "command out of range": (
        "seq_cmd",
        lambda a: a + np.uint8(9) * (np.arange(LENGTH) == 3),
        r"seq_cmd\[0, 3\] is no command",
    ),
    "float commands": (
        "seq_cmd",
        lambda a: a.astype(np.float32),
        "seq_cmd holds float32, expected an integer type",
    ),
    "float mask": (
        "seq_mask",
        lambda a: a.astype(float),
        "seq_mask holds float64, expected a bool or integer type",
    ),
    "integer image": ("img_dt", lambda a: a.astype(np.uint8), "img_dt holds uint8, expected a float type"),
    "flat image": ("img_dt", lambda a: a[:, 0], r"img_dt has shape \(3, 16\), expected \(3, H, W\)"),
    "three arguments": (
        "seq_arg",
        lambda a: a[..., :3],
        r"seq_arg has shape \(3, 12, 3\), expected \(3, 12, 4\)",
    ),
    "other length": (
        "contour_ids",
        lambda a: a[:, :5],
        r"contour_ids has shape \(3, 5\), expected \(3, 12\)",
    ),
    "other number": ("unicode", lambda a: a[:2], r"unicode has shape \(2,\), expected \(3,\)"),
    "not finite": (
        "seq_arg",
        lambda a: np.where(np.arange(LENGTH)[:, None] == 2, np.inf, a),
        r"seq_arg\[0, 2\] is not finite",
    ),
    "no rows": ("seq_cmd", lambda a: a[:0], "seq_cmd is empty"),
    "huge contour id": ("contour_ids", lambda a: a + 5000, r"contour_ids\[0, 0\] is not in -1..4095"),
    "contours out of order": (
        "contour_ids",
        lambda a: a[::-1, ::-1],
        r"contour_ids\[0\] do not count the contours",
    ),
    "objects": ("norm", lambda a: a.astype(object), "norm holds object, expected a float type"),
}


@pytest.mark.parametrize("key, change, message", WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_named(arrays, save, key, change, message):
    arrays[key] = change(arrays[key])
    with pytest.raises(UserError, match=r"data\.npz.*" + message):
        read_npz(save(arrays))


def test_missing_arrays_are_named(arrays, save):
    del arrays["seq_arg"], arrays["img_dt"]
    with pytest.raises(UserError, match="lacks seq_arg, img_dt: a glyph file holds seq_cmd, seq_arg, seq_mask, img_dt"):
        read_npz(save(arrays))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.npz cannot be read as a glyph file"):
        read_npz(path)


def test_a_torn_or_missing_file(arrays, save, tmp_path):
    content = Path(save(arrays)).read_bytes()
    path = tmp_path / "torn.npz"
    for length in range(0, len(content) - 1, 211):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"torn\.npz"):
            read_npz(path)
    with pytest.raises(UserError, match=r"none\.npz"):
        load_glyphs(str(tmp_path / "none.npz"), "latin", 256)


def test_a_header_that_promises_more_than_there_is(arrays, save, tmp_path):
    save(arrays)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3, LENGTH, 4)})
    path = tmp_path / "forged.npz"
    with zipfile.ZipFile(tmp_path / "data.npz") as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            target.writestr(member, header.getvalue() + b"1234" if member == "seq_arg.npy" else source.read(member))
    with pytest.raises(UserError, match=r"seq_arg is damaged: shape \(3, 12, 4\) does not fit the size of its data"):
        read_npz(path)
