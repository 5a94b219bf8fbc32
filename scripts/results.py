"""Writes a page of results from finished runs: numbers beside their baselines, shortcomings, pictures.

python scripts/results.py runs/glyph_vae-quickstart --out=docs/results/glyph_vae.md
python scripts/results.py runs/a,runs/b --out=docs/results/glyph_vae.md
"""

from absl import flags

from jaxvae import cli
from jaxvae.errors import UserError

_OUT = flags.DEFINE_string("out", "", "The page, such as docs/results/<system>.md.")


def main(runs: str) -> None:
    cli.no_config("that of the runs")
    if not _OUT.value:
        raise UserError("--out is missing: give the page, such as --out=docs/results/glyph_vae.md")
    from jaxvae.train.results import write_results

    print(write_results(runs.split(","), _OUT.value))


if __name__ == "__main__":
    cli.run(main, arguments=["RUN[,RUN...]"], interrupted="stopped")
