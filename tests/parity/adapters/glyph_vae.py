"""Golden cases of the glyph VAE: arrays renamed, jaxvae called."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tiny import ROOT

from jaxvae import losses
from jaxvae.cli import load_module
from jaxvae.convert import glyph_vae as names
from jaxvae.convert.names import from_flax, to_flax
from jaxvae.data.glyphs.sdf import inside_mask, signed_distance
from jaxvae.data.glyphs.split import split_indices
from jaxvae.data.glyphs.stages import cut_prefix, draw_stage
from jaxvae.models.glyph_vae import (
    CrossAttention,
    Decoder,
    Decoding,
    PixelEncoder,
    PosteriorHead,
    Tokens,
    VectorEncoder,
)
from jaxvae.nn.gaussian import GaussianPosterior
from jaxvae.nn.masking import masked_mean
from jaxvae.nn.positions import sinusoid_1d, sinusoid_2d
from jaxvae.outlines import NUM_COMMANDS, check_prefix, decode, loss_masks, to_svg_path, to_text
from jaxvae.stats import Mean
from jaxvae.tasks.glyph_vae import GlyphVAETask
from jaxvae.train.clipping import clip_by_global_norm
from jaxvae.train.optim import optimizer_for
from jaxvae.train.state import State, create_state
from jaxvae.train.step import loss_and_grads, make_train_step


def outputs(**arrays):
    return {f"outputs/{name}": array for name, array in arrays.items()}


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def params_of(case, table):
    return {"params": on_device(to_flax(table, case.weights))}


def tokens_of(inputs):
    names = ("seq_cmd", "seq_arg", "seq_mask", "contour_ids", "seq_topo")
    return Tokens(*(jnp.asarray(inputs[name]) for name in names))


def batch_of(inputs):
    tokens = tokens_of(inputs)
    count = len(tokens.commands)
    return {
        "commands": tokens.commands,
        "coords": tokens.coords,
        "token_mask": tokens.mask,
        "contour_ids": tokens.contour_ids,
        "topology": tokens.topology,
        "sdf": jnp.asarray(inputs["stage_sdf"][:, 0]),
        "em": jnp.ones(count),
        "valid": jnp.ones(count, bool),
        "index": jnp.arange(count),
    }


def task_of(case, **overrides):
    """The task with the case's configuration, as the command line would set it."""
    config = load_module(ROOT / "configs" / "glyph_vae.py").get_config()
    given = case.config
    keys = ("embed", "heads", "enc_xlayers", "vec_layers", "patch", "zdim", "max_len", "dec_layers")
    changes = {f"model.{key}": given[key] for key in keys if key in given}
    changes |= {f"loss.{key}": given[key] for key in ("l1_weight", "ce_weight") if key in given}
    changes["model.decoder_image"] = "full" if has_image(case) else "none"
    changes |= {"data.sdf": "raster", "loss.free_bits_mode": "per_dim", "precision.compute": "float32", **overrides}
    config.update_from_flattened_dict(changes)
    return GlyphVAETask(config)


def has_image(case):
    """Whether the decoder sees the image; cases of the whole model that do not say so have it."""
    return case.config.get("use_pixel_cross_attn", True)


def table_of(case):
    c = case.config
    return names.glyph_vae(c["vec_layers"], c["enc_xlayers"], c["dec_layers"], has_image(case))


# Data


def rsm_prefix(case):
    i, allow = case.inputs, case.config.get("allow_token_prefix_fallback", False)
    prefixes = [
        cut_prefix(
            i["seq_cmd"],
            i["seq_arg"],
            i["seq_mask"],
            i["contour_ids"],
            ratio=ratio,
            end="overwrite",
            allow_token_fallback=allow,
        )
        for ratio in case.config["rsm_stages"]
    ]
    return outputs(
        seq_cmd=np.stack([p.commands for p in prefixes]),
        seq_arg=np.stack([p.coords for p in prefixes]),
        seq_mask=np.stack([p.token_mask for p in prefixes]),
        arg_supervise_mask=np.stack([loss_masks(p.commands, np.ones_like(i["seq_mask"]))[1] for p in prefixes]),
        stage_id=np.round(100 * np.asarray(case.config["rsm_stages"])).astype(int),
        stage_K=np.stack([p.num_kept for p in prefixes]),
        stage_C=np.stack([p.num_contours for p in prefixes]),
    )


