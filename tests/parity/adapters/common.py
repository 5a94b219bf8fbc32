"""What the adapters of several systems share."""

import jax.numpy as jnp

from jaxvae.config import trainer_config
from jaxvae.train.schedules import make_schedule


def outputs(**arrays):
    return {f"outputs/{name}": array for name, array in arrays.items()}


def learning_rates(peak, total_steps, **schedule):
    """The learning rate of each update of a run under `optim.schedule` with these keys."""
    config = trainer_config()
    config.optim.schedule.update(schedule)
    return peak * make_schedule(config, total_steps)(jnp.arange(total_steps))
