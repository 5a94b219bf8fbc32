"""Glyph outlines: read from fonts or the original's file, split, cut into prefixes, drawn as distances."""

from jaxvae.data.glyphs.fonts import embedded_fonts, find_fonts, read_fonts
from jaxvae.data.glyphs.groups import length_group, nearest, script_of
from jaxvae.data.glyphs.load import load_glyphs
from jaxvae.data.glyphs.npz import read_npz
from jaxvae.data.glyphs.sdf import Raster, inside_mask, signed_distance, stage_sdf
from jaxvae.data.glyphs.source import GlyphSource
from jaxvae.data.glyphs.split import glyph_groups, split_by_group, split_glyphs, split_indices
from jaxvae.data.glyphs.stages import (
    STAGE_PROBABILITIES,
    STAGE_RATIOS,
    cut_prefix,
    draw_stage,
    prefix_lengths,
)
from jaxvae.data.glyphs.tokens import Contour, Glyph, outline_digest, tokens_from_contours

__all__ = [
    "STAGE_PROBABILITIES",
    "STAGE_RATIOS",
    "Contour",
    "Glyph",
    "GlyphSource",
    "Raster",
    "cut_prefix",
    "draw_stage",
    "embedded_fonts",
    "find_fonts",
    "glyph_groups",
    "inside_mask",
    "length_group",
    "load_glyphs",
    "nearest",
    "outline_digest",
    "prefix_lengths",
    "read_fonts",
    "read_npz",
    "script_of",
    "signed_distance",
    "split_by_group",
    "split_glyphs",
    "split_indices",
    "stage_sdf",
    "tokens_from_contours",
]
