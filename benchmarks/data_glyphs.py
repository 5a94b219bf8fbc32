"""How far the signed distance images of glyphs are off, and what they cost a training (`data.sdf`).

    python benchmarks/data_glyphs.py --config=configs/glyph_vae.py:small [--glyphs=64] [--updates=8] [--rounds=3]
        [--json=PATH]

Error: against distances in the same outline drawn 15 times as large, over the pixels nearer to it than the clip.
Cost: the time of one thread to load an example, that of the device to make its image, and a training of a few updates
of one capacity, in turn for each kind of image: its time per update, images included, and the share of it in which
the device waited for a batch. Of all times the fastest round counts. On a CPU the threads that load have the
cores that compute, so compare the times per update rather than the waiting.
"""

import json
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from glyph_reference import errors, reference
from measuring import alike, in_turn, machine

from jaxvae import cli
from jaxvae.config import require
from jaxvae.data.loader import Loader
from jaxvae.train.build import Parts, build

_GLYPHS = flags.DEFINE_integer("glyphs", 64, "Examples whose images are compared and timed.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("updates", 8, "Updates of a training; the first is not timed.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed rounds.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")
flags.register_validator(_JSON, lambda path: Path(path).parent.is_dir(), "its folder does not exist")
DEFAULT = Path(__file__).parents[1] / "configs" / "glyph_vae.py:small"

WAYS = ("analytic", "raster")


def main() -> None:
    config = cli.config(default=DEFAULT)
    require(config, "task", config.task == "glyph_vae", "must be glyph_vae")
    ways = {}
    for way in WAYS:
        changed = config.copy_and_resolve_references()
        changed.data.sdf = way
        ways[way] = build(changed, lambda line: None)
    numbers = machine("jax", "jaxlib", "numpy") | measure(ways, _GLYPHS.value, _UPDATES.value, _ROUNDS.value)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(report(numbers))


def measure(ways: dict[str, Parts], glyphs: int, updates: int, rounds: int) -> dict:
    """All numbers, JSON-able; `ways` are the parts of a training by their `data.sdf`. Times in seconds."""
    parts = next(iter(ways.values()))
    data, steps = parts.config.data, alike(parts, updates)
    numbers: dict[str, dict] = {way: {} for way in ways}

    loaders, makers, batches = {}, {}, {}
    for way, other in ways.items():
        source = other.sources["train"]
        chosen = np.linspace(0, len(source) - 1, min(glyphs, len(source))).astype(int).tolist()
        draws = source.draw(parts.config.seed, 0)

        def load(source=source, chosen=chosen, draws=draws):
            return [source.load(index, int(draws[index])) for index in chosen]

        examples = load()
        batches[way] = jax.device_put(source.collate(examples, source.capacities[-1]))
        loaders[way], make = load, jax.jit(other.task.images)
        makers[way] = lambda make=make, batch=batches[way]: make(batch).block_until_ready()
    references = [reference(e["commands"], e["coords"], e["token_mask"], data.image_size) for e in examples]
    for way, make in makers.items():
        numbers[way] |= errors(np.asarray(make()), np.stack(references), data.sdf_clip_px)

    loading, making = in_turn(loaders, rounds), in_turn(makers, rounds)
    training = train(ways, steps, rounds)
    for way in ways:
        numbers[way] |= {"load_s": loading[way].min / len(examples), "image_s": making[way].min / len(examples)}
        numbers[way] |= training[way]
    return {
        "preset": parts.config.preset,
        "size": data.image_size,
        "clip_px": data.sdf_clip_px,
        "glyphs": len(examples),
        "examples": parts.rows,
        "capacity": list(parts.plan.batch(steps[0]).capacity),
        "workers": data.workers,
        "updates": updates,
        "rounds": rounds,
        "ways": numbers,
        "busy": any(times.busy for times in (*loading.values(), *making.values())),
    }


def train(ways: dict[str, Parts], steps: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """{way: {'update_s', 'data_wait'}} of the same steps; each is awaited, so waiting for a batch is lost time."""
    dispatches = {way: parts.dispatch() for way, parts in ways.items()}
    state = next(iter(ways.values())).create()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, parts in ways.items():
            loader = Loader(parts.plan, parts.rows, [range(s, s + 1) for s in steps], parts.config.data.workers)
            since = waited = 0.0
            for block, batch in loader:
                state = jax.block_until_ready(dispatches[way](state, block, batch).state)
                if block.start == steps[0]:
                    # The first update may compile, and nothing was prepared ahead of it.
                    since, waited = time.perf_counter(), loader.waited
            seconds = time.perf_counter() - since
            found[way].append((seconds / (len(steps) - 1), (loader.waited - waited) / seconds))
    return {
        way: {"update_s": min(s for s, _ in pairs), "data_wait": min(wait for _, wait in pairs)}
        for way, pairs in found.items()
    }


def report(n: dict) -> str:
    """The numbers for people."""
    lines = [
        f"glyph_vae:{n['preset']}: images of {n['size']} px, clip {n['clip_px']:g} px, {n['glyphs']} glyphs; updates "
        f"with {n['examples']} examples of up to {tuple(n['capacity'])}, {n['workers']} threads load"
    ]
    for way, m in n["ways"].items():
        lines += [
            f"{way:10}error {m['mean_px']:.3f} px mean, {m['p99_px']:.2f} px p99, {m['max_px']:.2f} px at most, "
            f"{m['wrong_side']:.2%} on the wrong side",
            f"{'':10}load {1e3 * m['load_s']:.3f} ms ({1 / m['load_s']:,.0f} glyphs/s in one thread), image "
            f"{1e3 * m['image_s']:.3f} ms on the device",
            f"{'':10}update {1e3 * m['update_s']:.1f} ms, of it {m['data_wait']:.2%} waiting for data",
        ]
    if n["busy"]:
        lines.append("warning: a median is far above its minimum: the machine was busy, measure again")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
