"""From a run to a folder of samples: a picture, an SVG per glyph, a font, and a list of what is what."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvae.errors import UserError
from jaxvae.run import write_json, write_text
from jaxvae.train.evaluate_run import OpenRun
from jaxvae.train.pictures import write_picture
from jaxvae.use import pictures
from jaxvae.use.folders import new_folder
from jaxvae.use.font import FontGlyph, write_font
from jaxvae.use.glyph_model import GlyphModel, require_glyph_vae
from jaxvae.use.pictures import Outline
from jaxvae.use.samples import Sample, from_prior, interpolations, reconstructions, source_outline
from jaxvae.use.selection import Chosen, candidates, choose_at_random, choose_text
from jaxvae.use.svg import svg_document

KINDS = ("reconstruction", "prior", "interpolation")
# Glyphs where no text says which; outlines from one end of an interpolation to the other.
GLYPHS, STEPS = 24, 9
# Glyphs side by side in a picture.
COLUMNS = 12
# What has no code point of its own in the font gets one from here: the private use area of Unicode.
PRIVATE_USE, LAST_PRIVATE_USE = 0xE000, 0xF8FF
# The list that marks a folder of samples.
LIST = "samples.json"


class Request(NamedTuple):
    """What the user asked for.

    Attributes:
      kind: one of `KINDS`.
      text: its characters are the glyphs; '' = glyphs at random.
      font: name of a font of the data; '' = the one that has most of the text. Two names with a comma between them are
        the ends of an interpolation of every character of the text.
      split: of the data, or 'all'.
      num: glyphs, or for an interpolation outlines from one end to the other; 0 = `GLYPHS` or `STEPS`.
      seed: of the choice of glyphs and of draws from the prior.
    """

    kind: str
    text: str
    font: str
    split: str
    num: int
    seed: int


class _Drawn(NamedTuple):
    """Samples, their picture, and its caption without where the model is from."""

    samples: list[Sample]
    picture: np.ndarray
    caption: str


def write_samples(opened: OpenRun, request: Request, out: str | Path, command: str) -> list[str]:
    """Writes the folder `out` whole or not at all; returns lines that say what there is.

    Raises:
      UserError: if the run is of another system, the data lack what is asked for, or `out` cannot be written.
    """
    task = require_glyph_vae(opened.parts.task, opened.parts.config, opened.run.folder)
    model = GlyphModel(task, opened.variables)
    draw = {"reconstruction": _reconstruction, "prior": _prior, "interpolation": _interpolation}[request.kind]
    drawn = draw(model, opened.parts.sources, request)
    config = opened.parts.config
    where = f"{config.task}:{config.preset}, step {opened.step}, {opened.weights} weights"
    seen = [f"the {' and '.join(task.decoder_sees)} of {_teacher(request.kind)}"] if task.decoder_sees else []
    sees = f"the decoder saw {' and '.join(['z', *seen]) if seen else 'z alone'}"
    codepoints = _codepoints(drawn.samples, request.kind)
    with new_folder("--out", out, LIST) as folder:
        write_picture(folder / "samples.png", drawn.picture, f"{drawn.caption}; {where}; {sees}")
        # Letters, digits and points alone, as both files and glyphs of a font allow.
        names = [f"g{i:04d}.u{codepoint:04X}" for i, codepoint in enumerate(codepoints)]
        for name, sample in zip(names, drawn.samples, strict=True):
            write_text(folder / f"{name}.svg", svg_document(sample.commands(), sample.outline.frame))
        family = f"jaxvae {request.kind} {opened.run.folder.resolve().name}"
        notes = _write_font(folder / "samples.ttf", family, names, drawn.samples, codepoints, f"{where}; {sees}")
        listed = [
            {
                "file": f"{name}.svg",
                "codepoint": f"U+{codepoint:04X}",
                "z": sample.about,
                "teacher": sample.teacher.glyph.label,
                "split": sample.teacher.split,
            }
            for name, sample, codepoint in zip(names, drawn.samples, codepoints, strict=True)
        ]
        about = {"command": command, "model": where, "decoder": sees, "notes": notes, "samples": listed}
        write_json(folder / LIST, about)
    trained = sum(sample.teacher.split == "train" for sample in drawn.samples)
    seen = f", {trained} of them of glyphs that the model was trained on" if trained else ""
    return [where, sees, *notes, f"{len(drawn.samples)} outlines{seen}, written to {Path(out)}"]


def _reconstruction(model: GlyphModel, sources, request: Request) -> _Drawn:
    chosen = _choose(sources, request)
    # A character that comes twice is one glyph of the font.
    distinct = [each for each in dict.fromkeys(chosen) if each]
    samples = reconstructions(model, distinct)
    written = {each: sample.outline for each, sample in zip(distinct, samples, strict=True)}
    picture = _beside_source(chosen, [written.get(each) for each in chosen], request)
    return _Drawn(samples, picture, "source above, reconstruction (posterior mean) below")


def _prior(model: GlyphModel, sources, request: Request) -> _Drawn:
    chosen = _choose(sources, request)
    samples = from_prior(model, [each for each in chosen if each], request.seed)
    written = iter(samples)
    picture = _beside_source(chosen, [each and next(written).outline for each in chosen], request)
    return _Drawn(samples, picture, f"z from the prior (seed {request.seed}) below the glyphs whose frames they have")


def _interpolation(model: GlyphModel, sources, request: Request) -> _Drawn:
    count = request.num or STEPS
    if count < 2:
        raise UserError(f"--num={request.num}: an interpolation has at least its two ends: give 2 or more")
    rows = interpolations(model, _ends(sources, request), count)
    caption = "straight lines between the posterior means of the outer glyphs"
    picture = pictures.grid([[sample.outline for sample in row] for row in rows])
    return _Drawn([sample for row in rows for sample in row], picture, caption)


def _ends(sources, request: Request) -> list[tuple[Chosen, Chosen]]:
    """Neighbours of the text, or its characters in two fonts, or two glyphs at random."""
    fonts = [name.strip() for name in request.font.split(",")]
    if len(fonts) > 2 or (len(fonts) == 2 and not request.text):
        raise UserError(f"--font={request.font}: one font, or two and a --text whose characters both have")
    if len(fonts) == 2:
        versions = [_choose(sources, request._replace(font=font)) for font in fonts]
        return [(a, b) for a, b in zip(*versions, strict=True) if a and b]
    chosen = [each for each in _choose(sources, request._replace(num=2)) if each]
    if len(chosen) < 2:
        raise UserError(f"--text={request.text!r}: an interpolation needs two characters, or one and two fonts")
    return list(itertools.pairwise(chosen))


def _choose(sources, request: Request) -> list[Chosen | None]:
    among = candidates(sources, request.split or ("all" if request.text else "val"), request.font)
    if request.text:
        return choose_text(among, request.text)
    return choose_at_random(among, request.num or GLYPHS, request.seed)


def _beside_source(chosen: Sequence[Chosen | None], written: Sequence[Outline | None], request: Request) -> np.ndarray:
    """The glyphs of the data above what the model made of them: as a line of text, or as rows of cells."""
    rows = [[each and source_outline(each) for each in chosen], written]
    if request.text:
        return pictures.text(rows)
    return pictures.grid([row[i : i + COLUMNS] for i in range(0, len(chosen), COLUMNS) for row in rows])


def _teacher(kind: str) -> str:
    return {"reconstruction": "the source", "prior": "the glyph above", "interpolation": "the nearer end"}[kind]


def _codepoints(samples: Sequence[Sample], kind: str) -> list[int]:
    """The characters' own for the first reconstruction of each; private ones for all else."""
    private = iter(range(PRIVATE_USE, LAST_PRIVATE_USE + 1))
    taken: set[int] = {ord(" ")}
    found = []
    for sample in samples:
        own = sample.teacher.glyph.codepoint
        is_free = kind == "reconstruction" and own > 0 and own not in taken
        codepoint = own if is_free else next(private, None)
        if codepoint is None:
            raise UserError(f"more than {LAST_PRIVATE_USE - PRIVATE_USE + 1} outlines do not fit into one font")
        taken.add(codepoint)
        found.append(codepoint)
    return found


def _write_font(path: Path, family: str, names, samples: Sequence[Sample], codepoints, about: str) -> list[str]:
    frames = [sample.outline.frame for sample in samples]
    glyphs = [
        FontGlyph(name, codepoint, sample.commands(), sample.outline.frame.advance)
        for name, codepoint, sample in zip(names, codepoints, samples, strict=True)
    ]
    # The line of most glyphs: a few have been shifted or shrunk into their squares.
    ascender, descender = (float(np.median([getattr(f, name) for f in frames])) for name in ("ascender", "descender"))
    return write_font(path, family, glyphs, ascender, descender, about)
