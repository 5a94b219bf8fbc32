"""The glyph VAE as a task: losses, metrics and pictures around `jaxvae.models.GlyphVAE`.

Source: specification of the glyph VAE, chapters 4 (losses), 8 (evaluation) and 9 (what is corrected by default).
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import losses, raster
from jaxvae.config import require, require_not_negative, require_one_of, require_positive
from jaxvae.data.glyphs import GlyphSource, load_glyphs, split_glyphs
from jaxvae.data.glyphs.overlaps import OVERLAPS
from jaxvae.data.glyphs.split import SPLITS
from jaxvae.models.glyph_vae import Decoding, Encoding, GlyphVAE, Tokens
from jaxvae.outlines import NUM_COMMANDS, loss_masks
from jaxvae.stats import Mean, Stats, Sum, compute
from jaxvae.tasks.task import Aux

# A dimension is active when the variance of its posterior mean over the data exceeds this (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01
# Side of the pictures in which intersection over union is counted, px.
IOU_SIZE = 64
# Side of a glyph in the sample pictures, px, drawn at twice that and averaged.
PICTURE_SIZE = 96
# Glyphs side by side in a sample picture.
PICTURE_COLUMNS = 12


class Reconstruction(NamedTuple):
    """Predicted outlines."""

    commands: jax.Array  # [B, L]
    coords: jax.Array  # [B, L, 4]


def tokens_of(batch) -> Tokens:
    """The encoder's input; padding examples have no token."""
    mask = batch["token_mask"] & batch["valid"][:, None]
    return Tokens(batch["commands"], batch["coords"], mask, batch["contour_ids"], batch["topology"])


def command_accuracy(tokens: Tokens, commands: jax.Array) -> Mean:
    """Share of the valid tokens whose predicted command, `commands` [B, L], is the target."""
    return Mean.of(commands == tokens.commands, tokens.mask)


