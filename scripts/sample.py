"""Draws outlines with a trained glyph VAE: a picture, an SVG per glyph, and a font that can be installed.

python scripts/sample.py runs/glyph_vae-quickstart
python scripts/sample.py runs/glyph_vae-quickstart --text="HAND MADE" --font=DejaVuSerif
python scripts/sample.py runs/glyph_vae-quickstart --kind=prior --num=48 --seed=1
python scripts/sample.py runs/glyph_vae-quickstart --kind=interpolation --text=AB
python scripts/sample.py runs/glyph_vae-quickstart --kind=interpolation --text=AR --font=DejaVuSans,DejaVuSerif-Bold
"""

from pathlib import Path

from absl import flags

from jaxvae import cli
from jaxvae.errors import UserError

_KIND = flags.DEFINE_string("kind", "reconstruction", "reconstruction, prior or interpolation.")
_TEXT = flags.DEFINE_string("text", "", "Characters to take from the run's data; default glyphs at random.")
_FONT = flags.DEFINE_string("font", "", "Font of the data; default the one with most of --text. A,B: between two.")
_SPLIT = flags.DEFINE_string("split", "", "val, train or all; default val, with --text all.")
_NUM = flags.DEFINE_integer("num", 0, "Glyphs (default 24), or outlines from end to end of an interpolation (9).")
_SEED = flags.DEFINE_integer("seed", 0, "Of the choice of glyphs and of draws from the prior.")
_OUT = flags.DEFINE_string("out", "", "Folder; default RUN/<kind>-<weights>-<step>.")
_WEIGHTS = flags.DEFINE_string("weights", "", "raw, or the name of an average; default train.eval_weights of the run.")
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; default the newest sound one.")


def main(run: str) -> None:
    cli.no_config("RUN/config.json")
    for flag in (_NUM, _SEED):
        if not 0 <= flag.value < 2**32:
            raise UserError(f"--{flag.name}={flag.value}: must be from 0 to 4294967295")
    # Imported late: a wrong flag is answered at once and without starting a device.
    from jaxvae.errors import choose
    from jaxvae.train.evaluate_run import open_run
    from jaxvae.use.sampling import KINDS, Request, write_samples

    choose("--kind", _KIND.value, KINDS)
    opened = open_run(run, _WEIGHTS.value, _STEP.value)
    out = Path(_OUT.value or opened.run.folder / f"{_KIND.value}-{opened.weights}-{opened.step}")
    request = Request(_KIND.value, _TEXT.value, _FONT.value, _SPLIT.value, _NUM.value, _SEED.value)
    print(*write_samples(opened, request, out, cli.command_line()), sep="\n")


if __name__ == "__main__":
    cli.run(main, arguments=["RUN"], interrupted="stopped")
