"""Glyph VAE: outline tokens and their signed distance image -> latent -> outline tokens.

The encoder reads the tokens of an outline (or of a prefix of it), lets them attend to the patches of the signed
distance image of exactly those tokens, and gives a diagonal Gaussian over one vector z. The decoder writes an outline
from z and from what else it is told. Source: specification of the glyph VAE, chapter 3; every detail on which a
checkpoint of the original depends is kept.

    model = GlyphVAE(embed=512, zdim=512, heads=16, decoder_image="none", decoder_mask="free")
    variables = model.init(key, tokens, sdf, eps)
    encoding = model.apply(variables, tokens, sdf, method="encode")
    outlines = model.apply(variables, encoding.posterior.mean, None, tokens.mask, method="generate")

Shapes: B batch, L slots (any length up to `max_len`), D `embed`, Z `zdim`, N patches of the image.
"""

from jaxvae.models.glyph_vae.decoder import Decoder, Decoding, Written
from jaxvae.models.glyph_vae.encoder import (
    LOGVAR_BOUNDS,
    CrossAttention,
    Encoder,
    Encoding,
    PosteriorHead,
    Tokens,
    VectorEncoder,
)
from jaxvae.models.glyph_vae.pixels import PixelEncoder
from jaxvae.models.glyph_vae.vae import GlyphVAE, Outlines

__all__ = [
    "LOGVAR_BOUNDS",
    "CrossAttention",
    "Decoder",
    "Decoding",
    "Encoder",
    "Encoding",
    "GlyphVAE",
    "Outlines",
    "PixelEncoder",
    "PosteriorHead",
    "Tokens",
    "VectorEncoder",
    "Written",
]
