"""The glyph VAE in PyTorch, from its fastest stock layers: what jaxvae's train step is measured against.

The same function as `jaxvae.models.glyph_vae` with the losses of `jaxvae.tasks.glyph_vae`, written the way a
PyTorch user in a hurry would write it. Modules are named as in the original's checkpoints (specification of the
glyph VAE, section 3.7), so `jaxvae.convert` fills them with jaxvae's weights. Metrics, averages of the weights,
the check for non-finite numbers and the making of the images, which jaxvae's step has besides, are left out.

Of torch's stock parts the fastest are taken. Times of a step relative to this file, on one core of an AMD EPYC
(Zen 4) with torch 2.13 (quickstart / small / high_quality with 4 glyphs of 64 tokens): nn.MultiheadAttention
instead of scaled_dot_product_attention 1.06 / 1.08 / -, its unfused backend 1.05 / 1.05 / -, AdamW with foreach
instead of fused 1.01 / 1.01 / -, patches by Conv2d instead of Linear 1.03 / 1.07 / 1.02, that and channels_last
0.98 / 1.06 / 1.08.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import cpu_threads
from torch import nn

from jaxvae.config import require
from jaxvae.convert.glyph_vae import glyph_vae
from jaxvae.convert.names import EMBEDDING, LINEAR, Table, from_flax
from jaxvae.errors import UserError
from jaxvae.models.glyph_vae import LOGVAR_BOUNDS
from jaxvae.nn.positions import sinusoid_1d, sinusoid_2d
from jaxvae.outlines import COORD_LIMIT, NUM_COMMANDS, PAD, loss_masks
from jaxvae.tasks.glyph_vae import GlyphVAETask


def feed_forward(width: int) -> nn.Sequential:
    # Identities stand where the original has dropouts, which count in the names.
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))


class Attention(nn.MultiheadAttention):
    """nn.MultiheadAttention's weights around a direct call of scaled_dot_product_attention."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads, batch_first=True)

    def forward(self, x_q, x_kv=None, key_mask=None, causal=False):
        if x_kv is None:
            projected = F.linear(x_q, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            width = self.embed_dim
            q = F.linear(x_q, self.in_proj_weight[:width], self.in_proj_bias[:width])
            kv = F.linear(x_kv, self.in_proj_weight[width:], self.in_proj_bias[width:])
            projected = q, *kv.chunk(2, -1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in projected)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class SelfAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln, self.mha = nn.LayerNorm(width), Attention(width, heads)

    def forward(self, x, mask):
        """Attention over the slots of a mask; without one each sees those before it."""
        return x + self.mha(self.ln(x), key_mask=mask, causal=mask is None)


class CrossAttentionBlock(SelfAttentionBlock):
    """Queries and patches go through one norm."""

    def forward(self, x, kv):
        return x + self.mha(self.ln(x), self.ln(kv))


class FeedForwardBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.ln, self.ff = nn.LayerNorm(width), feed_forward(width)

    def forward(self, x):
        return x + self.ff(self.ln(x))


class FusionLayer(nn.Module):
    """One layer of the encoder's cross attention; its nesting is the original's."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        feed = nn.ModuleDict({"net": feed_forward(width)})
        self.attn_block = nn.ModuleDict({"fn": nn.ModuleDict({"norm": nn.LayerNorm(width)})})
        self.mha = Attention(width, heads)
        self.ffn_block = nn.ModuleDict({"fn": nn.ModuleDict({"norm": nn.LayerNorm(width), "fn": feed})})

    def forward(self, x, kv, keep):
        x = (x + self.mha(self.attn_block["fn"]["norm"](x), kv)) * keep
        ffn = self.ffn_block["fn"]
        return (x + ffn["fn"]["net"](ffn["norm"](x))) * keep


class VectorEncoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.emb_cmd, self.proj_cmd = nn.Embedding(NUM_COMMANDS, 128), nn.Linear(128, width)
        self.mlp_arg = nn.Sequential(nn.Linear(4, 128), nn.GELU(), nn.Linear(128, 128))
        self.proj_arg = nn.Linear(128, width)
        self.proj_pos_abs, self.proj_pos_rel = nn.Linear(64, width), nn.Linear(64, width)
        self.emb_cid, self.proj_cid = nn.Embedding(4096, 64), nn.Linear(64, width)
        self.proj_topo = nn.Linear(3, width)
        self.ln_in = nn.LayerNorm(width)
        blocks = []
        for _ in range(layers):
            blocks += [SelfAttentionBlock(width, heads), FeedForwardBlock(width)]
        self.encoder = nn.ModuleList(blocks)

    def forward(self, batch):
        x = self.proj_cmd(self.emb_cmd(batch["commands"])) + self.proj_arg(self.mlp_arg(batch["used_coords"]))
        x = x + self.proj_pos_abs(batch["positions"]) + self.proj_pos_rel(batch["positions"])
        x = x + self.proj_cid(self.emb_cid(batch["contours"])) + self.proj_topo(batch["topology"])
        x = self.ln_in(x)
        for attend, feed in zip(self.encoder[::2], self.encoder[1::2], strict=True):
            x = feed(attend(x, batch["mask"]))
        return x


class PixelEncoder(nn.Module):
    def __init__(self, width: int, patch: int):
        super().__init__()
        self.patch = patch
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.GELU())
        self.proj = nn.Conv2d(32, width, patch, stride=patch)
        self.ln = nn.LayerNorm(width)

    def forward(self, batch):
        x, p = self.stem(batch["sdf"][:, None]), self.patch
        height, width = x.shape[2:]
        if height % p or width % p:
            x = F.pad(x, (0, -width % p, 0, -height % p))
        # Conv2d with stride = side of the kernel is a Linear over patches, which torch computes faster.
        x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = F.linear(x, self.proj.weight.flatten(1), self.proj.bias)
        return self.ln(x + batch["patch_positions"])


class Encoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        width, zdim = model.embed, model.zdim
        self.vec = VectorEncoder(width, model.heads, model.vec_layers)
        self.pix = PixelEncoder(width, model.patch)
        layers = (FusionLayer(width, model.heads) for _ in range(model.enc_xlayers))
        self.xattn = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        mlp = (nn.LayerNorm(2 * width), nn.Linear(2 * width, 4 * width), nn.GELU(), nn.Identity())
        self.head = nn.ModuleDict({"mlp": nn.Sequential(*mlp, nn.Linear(4 * width, 2 * zdim))})

    def forward(self, batch):
        keep = batch["mask"][..., None].float()
        tokens, patches = self.vec(batch), self.pix(batch)
        fused = tokens
        for layer in self.xattn["layers"]:
            fused = layer(fused, patches, keep)
        pooled = torch.cat([(x * keep).sum(1) / keep.sum(1).clamp(min=1) for x in (fused, tokens)], -1)
        mean, logvar = self.head["mlp"](pooled).chunk(2, -1)
        return mean, logvar.clamp(*LOGVAR_BOUNDS)


class Decoder(nn.Module):
    """The original's, and those that write freely, whose other weights are named in `names`."""

    def __init__(self, model):
        super().__init__()
        width, heads, self.image = model.embed, model.heads, model.decoder_image == "full"
        self.free, self.previous = model.decoder_mask == "free", model.decoder_tokens == "previous"
        self.pos_emb, self.pos_proj = nn.Embedding(model.max_len, 64), nn.Linear(64, width)
        if not self.free:
            self.valid_emb, self.valid_proj = nn.Embedding(2, 32), nn.Linear(32, width)
        if self.previous:
            self.before_emb, self.before_proj = nn.Embedding(NUM_COMMANDS, 128), nn.Linear(128, width)
            self.before_coords = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, width))
        self.z_proj = nn.Linear(model.zdim, width)
        blocks = []
        for _ in range(model.dec_layers):
            blocks.append(SelfAttentionBlock(width, heads))
            blocks += [CrossAttentionBlock(width, heads)] if self.image else []
            blocks.append(FeedForwardBlock(width))
        if self.image:
            self.pix = PixelEncoder(width, model.patch)
        self.blocks = nn.ModuleList(blocks)
        self.head_cmd = nn.Linear(width, NUM_COMMANDS)
        head_arg = (nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 4))
        self.head_arg = nn.Sequential(*head_arg)

    def forward(self, z, batch, noise):
        mask = batch["mask"]
        x = self.pos_proj(self.pos_emb.weight[: mask.shape[1]]) + self.z_proj(z)[:, None]
        if not self.free:
            x = x + self.valid_proj(self.valid_emb(mask.long()))
        if self.previous:
            coords = (batch["coords"] + noise)[:, :-1].clamp(-COORD_LIMIT, COORD_LIMIT) * batch["has"][:, :-1]
            x = x + self.before_proj(self.before_emb(F.pad(batch["commands"][:, :-1], (1, 0), value=PAD)))
            x = x + self.before_coords(F.pad(coords, (0, 0, 1, 0)))
        keep = None if self.free else mask[..., None].float()
        patches = self.pix(batch) if self.image else None
        for block in self.blocks:
            if isinstance(block, CrossAttentionBlock):
                x = block(x, patches)
            else:
                x = block(x) if isinstance(block, FeedForwardBlock) else block(x, None if self.free else mask)
            x = x if self.free else x * keep
        return self.head_cmd(x), self.head_arg(x)


