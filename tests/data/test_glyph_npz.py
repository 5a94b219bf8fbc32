"""The original's data file: what it gives, what is skipped by name, and what is refused as a whole."""

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


def glyphs_of(path):
    glyphs, skipped = read_npz(path, 256)
    assert not skipped.names
    return glyphs


def test_rows_become_glyphs_without_padding(arrays, save):
    glyphs = glyphs_of(save(arrays))
    assert [glyph.commands.tolist() for glyph in glyphs] == ROWS
    assert [glyph.contour_ids.tolist() for glyph in glyphs] == IDS
    for row, glyph in enumerate(glyphs):
        np.testing.assert_array_equal(glyph.coords, arrays["seq_arg"][row, : len(glyph)])
        np.testing.assert_array_equal(glyph.norm, arrays["norm"][row])
    assert [glyph.label for glyph in glyphs] == ["data/row0 U+0041", "data/row1", "data/row2 U+4E00"]
    assert [glyph.em for glyph in glyphs] == [2.0] * 3


def test_topology_is_derived_only_where_it_is_missing(arrays, save):
    assert glyphs_of(save(arrays))[0].topology.tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 4]
    arrays["seq_topo"] = np.full((3, LENGTH), 7, np.uint8)
    assert glyphs_of(save(arrays))[0].topology.tolist() == [7] * 10
    arrays["seq_topo"] = np.full((3, LENGTH), 0x101, np.int16)  # higher bits are ignored
    assert glyphs_of(save(arrays))[0].topology.tolist() == [1] * 10


def test_defaults_of_what_may_be_missing(arrays, save):
    for key in ("contour_ids", "norm", "unicode"):
        del arrays[key]
    glyph = glyphs_of(save(arrays))[1]
    assert glyph.contour_ids.tolist() == [-1] * 5 and glyph.norm.tolist() == [1, 0, 0] and glyph.codepoint == -1


def test_masked_slots_are_dropped_wherever_they_are(arrays, save):
    arrays["seq_mask"][0, 2] = 0
    arrays["seq_cmd"][2, 3] = PAD
    # What is masked may hold anything.
    arrays["seq_arg"][0, 2] = np.nan
    arrays["seq_cmd"][0, 2] = 99
    arrays["contour_ids"][0, 2] = 7
    glyphs = glyphs_of(save(arrays))
    assert glyphs[0].commands.tolist() == [*ROWS[0][:2], *ROWS[0][3:]]
    assert glyphs[2].commands.tolist() == [NEW, M, Q, Z, END]


def test_the_loader_leaves_out_by_name_what_cannot_be_used(arrays, save):
    arrays["seq_cmd"][1, 2] = M
    glyphs, skipped = load_glyphs(save(arrays), "latin", 9)
    assert [glyph.name for glyph in glyphs] == ["row2"]
    assert skipped.names == {
        "glyph longer than 9 tokens": ["data/row0 U+0041"],
        "glyph without contours": ["data/row1"],
    }


# Rows.

NO_END = "row without END on the last valid token alone"
FAR = "row with a coordinate beyond 4"
NOT_FINITE = "row with a coordinate that is not finite"
NO_NORM = "row with a norm that is not finite"
MISCOUNTED = "row whose contour ids do not count 0, 1, ..."
# Damage to row 1 = [NEW, M, L, Z, END]: {case: (key, place in the row, value, reason, what is said)}.
BROKEN = {
    "no END": ("seq_cmd", 4, Z, NO_END, "seq_cmd[1, 4] = 5"),
    "END masked out": ("seq_mask", 4, 0, NO_END, "seq_cmd[1, 3] = 5"),
    "two ENDs": ("seq_cmd", 2, END, NO_END, "seq_cmd[1, 2] = 8"),
    "END too early": ("seq_mask", 5, 1, NO_END, None),
    "no valid token": ("seq_mask", slice(None), 0, "row without a valid token", "seq_mask[1, 0] = False"),
    "nan": ("seq_arg", (2, 0), np.nan, NOT_FINITE, "seq_arg[1, 2, 0] = nan"),
    "inf in an argument that is not used": ("seq_arg", (2, 3), -np.inf, NOT_FINITE, "seq_arg[1, 2, 3] = -inf"),
    "font units": ("seq_arg", (2, 1), 1024, FAR, "seq_arg[1, 2, 1] = 1024.0"),
    "just too far": ("seq_arg", (2, 1), -4.25, FAR, "seq_arg[1, 2, 1] = -4.25"),
    "norm": ("norm", 1, np.nan, NO_NORM, "norm[1, 1] = nan"),
    "huge contour id": ("contour_ids", 1, 4096, "row with a contour id outside -1..4095", "contour_ids[1, 1] = 4096"),
    "contours that do not begin at 0": ("contour_ids", slice(None), 1, MISCOUNTED, "contour_ids[1, 0] = 1"),
    "contours that go back": ("contour_ids", slice(None), [0, 1, 1, 0] + [-1] * 8, MISCOUNTED, "contour_ids[1, 3] = 0"),
    "a contour left out": ("contour_ids", 3, 2, MISCOUNTED, "contour_ids[1, 3] = 2"),
    "contour ids in part": ("contour_ids", 0, -1, MISCOUNTED, "contour_ids[1, 0] = -1"),
    "drawing before M": ("seq_cmd", 1, Z, "row drawing before its first M", "seq_cmd[1, 1] = 5"),
    "an id on END alone": ("contour_ids", slice(0, 4), -1, MISCOUNTED, "contour_ids[1, 0] = -1"),
}


