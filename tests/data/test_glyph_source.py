"""Splitting glyphs, and glyphs as a source of training examples."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae.data.glyphs import (
    STAGE_PROBABILITIES,
    STAGE_RATIOS,
    GlyphSource,
    Raster,
    glyph_groups,
    load_glyphs,
    outline_digest,
    split_by_group,
    split_glyphs,
    split_indices,
    stage_sdf,
)
from jaxvae.data.glyphs.split import SPLITS, font_groups
from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError
from jaxvae.outlines import END, PAD, check_prefix


@functools.cache
def capitals():
    return load_glyphs("", "U+0041-005A,U+00C0-00DC", 256)[0]


@pytest.fixture
def glyphs():
    return capitals()


def source_of(glyphs, **options):
    return GlyphSource(glyphs, **{"max_tokens": 256, "raster": Raster(16, 8.0)} | options)


# Splits.


def test_the_split_is_the_originals():
    # random.Random(0).shuffle brings 0..5 into the order 4, 2, 1, 0, 5, 3.
    train, val = split_indices(6, 0.5, 0)
    assert train.tolist() == [1, 2, 4] and val.tolist() == [0, 3, 5]
    assert [side.tolist() for side in split_indices(3, 0.0, 7)] == [[0, 1, 2]] * 2


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_a_split_covers_everything_once(n, val_fraction, seed):
    train, val = split_indices(n, val_fraction, seed)
    assert sorted([*train, *val]) == list(range(n))
    assert len(val) == max(1, int(n * val_fraction))
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.3, 0.5]))
def test_no_outline_and_no_glyph_is_on_both_sides(seed, val_fraction):
    glyphs = capitals()[:120]
    # The same outlines again, under other names and elsewhere in the square.
    again = [
        dataclasses.replace(g, name=f"{g.name}.alt", coords=g.coords * np.float32(0.5), em=g.em * 0.5)
        for g in glyphs[::3]
    ]
    # And other outlines under the same names.
    altered = [dataclasses.replace(g, coords=g.coords**2) for g in glyphs[1::3]]
    every = [*glyphs, *again, *altered]
    train, val = split_by_group(every, val_fraction, seed)
    assert sorted([*train, *val]) == list(range(len(every))) and len(train) and len(val)
    for key in (outline_digest, lambda g: (g.font, g.name)):
        assert not {key(every[i]) for i in train} & {key(every[i]) for i in val}


def test_groups_are_joined_through_chains(glyphs):
    a, b, c, other = glyphs[:4]
    chain = [a, dataclasses.replace(b, name=a.name, font=a.font), dataclasses.replace(b, name="x"), c, other]
    groups = glyph_groups(chain)
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups.tolist())) == 3


def test_one_outline_cannot_be_split(glyphs):
    for count, what in (1, "1 glyph "), (3, "3 glyphs "):
        with pytest.raises(UserError, match=f"^{what}with one outline .*val_fraction = 0.1: .*data.path.*data.charset"):
            split_by_group([glyphs[0]] * count, 0.1, 0)
    with pytest.raises(UserError, match=r"; left out: 9 glyphs too long; left out: 1 glyph damaged$"):
        split_by_group([glyphs[0]], 0.1, 0, ["9 glyphs too long", "1 glyph damaged"])
    train, val = split_by_group([glyphs[0]] * 3, 0.0, 0)
    assert train.tolist() == val.tolist() == [0, 1, 2]


@pytest.mark.parametrize("by", SPLITS)
@pytest.mark.parametrize("seed", range(8))
def test_no_outline_is_on_both_sides_of_any_split(glyphs, by, seed):
    skipped = Skipped()
    train, val = split_glyphs(glyphs, by, 0.3, seed, skipped)
    assert len(train) and len(val) and not set(train) & set(val)
    keys = {"glyph": lambda g: (g.font, g.name), "font": lambda g: g.file, "family": lambda g: g.family}
    for key in (outline_digest, keys[by]):
        assert not {key(glyphs[i]) for i in train} & {key(glyphs[i]) for i in val}
    # Whatever is on neither side is named.
    left_out = [name for names in skipped.names.values() for name in names]
    neither = set(range(len(glyphs))) - set(train) - set(val)
    assert sorted(left_out) == sorted(glyphs[i].label for i in neither)
    again = split_glyphs(glyphs, by, 0.3, seed, Skipped())
    assert all((a == b).all() for a, b in zip(again, (train, val), strict=True))


def test_the_share_counts_fonts_and_families(glyphs):
    for by, units, held_out in (("font", 12, 3), ("family", 3, 1)):
        key = {"font": "file", "family": "family"}[by]
        _, val = split_glyphs(glyphs, by, 0.3, 0, Skipped())
        assert len({getattr(g, key) for g in glyphs}) == units
        assert len({getattr(glyphs[i], key) for i in val}) == held_out
    assert {g.family for g in glyphs} == {"DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif"}


def test_an_outline_of_training_is_left_out_of_validation(glyphs):
    letters = glyphs[:6]
    copies = [dataclasses.replace(g, file="copy", font="copy") for g in letters[:4]]
    other = [dataclasses.replace(glyphs[9], file="copy", font="copy")]
    skipped = Skipped()
    for seed in range(10):
        skipped = Skipped()
        train, val = split_glyphs([*letters, *copies, *other], "font", 0.5, seed, skipped)
        known, unknown = ([0, 1, 2, 3], [4, 5]) if train[0] else ([6, 7, 8, 9], [10])
        assert val.tolist() == unknown
        (names,) = skipped.names.values()
        assert len(names) == len(known)
        assert "4 glyphs of a font to validate on whose outline is in training too (" in skipped.summary()[0]


def test_a_collection_is_one_font_and_joins_its_families(glyphs):
    def face(file, font, family):
        return dataclasses.replace(glyphs[0], file=file, font=font, family=family)

    faces = [
        face("c", "c#0", "A"),
        face("c", "c#1", "B"),
        face("b", "b", "B"),
        face("d", "d", "D"),
        face("A", "A", "E"),
    ]
    assert font_groups(faces, "font").tolist() == [0, 0, 1, 2, 3]
    assert font_groups(faces, "family").tolist() == [0, 0, 0, 1, 2]


def test_fonts_that_cannot_be_split(glyphs):
    one = [g for g in glyphs if g.file == glyphs[0].file]
    for by in ("font", "family"):
        with pytest.raises(UserError, match=rf"data\.split = '{by}', but all .* of one {by} .*data\.split=glyph"):
            split_glyphs(one, by, 0.1, 0, Skipped())
    twice = [*one, *(dataclasses.replace(g, file="copy", font="copy") for g in one)]
    with pytest.raises(UserError, match=r"'font' leaves nothing to validate on.*split_seed.*data\.split=glyph"):
        split_glyphs(twice, "font", 0.5, 0, Skipped())


# The source.


@pytest.mark.parametrize("end", ["append", "overwrite"])
@pytest.mark.parametrize("rsm", [True, False])
def test_examples_have_the_planned_sizes_and_fit(glyphs, end, rsm):
    source = source_of(glyphs, end=end, rsm=rsm)
    draws = source.draw(1, 2)
    sizes = source.sizes(draws)
    assert sizes.shape == (len(source), 1) and (sizes <= source.capacities[-1]).all()
    for index in range(0, len(source), 17):
        example = source.load(index, int(draws[index]))
        assert len(example["commands"]) == sizes[index, 0]
        assert check_prefix(example["commands"], example["token_mask"]).ok
        tokens = example["commands"], example["coords"], example["token_mask"]
        np.testing.assert_array_equal(example["sdf"], stage_sdf(*tokens, 16, 8.0))


def test_draws_depend_on_seed_and_epoch_alone(glyphs):
    source = source_of(glyphs)
    assert (source.draw(3, 4) == source_of(glyphs, num_buckets=1).draw(3, 4)).all()
    assert (source.draw(3, 4) != source.draw(3, 5)).any() and (source.draw(3, 4) != source.draw(4, 4)).any()
    drawn = np.concatenate([source.draw(0, epoch) for epoch in range(60)])
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), STAGE_PROBABILITIES, atol=0.01)


def test_stages_are_what_was_asked_for(glyphs):
    source = source_of(glyphs, stage_ratios=(0.5, 1.0), stage_probabilities=(0.25, 0.75))
    multiple = next(i for i, g in enumerate(glyphs) if g.contour_ids.max() == 1)
    assert source.load(multiple, 0)["contour_ids"].max() == 0
    np.testing.assert_array_equal(source.load(multiple, 1)["commands"], glyphs[multiple].commands)


def test_fixed_stages_hold_every_glyph_at_each(glyphs):
    source = source_of(glyphs, stages="fixed", eval_stages=STAGE_RATIOS)
    draws = source.draw(0, 0)
    assert len(source) == 4 * len(glyphs) == len(draws)
    assert (draws == source.draw(9, 9)).all() and draws[:8].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert source.name(4) == source.name(7) == glyphs[1].label
    lengths = source.sizes(draws).reshape(-1, 4)
    assert (np.diff(lengths, axis=1) >= 0).all() and lengths[:, 3].tolist() == [len(g) for g in glyphs]
    np.testing.assert_array_equal(source.load(7, 3)["commands"], glyphs[1].commands)
    assert len(source_of(glyphs, stages="fixed")) == len(glyphs)


def test_whole_glyphs_without_rsm(glyphs):
    source = source_of(glyphs, rsm=False)
    assert (source.draw(0, 0) == 0).all()
    for index in (0, 30):
        np.testing.assert_array_equal(source.load(index, 0)["coords"], glyphs[index].coords)
    unknown = [dataclasses.replace(g, contour_ids=np.full_like(g.contour_ids, -1)) for g in glyphs[:3]]
    assert len(source_of(unknown, rsm=False)) == 3
    with pytest.raises(UserError, match=r"data\.rsm = True, but 3 of 4 glyphs .*data\.rsm=False, or add contour_ids"):
        source_of([glyphs[3], *unknown])


@pytest.mark.parametrize("num_buckets", [1, 2, 4, 9])
def test_capacities(glyphs, num_buckets):
    source = source_of(glyphs, num_buckets=num_buckets)
    tokens = [capacity[0] for capacity in source.capacities]
    assert 1 <= len(tokens) <= num_buckets and tokens == sorted(set(tokens))
    assert all(t % 8 == 0 for t in tokens)
    longest = max(map(len, glyphs))
    assert longest <= tokens[-1] < longest + 8


@pytest.mark.parametrize("probabilities", [(0.9, 0.1), (0.1, 0.9)])
def test_capacities_follow_what_is_drawn(glyphs, probabilities):
    accented = [glyph for glyph in glyphs if glyph.contour_ids.max() > 0]
    source = source_of(accented, stage_ratios=(0.1, 1.0), stage_probabilities=probabilities, num_buckets=2)
    drawn = np.concatenate([source.sizes(source.draw(0, epoch)) for epoch in range(50)])
    ((half,), _) = source.capacities
    assert (drawn <= half).mean() >= 0.5 > (drawn <= half - 8).mean()


def test_the_largest_capacity_is_not_above_the_models_slots(glyphs):
    longest = max(map(len, glyphs))
    assert source_of(glyphs, max_tokens=longest, num_buckets=3).capacities[-1] == (longest,)
    with pytest.raises(ValueError, match="max_tokens"):
        source_of(glyphs, max_tokens=longest - 1)


def test_batches_are_examples_and_padding(glyphs):
    source = source_of(glyphs)
    draws = source.draw(0, 0)
    examples = [source.load(i, int(draws[i])) for i in range(5)]
    batch = source.collate(examples, source.capacities[-1])
    shapes = {"commands": (), "coords": (4,), "token_mask": (), "contour_ids": (), "topology": ()}
    for name, rest in shapes.items():
        assert batch[name].shape == (5, source.capacities[-1][0], *rest)
        for row, example in zip(batch[name], examples, strict=True):
            length = len(example["commands"])
            np.testing.assert_array_equal(row[:length], example[name])
            assert (row[length:] == {"commands": PAD, "contour_ids": -1}.get(name, 0)).all()
    dtypes = {name: array.dtype.name for name, array in batch.items()}
    assert dtypes == {
        "commands": "int32", "coords": "float32", "token_mask": "bool", "contour_ids": "int32",
        "topology": "uint8", "sdf": "float32", "em": "float32",
    }  # fmt: skip
    assert batch["sdf"].shape == (5, 16, 16) and batch["em"].tolist() == [np.float32(g.em) for g in glyphs[:5]]


def test_there_are_images_only_where_they_are_asked_for(glyphs):
    batches = []
    for raster in (Raster(16, 8.0), None):
        source = source_of(glyphs, raster=raster)
        batches.append(source.collate([source.load(i, 3) for i in range(3)], source.capacities[-1]))
    drawn, bare = batches
    assert drawn.keys() - bare.keys() == {"sdf"}
    for name, array in bare.items():
        np.testing.assert_array_equal(array, drawn[name])


def test_commands_are_counted_over_one_epoch(glyphs):
    source = source_of(glyphs)
    draws = source.draw(0, 0)
    counts = source.command_counts()
    assert counts.dtype == np.int64 and counts[PAD] == 0 and counts[END] == len(glyphs)
    assert counts.sum() == source.sizes(draws).sum()


def test_the_fingerprint_sees_every_part(glyphs):
    fingerprint = source_of(glyphs).fingerprint
    assert fingerprint == source_of(list(glyphs), num_buckets=1).fingerprint
    first = glyphs[0]
    changes = {
        "coords": first.coords + np.float32(1e-6), "topology": first.topology + np.uint8(1), "name": "x",
        "contour_ids": first.contour_ids + 1, "em": first.em * 2, "norm": first.norm * 2, "codepoint": -1,
    }  # fmt: skip
    for key, value in changes.items():
        assert source_of([dataclasses.replace(first, **{key: value}), *glyphs[1:]]).fingerprint != fingerprint
    assert source_of(glyphs[::-1]).fingerprint != fingerprint