class GlyphVAETask:
    """See `jaxvae.tasks.task.Task`. Construction checks the configuration and reads nothing."""

    batch_coupled = ""
    float16_unsafe = ""
    captions: ClassVar = {"reconstruction": "targets above, reconstructions with z = posterior mean below"}

    def __init__(self, config):
        self.config = config
        check(config)
        self.model = GlyphVAE(
            **config.model.to_dict() | {"decoder_image": config.model.decoder_image == "full"},
            dtype=jnp.dtype(config.precision.compute),
        )

    # Data

    def sources(self, report) -> dict[str, GlyphSource]:
        data = self.config.data
        max_len = self.config.model.max_len
        glyphs, skipped = load_glyphs(data.path, data.charset, max_len, data.overlaps, data.cubic_tolerance_em)
        train, val = split_glyphs(glyphs, data.split, data.val_fraction, data.split_seed, skipped)
        for line in skipped.summary():
            report(line)
        sides = f"{len(train)} to train on, {len(val)} to validate on, no outline in both"
        report(f"{len(glyphs)} glyphs, split by {data.split}: {sides}")
        shared = dict(
            image_size=data.image_size,
            sdf_clip_px=data.sdf_clip_px,
            rsm=data.rsm,
            end=data.prefix_end,
            num_buckets=data.num_buckets,
            max_tokens=self.config.model.max_len,
            skipped=skipped.names,
        )
        return {
            "train": GlyphSource([glyphs[i] for i in train], **shared),
            "val": GlyphSource([glyphs[i] for i in val], stages="fixed", **shared),
        }

    def statistics(self, sources) -> dict[str, np.ndarray]:
        """Class weights from the commands of the training data."""
        weighting = self.config.loss.class_weights
        if weighting == "none":
            return {"class_weight": np.ones(NUM_COMMANDS, np.float32)}
        counts = sources["train"].command_counts()
        weight = losses.inverse_frequency_weights(counts, weigh_absent=weighting == "inverse_with_absent")
        return {"class_weight": weight}

    # Training

    def init(self, rng, batch) -> dict[str, Any]:
        eps = jnp.zeros((batch["valid"].shape[0], self.model.zdim))
        return self.model.init(rng, tokens_of(batch), batch["sdf"], eps)

    def draws(self, keys, batch) -> dict[str, jax.Array]:
        return {"eps": jax.vmap(lambda key: jax.random.normal(key, (self.model.zdim,)))(keys)}

    def totals(self, variables, batch, draws, step) -> Stats:
        tokens = tokens_of(batch)
        command_mask, coord_mask = loss_masks(tokens.commands, tokens.mask)
        class_weight = variables["statistics"]["class_weight"][tokens.commands]
        kl = jnp.zeros((batch["valid"].shape[0], self.model.zdim))
        if self.config.loss.free_bits:  # only a floor needs the mean itself, and so a forward pass
            kl = self._encode(variables, batch).posterior.kl()
        return {
            "ce_weighted": Sum(jnp.where(command_mask, class_weight, 0.0).sum()),
            "l1": Sum(coord_mask.sum().astype(jnp.float32)),
            "kl_vector": Mean.of(kl, batch["valid"], axis=0),
        }

    def terms(self, variables, batch, draws, totals, step):
        encoding, decoding = self.model.apply(_weights(variables), tokens_of(batch), batch["sdf"], draws["eps"])
        parts = self.loss_parts(variables, batch, encoding.posterior, decoding)
        totals = self.totals_of(parts) if totals is None else totals
        terms, kl = self.loss_terms(parts, totals, step)

        # `kl` is a share; times the examples of the whole batch it becomes additive like the other statistics.
        used = Mean(kl * totals["kl_vector"].weight[0], parts["kl_vector"].weight[0])
        stats = self._report(batch, encoding.posterior, parts) | {
            "command_accuracy": command_accuracy(tokens_of(batch), decoding.logits.argmax(-1)),
            "beta": Mean.per_batch(self.beta(step)),
            "kl_used": used,
            "kl_used_per_dim": Mean(used.total / self.model.zdim, used.weight),
        }
        return terms, Aux(stats)

    def loss_parts(self, variables, batch, posterior, decoding) -> dict[str, Mean]:
        """The losses as sums and weights over the examples at hand."""
        tokens = tokens_of(batch)
        command_mask, coord_mask = loss_masks(tokens.commands, tokens.mask)
        nll = losses.cross_entropy(decoding.logits, tokens.commands)
        class_weight = variables["statistics"]["class_weight"][tokens.commands]
        return {
            "ce": Mean.of(nll, command_mask),
            "ce_weighted": Mean.of(nll, jnp.where(command_mask, class_weight, 0.0)),
            "l1": Mean.of(jnp.abs(decoding.coords - tokens.coords), coord_mask),
            "kl_vector": Mean.of(posterior.kl(), batch["valid"], axis=0),
        }

    def totals_of(self, parts) -> Stats:
        """What `totals` gives, when the examples at hand are the whole batch."""
        return {
            "ce_weighted": Sum(parts["ce_weighted"].weight),
            "l1": Sum(parts["l1"].weight),
            "kl_vector": parts["kl_vector"],
        }

    def loss_terms(self, parts, totals, step) -> tuple[dict[str, jax.Array], jax.Array]:
        """Weighted terms, and the KL in nats as used (with its floor, without beta); shares of the whole batch."""
        loss = self.config.loss
        ce = losses.share(parts["ce_weighted"], totals["ce_weighted"].total)
        l1 = losses.share(parts["l1"], totals["l1"].total)
        kl = losses.kl_with_free_bits(parts["kl_vector"], totals["kl_vector"], loss.free_bits, loss.free_bits_mode)
        if loss.detach_l1_and_kl:
            l1, kl = jax.lax.stop_gradient((l1, kl))
        return {"ce": loss.ce_weight * ce, "l1": loss.l1_weight * l1, "kl": self.beta(step) * kl}, kl

    def beta(self, step):
        """Weight of the KL term after `step` updates; a function of the global step only."""
        return losses.linear_warmup(step, self.config.loss.beta_warmup, self.config.loss.beta)

    # Evaluation

    def evaluate(self, variables, batch, draws, step) -> Stats:
        """Losses and metrics with z = the posterior's mean."""
        encoding = self._encode(variables, batch)
        decoding = self._decode(variables, batch, encoding.posterior.mean)
        mean = encoding.posterior.mean
        parts = self.loss_parts(variables, batch, encoding.posterior, decoding)
        stats = self._report(batch, encoding.posterior, parts)
        stats |= self.score(batch, _reconstruction(decoding))
        stats |= {
            "kl_vector": parts["kl_vector"],
            "mean": Mean.of(mean, batch["valid"], axis=0),
            "mean_square": Mean.of(jnp.square(mean), batch["valid"], axis=0),
            "beta": Mean.per_batch(self.beta(step)),
        }
        return stats

    def summarize(self, stats: Stats) -> dict[str, float]:
        loss, values = self.config.loss, compute(stats)
        numbers = {name: float(v) for name, v in values.items() if np.ndim(v) == 0}
        kl = values["kl_vector"]
        if loss.free_bits_mode == "per_dim":
            kl_used = np.maximum(kl, loss.free_bits).sum()
        else:
            kl_used = max(kl.sum(), loss.free_bits)
        numbers["kl_used"] = float(kl_used)
        numbers["kl_used_per_dim"] = float(kl_used) / self.model.zdim
        variance = values["mean_square"] - np.square(values["mean"])
        numbers["active_units"] = float((variance > ACTIVE_VARIANCE).sum())
        numbers["loss"] = (
            loss.ce_weight * numbers["ce_weighted"]
            + loss.l1_weight * numbers["l1"]
            + numbers["beta"] * numbers["kl_used"]
        )
        return numbers

    def latents(self, variables, batch, draws, z) -> jax.Array:
        if z == "prior":
            return draws["eps"]
        posterior = self._encode(variables, batch).posterior
        return {"mean": posterior.mean, "posterior": posterior.sample(draws["eps"])}[z]

    def reconstruct(self, variables, batch, latents) -> Reconstruction:
        return _reconstruction(self._decode(variables, batch, latents))

    def score(self, batch, reconstruction) -> Stats:
        tokens = tokens_of(batch)
        _, coord_mask = loss_masks(tokens.commands, tokens.mask)
        error = jnp.abs(reconstruction.coords - tokens.coords) / batch["em"][:, None, None]
        fill = jax.vmap(raster.fill, (0, 0, 0, None))
        want = fill(tokens.commands, tokens.coords, tokens.mask, IOU_SIZE)
        got = fill(reconstruction.commands, reconstruction.coords, tokens.mask, IOU_SIZE)
        return {
            "command_accuracy": command_accuracy(tokens, reconstruction.commands),
            "coord_error_em": Mean.of(error, coord_mask),
            # A target too small for any pixel's centre says nothing.
            "iou": Mean.of(raster.iou(want, got), batch["valid"] & want.any((-2, -1))),
        }

    def show(self, variables, batch, draws) -> dict[str, jax.Array]:
        """Glyphs black on white, spread over the batch."""
        count = batch["valid"].shape[0]
        columns = np.linspace(0, count - 1, min(count, PICTURE_COLUMNS)).round().astype(int)
        batch, draws = jax.tree.map(lambda x: x[columns], (batch, draws))
        tokens = tokens_of(batch)
        predicted = self.reconstruct(variables, batch, self.latents(variables, batch, draws, "mean"))
        fill = jax.vmap(raster.fill, (0, 0, 0, None))
        ink = jnp.stack(
            [
                fill(commands, coords, tokens.mask, 2 * PICTURE_SIZE)
                for commands, coords in ((tokens.commands, tokens.coords), predicted)
            ]
        )
        rows, columns = ink.shape[:2]
        ink = ink.reshape(rows, columns, PICTURE_SIZE, 2, PICTURE_SIZE, 2).mean((3, 5))
        grid = ink.transpose(0, 2, 1, 3).reshape(rows * PICTURE_SIZE, columns * PICTURE_SIZE)
        return {"reconstruction": 1.0 - grid}

    # Parts

    def _encode(self, variables, batch) -> Encoding:
        return self.model.apply(_weights(variables), tokens_of(batch), batch["sdf"], method="encode")

    def _decode(self, variables, batch, z) -> Decoding:
        mask = tokens_of(batch).mask
        return self.model.apply(_weights(variables), z, batch["sdf"], mask, method="decode")

    def _report(self, batch, posterior, parts) -> Stats:
        """What training and evaluation log in common of losses and posterior."""
        kl = posterior.kl().sum(-1)
        return {
            "ce": parts["ce"],
            "ce_weighted": parts["ce_weighted"],
            "l1": parts["l1"],
            "kl": Mean.of(kl, batch["valid"]),
            "kl_per_dim": Mean.of(kl / self.model.zdim, batch["valid"]),
            "logvar_clamped": Mean.of(posterior.clamped, batch["valid"]),
        }