def names(model) -> Table:
    """The twin's names of jaxvae's weights: the original's, and ours where it has none."""
    table = glyph_vae(model.vec_layers, model.enc_xlayers, model.dec_layers, model.decoder_image == "full")
    if model.decoder_mask == "free":
        table = [entry for entry in table if not entry[0].startswith("dec.valid_")]
    if model.decoder_tokens == "previous":
        table += [
            ("dec.before_emb", "decoder/before_command", EMBEDDING),
            ("dec.before_proj", "decoder/before_command_proj", LINEAR),
            ("dec.before_coords.0", "decoder/before_coord_in", LINEAR),
            ("dec.before_coords.2", "decoder/before_coord_out", LINEAR),
        ]
    return table


def check(config) -> None:
    """Refuses what `make_optimizer` cannot do."""
    c, what = config.optim, "--against=torch compares"
    require(config, "optim.name", c.name == "adamw", f"{what} adamw only")
    require(config, "optim.clip.name", c.clip.name == "norm", f"{what} a fixed limit only: norm")
    require(config, "optim.freeze", not c.freeze, f"{what} whole models only: ''")
    require(config, "model.decoder_image", config.model.decoder_image != "dropout", f"{what} full or none only")
    require(config, "loss.previous_dropout", not config.loss.previous_dropout, f"{what} without it only: 0")
    require(config, "model.coord_head", config.model.coord_head == "shared", f"{what} one head only: shared")
    if c.groups:
        raise UserError(f"config.optim.groups.{next(iter(c.groups))}: {what} one group only")


