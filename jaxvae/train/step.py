"""The train step: (state, batch) -> (state, statistics), pure."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxvae.stats import Mean, Stats
from jaxvae.tasks.task import example_keys
from jaxvae.train.state import TRAIN, State


def make_train_step(task, optimizer, schedule, config) -> Callable[[State, dict], tuple[State, Stats]]:
    """The step of a task under a configuration; jit it with `donate_argnums=0`.

    In order: random draws for the whole batch, gradients over `optim.accum` micro-batches (equal to those of the
    whole batch), the check for non-finite numbers, the optimizer's direction (clipping included), the learning
    rate, the averages. An update whose loss or gradient is not finite changes nothing but the step; it is
    counted in `skipped`.
    """
    accum, ema_rows = config.optim.accum, config.optim.ema

    def accumulate(params, collections, batch, draws, step):
        """Sums over micro-batches; the totals of the whole batch come from a pass of their own."""
        variables = {"params": params, **collections}
        micro = split_micro((batch, draws), accum)

        def first_pass(part):
            return task.totals(variables, *part, step)

        def second_pass(part):
            return loss_and_grads(task, params, collections, *part, totals, step)

        totals = jax.lax.stop_gradient(sum_over(first_pass, micro))
        return sum_over(second_pass, micro)

    def train_step(state: State, batch) -> tuple[State, Stats]:
        step = state.step + 1
        key = jax.random.fold_in(jax.random.fold_in(state.key, TRAIN), state.step)
        rows = batch["valid"].shape[0]
        draws = task.draws(example_keys(key, jnp.arange(rows)), batch)
        if accum == 1:
            grads, terms, stats = loss_and_grads(task, state.params, state.collections, batch, draws, None, step)
        else:
            grads, terms, stats = accumulate(state.params, state.collections, batch, draws, step)

        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)

        def keep_finite(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        # The barriers have direction, parameters and averages computed one after the other, each from the one
        # before: fused, the later ones would repeat the earlier and hold on to buffers that could be overwritten.
        direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
        direction = jax.lax.optimization_barrier(direction)
        lr = schedule(state.step)
        params = jax.tree.map(lambda p, d: p - lr * d, state.params, direction)
        params = jax.lax.optimization_barrier(keep_finite(params, state.params))
        ema = {name: update_ema(state.ema[name], params, row, step) for name, row in ema_rows.items()}
        opt_state, ema = keep_finite((opt_state, ema), (state.opt_state, state.ema))

        stats |= {name: Mean.per_batch(value) for name, value in {**terms, "grad_norm": norm}.items()}
        # What a skipped update reports would turn the whole interval into NaN: of it only these two count.
        stats = jax.tree.map(lambda x: jnp.where(finite, x, 0), stats)
        stats |= {"lr": Mean.per_batch(lr), "skipped": Mean.per_batch(~finite)}
        return state.replace(step=step, params=params, opt_state=opt_state, ema=ema), stats

    return train_step


def loss_and_grads(task, params, collections, batch, draws, totals, step):
    """Gradients, {'loss': sum of the terms, 'term_<name>': ...} and statistics of one (micro-)batch."""

    def loss(params):
        terms, aux = task.terms({"params": params, **collections}, batch, draws, totals, step)
        return sum(terms.values()), (terms, aux.stats)

    (total, (terms, stats)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return grads, {"loss": total, **{f"term_{name}": term for name, term in terms.items()}}, stats


def update_ema(ema, params, row, step):
    """average <- decay * average + (1 - decay) * params every `every` updates; a copy before update `start`."""

    def blend(average, param):
        return jnp.where(step <= row.start, param, average + (1.0 - row.decay) * (param - average))

    if row.every == 1:
        return jax.tree.map(blend, ema, params)
    due = (step % row.every == 0) | (step <= row.start)
    return jax.tree.map(lambda average, param: jnp.where(due, blend(average, param), average), ema, params)


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
