"""Micro-batches, padding and devices change nothing but memory and time.

The battery of tests/test_tasks.py holds every task to it; here are the cases that are hard to get right.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_tasks import Bench, close
from tiny import tiny_config

from jaxvae import tasks
from jaxvae.data.loader import assemble
from jaxvae.errors import UserError
from jaxvae.stats import compute
from jaxvae.tasks.task import example_keys
from jaxvae.train.build import build
from jaxvae.train.state import TRAIN
from jaxvae.train.step import make_train_step, split_micro

pytestmark = pytest.mark.usefixtures("toys")

# The trace of SGD with momentum is the gradient itself after the first update.
PLAIN = {"optim__name": "sgd", "optim__clip__norm": 0.0}


@functools.cache
def bench(name):
    return Bench(name, **PLAIN)


def updater(b, **changes):
    """batch -> (gradient, statistics, state) of the first update from the state of `b`, under another configuration."""
    config = tiny_config(b.config.task, **PLAIN, **changes)
    step = jax.jit(make_train_step(type(b.task)(config), b.optimizer, config))

    def update(batch):
        state, stats = step(b.state, batch)
        return optax.tree.get(state.opt_state, "trace"), stats, state

    return update


def first_update(b, batch, **changes):
    """The same of one batch."""
    return updater(b, **changes)(batch)


def same_update(one, other):
    """Whether two results of `first_update` agree in gradient, statistics and collections."""
    for what, (got, want) in zip(("gradient", "statistics", "state"), zip(one, other, strict=True), strict=True):
        if what == "statistics":
            close(compute(got), compute(want), 2e-5, "statistics ")
        elif what == "gradient":
            close(got, want, 1e-5, "gradient ")
        else:
            close(got.collections, want.collections, 1e-5, "collections ")


def mean_kl(b, batches):
    """The mean KL of each batch by dimension [batches, Z], nats."""
    config = tiny_config(b.config.task, loss__free_bits=1.0)
    totals = jax.jit(type(b.task)(config).totals)
    found = [totals(b.state.variables(), batch, b.draws(batch), 1) for batch in batches]
    return np.stack([compute(stats)["kl_vector"] for stats in found])


@pytest.mark.parametrize(
    ("name", "mode", "side"),
    [
        ("toy", "total", "above"),
        ("toy", "total", "below"),
        ("toy", "per_dim", "above"),
        ("glyph_vae", "total", "above"),
    ],
)
def test_a_floor_lies_under_the_mean_of_the_whole_batch(name, mode, side):
    """Some micro-batches lie on one side of the floor, the whole batch on the other."""
    b, accum = bench(name), 4
    micro = [dict(b.batch, valid=np.arange(b.rows) % accum == i) for i in range(accum)]
    whole, *parts = mean_kl(b, [b.batch, *micro])
    of = np.sum if mode == "total" else np.max
    whole, parts = of(whole), np.array([of(part) for part in parts])
    floor = float((whole + (parts.min() if side == "above" else parts.max())) / 2)
    assert (whole > floor) == (side == "above") and (parts > floor).any() and (parts < floor).any()

    keys = {"loss__free_bits": floor, "loss__free_bits_mode": mode}
    update = updater(b, **keys)
    one = update(b.batch)
    same_update(first_update(b, b.batch, optim__accum=accum, **keys), one)
    # What micro-batches with floors of their own would give is something else.
    naive = np.mean([compute(update(part)[1])["term_kl"] for part in micro])
    assert abs(naive - compute(one[1])["term_kl"]) > 1e-3 * abs(naive)


@pytest.mark.parametrize("valid", [3, 1], ids=["ragged", "micro-batches of padding alone"])
def test_rows_of_padding_may_lie_anywhere(valid):
    b = bench("toy")
    batch = {k: v[:valid] for k, v in b.batch.items()}
    want = first_update(b, batch)
    rows = np.where(np.arange(8) < valid, np.arange(8), 0)
    padded = {k: v[rows] for k, v in b.batch.items()} | {"valid": np.arange(8) < valid}
    for accum in (1, 4):
        same_update(first_update(b, padded, optim__accum=accum), want)


def test_what_lies_behind_a_mask_changes_nothing():
    b = bench("toy")
    hidden = ~b.batch["mask"]
    assert hidden.any()
    update = updater(b)
    want = update(b.batch)
    same_update(update(dict(b.batch, points=np.where(hidden[..., None], 1e3, b.batch["points"]))), want)
    seen = update(dict(b.batch, points=b.batch["points"] + 1))
    assert abs(compute(seen[1])["loss"] - compute(want[1])["loss"]) > 1e-3


def test_collections_follow_the_sums_over_the_whole_batch():
    b = bench("toy")
    valid = np.arange(8) < 7
    batch = dict(b.batch, valid=valid)
    before = jax.tree.map(np.asarray, b.state.collections)
    found = [first_update(b, batch, optim__accum=accum)[2].collections for accum in (1, 2)]
    # By hand, in float64.
    points = batch["points"][batch["mask"] & valid[:, None]].astype(float)
    posterior = b.task.apply(b.state.variables(), batch["points"], b.task.mask(batch), method="encode")
    chosen = b.task.apply(b.state.variables(), posterior.mean, method="nearest")[1]
    count = 0.9 * before["codebook"]["count"] + 0.1 * np.bincount(chosen[:7], minlength=4)
    for after in found:
        np.testing.assert_allclose(after["codebook"]["count"], count, rtol=1e-6)
        np.testing.assert_allclose(after["averages"]["mean"], 0.1 * points.mean(0), rtol=1e-5)
        np.testing.assert_allclose(after["averages"]["variance"], 0.9 + 0.1 * points.var(0), rtol=1e-5)
        assert after["statistics"] == before["statistics"]
    assert len(set(chosen[:7].tolist())) > 1, "codes of one kind alone would prove little"


def test_a_skipped_update_leaves_collections_alone():
    b = bench("toy")
    batch = dict(b.batch, points=np.full_like(b.batch["points"], np.nan))
    *_, state = first_update(b, batch, optim__accum=2)
    assert state.skips == 1
    jax.tree.map(np.testing.assert_array_equal, state.collections, b.state.collections)


def test_both_passes_see_slices_of_one_draw():
    """Noise, times and dropped conditions."""
    b, seen = bench("toy"), {"totals": [], "terms": []}
    config = tiny_config("toy", **PLAIN, optim__accum=4)

    class Spy(type(b.task)):
        def totals(self, variables, batch, draws, step):
            jax.debug.callback(lambda d: seen["totals"].append(d), draws, ordered=True)
            return super().totals(variables, batch, draws, step)

        def terms(self, variables, batch, draws, totals, step):
            jax.debug.callback(lambda d: seen["terms"].append(d), draws, ordered=True)
            return super().terms(variables, batch, draws, totals, step)

    jax.jit(make_train_step(Spy(config), b.optimizer, config))(b.state, b.batch)
    jax.effects_barrier()
    key = jax.random.fold_in(jax.random.fold_in(b.state.key, TRAIN), 0)
    whole = jax.tree.map(np.asarray, b.task.draws(example_keys(key, jnp.arange(8)), b.batch))
    assert whole["drop"].any() and not whole["drop"].all()
    for drawn in seen.values():
        found = jax.tree.map(lambda *parts: np.stack(parts), *drawn)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, split_micro(whole, 4))


def test_a_loss_that_couples_examples_refuses_micro_batches():
    reason = re.escape(tasks.TASKS["toy_coupled"].batch_coupled)
    with pytest.raises(UserError, match=rf"config\.optim\.accum = 2: must be 1 for this task: {reason}"):
        build(tiny_config("toy_coupled", optim__accum=2), lambda line: None)
    assert build(tiny_config("toy_coupled"), lambda line: None).rows == 8


def test_a_batch_is_padded_to_the_micro_batches():
    config = tiny_config("toy", **PLAIN, data__batch_size=12, data__examples=18, optim__accum=4)
    parts = build(config, lambda line: None)
    last = [parts.plan.batch(i) for i in range(parts.plan.steps_per_epoch) if len(parts.plan.batch(i).indices) < 12]
    assert parts.rows == 12 and [len(planned.indices) for planned in last] == [6]
    batch = assemble(parts.plan, last[0], parts.rows)
    unpadded = assemble(parts.plan, last[0], 6)
    b = bench("toy")
    same_update(first_update(b, batch, optim__accum=4), first_update(b, unpadded))
    few = build(tiny_config("toy", data__batch_size=12, data__examples=5, optim__accum=4), lambda line: None)
    assert few.rows == 8, "rounded up from the 5 examples there are"