def rsm_draw(case):
    return outputs(stage_index=draw_stage(case.inputs["u"], case.config["rsm_probs"]))


def loss_mask(case):
    commands, mask = case.inputs["seq_cmd"], case.inputs["seq_mask"]
    command_mask, coord_mask = loss_masks(commands, mask)
    found = check_prefix(commands, mask)
    return outputs(
        loss_mask_cmd=command_mask,
        loss_mask_arg=coord_mask,
        attn_pad_mask=~mask,
        ok=found.ok,
        n_end_prefix=found.num_ends,
        idx_last=found.last,
        idx_end=found.last_end,
    )


def sdf_from_inside(case):
    clip = case.config["sdf_clip_px"]
    return outputs(sdf=np.stack([signed_distance(inside, clip) for inside in case.inputs["inside"]]))


def stage_sdf(case):
    i, size, clip = case.inputs, case.config["img_size"], case.config["sdf_clip_px"]
    glyphs = zip(i["seq_cmd"], i["seq_arg"], i["seq_mask"], strict=True)
    inside = np.stack([inside_mask(*glyph, size) for glyph in glyphs])
    sdf = np.stack([signed_distance(each, clip) for each in inside])
    return outputs(inside=inside, stage_sdf=sdf[:, None])


def compare_stage_sdf(case, name, got, want):
    """Per glyph, by the fields of the case (specification, section 10)."""
    rule = case.tolerance
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        if name == "outputs/inside":
            assert (g != w).mean() <= rule["inside_mismatch_fraction"], f"glyph {k}"
        else:
            difference = np.abs(g - w)
            assert difference.mean() <= rule["mean_abs"], f"glyph {k}"
            assert difference.max() <= rule["atol"], f"glyph {k}"


def split(case):
    train, val = split_indices(case.config["n"], case.config["val_split"], case.config["seed"])
    return outputs(train=np.asarray(train), val=np.asarray(val))


def class_weight(case):
    kept = case.inputs["seq_cmd"][case.inputs["seq_mask"]]
    counts = np.bincount(kept, minlength=NUM_COMMANDS)
    weight = losses.inverse_frequency_weights(counts, weigh_absent=True)
    return outputs(class_weight=weight, counts=counts)


def decode_outlines(case):
    i = case.inputs
    norms = i["norms"] if case.config["denormalise"] else [None] * len(i["norms"])
    rows = [decode(*row) for row in zip(i["logits_cmd"], i["pred_arg"], i["seq_mask"], norms, strict=True)]
    longest = case.arrays["outputs"]["ids"].shape[1]
    ids, args = np.full((len(rows), longest), -1), np.zeros((len(rows), longest, 4))
    for row, commands in enumerate(rows):
        for slot, command in enumerate(commands):
            ids[row, slot] = command.id
            args[row, slot, : len(command.args)] = command.args
    return outputs(
        ids=ids,
        args=args,
        count=np.array([len(commands) for commands in rows]),
        text=np.array([to_text(commands) for commands in rows]),
        svg_path=np.array([to_svg_path(commands) for commands in rows]),
    )


# Model


def positions(case):
    c = case.config
    return outputs(
        sinusoid_1d=sinusoid_1d(c["length"], c["width_1d"]), sinusoid_2d=sinusoid_2d(*c["grid"], c["width_2d"])
    )


