"""Turns raw data into a data set that trainings read fast.

    python scripts/prepare_data.py glyphs --fonts=/usr/share/fonts --charset=latin --out=data/latin

A kind of data has the options of its own: --helpshort lists them. An interrupted or failed call leaves nothing behind.
"""

import logging
from pathlib import Path

from absl import flags

from jaxvae import cli
from jaxvae.errors import UserError

KINDS = ("glyphs",)

_FONTS = flags.DEFINE_string("fonts", "", "fonts and folders of fonts, commas between; '' = those of matplotlib")
_CHARSET = flags.DEFINE_string("charset", "latin", "ascii, latin, all, gb2312, ranges such as U+4E00-9FFF, or a file")
_MAX_LEN = flags.DEFINE_integer("max_len", 256, "tokens of the longest glyph; longer ones are left out by name")
_OVERLAPS = flags.DEFINE_string("overlaps", "resolve", "resolve: redraw contours that overlap; keep: take them so")
_TOLERANCE = flags.DEFINE_float("cubic_tolerance_em", 0.001, "cubics become quadratics within this, em")
_OUT = flags.DEFINE_string("out", "", "the folder to write")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the data set in --out")


def main(kind: str):
    from jaxvae.data.glyphs.prepare import prepare_glyphs

    cli.no_config("given by options such as --charset")
    if kind not in KINDS:
        raise UserError(f"{kind!r} is no kind of data that can be prepared: there is {', '.join(KINDS)}")
    if not _OUT.value:
        raise UserError("--out is missing: name the folder to write")
    # It warns of dates and lengths in tables that are not read; what matters is named as left out.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    prepare_glyphs(
        Path(_OUT.value).expanduser(),
        _FONTS.value,
        _CHARSET.value,
        _MAX_LEN.value,
        _OVERLAPS.value,
        _TOLERANCE.value,
        _OVERWRITE.value,
        report=lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    cli.run(main, arguments=("KIND",), interrupted="stopped: nothing was written")
