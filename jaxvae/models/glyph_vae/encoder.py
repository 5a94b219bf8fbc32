"""Tokens of an outline and their signed distance image -> a diagonal Gaussian over z.

Source: specification of the glyph VAE, sections 3.1 to 3.4.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxvae.models.glyph_vae.pixels import PixelEncoder
from jaxvae.nn.activations import gelu
from jaxvae.nn.attention import MultiHeadAttention
from jaxvae.nn.broadcast import add_broadcast
from jaxvae.nn.dense import Dense
from jaxvae.nn.embedding import embedding
from jaxvae.nn.feedforward import FeedForward
from jaxvae.nn.gaussian import GaussianPosterior
from jaxvae.nn.masking import masked_mean, zero_outside
from jaxvae.nn.norms import LayerNorm
from jaxvae.nn.positions import sinusoid_1d
from jaxvae.outlines import NUM_COMMANDS, loss_masks

# Log-variance bounds in nats; the widest range in which exp(logvar) and its square are harmless in float32.
LOGVAR_BOUNDS = (-10.0, 10.0)


class Tokens(NamedTuple):
    """An outline, or a prefix of one, as the encoder reads it. `jaxvae.outlines` has the vocabulary."""

    commands: Int[Array, "B L"]  # ids
    coords: Float[Array, "B L 4"]  # arguments, normalised units
    mask: Bool[Array, "B L"]  # True = the token belongs to the prefix
    contour_ids: Int[Array, "B L"]  # -1 = none
    topology: Int[Array, "B L"]  # bits: 1 new contour, 2 hole, 4 end


class Encoding(NamedTuple):
    """The posterior and what it was computed from."""

    posterior: GaussianPosterior  # [B, Z]
    q_tokens: Float[Array, "B L D"]  # tokens before they see the image
    prefix_repr: Float[Array, "B D"]  # their masked mean
    kv_tokens: Float[Array, "B N D"]  # patches of the image
    q_fused: Float[Array, "B L D"]  # tokens after cross attention, zero outside the mask
    pooled: Float[Array, "B K"]  # input of the posterior head


class VectorEncoder(nn.Module):
    """Tokens of a prefix -> features per token, by a pre-norm transformer without a final norm (section 3.1)."""

    embed: int
    heads: int
    layers: int
    command_width: int = 128
    coord_width: int = 128
    contour_width: int = 64
    position_width: int = 64
    max_contours: int = 4096
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Tokens) -> Float[Array, "B L D"]:
        length = tokens.commands.shape[1]

        def dense(features, name):
            return Dense(features, dtype=self.dtype, name=name)

        command = embedding(NUM_COMMANDS, self.command_width, self.dtype, "command")(tokens.commands)
        x = dense(self.embed, "command_proj")(command)

        # Arguments that a command does not have are not looked at.
        _, used = loss_masks(tokens.commands, tokens.mask)
        coords = dense(self.coord_width, "coord_in")(jnp.where(used, tokens.coords, 0.0).astype(self.dtype))
        coords = dense(self.coord_width, "coord_out")(gelu(coords))
        x += dense(self.embed, "coord_proj")(coords)

        # The original projects the absolute position twice; its "relative" one never reaches the network.
        positions = sinusoid_1d(length, self.position_width).astype(self.dtype)
        positions = dense(self.embed, "position_proj")(positions) + dense(self.embed, "position_proj_2")(positions)
        x = add_broadcast(x, positions)

        contour = embedding(self.max_contours, self.contour_width, self.dtype, "contour")
        x += dense(self.embed, "contour_proj")(contour(jnp.maximum(tokens.contour_ids, 0)))

        bits = (tokens.topology[..., None] >> jnp.arange(3, dtype=tokens.topology.dtype)) & 1
        x += dense(self.embed, "topology_proj")(bits.astype(self.dtype))

        x = LayerNorm(dtype=self.dtype, name="norm_in")(x)
        for i in range(self.layers):
            h = LayerNorm(dtype=self.dtype, name=f"block_{i}_attention_norm")(x)
            x += MultiHeadAttention(self.heads, dtype=self.dtype, name=f"block_{i}_attention")(h, key_mask=tokens.mask)
            h = LayerNorm(dtype=self.dtype, name=f"block_{i}_mlp_norm")(x)
            x += FeedForward(dtype=self.dtype, name=f"block_{i}_mlp")(h)
        return x


class CrossAttention(nn.Module):
    """Tokens read the patches, `layers` times; positions outside the mask come out as zeros (section 3.3)."""

    heads: int
    layers: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, q_tokens: Float[Array, "B L D"], kv_tokens: Float[Array, "B N D"], mask: Bool[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        x = q_tokens
        for i in range(self.layers):
            h = LayerNorm(dtype=self.dtype, name=f"layer_{i}_attention_norm")(x)
            attention = MultiHeadAttention(self.heads, dtype=self.dtype, name=f"layer_{i}_attention")
            x = zero_outside(x + attention(h, kv_tokens), mask)
            h = LayerNorm(dtype=self.dtype, name=f"layer_{i}_mlp_norm")(x)
            x = zero_outside(x + FeedForward(dtype=self.dtype, name=f"layer_{i}_mlp")(h), mask)
        return x


class PosteriorHead(nn.Module):
    """Fused tokens, pooled over the mask, and the encoder's own mean -> the posterior over z (section 3.4).

    Returns the posterior and the pooled features [B, K]; without `prefix_repr` those are q_fused's mean alone.
    """

    zdim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        q_fused: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        prefix_repr: Float[Array, "B D"] | None = None,
    ) -> tuple[GaussianPosterior, Float[Array, "B K"]]:
        pooled = masked_mean(q_fused, mask)
        if prefix_repr is not None:
            pooled = jnp.concatenate([pooled, prefix_repr], axis=-1)
        h = LayerNorm(dtype=self.dtype, name="norm")(pooled)
        h = Dense(2 * pooled.shape[-1], dtype=self.dtype, name="hidden")(h)
        out = Dense(2 * self.zdim, dtype=self.dtype, name="out")(gelu(h))
        mean, logvar = jnp.split(out, 2, axis=-1)
        return GaussianPosterior.from_parameters(mean, logvar, LOGVAR_BOUNDS), pooled


class Encoder(nn.Module):
    """Tokens and their image -> posterior over z."""

    embed: int
    zdim: int
    heads: int
    patch: int
    vec_layers: int
    cross_layers: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Tokens, sdf: Float[Array, "B H W"]) -> Encoding:
        vector = VectorEncoder(self.embed, self.heads, self.vec_layers, dtype=self.dtype, name="vector")
        q_tokens = vector(tokens)
        prefix_repr = masked_mean(q_tokens, tokens.mask)
        _, kv_tokens = PixelEncoder(self.embed, self.patch, dtype=self.dtype, name="pixel")(sdf)
        fuse = CrossAttention(self.heads, self.cross_layers, dtype=self.dtype, name="cross")
        q_fused = fuse(q_tokens, kv_tokens, tokens.mask)
        head = PosteriorHead(self.zdim, dtype=self.dtype, name="head")
        posterior, pooled = head(q_fused, tokens.mask, prefix_repr)
        return Encoding(posterior, q_tokens, prefix_repr, kv_tokens, q_fused, pooled)