def vector_encoder(case):
    c, widths = case.config, {}
    for ours, theirs in (
        ("command_width", "d_cmd"),
        ("coord_width", "d_arg"),
        ("contour_width", "d_cid"),
        ("position_width", "d_pos_abs"),
    ):
        if theirs in c:
            widths[ours] = c[theirs]
    model = VectorEncoder(
        c["embed"], c["heads"], c["vec_layers"], max_contours=len(case.weights["emb_cid.weight"]), **widths
    )
    tokens = tokens_of(case.inputs)
    q_tokens = model.apply(params_of(case, names.vector_encoder(c["vec_layers"])), tokens)
    return outputs(q_tokens=q_tokens, prefix_repr=masked_mean(q_tokens, tokens.mask), key_padding_mask=~tokens.mask)


def pixel_encoder(case):
    model = PixelEncoder(case.config["embed"], case.config["patch"])
    sdf = jnp.asarray(case.inputs["stage_sdf"][:, 0])
    feat_2d, kv_tokens = model.apply(params_of(case, names.PIXEL_ENCODER), sdf)
    return outputs(feat_2d=feat_2d.transpose(0, 3, 1, 2), kv_tokens=kv_tokens)


def cross_attention(case):
    c, i = case.config, on_device(case.inputs)
    model = CrossAttention(c["heads"], c["enc_xlayers"])
    mask = i["q_mask"]
    q_fused = model.apply(params_of(case, names.cross_attention(c["enc_xlayers"])), i["q_tokens"], i["kv_tokens"], mask)
    outside = Mean.of(jnp.square(q_fused).sum(-1), ~mask)
    return outputs(q_fused=q_fused, masked_q_l2_mean=outside.compute().astype(np.float32))


def posterior_head(case):
    c, i = case.config, on_device(case.inputs)
    posterior, pooled = PosteriorHead(c["zdim"]).apply(
        params_of(case, names.POSTERIOR_HEAD), i["q_fused"], i["seq_mask"], i.get("prefix_repr")
    )
    kl = posterior.kl()
    return outputs(
        mu=posterior.mean,
        logvar=posterior.logvar,
        pooled=pooled,
        z=posterior.sample(i["eps"], c["eps_std"]),
        kl_per_dim=kl,
        kl_batch=kl.sum(-1).mean(),
        kl_mean=kl.mean(),
        kl_sum=kl.sum(),
    )


def encoder(case):
    c = case.config
    task = task_of(case)
    params = {"params": {"encoder": on_device(to_flax(names.encoder(c["vec_layers"], c["enc_xlayers"]), case.weights))}}
    batch = batch_of(on_device(case.inputs))
    encoding = task.model.apply(params, tokens_of(on_device(case.inputs)), batch["sdf"], method="encode")
    eps = on_device(case.inputs)["eps"] * c["eps_std"] if c["sample"] else 0 * on_device(case.inputs)["eps"]
    return outputs(
        mu=encoding.posterior.mean,
        logvar=encoding.posterior.logvar,
        z=encoding.posterior.sample(eps),
        q_tokens=encoding.q_tokens,
        kv_tokens=encoding.kv_tokens,
        q_fused=encoding.q_fused,
        prefix_repr=encoding.prefix_repr,
        pooled=encoding.pooled,
    )


def decoder(case):
    c, i = case.config, on_device(case.inputs)
    image = has_image(case)
    model = Decoder(c["embed"], c["heads"], c["patch"], c["dec_layers"], c["max_len"], image=image)
    sdf = (i["stage_sdf"][:, 0]) if image else None
    decoding = model.apply(params_of(case, names.decoder(c["dec_layers"], image)), i["z"], sdf, i["seq_mask"])
    found = outputs(logits_cmd=decoding.logits, pred_arg=decoding.coords, dec_slots=decoding.slots)
    return found | (outputs(kv_tokens=decoding.kv_tokens) if image else {})


