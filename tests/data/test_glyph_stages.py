"""Prefixes of outlines."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxvae.data.glyphs.stages import (
    STAGE_PROBABILITIES,
    STAGE_RATIOS,
    check_stages,
    cut_prefix,
    draw_stage,
    prefix_lengths,
)
from jaxvae.outlines import END, HOLE, NEW, PAD, L, M, Q, Z, check_prefix

ENDS = st.sampled_from(["append", "overwrite"])
RATIOS = st.sampled_from(STAGE_RATIOS) | st.floats(0.01, 1)


@dataclasses.dataclass(frozen=True)
class Outline:
    """`contours` in `slots` slots; END has the id of the last contour, none, or its own."""

    contours: tuple[tuple[int, ...], ...]
    padding: int
    end_id: str = "last"

    def arrays(self):
        commands = [[NEW, M, *contour, Z] for contour in self.contours]
        ids = [i for i, contour in enumerate(commands) for _ in contour]
        last = {"last": ids[-1], "none": -1, "own": ids[-1] + 1}[self.end_id]
        body = [command for contour in commands for command in contour]
        commands = np.array([*body, END] + [PAD] * self.padding, np.int32)
        ids = np.array([*ids, last] + [-1] * self.padding, np.int32)
        coords = np.arange(4 * len(commands), dtype=np.float32).reshape(-1, 4) + 1
        topology = np.select([commands == NEW, commands == END], [1, 4]).astype(np.uint8)
        return commands, coords, commands != PAD, ids, topology


OUTLINES = st.builds(
    Outline,
    st.lists(st.lists(st.sampled_from([L, Q]), max_size=4).map(tuple), min_size=1, max_size=9).map(tuple),
    st.integers(0, 3),
    st.sampled_from(["last", "none", "own"]),
)


@given(OUTLINES, RATIOS)
def test_an_appended_prefix_is_a_prefix_and_an_end(outline, ratio):
    whole = outline.arrays()
    prefix = cut_prefix(*whole, ratio=ratio)
    length = int(prefix.token_mask.sum())
    assert prefix.token_mask[:length].all()
    assert check_prefix(prefix.commands, prefix.token_mask).ok
    for got, want in zip(prefix, whole, strict=False):
        assert (got[: length - 1] == want[: length - 1]).all()
    assert prefix.topology[length - 1] == 4
    # No contour is cut in two, and the last one kept is closed.
    assert prefix.commands[length - 2] == Z
    kept = (prefix.commands[:length] == NEW).sum()
    assert kept == prefix.num_kept == max(1, np.ceil(ratio * len(outline.contours)))


@given(OUTLINES, RATIOS)
def test_an_appended_prefix_does_not_depend_on_the_id_of_end(outline, ratio):
    prefixes = [
        cut_prefix(*dataclasses.replace(outline, end_id=end_id).arrays(), ratio=ratio)
        for end_id in ("last", "none", "own")
    ]
    is_whole = prefixes[0].num_kept == prefixes[0].num_contours
    for other in prefixes[1:]:
        for name, want in prefixes[0]._asdict().items():
            # A whole outline is left as it is, the id of its END included.
            if not (is_whole and name == "contour_ids"):
                assert np.array_equal(getattr(other, name), want), name


@given(OUTLINES)
def test_the_last_stage_changes_nothing(outline):
    whole = outline.arrays()
    for got, want in zip(cut_prefix(*whole, ratio=1.0), whole, strict=False):
        assert (got == want).all()


@given(OUTLINES, RATIOS, ENDS)
def test_cutting_leaves_its_input_alone(outline, ratio, end):
    whole = outline.arrays()
    cut_prefix(*whole, ratio=ratio, end=end)
    assert all((a == b).all() for a, b in zip(whole, outline.arrays(), strict=True))


@given(OUTLINES, ENDS)
def test_planned_lengths_are_those_of_the_prefixes(outline, end):
    commands, coords, token_mask, ids, topology = (array[: len(array) - outline.padding] for array in outline.arrays())
    for ratio, length in zip(STAGE_RATIOS, prefix_lengths(commands, ids, STAGE_RATIOS, end), strict=True):
        prefix = cut_prefix(commands, coords, token_mask, ids, topology, ratio=ratio, end=end)
        assert np.flatnonzero(prefix.token_mask)[-1] + 1 == length


def test_overwriting_destroys_the_last_z():
    whole = Outline(((L,), (Q,), (L, L)), padding=1).arrays()
    prefix = cut_prefix(*whole, ratio=0.5, end="overwrite")
    assert prefix.commands.tolist() == [NEW, M, L, Z, NEW, M, Q, END, NEW, M, L, L, Z, END, PAD]
    assert prefix.token_mask.sum() == 8
    assert (prefix.coords[7] == 0).all() and (prefix.coords[8] == whole[1][8]).all()
    assert (prefix.topology == whole[4]).all()


def test_overwriting_keeps_an_end_without_id_in_its_place():
    whole = Outline(((L,), (Q,)), padding=0, end_id="none").arrays()
    prefix = cut_prefix(*whole, ratio=0.5, end="overwrite")
    assert (prefix.commands == whole[0]).all()
    assert np.flatnonzero(prefix.token_mask).tolist() == [0, 1, 2, 3, 8]


@pytest.mark.parametrize(
    "end, expected",
    [("append", [NEW, M, L, END]), ("overwrite", [NEW, M, L, END])],
    ids=["append", "overwrite"],
)
def test_without_contour_ids_tokens_can_be_counted(end, expected):
    commands = np.array([NEW, M, L, L, HOLE, END] if end == "append" else [NEW, M, L, L, L, Z, END], np.int32)
    arrays = commands, np.zeros((len(commands), 4), np.float32), commands != PAD, np.full(len(commands), -1)
    with pytest.raises(ValueError, match="contour ids"):
        cut_prefix(*arrays, ratio=0.5, end=end)
    with pytest.raises(ValueError, match="contour ids"):
        prefix_lengths(commands, arrays[3], STAGE_RATIOS, end)
    prefix = cut_prefix(*arrays, ratio=0.5, end=end, allow_token_fallback=True)
    assert prefix.commands[prefix.token_mask].tolist() == expected
    assert (prefix.num_kept, prefix.num_contours, prefix.topology) == (-1, -1, None)


def test_stages_are_drawn_with_their_probabilities():
    u = (np.arange(10_000) + 0.5) / 10_000
    shares = np.bincount(draw_stage(u, STAGE_PROBABILITIES)) / len(u)
    np.testing.assert_allclose(shares, STAGE_PROBABILITIES, atol=1e-4)
    # A bound belongs to the stage above it, and rounding never leads beyond the last stage.
    assert draw_stage(np.array([0.0, 0.15, np.nextafter(1, 0)]), STAGE_PROBABILITIES).tolist() == [0, 1, 3]
    assert draw_stage(np.array([np.nextafter(1, 0)]), [0.7, 0.2, 0.0999999]).tolist() == [2]


@pytest.mark.parametrize(
    "ratios, probabilities",
    [
        ((0.5, 1.0), (1.0,)),
        ((0.5, 1.0), (0.5, 0.4)),
        ((0.5, 1.0), (0.0, 1.0)),
        ((1.0, 0.5), (0.5, 0.5)),
        ((0.5,), (1.0,)),
    ],
    ids=["lengths", "sum", "zero", "order", "last"],
)
def test_stages_that_do_not_go_together_are_refused(ratios, probabilities):
    with pytest.raises(ValueError):
        check_stages(ratios, probabilities)
