"""Fonts into a data set that is read many times faster than they are; see `jaxvae.data.glyphs.dataset`."""

import contextlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxvae.data.glyphs.charsets import parse_charset
from jaxvae.data.glyphs.dataset import FILES, GlyphDataset, GlyphWriter, Record, is_dataset
from jaxvae.data.glyphs.fonts import OutlineSettings, embedded_fonts, find_fonts, read_each
from jaxvae.data.glyphs.overlaps import OVERLAPS
from jaxvae.data.paths import existing_paths
from jaxvae.data.progress import with_bar
from jaxvae.data.skipped import Skipped
from jaxvae.errors import UserError

PACKAGES = ("fonttools", "skia-pathops")


def prepare_glyphs(
    out: Path,
    fonts: str,
    charset: str,
    max_len: int,
    overlaps: str,
    cubic_tolerance_em: float,
    overwrite: bool,
    report: Callable[[str], None],
) -> Record:
    """Reads fonts and writes their glyphs as the data set `out`: all of it, or nothing.

    Args:
      fonts: as `existing_paths` understands them; '' for those that come with matplotlib.
      charset, max_len, overlaps, cubic_tolerance_em: see `OutlineSettings`.
      overwrite: whether a data set that is at `out` may be replaced.
      report: gets a line per stage.

    Raises:
      UserError: if an option has no meaning, no glyph is found, or `out` exists or cannot be written.
    """
    settings = _settings(charset, max_len, overlaps, cubic_tolerance_em)
    paths = find_fonts(existing_paths(fonts, "--fonts"), "--fonts") if fonts else embedded_fonts()
    record = Record(charset, str(settings.charset), max_len, overlaps, cubic_tolerance_em)
    record.versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    with _written_whole(out, overwrite) as folder:
        writer, skipped = GlyphWriter(folder), Skipped()
        for reading in with_bar(read_each(paths, settings, skipped), "reading fonts", len(paths)):
            writer.add(reading.glyphs)
            record.num_resolved += reading.resolved
            counts = {"glyphs": len(reading.glyphs), "resolved": reading.resolved}
            record.fonts.append({"path": str(reading.path), "digest": reading.digest} | counts)
        report(
            f"read {writer.num_glyphs} glyphs of {len(record.fonts)} font files; {record.num_resolved} were redrawn, "
            "as their contours overlap"
        )
        for line in skipped.summary():
            report(f"left out: {line}")
        if not writer.num_glyphs:
            raise UserError(
                f"no usable glyph in {fonts or 'the embedded fonts'} with --charset={charset} --max_len={max_len}: "
                "name other fonts or other characters, or raise --max_len"
            )
        record.skipped = skipped.names
        writer.close(record)
        # A full disk can go unnoticed until the glyphs are read.
        for _ in with_bar(GlyphDataset(folder), "checking", writer.num_glyphs):
            pass
    report(f"wrote {out}: --config.data.path={out} --config.data.charset={charset}")
    return record


def _settings(charset: str, max_len: int, overlaps: str, cubic_tolerance_em: float) -> OutlineSettings:
    if overlaps not in OVERLAPS:
        raise UserError(f"--overlaps={overlaps}: must be one of {', '.join(OVERLAPS)}")
    if not 0 < cubic_tolerance_em <= 0.1:
        raise UserError(f"--cubic_tolerance_em={cubic_tolerance_em}: must be above 0, at most 0.1 em")
    if max_len < 1:
        raise UserError(f"--max_len={max_len}: must be a whole number above 0")
    return OutlineSettings(parse_charset(charset, "--charset"), max_len, overlaps, cubic_tolerance_em)


@contextlib.contextmanager
def _written_whole(out: Path, overwrite: bool) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place when all went well, and is removed when not.

    A process that is killed leaves `out`.partial, which the next one removes, and, in the moment between two
    renamings, the data set that was to be replaced as `out`.replaced.
    """
    partial, replaced = (out.with_name(out.name + suffix) for suffix in (".partial", ".replaced"))
    try:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        if out.exists() and not (is_dataset(out) and _is_ours(out)):
            raise UserError(f"--out={out} exists and is no data set of this script: choose another folder")
        if out.exists() and not overwrite:
            raise UserError(f"--out={out} exists: choose another folder, or replace it with --overwrite")
        for leftover in (partial, replaced):
            if leftover.exists():
                if not _is_ours(leftover):
                    raise UserError(f"--out={out} needs the place {leftover}, which holds something else: move it away")
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
        try:
            yield partial
            if out.exists():
                out.rename(replaced)
            os.rename(partial, out)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    # array_record reports what the system refuses as a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise UserError(f"--out={out} cannot be written: {error}") from error


def _is_ours(folder: Path) -> bool:
    """Whether there is nothing in the folder but files of a data set."""
    return folder.is_dir() and all(any(file.match(name) for name in FILES) for file in folder.iterdir())
