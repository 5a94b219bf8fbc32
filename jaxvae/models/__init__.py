"""Architectures as Flax modules: no losses, no data, no training. A file or a package each."""

from jaxvae.models.glyph_vae import GlyphVAE

__all__ = ["GlyphVAE"]
