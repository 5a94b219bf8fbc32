"""What the decoders see, and that writing token by token gives what one pass over the same tokens gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.models import GlyphVAE
from jaxvae.models.glyph_vae import Tokens, Written
from jaxvae.outlines import END, NEW, PAD, L, M, Q, Z

SIZES = dict(embed=16, zdim=4, heads=2, patch=8, vec_layers=1, enc_xlayers=1, dec_layers=2, max_len=12)
FREE = [
    dict(decoder_mask="free"),
    dict(decoder_mask="free", decoder_tokens="previous"),
    dict(decoder_mask="free", decoder_tokens="previous", coord_head="by_command"),
    dict(decoder_mask="free", decoder_tokens="previous", decoder_image="full"),
]
CURVE = [NEW, M, Q, L, Z, END]


def tokens(batch=2, slots=8):
    """An outline of six tokens in `slots` slots, other coordinates for each example."""
    commands = np.full((batch, slots), PAD, np.int32)
    commands[:, : len(CURVE)] = CURVE
    coords = np.random.default_rng(0).uniform(-0.5, 0.5, (batch, 40, 4))[:, :slots].astype(np.float32)
    mask = np.arange(slots) < len(CURVE)
    mask = np.broadcast_to(mask, commands.shape)
    return Tokens(*map(jnp.asarray, (commands, coords, mask, np.where(mask, 0, -1), np.zeros_like(commands))))


SDF = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, 16, 16)), jnp.float32)
SPREAD = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4)), jnp.float32)


@functools.cache
def model_and_weights(**options):
    model = GlyphVAE(**SIZES, **{"decoder_image": "none"} | options)
    variables = model.init(jax.random.key(0), tokens(), SDF, SPREAD)
    # Larger weights, so that outputs depend on everything they can depend on.
    return model, jax.tree.map(lambda x: 1.5 * x + 0.1, variables)


def decode(options, z=SPREAD, sdf=SDF, given=None, **kwargs):
    model, variables = model_and_weights(**options)
    given = tokens() if given is None else given
    target = Written(given.commands, given.coords)
    return model.apply(variables, z, sdf, given.mask, target, **kwargs, method="decode")


@pytest.mark.parametrize("options", FREE)
def test_a_slot_knows_nothing_of_those_behind_it(options):
    short, long = decode(options), decode(options, given=tokens(slots=11))
    for a, b in zip(short[:2], long[:2], strict=True):
        np.testing.assert_allclose(a, b[:, :8], atol=1e-5)
    given = tokens()
    other = given._replace(coords=given.coords.at[:, 4:].add(1.0), commands=given.commands.at[:, 4:].set(L))
    for a, b in zip(short[:2], decode(options, given=other)[:2], strict=True):
        # Slot 4 is told its own command when there is a head for each.
        np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-5)


@pytest.mark.parametrize("options", FREE[1:])
def test_a_slot_reads_the_token_before_it(options):
    given = tokens()
    moved = given._replace(coords=given.coords.at[:, 2].add(1.0))
    before, after = decode(options).logits, decode(options, given=moved).logits
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert np.abs(before[:, 3:] - after[:, 3:]).min(axis=(1, 2)).min() >= 0
    assert (np.abs(before[:, 3] - after[:, 3]).max(-1) > 1e-4).all()


@pytest.mark.parametrize("options", FREE)
def test_what_is_written_one_by_one_is_what_one_pass_gives(options):
    model, variables = model_and_weights(**options)
    outlines = model.apply(variables, SPREAD, SDF, tokens().mask, method="generate")
    assert outlines.commands.shape == (2, 12)
    assert outlines.mask.sum(1).min() > 2, "an outline of one token says nothing"
    given = tokens(slots=12)._replace(commands=outlines.commands, coords=outlines.coords)
    again = decode(options, given=given)
    where = np.asarray(outlines.mask)
    np.testing.assert_array_equal(again.logits.argmax(-1)[where], outlines.commands[where])
    np.testing.assert_allclose(again.coords[where], outlines.coords[where], atol=1e-4)


@pytest.mark.parametrize("options", FREE)
def test_an_outline_ends_at_its_first_end(options):
    model, variables = model_and_weights(**options)
    # A bias that makes END the likeliest of all from the first slot on.
    bias = jnp.zeros(9).at[END].set(1e3)
    ended = jax.tree.map(lambda x: x, variables)
    ended["params"]["decoder"]["command_head"]["bias"] = bias
    outlines = model.apply(ended, SPREAD, SDF, tokens().mask, method="generate")
    np.testing.assert_array_equal(outlines.mask.sum(1), 1)
    ended["params"]["decoder"]["command_head"]["bias"] = -bias
    outlines = model.apply(ended, SPREAD, SDF, tokens().mask, method="generate")
    assert outlines.mask.all(), "without END there are as many tokens as slots"


def test_the_teacher_says_how_long_an_outline_is():
    model, variables = model_and_weights()
    outlines = model.apply(variables, SPREAD, None, tokens().mask, method="generate")
    np.testing.assert_array_equal(outlines.mask, tokens().mask)


def test_an_image_that_is_hidden_is_not_seen():
    options = dict(decoder_image="dropout")
    seen, hidden = jnp.zeros(2, bool), jnp.ones(2, bool)
    both = decode(options, hidden=jnp.array([True, False]))
    for rows, how in ((slice(0, 1), hidden), (slice(1, 2), seen)):
        np.testing.assert_allclose(both.coords[rows], decode(options, hidden=how).coords[rows], atol=1e-6)
    np.testing.assert_array_equal(
        decode(options, hidden=hidden).coords, decode(options, sdf=-SDF, hidden=hidden).coords
    )
    assert np.abs(decode(options, hidden=seen).coords - decode(options, sdf=-SDF, hidden=seen).coords).max() > 1e-3
    # Out of training it is always hidden.
    np.testing.assert_array_equal(decode(options).coords, decode(options, hidden=hidden).coords)
    model, variables = model_and_weights(**options)
    write = functools.partial(model.apply, variables, SPREAD, mask=tokens().mask, method="generate")
    np.testing.assert_array_equal(write(sdf=SDF).coords, write(sdf=-SDF).coords)


def test_noise_moves_what_is_read_and_nothing_else():
    options = FREE[1]
    noise = jnp.zeros((2, 8, 4)).at[:, 2].set(0.3)
    given = tokens()
    moved = given._replace(coords=given.coords + noise)
    np.testing.assert_allclose(decode(options, noise=noise).coords, decode(options, given=moved).coords, atol=1e-6)


def test_a_token_that_is_dropped_is_not_read():
    options = FREE[2]
    given = tokens()
    moved = given._replace(coords=given.coords.at[:, 2].add(1.0))
    dropped = jnp.zeros((2, 8), bool).at[:, 2].set(True)
    a, b = (decode(options, given=each, dropped=dropped) for each in (given, moved))
    np.testing.assert_allclose(a.coords, b.coords, atol=1e-6)
    # Its command is still the target's, by which arguments are chosen; without dropping the next slot differs.
    assert np.abs(a.coords - decode(options, given=given).coords)[:, 3].max() > 1e-4


def test_each_kind_of_command_has_its_own_arguments():
    options = FREE[2]
    model, variables = model_and_weights(**options)
    changed = jax.tree.map(lambda x: x, variables)
    head = changed["params"]["decoder"]["coord_head_straight"]
    head["bias"] = head["bias"] + 1.0
    given = tokens()
    target = Written(given.commands, given.coords)
    a, b = (model.apply(v, SPREAD, SDF, given.mask, target, method="decode").coords for v in (variables, changed))
    curved = np.asarray(given.commands == Q)
    np.testing.assert_array_equal(a[curved], b[curved])
    np.testing.assert_allclose((b - a)[~curved][:, :2], 1.0, atol=1e-5)
    assert (a[~curved][:, 2:] == 0).all()


def test_a_token_can_be_read_only_where_slots_are_free():
    model = GlyphVAE(**SIZES, decoder_tokens="previous")
    with pytest.raises(ValueError, match="'previous' needs decoder_mask = 'free'"):
        model.init(jax.random.key(0), tokens(), SDF, SPREAD)
