"""The glyph VAE as a task: losses, metrics and pictures around `jaxvae.models.GlyphVAE`.

Source: specification of the glyph VAE, chapters 4 (losses), 8 (evaluation) and 9 (what is corrected by default).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import distance, losses, raster
from jaxvae.config import require, require_not_negative, require_one_of, require_positive
from jaxvae.data.glyphs import Glyph, GlyphSource, Raster, length_group, load_glyphs, nearest, script_of, split_glyphs
from jaxvae.data.glyphs.overlaps import OVERLAPS
from jaxvae.data.glyphs.split import SPLITS
from jaxvae.models.glyph_vae import Decoding, Encoding, GlyphVAE, Outlines, Tokens, Written
from jaxvae.nn.gaussian import GaussianPosterior
from jaxvae.outlines import NUM_COMMANDS, loss_masks
from jaxvae.stats import Mean, Stats, Sum, compute
from jaxvae.tasks.task import Aux

# A dimension is active when the variance of its posterior mean over the data exceeds this (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01
# Side of the pictures in which intersection over union is counted, px.
IOU_SIZE = 64
# Points along an outline between which the Chamfer distance is taken.
CHAMFER_POINTS = 256
# Side of a glyph in the sample pictures, px, drawn at twice that and averaged.
PICTURE_SIZE = 96
# Glyphs side by side in a sample picture.
PICTURE_COLUMNS = 12


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
    compared_by = "iou"
    captions: ClassVar = {"reconstruction": "targets above, reconstructions with z = posterior mean below"}

    def __init__(self, config):
        self.config = config
        check(config)
        self.model = GlyphVAE(**config.model.to_dict(), dtype=jnp.dtype(config.precision.compute))

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
        return {
            "train": self.source([glyphs[i] for i in train], skipped=skipped.names),
            "val": self.source([glyphs[i] for i in val], stages="fixed", skipped=skipped.names),
        }

    def source(self, glyphs: Sequence[Glyph], **options) -> GlyphSource:
        """Glyphs as this task reads them; `options` of `GlyphSource` take the place of the configuration's."""
        data = self.config.data
        given = dict(
            raster=Raster(data.image_size, data.sdf_clip_px) if data.sdf == "raster" else None,
            rsm=data.rsm,
            end=data.prefix_end,
            num_buckets=data.num_buckets,
            max_tokens=self.config.model.max_len,
        )
        return GlyphSource(glyphs, **given | options)

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
        return self.model.init(rng, tokens_of(batch), self.images(batch), eps)

    def draws(self, keys, batch) -> dict[str, jax.Array]:
        def each(fold, draw):
            return jax.vmap(lambda key: draw(jax.random.fold_in(key, fold)))(keys)

        draws = {"eps": jax.vmap(lambda key: jax.random.normal(key, (self.model.zdim,)))(keys)}
        if self.config.loss.previous_noise:
            # A slot's noise is its own, however many slots there are: random bits are numbered.
            draws["noise"] = each(1, lambda key: jax.random.normal(key, (batch["commands"].shape[1], 4)))
        if share := self.config.loss.previous_dropout:
            draws["dropped"] = each(3, lambda key: jax.random.uniform(key, (batch["commands"].shape[1],)) < share)
        if self.model.decoder_image == "dropout":
            draws["hidden"] = each(2, lambda key: jax.random.uniform(key) < self.config.loss.image_dropout)
        return draws

    def totals(self, variables, batch, draws, step) -> Stats:
        tokens = tokens_of(batch)
        command_mask, coord_mask = loss_masks(tokens.commands, tokens.mask)
        class_weight = variables["statistics"]["class_weight"][tokens.commands]
        kl = jnp.zeros((batch["valid"].shape[0], self.model.zdim))
        if self.config.loss.free_bits:  # only a floor needs the mean itself, and so a forward pass
            kl = self.posterior(variables, batch).kl()
        return {
            "ce_weighted": Sum(jnp.where(command_mask, class_weight, 0.0).sum()),
            "l1": Sum(coord_mask.sum().astype(jnp.float32)),
            "kl_vector": Mean.of(kl, batch["valid"], axis=0),
            "tokens": Sum(command_mask.sum().astype(jnp.float32)),
        }

    def terms(self, variables, batch, draws, totals, step):
        tokens = tokens_of(batch)
        noise = self.config.loss.previous_noise * draws["noise"] if "noise" in draws else None
        encoding, decoding = self.model.apply(
            _weights(variables),
            tokens,
            self.images(batch),
            draws["eps"],
            noise,
            draws.get("dropped"),
            draws.get("hidden"),
        )
        parts = self.loss_parts(variables, batch, encoding.posterior, decoding)
        totals = self.totals_of(parts) if totals is None else totals
        terms, kl = self.loss_terms(parts, totals, step)

        # `kl` is a share; times the examples of the whole batch it becomes additive like the other statistics.
        used = Mean(kl * totals["kl_vector"].weight[0], parts["kl_vector"].weight[0])
        stats = self._report(batch, encoding.posterior, parts) | {
            "command_accuracy": command_accuracy(tokens, decoding.logits.argmax(-1)),
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
            "tokens": Sum(parts["ce"].weight),
        }

    def loss_terms(self, parts, totals, step) -> tuple[dict[str, jax.Array], jax.Array]:
        """Weighted terms, and the KL in nats as used (with its floor, without beta); shares of the whole batch."""
        loss = self.config.loss
        ce = losses.share(parts["ce_weighted"], totals["ce_weighted"].total)
        l1 = losses.share(parts["l1"], totals["l1"].total)
        kl = losses.kl_with_free_bits(parts["kl_vector"], totals["kl_vector"], loss.free_bits, loss.free_bits_mode)
        if loss.detach_l1_and_kl:
            l1, kl = jax.lax.stop_gradient((l1, kl))
        weight = self.beta(step)
        if loss.kl_scale == "token":
            weight *= losses.share(Mean(totals["kl_vector"].weight[0], 1.0), totals["tokens"].total)
        return {"ce": loss.ce_weight * ce, "l1": loss.l1_weight * l1, "kl": weight * kl}, kl

    def beta(self, step):
        """Weight of the KL term after `step` updates; a function of the global step only."""
        return losses.linear_warmup(step, self.config.loss.beta_warmup, self.config.loss.beta)

    # Evaluation

    def evaluate(self, variables, batch, draws, step) -> Stats:
        """Losses and metrics with z = the posterior's mean; the metrics are those of outlines that run freely."""
        batch = {**batch, "sdf": self.images(batch)}
        encoding = self._encode(variables, batch)
        mean = encoding.posterior.mean
        parts = self.loss_parts(variables, batch, encoding.posterior, self._decode(variables, batch, mean))
        stats = self._report(batch, encoding.posterior, parts)
        stats |= self.score(batch, self.reconstruct(variables, batch, mean))
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
        per_token = numbers["kl_used"] / numbers["tokens"] if loss.kl_scale == "token" else numbers["kl_used"]
        variance = values["mean_square"] - np.square(values["mean"])
        numbers["active_units"] = float((variance > ACTIVE_VARIANCE).sum())
        numbers["loss"] = (
            loss.ce_weight * numbers["ce_weighted"] + loss.l1_weight * numbers["l1"] + numbers["beta"] * per_token
        )
        return numbers

    @property
    def decoder_sees(self) -> tuple[str, ...]:
        """What the decoder is given of the outline that it writes, beside z: 'length', 'image'."""
        told = {"length": self.model.decoder_mask == "teacher", "image": self.model.decoder_image == "full"}
        return tuple(name for name, seen in told.items() if seen)

    def posterior(self, variables, batch) -> GaussianPosterior:
        """q(z | example), entries [B, Z]."""
        return self._encode(variables, batch).posterior

    def latents(self, variables, batch, draws, z) -> jax.Array:
        if z == "prior":
            return draws["eps"]
        posterior = self.posterior(variables, batch)
        return {"mean": posterior.mean, "posterior": posterior.sample(draws["eps"])}[z]

    def reconstruct(self, variables, batch, latents) -> Outlines:
        mask = tokens_of(batch).mask
        return self.model.apply(_weights(variables), latents, self.images(batch), mask, method="generate")

    def score(self, batch, reconstruction) -> Stats:
        """Slots against the target's; outlines by what they fill and by where they run."""
        tokens, length = tokens_of(batch), batch["commands"].shape[1]
        written = jax.tree.map(lambda x: x[:, :length], reconstruction)
        _, coord_mask = loss_masks(tokens.commands, tokens.mask)
        error = jnp.abs(written.coords - tokens.coords) / batch["em"][:, None, None]
        right = (written.commands == tokens.commands) & written.mask
        target = Outlines(tokens.commands, tokens.coords, tokens.mask)
        want, got = _fill(target, IOU_SIZE), _fill(reconstruction, IOU_SIZE)
        # A target too small for any pixel's centre says nothing.
        seen = batch["valid"] & want.any((-2, -1))
        along = jax.vmap(raster.contour_points, (0, 0, 0, None))
        distance = jax.vmap(raster.chamfer)(along(*target, CHAMFER_POINTS), along(*reconstruction, CHAMFER_POINTS))
        sound = jax.vmap(raster.closes)(reconstruction.commands, reconstruction.mask) & got.any((-2, -1))
        more = reconstruction.mask.sum(1) - tokens.mask.sum(1)
        return {
            "command_accuracy": Mean.of(right, tokens.mask),
            "coord_error_em": Mean.of(error, coord_mask),
            "iou": Mean.of(raster.iou(want, got), seen),
            "chamfer_em": Mean.of(distance / batch["em"], batch["valid"]),
            "closes": Mean.of(sound, batch["valid"]),
            "length_error": Mean.of(jnp.abs(more), batch["valid"]),
        }

    def groups(self, source) -> dict[str, list[str]]:
        """By script and by length."""
        return {
            "script": [script_of(source.glyph(i).codepoint) for i in range(len(source))],
            "length": [length_group(len(source.glyph(i))) for i in range(len(source))],
        }

    def baselines(self, sources, split):
        """The training glyph whose image is nearest to that of the example, as it is."""
        train, wanted = sources["train"], sources[split]
        at = nearest([wanted.glyph(i) for i in range(len(wanted))], train.glyphs)
        length = self.config.model.max_len

        def copy(indices) -> Outlines:
            outlines = Outlines(
                np.zeros((len(indices), length), np.int32),
                np.zeros((len(indices), length, 4), np.float32),
                np.zeros((len(indices), length), bool),
            )
            for row, index in enumerate(at[indices]):
                glyph = train.glyphs[index]
                for array, values in zip(outlines, (glyph.commands, glyph.coords, True), strict=True):
                    array[row, : len(glyph)] = values
            return outlines

        return {"the nearest training glyph": copy}

    def show(self, variables, batch, draws) -> dict[str, jax.Array]:
        """Glyphs black on white, spread over the batch."""
        count = batch["valid"].shape[0]
        columns = np.linspace(0, count - 1, min(count, PICTURE_COLUMNS)).round().astype(int)
        batch, draws = jax.tree.map(lambda x: x[columns], (batch, draws))
        batch = {**batch, "sdf": self.images(batch)}
        tokens = tokens_of(batch)
        predicted = self.reconstruct(variables, batch, self.latents(variables, batch, draws, "mean"))
        target = Outlines(tokens.commands, tokens.coords, tokens.mask)
        ink = jnp.stack([_fill(outlines, 2 * PICTURE_SIZE) for outlines in (target, predicted)])
        rows, columns = ink.shape[:2]
        ink = ink.reshape(rows, columns, PICTURE_SIZE, 2, PICTURE_SIZE, 2).mean((3, 5))
        grid = ink.transpose(0, 2, 1, 3).reshape(rows * PICTURE_SIZE, columns * PICTURE_SIZE)
        return {"reconstruction": 1.0 - grid}

    # Parts

    def images(self, batch) -> jax.Array:
        """Signed distance images [B, H, W] of exactly the tokens of the batch, unless it brings them along."""
        data = self.config.data
        if "sdf" in batch:
            return batch["sdf"]
        tokens = batch["commands"], batch["coords"], batch["token_mask"]
        return distance.signed_distance(*tokens, data.image_size, data.sdf_clip_px)

    def _encode(self, variables, batch) -> Encoding:
        return self.model.apply(_weights(variables), tokens_of(batch), self.images(batch), method="encode")

    def _decode(self, variables, batch, z) -> Decoding:
        """One pass over all slots, which the target leads where the decoder reads tokens."""
        tokens = tokens_of(batch)
        target = Written(tokens.commands, tokens.coords)
        return self.model.apply(_weights(variables), z, self.images(batch), tokens.mask, target, method="decode")

    def _report(self, batch, posterior, parts) -> Stats:
        """What training and evaluation log in common of losses and posterior."""
        kl = posterior.kl().sum(-1)
        return {
            "ce": parts["ce"],
            "ce_weighted": parts["ce_weighted"],
            "l1": parts["l1"],
            "kl": Mean.of(kl, batch["valid"]),
            "kl_per_dim": Mean.of(kl / self.model.zdim, batch["valid"]),
            "tokens": Mean.of(tokens_of(batch).mask.sum(1), batch["valid"]),
            "logvar_clamped": Mean.of(posterior.clamped, batch["valid"]),
        }


