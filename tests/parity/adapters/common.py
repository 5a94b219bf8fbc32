"""What the adapters of several systems share: settings of a training, and trainings of a few numbers."""

import jax
import jax.numpy as jnp

from jaxvae.config import trainer_config
from jaxvae.stats import compute
from jaxvae.tasks.task import Aux
from jaxvae.train.optim import optimizer_for
from jaxvae.train.schedules import make_schedule
from jaxvae.train.state import create_state
from jaxvae.train.step import make_train_step


def outputs(**arrays):
    return {f"outputs/{name}": array for name, array in arrays.items()}


def settings(changes):
    """What all systems share, with these changes: {'optim.lr': 0.1, ...}."""
    config = trainer_config()
    config.update_from_flattened_dict(changes)
    return config


def learning_rates(peak, total_steps, **schedule):
    """The learning rate of each update of a run under `optim.schedule` with these keys."""
    config = settings({f"optim.schedule.{key}": value for key, value in schedule.items()})
    return peak * make_schedule(config, total_steps)(jnp.arange(total_steps))


class GivenLoss:
    """A task of nothing but parameters and a loss, a sum over the rows of a batch."""

    def __init__(self, params, loss):
        self.params, self.loss = params, loss

    def init(self, rng, batch):
        return {"params": jax.tree.map(jnp.asarray, self.params)}

    def draws(self, keys, batch):
        return {}

    def totals(self, variables, batch, draws, step):
        return {}

    def terms(self, variables, batch, draws, totals, step):
        return {"given": self.loss(variables["params"], batch)}, Aux({})


def train(config, params, loss, batches):
    """(state, what was logged) after each update, by the train step.

    Args:
      loss: of parameters and a batch, or a micro-batch of it: the sum of its rows' shares.
      batches: of arrays with a leading axis of rows.
    """
    task = GivenLoss(params, loss)
    batches = [batch | {"valid": jnp.ones(len(next(iter(batch.values()))), bool)} for batch in batches]
    optimizer = optimizer_for(task, config, batches[0], len(batches))
    state = create_state(task, optimizer, config, {}, batches[0])
    step = jax.jit(make_train_step(task, optimizer, config))
    for batch in batches:
        state, stats = step(state, batch)
        yield state, compute(stats)


def follow_gradients(config, params, gradients):
    """The outputs of a training whose gradients are given: parameters and the gradients' norm after each update.

    Args:
      gradients: {parameter: [updates, micro-batches, ...]}; the gradient of an update is the mean of its row.
    """

    def loss(params, batch):
        return sum(jnp.vdot(param, batch[name].sum(0)) for name, param in params.items()) / config.optim.accum

    updates = len(next(iter(gradients.values())))
    batches = [{name: jnp.asarray(gradient[i]) for name, gradient in gradients.items()} for i in range(updates)]
    trained = list(train(config, params, loss, batches))
    after = {name: jnp.stack([state.params[name] for state, _ in trained]) for name in params}
    return outputs(**after, grad_norm=jnp.stack([logged["grad_norm"] for _, logged in trained]))
