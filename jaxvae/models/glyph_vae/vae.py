"""Encoder and decoder together, one training pass, and outlines written from z."""

import functools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxvae.models.glyph_vae.decoder import Decoder, Decoding, Written
from jaxvae.models.glyph_vae.encoder import Encoder, Encoding, Tokens
from jaxvae.nn.attention import Past
from jaxvae.outlines import END, PAD


class Outlines(NamedTuple):
    """Outlines that a decoder wrote. `jaxvae.outlines` has the vocabulary."""

    commands: Int[Array, "B L"]  # ids
    coords: Float[Array, "B L 4"]  # arguments, normalised units
    mask: Bool[Array, "B L"]  # True = the slot belongs to the outline, END included


class GlyphVAE(nn.Module):
    """Encoder and decoder.

    Attributes (the document's names):
      embed: width D, divisible by `heads` and by 4.
      zdim: width of z.
      heads: attention heads.
      patch: side of an image patch, px.
      vec_layers, enc_xlayers, dec_layers: layers of the token encoder, of its cross attention, of the decoder.
      max_len: slots of the longest outline.
      decoder_image: what the decoder sees of the image: 'full', as in the original; 'dropout', in training not always
        (`hidden`), and never otherwise; 'none'.
      decoder_mask: 'teacher': the decoder is told the slots that it must fill, as in the original; 'free': END decides.
      decoder_tokens: 'none': all tokens at once, as in the original; 'previous': each from the one before it.
      coord_head: 'shared': one head for the arguments of all commands, as in the original; 'by_command': one for those
        of curves and one for those of moves and lines.
      dtype: type of the products; parameters, norms' statistics and outputs are float32.

    Raises:
      ValueError: for 'previous' with 'teacher'.
    """

    embed: int = 256
    zdim: int = 128
    heads: int = 8
    patch: int = 16
    vec_layers: int = 3
    enc_xlayers: int = 1
    dec_layers: int = 4
    max_len: int = 256
    decoder_image: Literal["full", "dropout", "none"] = "full"
    decoder_mask: Literal["teacher", "free"] = "teacher"
    decoder_tokens: Literal["none", "previous"] = "none"
    coord_head: Literal["shared", "by_command"] = "shared"
    dtype: DTypeLike = jnp.float32

    def setup(self):
        if self.decoder_tokens == "previous" and self.decoder_mask != "free":
            raise ValueError("decoder_tokens = 'previous' needs decoder_mask = 'free'")
        self.encoder = Encoder(
            self.embed, self.zdim, self.heads, self.patch, self.vec_layers, self.enc_xlayers, dtype=self.dtype
        )
        self.decoder = Decoder(
            self.embed,
            self.heads,
            self.patch,
            self.dec_layers,
            self.max_len,
            image=self.decoder_image != "none",
            free=self.decoder_mask == "free",
            previous=self.decoder_tokens == "previous",
            coords_by_command=self.coord_head == "by_command",
            dtype=self.dtype,
        )

    def encode(self, tokens: Tokens, sdf: Float[Array, "B H W"]) -> Encoding:
        """The posterior over z and its intermediate features."""
        return self.encoder(tokens, sdf)

    def decode(
        self,
        z: Float[Array, "B Z"],
        sdf: Float[Array, "B H W"] | None,
        mask: Bool[Array, "B L"],
        target: Written | None = None,
        noise: Float[Array, "B L 4"] | None = None,
        dropped: Bool[Array, "B L"] | None = None,
        hidden: Bool[Array, " B"] | None = None,
    ) -> Decoding:
        """One pass of the decoder over all slots, as in training.

        Args:
          target: the outline that is to be written. `decoder_tokens` = 'previous' reads it up to the token before each
            slot, `coord_head` = 'by_command' the command of the slot.
          noise: added to the arguments that `previous` reads, so that it learns to go on from its own mistakes;
            normalised units.
          dropped: tokens that `previous` does not get to read, so that it does not trust them more than z.
          hidden: examples whose image the decoder does not see, for `decoder_image` = 'dropout'; all when None.
        """
        before = commands = None
        if target is not None:
            read = target.commands
            coords = target.coords if noise is None else target.coords + noise
            if dropped is not None:
                read = jnp.where(dropped, PAD, read)
            before, commands = Written(read, coords).shifted(), target.commands
        return self.decoder(z, sdf, mask, before, commands, self._hidden(z, hidden))

    def __call__(
        self,
        tokens: Tokens,
        sdf: Float[Array, "B H W"],
        eps: Float[Array, "B Z"],
        noise: Float[Array, "B L 4"] | None = None,
        dropped: Bool[Array, "B L"] | None = None,
        hidden: Bool[Array, " B"] | None = None,
    ) -> tuple[Encoding, Decoding]:
        """One training pass: encode, sample with `eps`, decode; the others are those of `decode`."""
        encoding = self.encode(tokens, sdf)
        z, target = encoding.posterior.sample(eps), Written(tokens.commands, tokens.coords)
        return encoding, self.decode(z, sdf, tokens.mask, target, noise, dropped, hidden)

    def generate(self, z: Float[Array, "B Z"], sdf: Float[Array, "B H W"] | None, mask: Bool[Array, "B L"]) -> Outlines:
        """Outlines from z: the likeliest command of every slot and its arguments.

        Args:
          sdf: the image, which only `decoder_image` = 'full' looks at.
          mask: the slots to be written, with `decoder_mask` = 'teacher' alone. With 'free' an outline ends at its first
            END, or at `max_len` slots without one, and so many slots come back.
        """
        if self.decoder_mask == "teacher":
            return Outlines(*_likeliest(self.decode(z, sdf, mask)), mask)
        slots = jnp.ones((len(z), self.max_len), bool)
        if self.decoder_tokens == "previous":
            commands, coords = self._write(z, sdf)
        else:
            commands, coords = _likeliest(self.decode(z, sdf, slots))
        ends = jnp.cumsum(commands == END, axis=1) - (commands == END)
        return Outlines(commands, coords, ends == 0)

    def _write(self, z, sdf) -> Written:
        """One token after the other, until every outline has ended."""
        decoder, variables = self.decoder.unbind()
        batch, hidden = len(z), self._hidden(z, None)
        empty = Past.empty(batch, self.max_len, self.embed, self.heads, self.dtype)
        start = Written(jnp.full((batch, self.max_len), PAD, jnp.int32), jnp.zeros((batch, self.max_len, 4)))
        slot = jnp.ones((batch, 1), bool)

        def unfinished(carry):
            step, written, *_ = carry
            return (step < self.max_len) & ~(written.commands == END).any(1).all()

        def write(carry):
            step, written, last, pasts = carry
            decoding = decoder.apply(variables, z, sdf, slot, last, None, hidden, pasts)
            token = _likeliest(decoding)
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=1)
            return step + 1, jax.tree.map(put, written, token), token, decoding.pasts

        first = jax.tree.map(lambda x: x[:, :1], start)
        return jax.lax.while_loop(unfinished, write, (0, start, first, (empty,) * self.dec_layers))[1]

    def _hidden(self, z, hidden):
        if self.decoder_image != "dropout":
            return None
        return jnp.ones(len(z), bool) if hidden is None else hidden


def _likeliest(decoding: Decoding) -> Written:
    return Written(decoding.logits.argmax(-1).astype(jnp.int32), decoding.coords)
