"""Architectures as Flax modules: no losses, no data, no training. One file each."""

from jaxvae.models.glyph_vae import GlyphVAE

__all__ = ["GlyphVAE"]
