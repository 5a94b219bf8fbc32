"""Vocabulary, masks, decoding, text and SVG of outlines."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxvae import outlines
from jaxvae.outlines import END, HOLE, NEW, PAD, L, M, Q, T, Z, check_prefix, decode, loss_masks

SQUARE = [NEW, M, L, L, Q, Z, END]


def one_hot(commands):
    return np.eye(outlines.NUM_COMMANDS, dtype=np.float32)[commands]


def all_valid(commands):
    return np.ones(len(commands), bool)


@pytest.mark.parametrize("call", [loss_masks, jax.jit(loss_masks)], ids=["numpy", "jit"])
def test_loss_masks(call):
    commands = np.array([[NEW, M, Q, T, L, Z, END, PAD, Q]], np.int32)
    token_mask = np.array([[1, 1, 1, 1, 1, 1, 1, 0, 0]], bool)
    command_mask, coordinate_mask = map(np.asarray, call(commands, token_mask))
    assert (command_mask == token_mask).all()
    used = [0b0000, 0b1100, 0b1111, 0b0000, 0b1100, 0b0000, 0b0000, 0b0000, 0b0000]
    assert (coordinate_mask[0] @ [8, 4, 2, 1]).tolist() == used


@pytest.mark.parametrize(
    "commands, valid, expected",
    [
        ([NEW, M, Z, END, PAD], [1, 1, 1, 1, 0], (True, 1, 3, 3)),
        ([NEW, M, Z, END, END], [1, 1, 1, 1, 0], (True, 1, 3, 3)),
        ([NEW, END, Z, END, PAD], [1, 1, 1, 1, 0], (False, 2, 3, 3)),
        ([NEW, M, END, Z, PAD], [1, 1, 1, 1, 0], (False, 1, 3, 2)),
        ([NEW, M, Z, END, PAD], [1, 1, 1, 0, 0], (False, 0, 2, -1)),
        ([END, PAD, PAD, PAD, PAD], [0, 0, 0, 0, 0], (False, 0, -1, -1)),
    ],
    ids=["good", "second END masked", "two ENDs", "END before the last", "no END", "empty"],
)
def test_check_prefix(commands, valid, expected):
    check = check_prefix(np.array([commands]), np.array([valid], bool))
    assert tuple(field[0] for field in check) == expected


@given(
    body=st.lists(st.sampled_from([M, L, Q, Z, NEW, HOLE]), max_size=20),
    data=st.data(),
)
def test_decode_returns_what_was_encoded(body, data):
    commands = np.array([*body, END, M, L])
    numbers = st.floats(-1.1875, 1.1875, width=16)
    flat = data.draw(st.lists(numbers, min_size=4 * len(commands), max_size=4 * len(commands)))
    coords = np.array(flat, np.float32).reshape(-1, 4)
    decoded = decode(one_hot(commands), coords, all_valid(commands))
    assert [command.id for command in decoded] == [*body, END]
    count = {M: 2, L: 2, Q: 4}
    assert all(c.args == tuple(row[: count.get(c.id, 0)].tolist()) for c, row in zip(decoded, coords, strict=False))


def test_decode_skips_masked_slots_and_pad_and_reads_t_as_q():
    commands = np.array([NEW, M, PAD, T, L, END])
    valid = np.array([1, 1, 1, 1, 0, 1], bool)
    decoded = decode(one_hot(commands), np.zeros((6, 4), np.float32), valid)
    assert [command.id for command in decoded] == [NEW, M, Q, END]


def test_decode_clamps_before_it_brings_back_font_units():
    coords = np.array([[5.0, -5.0, 0, 0]], np.float32)
    norm = np.array([0.5, 0.2, -0.2], np.float32)
    (move,) = decode(one_hot([M]), coords, all_valid([M]), norm)
    np.testing.assert_allclose(move.args, [(1.2 - 0.2) / 0.5, (-1.2 + 0.2) / 0.5], rtol=1e-6)


def test_decode_leaves_coordinates_when_the_norm_cannot_be_undone():
    coords = np.array([[0.5, -0.5, 0, 0]], np.float32)
    (move,) = decode(one_hot([M]), coords, all_valid([M]), np.array([0.0, 3.0, 3.0], np.float32))
    assert move.args == (0.5, -0.5)


def test_text_and_svg_of_an_outline():
    coords = np.array([[0, 0, 0, 0], [-0.5, 0.25, 9, 9], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 1 / 3], *[[0] * 4] * 2])
    decoded = decode(one_hot(SQUARE), coords.astype(np.float32), all_valid(SQUARE))
    assert outlines.to_text(decoded) == (
        "<NEW_CNT>\nM -0.500000 0.250000\nL 1.000000 0.000000\nL 0.000000 1.000000\n"
        "Q 0.000000 0.000000 -1.000000 0.333333\nZ\n<END>\n"
    )
    svg = "M -0.500 0.250 L 1.000 0.000 L 0.000 1.000 Q 0.000 0.000 -1.000 0.333 Z"
    assert outlines.to_svg_path(decoded) == svg


@pytest.mark.parametrize(
    "ids, path",
    [
        ([M, NEW, M, END], "M 0.000 0.000 Z M 0.000 0.000 Z"),
        ([M, M], "M 0.000 0.000 M 0.000 0.000"),
        ([L, NEW, END], "L 0.000 0.000"),
        ([Z, M, Z, HOLE], "Z M 0.000 0.000 Z"),
        ([END, M], ""),
    ],
    ids=["open subpaths close", "M closes nothing", "L opens nothing", "Z always writes", "stops at END"],
)
def test_svg_closes_subpaths(ids, path):
    assert outlines.to_svg_path([outlines.Command(i, (0.0, 0.0) if i in (M, L) else ()) for i in ids]) == path
