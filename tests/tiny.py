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

# Other forms of a task that have to fulfil what every task must: {name: (task, what makes it so)}.
VARIANTS = {
    "glyph_vae_writing": (
        "glyph_vae",
        {
            "model.decoder_image": "dropout",
            "model.decoder_mask": "free",
            "model.decoder_tokens": "previous",
            "model.coord_head": "by_command",
            "loss.previous_noise": 0.05,
            "loss.previous_dropout": 0.3,
            "loss.kl_scale": "token",
        },
    ),
}


def configs() -> dict[str, Path]:
    """{task: a configuration file of it}, found by what the files say."""
    return {load_module(path).get_config("quickstart").task: path for path in sorted((ROOT / "configs").glob("*.py"))}


def tiny_config(name: str, **changes):
    """The quickstart of a task with the changes above, and those given (`__` for a dot); or a toy with those given."""
    task, variant = VARIANTS.get(name, (name, {}))
    assert task in TASKS
    config = toy.get_config(task) if task in toy.TOYS else load_module(configs()[task]).get_config("quickstart")
    config.update_from_flattened_dict(
        CHANGES.get(task, {})
        | variant
        | {"train.total_steps": 6, "train.log_every": 2, "train.eval_every": 3, "train.save_every": 3}
        | {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config