def model(case):
    task, i = task_of(case), on_device(case.inputs)
    params, batch, tokens = params_of(case, table_of(case)), batch_of(i), tokens_of(i)
    encoding, decoding = task.model.apply(params, tokens, batch["sdf"], i["eps"])
    posterior = encoding.posterior
    from_mean = task.model.apply(params, posterior.mean, batch["sdf"], tokens.mask, method="decode")
    return outputs(
        mu=posterior.mean,
        logvar=posterior.logvar,
        z=posterior.sample(i["eps"]),
        logits_cmd=decoding.logits,
        pred_arg=decoding.coords,
        logits_cmd_from_mu=from_mean.logits,
        pred_arg_from_mu=from_mean.coords,
    )


# Losses and training


def loss_cases(case):
    c, i = case.config, case.inputs
    batch = {
        "commands": jnp.asarray(i["seq_cmd"]),
        "coords": jnp.asarray(i["seq_arg"]),
        "token_mask": jnp.asarray(i["seq_mask"]),
        "contour_ids": None,
        "topology": None,
        "valid": jnp.ones(len(i["mu"]), bool),
    }
    posterior = GaussianPosterior(jnp.asarray(i["mu"]), jnp.asarray(i["logvar"]), jnp.zeros(i["mu"].shape, bool))
    decoding = Decoding(jnp.asarray(i["logits_cmd"]), jnp.asarray(i["pred_arg"]), None, None)

    def parts_under(weight, **overrides):
        task = task_of(case, **overrides)
        parts = task.loss_parts({"statistics": {"class_weight": jnp.asarray(weight)}}, batch, posterior, decoding)
        return task, parts

    def total(weight, free_bits, step):
        task, parts = parts_under(
            weight, **{"loss.free_bits": free_bits, "loss.beta": 1.0, "loss.beta_warmup": c["beta_warmup"]}
        )
        terms, kl = task.loss_terms(parts, task.totals_of(parts), step)
        return sum(terms.values()), kl

    steps = jnp.asarray(i["steps"])
    ones = np.ones(NUM_COMMANDS, np.float32)
    counts = np.bincount(i["seq_cmd"][i["seq_mask"]], minlength=NUM_COMMANDS)
    of_batch = losses.inverse_frequency_weights(counts, weigh_absent=True, sum_floor=1e-8)
    task, weighted = parts_under(i["class_weight"], **{"loss.beta": 1.0, "loss.beta_warmup": c["beta_warmup"]})
    _, batch_weighted = parts_under(of_batch)

    def mean(part):
        return losses.share(part, part.weight)

    def totals(weight):
        return jnp.array([[total(weight, bits, step)[0] for step in steps] for bits in c["free_bits"]])

    return outputs(
        ce=mean(weighted["ce"]),
        ce_weighted=mean(weighted["ce_weighted"]),
        batch_class_weight=of_batch,
        ce_batch_weighted=mean(batch_weighted["ce_weighted"]),
        l1=mean(weighted["l1"]),
        n_ce=np.int32(weighted["ce"].weight),
        n_l1=np.int32(weighted["l1"].weight),
        kl=jnp.array([total(ones, bits, 1)[1] for bits in c["free_bits"]]),
        beta=jnp.array([task.beta(step) for step in steps]),
        total_unweighted_ce=totals(ones),
        total_weighted_ce=totals(i["class_weight"]),
    )


def training_overrides(case):
    c = case.config
    return {
        "loss.free_bits": c["free_bits"],
        "loss.detach_l1_and_kl": c["graph"] == "original",
        "loss.beta": c.get("beta", 1.0),
        "loss.beta_warmup": c.get("beta_warmup", 0),
    }


def reported(stats):
    """The terms without their weights, from what training logs."""
    names = {"ce": "ce_weighted", "l1": "l1", "kl": "kl_used"}
    return {theirs: stats[ours].compute().astype(np.float32) for theirs, ours in names.items()}


