"""The smallest configuration of every task: its quickstart data, a model of a few thousand weights."""

from pathlib import Path

import toy

from jaxvae.cli import load_module
from jaxvae.tasks import TASKS

ROOT = Path(__file__).parents[1]

# What makes the quickstart of a task tiny.
CHANGES = {
    "glyph_vae": {
        "model.embed": 16,
        "model.zdim": 4,
        "model.heads": 2,
        "model.patch": 8,
        "model.dec_layers": 1,
        "data.charset": "U+0041-0046",
        "data.image_size": 16,
        "data.batch_size": 8,
        "data.num_buckets": 2,
    },
}


def configs() -> dict[str, Path]:
    """{task: a configuration file of it}, found by what the files say."""
    return {load_module(path).get_config("quickstart").task: path for path in sorted((ROOT / "configs").glob("*.py"))}


def tiny_config(task: str, **changes):
    """The quickstart of `task` with the changes above, and those given (`__` for a dot); or a toy with those given."""
    assert task in TASKS
    config = toy.get_config(task) if task in toy.TOYS else load_module(configs()[task]).get_config("quickstart")
    config.update_from_flattened_dict(
        CHANGES.get(task, {})
        | {"train.total_steps": 6, "train.log_every": 2, "train.eval_every": 3, "train.save_every": 3}
        | {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config
