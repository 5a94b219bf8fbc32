"""Writes a page of results from finished runs: numbers beside their baselines, shortcomings, pictures.

python scripts/results.py runs/glyph_vae-quickstart --out=docs/results/glyph_vae.md
python scripts/results.py runs/a,runs/b --out=docs/results/glyph_vae.md --about=docs/results/about/glyph_vae.md
"""

from pathlib import Path

from absl import flags

from jaxvae import cli
from jaxvae.errors import UserError

_OUT = flags.DEFINE_string("out", "", "The page, such as docs/results/<system>.md.")
_BASELINES = flags.DEFINE_bool("baselines", True, "Whether to compare with baselines, which takes minutes per run.")
_ABOUT = flags.DEFINE_string("about", "", "A Markdown file that goes first: where data are from, what was asked.")


def main(runs: str) -> None:
    cli.no_config("that of the runs")
    if not _OUT.value:
        raise UserError("--out is missing: give the page, such as --out=docs/results/glyph_vae.md")
    from jaxvae.train.results import write_results

    try:
        about = Path(_ABOUT.value).read_text(encoding="utf-8") if _ABOUT.value else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--about={_ABOUT.value} cannot be read: {error}") from None
    print(write_results(runs.split(","), _OUT.value, about, _BASELINES.value))


if __name__ == "__main__":
    cli.run(main, arguments=["RUN[,RUN...]"], interrupted="stopped")
