"""Measures a run: all metrics over a whole split, as a table and as JSON. Works while the run trains.

python scripts/evaluate.py runs/glyph_vae-quickstart
python scripts/evaluate.py runs/glyph_vae-quickstart --split=train --weights=raw
python scripts/evaluate.py runs/glyph_vae-quickstart/checkpoints/1500 --json=numbers.json
"""

from pathlib import Path

from absl import flags

from jaxvae import cli
from jaxvae.errors import UserError

_SPLIT = flags.DEFINE_string("split", "val", "Examples to measure: train, val, or another split of the task.")
_WEIGHTS = flags.DEFINE_string("weights", "", "raw, or the name of an average; default train.eval_weights of the run.")
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; default the newest sound one.")
_JSON = flags.DEFINE_string("json", "", "Where to write; default RUN/evaluation-<split>-<weights>-<step>.json.")


def main(run: str) -> None:
    cli.no_config("RUN/config.json")
    # Imported late: a wrong flag is answered at once and without starting a device.
    from jaxvae.run import write_json
    from jaxvae.train.evaluate_run import describe_evaluation, evaluation_path, open_run

    opened = open_run(run, _WEIGHTS.value, _STEP.value)
    metrics = opened.evaluate(_SPLIT.value)
    found = describe_evaluation(opened, _SPLIT.value, metrics)
    print("{task}:{preset}, step {step}, {weights} weights, {examples} examples of {split}".format(**found))
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{name:{width}}  {value:.6g}")
    path = Path(_JSON.value).expanduser() if _JSON.value else evaluation_path(opened, _SPLIT.value)
    try:
        write_json(path, found)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): name another place by --json") from None
    print(f"written to {path}")


if __name__ == "__main__":
    cli.run(main, arguments=["RUN"], interrupted="stopped")
