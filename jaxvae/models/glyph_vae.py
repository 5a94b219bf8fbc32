"""Glyph VAE: outline tokens and their signed distance image -> latent -> outline tokens.

The encoder reads the tokens of an outline (or of a prefix of it), lets them attend to the patches of the signed
distance image of exactly those tokens, and gives a diagonal Gaussian over one vector z. The decoder writes all
tokens at once from z, the image and the mask of slots. Source: specification of the glyph VAE, chapter 3; every
detail on which a checkpoint of the original depends is kept.

    model = GlyphVAE(embed=512, zdim=512, heads=16)
    variables = model.init(key, tokens, sdf, eps)
    encoding = model.apply(variables, tokens, sdf, method="encode")
    decoding = model.apply(variables, encoding.posterior.mean, sdf, tokens.mask, method="decode")

Shapes: B batch, L slots (any length up to `max_len`), D `embed`, Z `zdim`, N patches of the image.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxvae.nn.activations import gelu
from jaxvae.nn.attention import MultiHeadAttention
from jaxvae.nn.broadcast import add_broadcast
from jaxvae.nn.dense import Dense
from jaxvae.nn.feedforward import FeedForward
from jaxvae.nn.gaussian import GaussianPosterior
from jaxvae.nn.norms import LayerNorm
from jaxvae.nn.positions import sinusoid_1d, sinusoid_2d
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


class Decoding(NamedTuple):
    """Predicted tokens; slots outside the mask hold constants without meaning."""

    logits: Float[Array, "B L C"]  # over commands, float32
    coords: Float[Array, "B L 4"]  # unbounded, normalised units, float32
    slots: Float[Array, "B L D"]  # features before the heads, zero outside the mask
    kv_tokens: Float[Array, "B N D"] | None  # patches of the image; None without an image


def masked_mean(x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """Mean over the valid positions, in float32; 0 where there is none."""
    total = jnp.where(mask[..., None], x.astype(jnp.float32), 0.0).sum(1)
    return total / jnp.maximum(mask.sum(1, keepdims=True), 1)


def zero_outside(x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
    """Zeros the positions outside the mask; a `where`, since 0 * NaN is NaN."""
    return jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))


def embedding(count: int, width: int, dtype, name: str) -> Callable[[Int[Array, "*n"]], Float[Array, "*n width"]]:
    """A table with PyTorch's N(0, 1) initialisation.

    Rows are cast when they have been looked up: the gradient of a row is the sum over all its uses, in float32.
    """
    table = nn.Embed(count, width, embedding_init=nn.initializers.normal(1.0), name=name)
    return lambda ids: table(ids).astype(dtype)


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


class PixelEncoder(nn.Module):
    """Signed distance image -> patch features with 2-D positions (section 3.2).

    A 3x3 convolution, GELU, then one Dense per `patch` x `patch` square. Images whose sides are not multiples of
    the patch are padded with zeros at the right and bottom, after the first convolution.

    Returns the map before the norm [B, H', W', D] and the tokens [B, N, D], row by row.
    """

    embed: int
    patch: int
    stem_width: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, sdf: Float[Array, "B H W"]) -> tuple[Float[Array, "B h w D"], Float[Array, "B N D"]]:
        batch, height, width = sdf.shape
        p = self.patch
        rows, columns = -(-height // p), -(-width // p)
        # With one input channel the convolution is a product of nine shifted images with a small matrix; on CPU
        # its weight gradient is several times faster this way than XLA's convolution. The pixels are brought into
        # the order of the patches before it, when each has nine numbers, and not after it.
        bottom, right = rows * p - height, columns * p - width
        padded = jnp.pad(sdf.astype(self.dtype), ((0, 0), (1, 1 + bottom), (1, 1 + right)))
        shifts = [padded[:, i : i + rows * p, j : j + columns * p] for i in range(3) for j in range(3)]
        x = jnp.stack(shifts, axis=-1).reshape(batch, rows, p, columns, p, 9).swapaxes(2, 3)
        x = gelu(Dense(self.stem_width, dtype=self.dtype, name="stem")(x))
        if bottom or right:
            inside = (np.arange(rows * p) < height)[:, None] & (np.arange(columns * p) < width)
            inside = inside.reshape(rows, p, columns, p, 1).swapaxes(1, 2)
            x = jnp.where(inside, x, jnp.zeros((), x.dtype))
        x = x.reshape(batch, rows, columns, p * p * self.stem_width)
        x = Dense(self.embed, dtype=self.dtype, name="patch")(x)

        x += sinusoid_2d(rows, columns, self.embed).astype(self.dtype)
        tokens = LayerNorm(dtype=self.dtype, name="norm")(x.reshape(batch, rows * columns, self.embed))
        return x, tokens


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


class Decoder(nn.Module):
    """z, the image and the mask of slots -> tokens, all at once (section 3.5).

    Args of `__call__`:
      z: [B, Z].
      sdf: [B, H, W], or None when the decoder was built without an image.
      mask: bool [B, L], True = a slot to be written; L <= `max_len`.
    """

    embed: int
    heads: int
    patch: int
    layers: int
    max_len: int
    image: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "B Z"], sdf: Float[Array, "B H W"] | None, mask: Bool[Array, "B L"]) -> Decoding:
        length = mask.shape[1]
        if length > self.max_len:
            raise ValueError(f"{length} slots, but the decoder's table of positions has {self.max_len}")

        def dense(features, name):
            return Dense(features, dtype=self.dtype, name=name)

        def norm(name):
            return LayerNorm(dtype=self.dtype, name=name)

        positions = embedding(self.max_len, 64, self.dtype, "position")(jnp.arange(length))
        valid = embedding(2, 32, self.dtype, "valid")(mask.astype(jnp.int32))
        x = add_broadcast(dense(self.embed, "valid_proj")(valid), dense(self.embed, "position_proj")(positions))
        x = add_broadcast(x, dense(self.embed, "z_proj")(z.astype(self.dtype))[:, None])

        kv_tokens = None
        if self.image:
            _, kv_tokens = PixelEncoder(self.embed, self.patch, dtype=self.dtype, name="pixel")(sdf)

        for i in range(self.layers):
            h = norm(f"block_{i}_self_norm")(x)
            attention = MultiHeadAttention(self.heads, dtype=self.dtype, name=f"block_{i}_self")
            x = zero_outside(x + attention(h, key_mask=mask), mask)
            if self.image:
                # One norm for queries and patches: the original shares its weights.
                shared = norm(f"block_{i}_cross_norm")
                attention = MultiHeadAttention(self.heads, dtype=self.dtype, name=f"block_{i}_cross")
                x = zero_outside(x + attention(shared(x), shared(kv_tokens)), mask)
            mlp = FeedForward(dtype=self.dtype, name=f"block_{i}_mlp")
            x = zero_outside(x + mlp(norm(f"block_{i}_mlp_norm")(x)), mask)

        logits = dense(NUM_COMMANDS, "command_head")(x)
        h = dense(2 * self.embed, "coord_hidden")(norm("coord_norm")(x))
        coords = dense(4, "coord_head")(gelu(h))
        return Decoding(logits.astype(jnp.float32), coords.astype(jnp.float32), x, kv_tokens)


class GlyphVAE(nn.Module):
    """Encoder and decoder.

    Attributes (the document's names):
      embed: width D, divisible by `heads` and by 4.
      zdim: width of z.
      heads: attention heads.
      patch: side of an image patch, px.
      vec_layers, enc_xlayers, dec_layers: layers of the token encoder, of its cross attention, of the decoder.
      max_len: slots of the longest outline.
      decoder_image: whether the decoder sees the image too, as in the original.
      dtype: type of the products; parameters, norms' statistics and outputs are float32.
    """

    embed: int = 256
    zdim: int = 128
    heads: int = 8
    patch: int = 16
    vec_layers: int = 3
    enc_xlayers: int = 1
    dec_layers: int = 4
    max_len: int = 256
    decoder_image: bool = True
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.encoder = Encoder(
            self.embed, self.zdim, self.heads, self.patch, self.vec_layers, self.enc_xlayers, dtype=self.dtype
        )
        self.decoder = Decoder(
            self.embed,
            self.heads,
            self.patch,
            self.dec_layers,
            self.max_len,
            image=self.decoder_image,
            dtype=self.dtype,
        )

    def encode(self, tokens: Tokens, sdf: Float[Array, "B H W"]) -> Encoding:
        """The posterior over z and its intermediate features."""
        return self.encoder(tokens, sdf)

    def decode(self, z: Float[Array, "B Z"], sdf: Float[Array, "B H W"] | None, mask: Bool[Array, "B L"]) -> Decoding:
        """Tokens from z."""
        return self.decoder(z, sdf, mask)

    def __call__(
        self, tokens: Tokens, sdf: Float[Array, "B H W"], eps: Float[Array, "B Z"]
    ) -> tuple[Encoding, Decoding]:
        """One training pass: encode, sample with `eps`, decode."""
        encoding = self.encode(tokens, sdf)
        return encoding, self.decode(encoding.posterior.sample(eps), sdf, tokens.mask)