def _weights(variables) -> dict[str, Any]:
    """The collections that belong to the model."""
    return {"params": variables["params"]}


def _fill(outlines: Outlines, size: int) -> jax.Array:
    """Pictures [B, size, size] of outlines."""
    return jax.vmap(raster.fill, (0, 0, 0, None))(*outlines, size)


def check(config) -> None:
    """Refuses values with which the model cannot be built or trained, each with what would work."""
    model = config.model
    for key in ("embed", "zdim", "heads", "patch", "vec_layers", "enc_xlayers", "dec_layers", "max_len"):
        require(config, f"model.{key}", 0 < model[key] <= 2**16, "must be from 1 to 65536")
    require(config, "model.embed", model.embed % 4 == 0, "must be divisible by 4 (two sinusoids per direction)")
    dividing = [h for h in range(1, model.embed + 1) if model.embed % h == 0 and h <= 64]
    what = f"must divide config.model.embed = {model.embed}: one of {', '.join(map(str, dividing))}"
    require(config, "model.heads", model.embed % model.heads == 0, what)
    require_one_of(config, "model.decoder_image", ("full", "dropout", "none"))
    require_one_of(config, "model.decoder_mask", ("teacher", "free"))
    require_one_of(config, "model.decoder_tokens", ("none", "previous"))
    require_one_of(config, "model.coord_head", ("shared", "by_command"))
    told = model.decoder_tokens == "previous" and model.decoder_mask == "teacher"
    require(config, "model.decoder_mask", not told, "must be 'free' with config.model.decoder_tokens = 'previous'")
    require(config, "loss.previous_dropout", 0 <= config.loss.previous_dropout <= 1, "must be from 0 to 1")
    require(config, "loss.image_dropout", 0 <= config.loss.image_dropout <= 1, "must be from 0 to 1")
    require_positive(config, "data.num_buckets")
    side = config.data.image_size
    require(config, "data.image_size", 0 < side <= 2**12, "must be from 1 to 4096 px")
    require(config, "data.sdf_clip_px", 0 < config.data.sdf_clip_px <= side, f"must be above 0, at most {side} px")
    require_one_of(config, "data.sdf", ("analytic", "raster"))
    require(config, "data.val_fraction", 0 < config.data.val_fraction < 1, "must be between 0 and 1")
    require_one_of(config, "data.split", SPLITS)
    require_one_of(config, "data.overlaps", OVERLAPS)
    tolerance = config.data.cubic_tolerance_em
    require(config, "data.cubic_tolerance_em", 0 < tolerance <= 0.1, "must be above 0, at most 0.1 em")
    require_one_of(config, "data.prefix_end", ("append", "overwrite"))
    require_not_negative(config, "loss.l1_weight", "loss.ce_weight", "loss.beta", "loss.beta_warmup")
    require_not_negative(config, "loss.free_bits", "loss.previous_noise")
    require_one_of(config, "loss.kl_scale", ("glyph", "token"))
    require_one_of(config, "loss.free_bits_mode", ("total", "per_dim"))
    require_one_of(config, "loss.class_weights", ("inverse", "inverse_with_absent", "none"))
