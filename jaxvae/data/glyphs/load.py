"""Glyphs as a configuration names them: fonts, a prepared data set, or the original's `.npz`."""

from collections.abc import Sequence
from pathlib import Path

from jaxvae.data.glyphs.charsets import parse_charset
from jaxvae.data.glyphs.dataset import GlyphDataset, Record, is_dataset
from jaxvae.data.glyphs.fonts import CUBIC_TOLERANCE_EM, OutlineSettings, embedded_fonts, find_fonts, read_each
from jaxvae.data.glyphs.npz import read_npz
from jaxvae.data.glyphs.overlaps import Overlaps
from jaxvae.data.glyphs.tokens import Glyph, too_long
from jaxvae.data.paths import existing_paths
from jaxvae.data.progress import with_bar
from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError


def load_glyphs(
    path: str,
    charset: str,
    max_tokens: int,
    overlaps: Overlaps = "resolve",
    cubic_tolerance_em: float = CUBIC_TOLERANCE_EM,
) -> tuple[list[Glyph], Skipped]:
    """The usable glyphs that `path` means, and what was left out.

    Args:
      path: '' for the fonts that come with matplotlib, or what `existing_paths` understands: fonts and folders
        of fonts (`find_fonts`); one folder of scripts/prepare_data.py; or one `.npz` of the original system.
      charset: which characters of fonts to take (`parse_charset`); a `.npz` is taken whole.
      max_tokens: longest outline, END included.
      overlaps, cubic_tolerance_em: see `OutlineSettings`; a `.npz` is taken as it is.

    Raises:
      UserError: if there is no such file, it cannot be read, a `.npz` or data set is not alone, a data set was
        prepared with other settings, or no glyph is left.
    """
    places = existing_paths(path) if path else embedded_fonts()
    _check_alone(places)
    settings = OutlineSettings(parse_charset(charset), max_tokens, overlaps, cubic_tolerance_em)
    if _is_npz(places[0]):
        glyphs, skipped = read_npz(places[0], max_tokens)
    elif is_dataset(places[0]):
        glyphs, skipped = _read_dataset(GlyphDataset(places[0]), settings, charset)
    else:
        fonts, skipped = find_fonts(places), Skipped()
        readings = with_bar(read_each(fonts, settings, skipped), "reading fonts", len(fonts))
        glyphs = [glyph for reading in readings for glyph in reading.glyphs]
    if not glyphs:
        why = "; ".join(skipped.summary()) or f"no character of config.data.charset = {charset!r}"
        raise UserError(
            f"no usable glyph in {path or 'the embedded fonts'}: {why}: name other data in config.data.path, other "
            f"characters in config.data.charset, or raise config.model.max_len = {max_tokens}"
        )
    return glyphs, skipped


def _is_npz(place: Path) -> bool:
    return place.suffix.lower() == ".npz" and place.is_file()


def _check_alone(places: Sequence[Path]) -> None:
    """Raises `UserError` if a `.npz` or a data set stands beside anything else."""
    alone = [place for place in places if _is_npz(place) or is_dataset(place)]
    if alone and len(places) > 1:
        others = len(places) - 1
        raise UserError(
            f"config.data.path names {alone[0]} and {others} other path{'s' if others > 1 else ''}: name one .npz or "
            "one prepared data set alone, or any number of fonts and folders of fonts"
        )


def _read_dataset(dataset: GlyphDataset, settings: OutlineSettings, charset: str) -> tuple[list[Glyph], Skipped]:
    """The glyphs that are not too long, and all that was left out, then and now."""
    _check_settings(dataset, settings, charset)
    skipped = Skipped({reason: list(names) for reason, names in dataset.record.skipped.items()})
    # What was too long then is too long now.
    reason, longer = too_long(settings.max_tokens), skipped.names.pop(too_long(dataset.record.max_len), [])
    glyphs = []
    for glyph in with_bar(dataset, "reading glyphs", len(dataset)):
        if len(glyph) > settings.max_tokens:
            longer.append(glyph.label)
        else:
            glyphs.append(glyph)
    if longer:
        skipped.names[reason] = longer
    return glyphs, skipped


def _check_settings(dataset: GlyphDataset, settings: OutlineSettings, charset: str) -> None:
    """Raises `UserError` if reading the fonts now would give other glyphs than the data set has."""
    record: Record = dataset.record
    differences = []
    if str(settings.charset) != record.characters:
        differences.append(("data.charset", charset, record.charset))
    if settings.overlaps != record.overlaps:
        differences.append(("data.overlaps", settings.overlaps, record.overlaps))
    if settings.cubic_tolerance_em != record.cubic_tolerance_em:
        differences.append(("data.cubic_tolerance_em", settings.cubic_tolerance_em, record.cubic_tolerance_em))
    # A longer limit makes no difference where nothing was left out for it.
    if settings.max_tokens > record.max_len and too_long(record.max_len) in record.skipped:
        differences.append(("model.max_len", settings.max_tokens, record.max_len))
    if differences:
        asked = ", ".join(f"config.{key} = {here!r}, {there!r} there" for key, here, there in differences)
        there = " ".join(f"--config.{key}={there}" for key, _, there in differences)
        raise UserError(
            f"{dataset.folder} was prepared with other settings ({asked}): set {there}, or prepare another folder by "
            "scripts/prepare_data.py"
        )
