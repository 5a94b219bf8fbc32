"""The train step: (state, batch) -> (state, statistics), pure."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxvae.stats import Mean, Stats
from jaxvae.tasks.task import example_keys
from jaxvae.train.averages import update_average
from jaxvae.train.loss_scale import update_loss_scale
from jaxvae.train.optim import DEFAULT, Optimizer
from jaxvae.train.precision import products
from jaxvae.train.state import TRAIN, State


def make_train_step(
    task, optimizer: Optimizer, config, whole: Callable = lambda tree: tree
) -> Callable[[State, dict], tuple[State, Stats]]:
    """The step of a task under a configuration; jit it with `donate_argnums=0`.

    In order: random draws for the whole batch, gradients over `optim.accum` micro-batches (equal to those of the
    whole batch), the check for non-finite numbers, the optimizer's direction (clipping included), the learning
    rates, collections, averages. An update whose loss or gradient is not finite changes no weight; it is counted in
    `skipped`, and in `skips` as long as others follow.

    Args:
      whole: puts weights together before they meet the batch, and then gradients (`jaxvae.train.sharding.whole`).
    """
    accum, ema_rows, scale_row = config.optim.accum, config.optim.ema, config.precision.loss_scale
    hold = config.optim.on_skip == "hold"

    def gradients(state: State, batch, draws, step):
        """Sums over micro-batches; the totals of the whole batch come from a pass of their own."""
        if accum == 1:
            return loss_and_grads(task, state, batch, draws, None, step)
        micro = split_micro((batch, draws), accum)
        totals = sum_over(lambda part: task.totals(state.variables(), *part, step), micro)
        totals = jax.lax.stop_gradient(totals)
        return sum_over(lambda part: loss_and_grads(task, state, *part, totals, step), micro)

    def train_step(state: State, batch) -> tuple[State, Stats]:
        step = state.step + 1
        key = jax.random.fold_in(jax.random.fold_in(state.key, TRAIN), state.step)
        rows = batch["valid"].shape[0]
        draws = task.draws(example_keys(key, jnp.arange(rows)), batch)
        met = state.replace(**{name: whole(getattr(state, name)) for name in ("params", "frozen", "collections")})
        grads, terms, stats, additions = gradients(met, batch, draws, step)
        grads = whole(grads)

        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)
        counted = finite if hold else True

        def keep_if(ok, new, old):
            return new if ok is True else jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)

        # The barriers have direction, parameters and averages computed one after the other, each from the one
        # before: fused, the later ones would repeat the earlier and hold on to buffers that could be overwritten.
        direction, opt_state = optimizer.transformation.update(
            grads, state.opt_state, state.params, clock=state.updates
        )
        direction = jax.lax.optimization_barrier(direction)
        rates = optimizer.rates(state.updates, state.lr_scale)
        params = jax.tree.map(lambda p, d, group: p - rates[group] * d, state.params, direction, optimizer.labels)
        params = jax.lax.optimization_barrier(keep_if(finite, params, state.params))
        clock = state.updates + 1
        ema = {name: update_average(state.ema[name], params, row, clock) for name, row in ema_rows.items()}
        collections = state.collections
        if additions:
            collections = keep_if(finite, task.update(collections, additions), collections)

        stats |= {name: Mean.per_batch(value) for name, value in {**terms, "grad_norm": norm}.items()}
        # What a skipped update reports would turn the whole interval into NaN: of it only these count.
        stats = jax.tree.map(lambda x: jnp.where(finite, x, 0), stats)
        stats |= {name: Mean.per_batch(rate) for name, rate in _named_rates(rates).items()}
        stats["skipped"] = Mean.per_batch(~finite)
        if state.loss_scale:
            stats["loss_scale"] = Mean.per_batch(state.loss_scale["scale"])
        return state.replace(
            params=params,
            collections=collections,
            opt_state=keep_if(finite, opt_state, state.opt_state),
            ema=keep_if(counted, ema, state.ema),
            loss_scale=update_loss_scale(state.loss_scale, finite, scale_row) if state.loss_scale else {},
            step=step,
            updates=state.updates + counted,
            skips=jnp.where(finite, 0, state.skips + 1),
        ), stats

    def precisely(state: State, batch) -> tuple[State, Stats]:
        with products(config):
            return train_step(state, batch)

    return precisely


def loss_and_grads(task, state: State, batch, draws, totals, step):
    """What one (micro-)batch gives at the weights of `state`.

    Returns:
      Gradients of the trained parameters, {'loss': sum of the terms, 'term_<name>': ...}, statistics, and what the
      collections of the model gain ({} for most).
    """
    scale = state.loss_scale.get("scale", 1.0)

    def loss(params):
        terms, aux = task.terms(state.replace(params=params).variables(), batch, draws, totals, step)
        total = sum(terms.values())
        return total * scale, (total, terms, aux)

    (_, (total, terms, aux)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    if state.loss_scale:
        grads = jax.tree.map(lambda g: g / scale, grads)
    return grads, {"loss": total, **{f"term_{name}": term for name, term in terms.items()}}, aux.stats, aux.additions


def _named_rates(rates: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"lr" if group == DEFAULT else f"lr_{group}": rate for group, rate in rates.items()}


def split_micro(tree, accum: int):
    """[B, ...] -> [accum, B / accum, ...], micro-batch j taking rows j, j + accum, ...

    Strided and not contiguous: when the batch is split over devices in contiguous blocks, every micro-batch then
    lies evenly on all of them and nothing moves.
    """

    def split(x):
        return jnp.swapaxes(x.reshape(x.shape[0] // accum, accum, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, tree)


def sum_over(function, micro):
    """Sum of `function(part)` over the leading axis of `micro`, one part in memory at a time."""

    def body(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    first = jax.tree.map(lambda x: x[0], micro)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, first))
    return jax.lax.scan(body, zeros, micro)[0]