@pytest.mark.parametrize("key, place, value, reason, where", BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_skipped_and_named(arrays, save, key, place, value, reason, where):
    if where is None:  # a token behind END
        arrays["seq_cmd"][1, 5], where = L, "seq_cmd[1, 4] = 8"
    arrays[key][1][place] = value
    glyphs, skipped = read_npz(save(arrays), 256)
    assert [glyph.name for glyph in glyphs] == ["row0", "row2"]
    assert skipped.names == {reason: [f"data/row1: {where}"]}


def test_each_broken_row_counts_once_and_all_are_named(arrays, save):
    arrays["seq_arg"][[0, 1], 3] = np.nan
    arrays["norm"][[1, 2]] = np.inf
    with pytest.raises(UserError) as caught:
        load_glyphs(save(arrays), "latin", 256)
    assert "no usable glyph in" in str(caught.value) and "data.npz" in str(caught.value)
    first = "2 rows with a coordinate that is not finite (data/row0 U+0041: seq_arg[0, 3, 0] = nan, data/row1: "
    assert first in str(caught.value)
    assert "; 1 row with a norm that is not finite (data/row2 U+4E00: norm[2, 0] = inf)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_writer_may_do_is_not_refused(arrays, save):
    """Everything that the specification leaves open, and the farthest control point of an outline near the square."""
    arrays["seq_arg"][0, 3] = [0, 4, 0, -4]
    arrays["seq_cmd"][2, 2] = 4  # the reserved T
    arrays["norm"][0] = [0, 1e30, 1e30]
    # END with the id of the last contour, none, or one of its own; or no ids at all.
    for ids in ([0, 0, 0, 0, 0], [0, 0, 0, 0, -1], [0, 0, 0, 0, 1], [-1] * 5):
        arrays["contour_ids"][1, :5] = ids
        assert len(glyphs_of(save(arrays))) == 3
    # Contours without NEW and HOLE, and slots that are masked out in between.
    arrays["seq_mask"][:, 0] = 0
    assert len(glyphs_of(save(arrays))) == 3


def test_the_documented_convention_is_read_back_whole(save):
    """Glyphs of fonts, written as section 2.2 of the specification describes a file."""
    glyphs, _ = load_glyphs("", "U+0041-005A,U+00C0-00DC", 256)
    length = max(map(len, glyphs))

    def pad(name, value, dtype):
        rows = np.full((len(glyphs), length, *getattr(glyphs[0], name).shape[1:]), value, dtype)
        for row, glyph in zip(rows, glyphs, strict=True):
            row[: len(glyph)] = getattr(glyph, name)
        return rows

    path = save(
        {
            "seq_cmd": pad("commands", PAD, np.uint8),
            "seq_arg": pad("coords", 0, np.float16),
            "seq_mask": np.arange(length) < np.array([[len(glyph)] for glyph in glyphs]),
            "img_dt": np.zeros((len(glyphs), 8, 8), np.float16),
            "seq_topo": pad("topology", 0, np.uint8),
            "contour_ids": pad("contour_ids", -1, np.int16),
            "norm": np.stack([glyph.norm for glyph in glyphs]),
        }
    )
    for glyph, again in zip(glyphs, glyphs_of(path), strict=True):
        for name in ("commands", "topology", "contour_ids", "norm"):
            np.testing.assert_array_equal(getattr(again, name), getattr(glyph, name))
        np.testing.assert_allclose(again.coords, glyph.coords, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_numbers_that_float32_cannot_hold(arrays, save, dtype):
    arrays["seq_arg"], arrays["norm"] = arrays["seq_arg"].astype(dtype), arrays["norm"].astype(dtype)
    arrays["norm"][1, 2] = np.finfo(dtype).max
    arrays["seq_arg"][2, 1, 0] = np.finfo(dtype).max
    glyphs, skipped = read_npz(save(arrays), 256)
    half = dtype == np.float16  # its largest number is one for float32
    assert [glyph.name for glyph in glyphs] == ["row0"] + ["row1"] * half
    assert list(skipped.names) == [NO_NORM] * (not half) + [FAR]
    assert all(glyph.norm.dtype == glyph.coords.dtype == np.float32 for glyph in glyphs)


# The file as a whole.

WRONG = {
    "command out of range": (
        "seq_cmd",
        lambda a: a + np.uint8(9) * (np.arange(LENGTH) == 3),
        r"seq_cmd\[0, 3\] = 12 is no command: commands are 0 <PAD>, 1 M, .*, 8 <END>",
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
    "negative command": (
        "seq_cmd",
        lambda a: a.astype(np.int8) - 7 * (a == Z),
        r"seq_cmd\[0, 4\] = -2 is no command",
    ),
    "no rows": ("seq_cmd", lambda a: a[:0], r"seq_cmd has shape \(0, 12\) and so no row, expected one row per glyph"),
    "objects": ("norm", lambda a: a.astype(object), "norm holds object, expected a float type"),
}


@pytest.mark.parametrize("key, change, message", WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_named(arrays, save, key, change, message):
    arrays[key] = change(arrays[key])
    with pytest.raises(UserError, match=r"data\.npz.*" + message):
        read_npz(save(arrays), 256)


def test_missing_arrays_are_named(arrays, save):
    del arrays["seq_arg"], arrays["img_dt"]
    with pytest.raises(UserError, match="lacks seq_arg, img_dt: a glyph file holds seq_cmd, seq_arg, seq_mask, img_dt"):
        read_npz(save(arrays), 256)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.npz cannot be read as a glyph file: .*: it must be a whole \.npz"):
        read_npz(path, 256)


def test_a_torn_file(arrays, save, tmp_path):
    content = Path(save(arrays)).read_bytes()
    path = tmp_path / "torn.npz"
    for length in range(0, len(content) - 1, 211):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"torn\.npz"):
            read_npz(path, 256)


def test_a_missing_file_is_missing_and_not_unreadable(tmp_path, arrays, save):
    for path in (f"{tmp_path}/none.npz", f"{save(arrays)},{tmp_path}/none.npz"):
        with pytest.raises(UserError, match=r"^config\.data\.path: there is no file or folder '.*/none\.npz': "):
            load_glyphs(path, "latin", 256)


def test_the_file_stands_alone(arrays, save, tmp_path, monkeypatch):
    data = save(arrays)
    (tmp_path / "a.ttf").touch()
    (tmp_path / "b.npz").touch()
    for others in (["a.ttf"], ["a.ttf", "b.npz"]):
        for order in (1, -1):
            path = ", ".join([data, *(str(tmp_path / other) for other in others)][::order])
            what = f"and {len(others)} other path{'s' * (len(others) > 1)}: name one .npz or one prepared"
            with pytest.raises(UserError, match=rf"^config\.data\.path names .*\.npz {what}"):
                load_glyphs(path, "latin", 256)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data.npz").rename(tmp_path / "a,b.NPZ")
    assert len(load_glyphs("~/a,b.NPZ", "latin", 256)[0]) == 3


def test_a_header_that_promises_more_than_there_is(arrays, save, tmp_path):
    save(arrays)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3, LENGTH, 4)})
    path = tmp_path / "forged.npz"
    with zipfile.ZipFile(tmp_path / "data.npz") as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            target.writestr(member, header.getvalue() + b"1234" if member == "seq_arg.npy" else source.read(member))
    with pytest.raises(UserError, match=r"seq_arg is damaged: shape \(3, 12, 4\) does not fit the size of its data"):
        read_npz(path, 256)
