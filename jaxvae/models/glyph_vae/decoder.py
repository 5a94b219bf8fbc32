"""z -> tokens of an outline. What else the decoder is told is for its builder to choose.

* The original's: all tokens at once, from z, the image of the very outline that is to be written, and the mask of its
  slots (specification of the glyph VAE, section 3.5). With so much told, z is hardly needed.
* `free`: nobody says how long the outline is. A slot sees those before it only, so that it does not matter how many
  follow, and the outline ends where END is written.
* `previous`, with `free`: a slot reads the token before it. In training that is the target's, all slots at once;
  `GlyphVAE.generate` hands each token that was written to the next slot.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxvae.models.glyph_vae.pixels import PixelEncoder
from jaxvae.nn.activations import gelu
from jaxvae.nn.attention import MultiHeadAttention, Past
from jaxvae.nn.broadcast import add_broadcast
from jaxvae.nn.dense import Dense
from jaxvae.nn.embedding import embedding
from jaxvae.nn.feedforward import FeedForward
from jaxvae.nn.masking import zero_outside
from jaxvae.nn.norms import LayerNorm
from jaxvae.outlines import COORD_LIMIT, NUM_COMMANDS, PAD, Q, loss_masks


class Written(NamedTuple):
    """Commands and their arguments, for one slot each."""

    commands: Int[Array, "B L"]
    coords: Float[Array, "B L 4"]

    def shifted(self) -> "Written":
        """What stands before each slot; before the first PAD, which no outline holds."""
        commands = jnp.pad(self.commands[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
        return Written(commands, jnp.pad(self.coords[:, :-1], ((0, 0), (1, 0), (0, 0))))


class Decoding(NamedTuple):
    """Predicted tokens; slots outside the mask hold constants without meaning."""

    logits: Float[Array, "B L C"]  # over commands, float32
    coords: Float[Array, "B L 4"]  # unbounded, normalised units, float32
    slots: Float[Array, "B L D"]  # features before the heads, zero outside the mask
    kv_tokens: Float[Array, "B N D"] | None  # patches of the image; None without an image
    pasts: tuple[Past, ...] = ()  # of each block, when it writes one slot after the other


class Decoder(nn.Module):
    """z and what else it is told -> tokens.

    Attributes:
      image: whether it sees the image.
      free: whether slots are all there are up to `max_len`, each seeing those before it, or given by a mask.
      previous: whether a slot reads the token before it; needs `free`.
      coords_by_command: whether there is a head for the arguments of curves and one for those of moves and lines,
        whose first two mean something else.

    Args of `__call__`:
      z: [B, Z].
      sdf: [B, H, W], or None when the decoder was built without an image.
      mask: bool [B, L], True = a slot to be written; L <= `max_len`. With `free` only its shape counts.
      before: the token before each slot, for `previous`.
      commands: int [B, L], by which arguments are chosen, for `coords_by_command`; the likeliest ones when None.
      hidden: bool [B], examples whose image is hidden from it; only for `image`.
      pasts: to write one slot (L = 1) after others: of each block, as the slot before gave them.
    """

    embed: int
    heads: int
    patch: int
    layers: int
    max_len: int
    image: bool = True
    free: bool = False
    previous: bool = False
    coords_by_command: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "B Z"],
        sdf: Float[Array, "B H W"] | None,
        mask: Bool[Array, "B L"],
        before: Written | None = None,
        commands: Int[Array, "B L"] | None = None,
        hidden: Bool[Array, " B"] | None = None,
        pasts: tuple[Past, ...] = (),
    ) -> Decoding:
        length = mask.shape[1]
        if length > self.max_len:
            raise ValueError(f"{length} slots, but the decoder's table of positions has {self.max_len}")

        def norm(name):
            return LayerNorm(dtype=self.dtype, name=name)

        x = self._slots(z, mask, before, pasts[0].length if pasts else 0)
        kv_tokens = self._patches(sdf, hidden) if self.image else None
        # A query of -inf for what comes after it; with `pasts` there is nothing after it.
        order = jnp.where(jnp.tri(length, dtype=bool), 0.0, -jnp.inf)[None, None] if self.free and not pasts else None
        key_mask = None if self.free else mask

        def visible(x):
            return x if self.free else zero_outside(x, mask)

        written = []
        for i in range(self.layers):
            attention = MultiHeadAttention(self.heads, dtype=self.dtype, name=f"block_{i}_self")
            h = norm(f"block_{i}_self_norm")(x)
            if pasts:
                h, past = attention(h, past=pasts[i])
                written.append(past)
            else:
                h = attention(h, key_mask=key_mask, bias=order)
            x = visible(x + h)
            if self.image:
                # One norm for queries and patches: the original shares its weights.
                shared = norm(f"block_{i}_cross_norm")
                attention = MultiHeadAttention(self.heads, dtype=self.dtype, name=f"block_{i}_cross")
                x = visible(x + attention(shared(x), shared(kv_tokens)))
            mlp = FeedForward(dtype=self.dtype, name=f"block_{i}_mlp")
            x = visible(x + mlp(norm(f"block_{i}_mlp_norm")(x)))

        logits = self._dense(NUM_COMMANDS, "command_head")(x).astype(jnp.float32)
        h = gelu(self._dense(2 * self.embed, "coord_hidden")(norm("coord_norm")(x)))
        coords = self._dense(4, "coord_head")(h).astype(jnp.float32)
        if self.coords_by_command:
            straight = self._dense(2, "coord_head_straight")(h).astype(jnp.float32)
            commands = logits.argmax(-1) if commands is None else commands
            curved = (commands == Q)[..., None]
            coords = jnp.where(curved, coords, jnp.pad(straight, ((0, 0), (0, 0), (0, 2))))
        return Decoding(logits, coords, x, kv_tokens, tuple(written))

    def _dense(self, features, name):
        return Dense(features, dtype=self.dtype, name=name)

    def _slots(self, z, mask, before, start) -> Float[Array, "B L D"]:
        """What the blocks begin with: position, z, whether the slot is to be written, the token before it."""
        length = mask.shape[1]
        position = embedding(self.max_len, 64, self.dtype, "position")(start + jnp.arange(length))
        position = self._dense(self.embed, "position_proj")(position)
        x = self._dense(self.embed, "z_proj")(z.astype(self.dtype))[:, None]
        if self.free:
            # Both are repeated, so both in float32; see `add_broadcast`.
            x = (x.astype(jnp.float32) + position.astype(jnp.float32)).astype(self.dtype)
        else:
            valid = embedding(2, 32, self.dtype, "valid")(mask.astype(jnp.int32))
            x = add_broadcast(add_broadcast(self._dense(self.embed, "valid_proj")(valid), position), x)
        if self.previous:
            command = embedding(NUM_COMMANDS, 128, self.dtype, "before_command")(before.commands)
            x += self._dense(self.embed, "before_command_proj")(command)
            _, used = loss_masks(before.commands, jnp.ones_like(mask))
            coords = jnp.where(used, jnp.clip(before.coords, -COORD_LIMIT, COORD_LIMIT), 0.0)
            coords = self._dense(self.embed, "before_coord_in")(coords.astype(self.dtype))
            x += self._dense(self.embed, "before_coord_out")(gelu(coords))
        return x

    def _patches(self, sdf, hidden) -> Float[Array, "B N D"]:
        """Tokens of the image; one learnt vector in the place of each where it is hidden."""
        _, tokens = PixelEncoder(self.embed, self.patch, dtype=self.dtype, name="pixel")(sdf)
        if hidden is None:
            return tokens
        blank = self.param("no_image", nn.initializers.normal(1.0), (self.embed,))
        # Its gradient is summed over patches and examples, in float32.
        return jnp.where(hidden[:, None, None], blank, tokens.astype(jnp.float32)).astype(tokens.dtype)