def _weights(variables) -> dict[str, Any]:
    """The collections that belong to the model."""
    return {"params": variables["params"]}


def _reconstruction(decoding: Decoding) -> Reconstruction:
    return Reconstruction(decoding.logits.argmax(-1).astype(jnp.int32), decoding.coords)


def check(config) -> None:
    """Refuses values with which the model cannot be built or trained, each with what would work."""
    model = config.model
    for key in ("embed", "zdim", "heads", "patch", "vec_layers", "enc_xlayers", "dec_layers", "max_len"):
        require(config, f"model.{key}", 0 < model[key] <= 2**16, "must be from 1 to 65536")
    require(config, "model.embed", model.embed % 4 == 0, "must be divisible by 4 (two sinusoids per direction)")
    dividing = [h for h in range(1, model.embed + 1) if model.embed % h == 0 and h <= 64]
    what = f"must divide config.model.embed = {model.embed}: one of {', '.join(map(str, dividing))}"
    require(config, "model.heads", model.embed % model.heads == 0, what)
    require_one_of(config, "model.decoder_image", ("full", "none"))
    require_positive(config, "data.num_buckets")
    side = config.data.image_size
    require(config, "data.image_size", 0 < side <= 2**12, "must be from 1 to 4096 px")
    require(config, "data.sdf_clip_px", 0 < config.data.sdf_clip_px <= side, f"must be above 0, at most {side} px")
    require(config, "data.val_fraction", 0 < config.data.val_fraction < 1, "must be between 0 and 1")
    require_one_of(config, "data.split", SPLITS)
    require_one_of(config, "data.overlaps", OVERLAPS)
    tolerance = config.data.cubic_tolerance_em
    require(config, "data.cubic_tolerance_em", 0 < tolerance <= 0.1, "must be above 0, at most 0.1 em")
    require_one_of(config, "data.prefix_end", ("append", "overwrite"))
    require_not_negative(config, "loss.l1_weight", "loss.ce_weight", "loss.beta", "loss.beta_warmup")
    require_not_negative(config, "loss.free_bits")
    require_one_of(config, "loss.free_bits_mode", ("total", "per_dim"))
    require_one_of(config, "loss.class_weights", ("inverse", "inverse_with_absent", "none"))
