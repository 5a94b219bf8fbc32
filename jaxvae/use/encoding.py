"""Posteriors of glyphs as a file of arrays, and a map of their means."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxvae import tasks
from jaxvae.data.glyphs import Glyph, load_glyphs
from jaxvae.errors import UserError
from jaxvae.run import skipped_inputs
from jaxvae.train.evaluate_run import open_run
from jaxvae.use.glyph_model import GlyphModel, require_glyph_vae
from jaxvae.use.weights import read_weights

Report = Callable[[str], None]

# Fonts that the map's legend names; more have one colour.
FONTS_NAMED = 20


class Encoded(NamedTuple):
    """Encoded glyphs.

    Attributes:
      folder: of the run.
      weights: 'raw' or the name of the average.
      step: of the checkpoint.
      arrays: `mu`, `logvar` float32 [N, zdim]; `font`, `glyph`, `split` texts [N], split being '' for other data than
        the run's; `codepoint` int32 [N], -1 = unknown; `skipped` texts, 'reason: name' of all that was left out.
    """

    folder: Path
    weights: str
    step: int
    arrays: dict[str, np.ndarray]

    @property
    def title(self) -> str:
        return (
            f"{len(self.arrays['mu'])} glyphs, {self.folder.resolve().name}, step {self.step}, {self.weights} weights"
        )


def encode_run(path: str | Path, weights: str, step: int | None, report: Report = print) -> Encoded:
    """The glyphs of a run's data, all splits; arguments as those of `open_run`."""
    opened = open_run(path, weights, step, report)
    task = require_glyph_vae(opened.parts.task, opened.parts.config, opened.run.folder)
    sources = opened.parts.sources
    glyphs = [glyph for source in sources.values() for glyph in source.glyphs]
    splits = [split for split, source in sources.items() for _ in source.glyphs]
    arrays = encode(GlyphModel(task, opened.variables), glyphs, splits, skipped_inputs(sources))
    return Encoded(opened.run.folder, opened.weights, opened.step, arrays)


def encode_data(
    path: str | Path, data: str, charset: str, weights: str, step: int | None, report: Report = print
) -> Encoded:
    """The glyphs of other data than a run's, which need not be there.

    Args:
      path: the run folder, or one of its checkpoints/<step>.
      data, charset: as `config.data.path` and `config.data.charset`; '' for the latter = the run's.
      weights, step: as those of `open_run`.
      report: gets lines about what was left out.

    Raises:
      UserError: if there is no such run, checkpoint or data, or the run is of another system.
    """
    read = read_weights(path, weights, step)
    config = read.config
    task = require_glyph_vae(tasks.build(config), config, read.run.folder)
    settings = config.model.max_len, config.data.overlaps, config.data.cubic_tolerance_em
    glyphs, skipped = load_glyphs(data, charset or config.data.charset, *settings)
    for line in skipped.summary():
        report(line)
    arrays = encode(GlyphModel(task, {"params": read.params}), glyphs, [""] * len(glyphs), skipped.names)
    return Encoded(read.run.folder, read.weights, read.step, arrays)


def encode(
    model: GlyphModel, glyphs: Sequence[Glyph], splits: Sequence[str], skipped: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """`Encoded.arrays` of whole glyphs, in their order."""
    posterior = model.posterior(glyphs)
    return {
        "mu": posterior.mean,
        "logvar": posterior.logvar,
        "font": np.array([glyph.font for glyph in glyphs]),
        "glyph": np.array([glyph.name for glyph in glyphs]),
        "split": np.array(splits),
        "codepoint": np.array([glyph.codepoint for glyph in glyphs], np.int32),
        "skipped": np.array([f"{reason}: {name}" for reason, names in skipped.items() for name in names], str),
    }


def principal_components(x: Float[np.ndarray, "N Z"]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "2"]]:
    """Coordinates along the two directions of largest variance, and their shares of the variance.

    By a singular value decomposition of the centred rows. A direction is turned so that its largest entry is positive;
    where there are fewer than two directions, zeros stand in.
    """
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    u, singular, directions = np.linalg.svd(centred, full_matrices=False)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)[:, 0]
    coordinates = (u * singular * np.where(largest < 0, -1, 1))[:, :2]
    shares = np.square(singular[:2]) / max(np.square(singular).sum(), np.finfo(float).tiny)
    lacking = 2 - coordinates.shape[1]
    return np.pad(coordinates, ((0, 0), (0, lacking))), np.pad(shares, (0, lacking))


def write_encoding(path: str | Path, arrays: Mapping[str, np.ndarray], title: str) -> Path:
    """Writes the arrays and, beside them with the ending .png, the map of `mu`; returns the map's path.

    Raises:
      UserError: if they cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        raise UserError(f"--out={path}: must end in .npz")
    picture = path.with_suffix(".png")
    targets = {picture: path.with_name(picture.name + ".tmp"), path: path.with_name(path.name + ".tmp")}
    try:
        _draw_map(targets[picture], arrays, title)
        with open(targets[path], "wb") as file:  # numpy.savez would add an ending to a name
            np.savez(file, **arrays)
        for target, beside in targets.items():
            os.replace(beside, target)
    except OSError as error:
        raise UserError(f"--out={path} cannot be written ({error}): name another file") from None
    finally:
        for beside in targets.values():
            beside.unlink(missing_ok=True)
    return picture


def _draw_map(path: Path, arrays: Mapping[str, np.ndarray], title: str) -> None:
    points, shares = principal_components(arrays["mu"])
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    fonts = np.unique(arrays["font"])
    if len(fonts) <= FONTS_NAMED:
        for i, font in enumerate(fonts):
            of = arrays["font"] == font
            # Ten colours, and then the same with another marker.
            axes.scatter(*points[of].T, s=8, label=font, color=f"C{i % 10}", marker="ox"[i // 10])
        figure.legend(loc="outside right upper", fontsize=7)
    else:
        axes.scatter(*points.T, s=4)
        title += f"; {len(fonts)} fonts"
    axes.set_title(title, fontsize=9)
    for i, set_label in enumerate((axes.set_xlabel, axes.set_ylabel)):
        set_label(f"principal component {i + 1} of mu ({100 * shares[i]:.1f} % of the variance)")
    figure.savefig(path, dpi=120, format="png")
