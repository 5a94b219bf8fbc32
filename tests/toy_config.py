"""The toy as a file of --config, and its state one that `parallel.fsdp` splits: nothing in it would be large enough."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # not there when a script loads this file

import toy

from jaxvae import tasks
from jaxvae.train import sharding

tasks.TASKS.update(toy.TOYS)
sharding.SMALL = 8


def get_config(**changes):
    """Six updates; `changes` as in tests/tiny.py, `__` for a dot."""
    c = toy.get_config()
    c.train.total_steps, c.train.log_every, c.train.eval_every, c.train.save_every = 6, 2, 3, 3
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return c
