"""Samples of a trained glyph VAE: reconstructions, draws from the prior, ways from one glyph to another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxvae.outlines import Command, to_commands
from jaxvae.tasks.glyph_vae import Outlines
from jaxvae.use.frames import Frame
from jaxvae.use.glyph_model import GlyphModel
from jaxvae.use.pictures import Outline
from jaxvae.use.selection import Chosen


class Sample(NamedTuple):
    """An outline that the model wrote.

    Attributes:
      outline: as it came, in the frame in which it stands.
      about: where z came from, in words.
      teacher: the glyph that the decoder was given something of.
    """

    outline: Outline
    about: str
    teacher: Chosen

    def commands(self) -> list[Command]:
        """The outline in units of its frame."""
        *arrays, frame = self.outline
        return to_commands(*arrays, frame.norm)


def source_outline(chosen: Chosen) -> Outline:
    """The outline of a glyph as the data have it."""
    glyph = chosen.glyph
    return Outline(glyph.commands, glyph.coords, np.ones(len(glyph), bool), Frame.of(glyph))


def reconstructions(model: GlyphModel, chosen: Sequence[Chosen]) -> list[Sample]:
    """Every glyph with z = posterior mean."""
    glyphs = [each.glyph for each in chosen]
    outlines = model.outlines(glyphs, model.posterior(glyphs).mean)
    frames = map(Frame.of, glyphs)
    return _samples(outlines, frames, [f"posterior mean of {glyph.label}" for glyph in glyphs], chosen)


def from_prior(model: GlyphModel, chosen: Sequence[Chosen], seed: int) -> list[Sample]:
    """A z from the prior for every glyph, in that glyph's frame."""
    glyphs = [each.glyph for each in chosen]
    outlines = model.outlines(glyphs, model.prior(glyphs, seed))
    return _samples(outlines, map(Frame.of, glyphs), [f"draw {i} from the prior" for i in range(len(glyphs))], chosen)


def interpolations(model: GlyphModel, ends: Sequence[tuple[Chosen, Chosen]], count: int) -> list[list[Sample]]:
    """For every pair a row of `count` outlines, evenly along the straight line between its posterior means.

    The line is straight, and not on a sphere as between draws from the prior (White 2016): means lie within the ball
    that noise would fill, near 0 where a glyph says nothing about a dimension. The decoder is given what it sees of the
    nearer end; frames lie between those of the ends. So the first and the last are the reconstructions of the ends.

    Args:
      count: at least 2.
    """
    shares = np.linspace(0.0, 1.0, count)
    glyphs = [end.glyph for pair in ends for end in pair]
    means = model.posterior(glyphs).mean
    latents, frames, about, teachers = [], [], [], []
    for (first, last), (a, b) in zip(ends, means.reshape(len(ends), 2, -1), strict=True):
        latents.append(straight_line(a, b, shares))
        for t in shares.tolist():
            frames.append(Frame.of(first.glyph).toward(Frame.of(last.glyph), t))
            about.append(f"{1 - t:.3f} of {first.glyph.label}, {t:.3f} of {last.glyph.label}")
            teachers.append(first if t < 0.5 else last)
    outlines = model.outlines([each.glyph for each in teachers], np.concatenate(latents))
    samples = _samples(outlines, frames, about, teachers)
    return [samples[i : i + count] for i in range(0, len(samples), count)]


def straight_line(
    a: Float[np.ndarray, " Z"], b: Float[np.ndarray, " Z"], shares: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n Z"]:
    """a at share 0, b at share 1, exactly."""
    t = shares[:, None].astype(a.dtype)
    return (1 - t) * a + t * b


def _samples(outlines: Outlines, frames, about: Sequence[str], teachers: Sequence[Chosen]) -> list[Sample]:
    rows = zip(*outlines, frames, about, teachers, strict=True)
    return [Sample(Outline(*arrays, frame), what, teacher) for *arrays, frame, what, teacher in rows]
