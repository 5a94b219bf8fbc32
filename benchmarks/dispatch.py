"""What it gains to send several updates to the device at once (`train.steps_per_dispatch`).

    python benchmarks/dispatch.py [--config=configs/glyph_vae.py:quickstart] [--updates=4] [--rounds=9] [--json=PATH]

The same batches of the most common capacity, as single updates and as one scan over all, in turn in one process.
Times are per update. Each update starts where the one before it ended, as in a training.
"""

import json
from pathlib import Path

import jax
import numpy as np
from absl import flags
from measuring import alike, in_turn, machine

from jaxvae import cli
from jaxvae.data.loader import Loader
from jaxvae.train.build import Parts, build, count_parameters

_UPDATES = flags.DEFINE_integer("updates", 4, "Updates sent at once.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")
flags.register_validator(_JSON, lambda path: Path(path).parent.is_dir(), "its folder does not exist")
DEFAULT = Path(__file__).parents[1] / "configs" / "glyph_vae.py:quickstart"


def main() -> None:
    config = cli.config(default=DEFAULT)
    parts = build(config, lambda line: None)
    numbers = machine("jax", "jaxlib") | measure(parts, _UPDATES.value, _ROUNDS.value)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(report(numbers))


def measure(parts: Parts, updates: int, rounds: int) -> dict:
    """{'single', 'block': seconds per update, 'ratio', ...}."""
    steps = alike(parts, updates)
    batches = [batch for _, batch in Loader(parts.plan, parts.rows, [range(s, s + 1) for s in steps], 1)]
    block = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    dispatch, state = parts.dispatch(), [parts.create()]

    def single():
        for batch in batches:
            state[0] = dispatch(state[0], range(1), batch).state
        jax.block_until_ready(state[0])

    def whole():
        state[0] = dispatch(state[0], range(updates), block).state
        jax.block_until_ready(state[0])

    times = in_turn({"single": single, "block": whole}, rounds)
    return {
        "preset": parts.config.preset,
        "task": parts.config.task,
        "parameters": count_parameters(parts.like.params),
        "examples": parts.rows,
        "updates": updates,
        "capacity": list(parts.plan.batch(steps[0]).capacity),
        **{name: found.min / updates for name, found in times.items()},
        "ratio": times["block"].min / times["single"].min,
        "busy": any(found.busy for found in times.values()),
    }


def report(numbers: dict) -> str:
    busy = "; the machine was busy: repeat" if numbers["busy"] else ""
    return (
        f"{numbers['task']}:{numbers['preset']}, examples of up to {tuple(numbers['capacity'])}: "
        f"{1e3 * numbers['single']:.2f} ms per single update, {1e3 * numbers['block']:.2f} ms in a block of "
        f"{numbers['updates']}: ratio {numbers['ratio']:.2f}{busy}"
    )


if __name__ == "__main__":
    cli.run(main)
