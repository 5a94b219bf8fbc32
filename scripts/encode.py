"""Encodes glyphs with a trained glyph VAE: means and log-variances of their posteriors, and a map of the means.

python scripts/encode.py runs/glyph_vae-quickstart
python scripts/encode.py runs/glyph_vae-quickstart --data=/usr/share/fonts/truetype --charset=ascii --out=fonts.npz

Without --data the glyphs are those of the run, training and validation; with it, the run's own data need not be there.
"""

from pathlib import Path

from absl import flags

from jaxvae import cli
from jaxvae.errors import UserError

_DATA = flags.DEFINE_string("data", "", "Fonts, folders of fonts, or a .npz (as config.data.path); default the run's.")
_CHARSET = flags.DEFINE_string("charset", "", "Characters of --data (as config.data.charset); default the run's.")
_OUT = flags.DEFINE_string("out", "", "Where to write, .npz; default RUN/encoding-<weights>-<step>.npz.")
_WEIGHTS = flags.DEFINE_string("weights", "", "raw, or the name of an average; default train.eval_weights of the run.")
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; default the newest.")


def main(run: str) -> None:
    cli.no_config("RUN/config.json")
    if _DATA.value and not _OUT.value:
        raise UserError("--out is missing: with --data name the file to be written, such as --out=fonts.npz")
    if _CHARSET.value and not _DATA.value:
        raise UserError(f"--charset={_CHARSET.value} is for --data: the glyphs of a run are all encoded")
    # Imported late: a wrong flag is answered at once and without starting a device.
    from jaxvae.use.encoding import encode_data, encode_run, write_encoding

    if _DATA.value:
        encoded = encode_data(run, _DATA.value, _CHARSET.value, _WEIGHTS.value, _STEP.value)
    else:
        encoded = encode_run(run, _WEIGHTS.value, _STEP.value)
    path = Path(_OUT.value or encoded.folder / f"encoding-{encoded.weights}-{encoded.step}.npz")
    picture = write_encoding(path, encoded.arrays, encoded.title)
    count, zdim = encoded.arrays["mu"].shape
    print(f"{count} glyphs, {zdim} dimensions; written to {path} and {picture}")


if __name__ == "__main__":
    cli.run(main, arguments=["RUN"], interrupted="stopped")
