"""Glyphs as a source of training examples: prefixes of outlines, and signed distance images if they are asked for."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Int

from jaxvae.data.glyphs.sdf import Raster, stage_sdf
from jaxvae.data.glyphs.stages import (
    STAGE_PROBABILITIES,
    STAGE_RATIOS,
    PrefixEnd,
    check_stages,
    cut_prefix,
    draw_stage,
    prefix_lengths,
)
from jaxvae.data.glyphs.tokens import Glyph
from jaxvae.errors import UserError
from jaxvae.outlines import NUM_COMMANDS, PAD

# Capacities are multiples of this, so that they suit the tiles of a matrix unit.
CAPACITY_STEP = 8
# What fills the slots behind an example; every other array is filled with 0 or False.
PADDING = {"commands": PAD, "contour_ids": -1}
PER_TOKEN = ("commands", "coords", "token_mask", "contour_ids", "topology")
NOTHING_SKIPPED: Mapping[str, Sequence[str]] = MappingProxyType({})


class GlyphSource:
    """Prefixes of glyphs, drawn anew every epoch or held at fixed stages; see `jaxvae.data.source.Source`.

    A draw is the index of a stage. Examples have one size, the number of tokens.

    Args:
      glyphs: at least one.
      max_tokens: bound of the largest capacity; no glyph may be longer.
      raster: the signed distance images that examples bring along; None when the device makes them from the tokens.
      rsm: False keeps glyphs whole.
      end: how a prefix ends (`cut_prefix`).
      stages: 'drawn' draws one of `stage_ratios` per glyph and epoch with `stage_probabilities`; 'fixed'
        holds every glyph at each of `eval_stages`, glyph by glyph.
      num_buckets: at most this many capacities, at equally spaced quantiles of the lengths that are drawn.
      skipped: names of what was left out when `glyphs` were read, by reason.

    Raises:
      UserError: if prefixes are asked for and a glyph has no contour ids.
      ValueError: if stages and probabilities do not go together, or a glyph is too long.
    """

    def __init__(
        self,
        glyphs: Sequence[Glyph],
        *,
        max_tokens: int,
        raster: Raster | None = None,
        rsm: bool = True,
        end: PrefixEnd = "append",
        stages: Literal["drawn", "fixed"] = "drawn",
        stage_ratios: Sequence[float] = STAGE_RATIOS,
        stage_probabilities: Sequence[float] = STAGE_PROBABILITIES,
        eval_stages: Sequence[float] = (1.0,),
        num_buckets: int = 4,
        skipped: Mapping[str, Sequence[str]] = NOTHING_SKIPPED,
    ):
        check_stages(stage_ratios, stage_probabilities)
        longest = max(map(len, glyphs))
        if longest > max_tokens:
            raise ValueError(f"a glyph has {longest} tokens, more than max_tokens = {max_tokens}")
        self.glyphs, self.rsm, self.end, self.skipped = glyphs, rsm, end, skipped
        self.raster = raster
        self._fixed = stages == "fixed"
        self._ratios = tuple(eval_stages if self._fixed else stage_ratios)
        self._probabilities = stage_probabilities
        if not all(0 < ratio <= 1 for ratio in self._ratios):
            raise ValueError(f"stages {self._ratios} must be above 0 and at most 1")
        if not rsm:
            self._ratios, self._probabilities = (1.0,), (1.0,)
        self._copies = len(self._ratios) if self._fixed else 1
        self._lengths = self._prefix_lengths()
        self.capacities = self._choose_capacities(num_buckets, min(_round_up(longest), max_tokens))

    def __len__(self) -> int:
        return len(self.glyphs) * self._copies

    def draw(self, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
        """The stage of every example in an epoch; the same for the same arguments."""
        if self._fixed:
            return np.tile(np.arange(self._copies), len(self.glyphs))
        return draw_stage(np.random.default_rng([seed, epoch]).random(len(self)), self._probabilities)

    def sizes(self, draws: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n 1"]:
        """Tokens of every example under its draw."""
        return self._lengths[np.arange(len(self)) // self._copies, draws][:, None]

    def load(self, index: int, draw: int) -> dict[str, np.ndarray]:
        """One example of l tokens, without padding.

        Returns:
          `commands`, `contour_ids` int32 [l], `coords` float32 [l, 4], `token_mask` bool [l],
          `topology` uint8 [l]; `em`, normalised units per em, float32 []; and with a `raster` `sdf` float32
          [size, size] of these tokens.
        """
        example = self._tokens(index, draw)
        example["em"] = np.asarray(self.glyph(index).em, np.float32)
        if self.raster:
            example["sdf"] = stage_sdf(*(example[name] for name in PER_TOKEN[:3]), *self.raster)
        return example

    def collate(self, examples: Sequence[dict[str, np.ndarray]], capacity: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Examples padded to `capacity` = (tokens,) and stacked along a new first axis."""
        (tokens,) = capacity
        whole = [name for name in examples[0] if name not in PER_TOKEN]
        batch = {name: np.stack([example[name] for example in examples]) for name in whole}
        for name in PER_TOKEN:
            first = examples[0][name]
            shape = (len(examples), tokens, *first.shape[1:])
            batch[name] = np.full(shape, PADDING.get(name, 0), first.dtype)
            for row, example in zip(batch[name], examples, strict=True):
                row[: len(example[name])] = example[name]
        return batch

    def command_counts(self) -> Int[np.ndarray, " commands"]:
        """How often each command is valid in epoch 0 of seed 0, whatever the seed of a run."""
        counts = np.zeros(NUM_COMMANDS, np.int64)
        for index, draw in enumerate(self.draw(seed=0, epoch=0).tolist()):
            tokens = self._tokens(index, draw)
            counts += np.bincount(tokens["commands"][tokens["token_mask"]], minlength=NUM_COMMANDS)
        return counts

    def name(self, index: int) -> str:
        """'font/glyph U+XXXX' of an example."""
        return self.glyph(index).label

    def glyph(self, index: int) -> Glyph:
        """The glyph of which an example is a prefix."""
        return self.glyphs[index // self._copies]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all glyphs, their arrays and names, in hexadecimal."""
        digest = hashlib.blake2b(digest_size=16)
        for glyph in self.glyphs:
            digest.update(f"{glyph.label}\n{len(glyph)}\n{glyph.em!r}\n".encode())
            for array in (glyph.commands, glyph.coords, glyph.contour_ids, glyph.topology, glyph.norm):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def _tokens(self, index: int, draw: int) -> dict[str, np.ndarray]:
        """The prefix, cut behind its last valid token."""
        glyph, length = self.glyph(index), self._lengths[index // self._copies, draw]
        arrays = glyph.commands, glyph.coords, np.ones(len(glyph), bool), glyph.contour_ids, glyph.topology
        if self.rsm:
            arrays = cut_prefix(*arrays, ratio=self._ratios[draw], end=self.end)[: len(PER_TOKEN)]
        return {name: array[:length] for name, array in zip(PER_TOKEN, arrays, strict=True)}

    def _prefix_lengths(self) -> Int[np.ndarray, "glyphs stages"]:
        if not self.rsm:
            return np.array([[len(glyph)] for glyph in self.glyphs])
        bare = [glyph.label for glyph in self.glyphs if glyph.contour_ids.max() < 0]
        if bare:
            raise UserError(
                f"config.data.rsm = True, but {len(bare)} of {len(self.glyphs)} glyphs have no contour ids ({bare[0]} "
                "first), so that no prefixes can be cut: set config.data.rsm=False, or add contour_ids to the file"
            )
        return np.array([prefix_lengths(g.commands, g.contour_ids, self._ratios, self.end) for g in self.glyphs])

    def _choose_capacities(self, num_buckets: int, largest: int) -> tuple[tuple[int, ...], ...]:
        """Quantiles 1/n, 2/n, ... of the lengths of an average epoch, rounded up; `largest` is the last."""
        weights = np.ones(len(self._ratios)) if self._fixed else self._probabilities
        lengths = self._lengths.ravel()
        shares = np.arange(1, num_buckets) / num_buckets
        quantiles = np.quantile(lengths, shares, weights=np.tile(weights, len(self.glyphs)), method="inverted_cdf")
        return tuple((tokens,) for tokens in sorted({*(min(_round_up(int(q)), largest) for q in quantiles), largest}))


def _round_up(tokens: int) -> int:
    return -(-tokens // CAPACITY_STEP) * CAPACITY_STEP