def gradients(case):
    i = on_device(case.inputs)
    task, table = task_of(case, **training_overrides(case)), table_of(case)
    params = on_device(to_flax(table, case.weights))
    collections = {"statistics": {"class_weight": i["class_weight"]}}
    batch, draws = batch_of(i), {"eps": i["eps"]}

    @jax.jit
    def run(params):
        grads, terms, stats, _ = loss_and_grads(task, State(params, collections=collections), batch, draws, None, 1)
        encoding, decoding = task.model.apply({"params": params}, tokens_of(i), batch["sdf"], draws["eps"])
        return grads, terms, stats, encoding.posterior, decoding

    grads, terms, stats, posterior, decoding = run(params)
    found = outputs(
        **reported(stats),
        total=terms["loss"],
        mu=posterior.mean,
        logvar=posterior.logvar,
        z=posterior.sample(i["eps"]),
        logits_cmd=decoding.logits,
        pred_arg=decoding.coords,
        grad_norm=optax.tree.norm(grads),
    )
    return found | {f"grads/{name}": array for name, array in from_flax(table, grads).items()}


class RecordedNoise(GlyphVAETask):
    """The task with its noise taken from the batch instead of drawn."""

    def draws(self, keys, batch):
        return {"eps": batch["eps"]}


def train_steps(case):
    c, i = case.config, on_device(case.inputs)
    overrides = training_overrides(case) | {
        "optim.name": "adamw",
        "optim.lr": c["lr"],
        "optim.weight_decay": c["wd"],
        "optim.decay_on": "all",
        "optim.clip.norm": c["grad_clip"],
    }
    task, table = RecordedNoise(task_of(case, **overrides).config), table_of(case)
    batch = batch_of(i)
    optimizer = optimizer_for(task, task.config, batch, c["steps"])
    statistics = {"class_weight": i["class_weight"]}
    state = create_state(task, optimizer, task.config, statistics, batch)
    state = state.replace(params=on_device(to_flax(table, case.weights)))
    step = jax.jit(make_train_step(task, optimizer, task.config))
    rows = []
    for eps in i["eps"]:
        state, stats = step(state, batch | {"eps": jnp.asarray(eps)})
        logged = {"total": "loss", "grad_norm": "grad_norm", "beta": "beta"}
        rows.append(reported(stats) | {theirs: np.float32(stats[ours].compute()) for theirs, ours in logged.items()})
    found = outputs(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})
    return found | {f"outputs/after/{name}": array for name, array in from_flax(table, state.params).items()}


def beta_schedule(case):
    overrides = {"loss.beta": case.config["target"], "loss.beta_warmup": case.config["beta_warmup"]}
    return outputs(beta=task_of(case, **overrides).beta(on_device(case.inputs)["step"]))


def clip_gradients(case):
    clip = clip_by_global_norm(case.config["grad_clip"])
    clipped, _ = clip.update(on_device(case.inputs), clip.init(on_device(case.inputs)))
    return outputs(**clipped, norm=optax.tree.norm(on_device(case.inputs)))


KINDS = {
    "rsm_prefix": rsm_prefix,
    "rsm_draw": rsm_draw,
    "loss_masks": loss_mask,
    "sdf_from_inside": sdf_from_inside,
    "stage_sdf": stage_sdf,
    "positions": positions,
    "vector_encoder": vector_encoder,
    "pixel_encoder": pixel_encoder,
    "cross_attention": cross_attention,
    "posterior_head": posterior_head,
    "encoder": encoder,
    "decoder": decoder,
    "model": model,
    "losses": loss_cases,
    "gradients": gradients,
    "train_steps": train_steps,
    "class_weight": class_weight,
    "beta_schedule": beta_schedule,
    "clip_gradients": clip_gradients,
    "decode": decode_outlines,
    "split": split,
}

LATER: set[str] = set()

NOT_COMPARED = {
    "stage_sdf": {"gray": "information only (section 10): Skia's anti-aliased raster"},
    "vector_encoder": {"unused_relative_position": "computed by the original, used by nothing (section 3.1)"},
}

COMPARE = {"stage_sdf": compare_stage_sdf}