class TorchTwin:
    """See `twins.Twin`."""

    def __init__(self, config, params, collections: dict[str, Any], batch: dict[str, np.ndarray]):
        torch.set_num_threads(cpu_threads())
        self.config = config
        self.compared_at = config.loss.beta_warmup  # from here on the KL has its full weight, beta
        model = config.model
        self.model = nn.ModuleDict({"enc": Encoder(model), "dec": Decoder(model)})
        tensors = {name: torch.tensor(array) for name, array in from_flax(names(model), params).items()}
        self.model.load_state_dict(tensors, strict=True)
        self.batch = prepare_batch(config, batch, np.asarray(collections["statistics"]["class_weight"]))
        self.optimizer = make_optimizer(config, self.model)

    def gradients(self, eps: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss terms with the full beta, and the norm of the gradient before clipping, by jaxvae's names.

        `eps` [B, Z] and `noise` [B, L, 4] are standard normal.
        """
        self.optimizer.zero_grad(set_to_none=True)
        mean, logvar = self.model["enc"](self.batch)
        z, noise = mean + torch.exp(0.5 * logvar) * eps, self.config.loss.previous_noise * noise
        predictions = self.model["dec"](z, self.batch, noise)
        terms = loss_terms(self.config.loss, self.batch, mean, logvar, *predictions)
        loss = sum(terms.values())
        loss.backward()
        limit = self.config.optim.clip.norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit, foreach=True)
        return {"loss": loss, "grad_norm": norm} | terms

    def losses(self, draws: dict[str, np.ndarray]) -> dict[str, float]:
        """What `gradients` gives for the noise that jaxvae drew, as numbers."""
        noise = torch.tensor(draws["noise"]) if "noise" in draws else torch.zeros(self.batch["coords"].shape)
        return {name: x.item() for name, x in self.gradients(torch.tensor(draws["eps"]), noise).items()}

    def step(self) -> float:
        """One update with fresh noise; returns the loss."""
        eps, noise = (
            torch.randn(len(self.batch["mask"]), self.config.model.zdim),
            torch.randn_like(self.batch["coords"]),
        )
        loss = self.gradients(eps, noise)["loss"]
        self.optimizer.step()
        return loss.item()


def prepare_batch(config, batch: dict[str, np.ndarray], class_weight: np.ndarray) -> dict[str, torch.Tensor]:
    """A jaxvae batch as tensors, with everything that does not depend on the weights.

    `class_weight` is float [NUM_COMMANDS].
    """
    model, side = config.model, config.data.image_size
    mask = batch["token_mask"] & batch["valid"][:, None]
    command_mask, coord_mask = map(np.asarray, loss_masks(batch["commands"], mask))
    bits = (batch["topology"][..., None] >> np.arange(3)) & 1
    cells = -(-side // model.patch)
    arrays = {
        "commands": batch["commands"].astype(np.int64),
        "coords": batch["coords"],
        "used_coords": np.where(coord_mask, batch["coords"], 0.0).astype(np.float32),
        "coord_mask": coord_mask.astype(np.float32),
        "has": np.asarray(loss_masks(batch["commands"], np.ones_like(mask))[1]).astype(np.float32),
        "contours": np.maximum(batch["contour_ids"], 0).astype(np.int64),
        "topology": bits.astype(np.float32),
        "mask": mask,
        "valid": batch["valid"].astype(np.float32),
        "sdf": np.asarray(GlyphVAETask(config).images(batch)),
        "weight": np.where(command_mask, class_weight[batch["commands"]], 0.0).astype(np.float32),
        "positions": np.asarray(sinusoid_1d(mask.shape[1], 64)),
        "patch_positions": np.asarray(sinusoid_2d(cells, cells, model.embed)).reshape(cells * cells, -1),
    }
    return {name: torch.tensor(array) for name, array in arrays.items()}


def loss_terms(loss, batch, mean, logvar, logits, coords) -> dict[str, torch.Tensor]:
    """The weighted terms of jaxvae's step after the warm-up of beta (specification, section 4), by its names."""
    nll = F.cross_entropy(logits.flatten(0, 1), batch["commands"].flatten(), reduction="none")
    weight = batch["weight"].flatten()
    l1 = ((coords - batch["coords"]).abs() * batch["coord_mask"]).sum() / batch["coord_mask"].sum().clamp(min=1)
    per_dim = -0.5 * (1 + logvar - mean.square() - logvar.exp())
    kl = (per_dim * batch["valid"][:, None]).sum(0) / batch["valid"].sum()
    # `clamp` has the gradient of a floor: none below it.
    per_dim_floor = loss.free_bits_mode == "per_dim"
    kl = kl.clamp(min=loss.free_bits).sum() if per_dim_floor else kl.sum().clamp(min=loss.free_bits)
    if loss.detach_l1_and_kl:
        l1, kl = l1.detach(), kl.detach()
    ce = (nll * weight).sum() / weight.sum()
    scale = batch["valid"].sum() / batch["mask"].sum() if loss.kl_scale == "token" else 1.0
    return {"term_ce": loss.ce_weight * ce, "term_l1": loss.l1_weight * l1, "term_kl": loss.beta * scale * kl}


def make_optimizer(config, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW in its fused form, decaying what jaxvae decays (`jaxvae.train.optim.kernels`)."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed, others = [], []
    for parameter in model.parameters():
        kernel = parameter.ndim > 1 and id(parameter) not in embeddings
        (decayed if kernel or config.optim.decay_on == "all" else others).append(parameter)
    c = config.optim
    groups = [{"params": decayed, "weight_decay": c.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=c.lr, betas=(c.b1, c.b2), eps=c.eps, fused=True)
