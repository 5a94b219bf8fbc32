"""Golden cases of the sparse VQ-VAE: arrays renamed, jaxvae called."""

import jax.numpy as jnp
import numpy as np
import optax
from adapters.common import learning_rates, outputs, settings, train

from jaxvae.config import ema_row
from jaxvae.train.clipping import clip_by_percentile


def grad_clip(case):
    c = case.config
    clip = clip_by_percentile(float(c["clip_percentile"]), c["buffer_size"], float(c["max_norm"]))
    rows, state = [], clip.init(None)
    for norm in case.inputs["norms"]:
        gradients = {"w": jnp.full(4, norm / 2)}
        clipped, after = clip.update(gradients, state)
        rows.append({"threshold": state.limit, "norm": optax.tree.norm(gradients), "grad0": clipped["w"][0]})
        state = after
    found = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return outputs(**found, final_threshold=state.limit[None])


SCHEDULES = {
    "CosineAnnealingLR": lambda c: {
        "name": "cosine",
        "steps": c["T_max"],
        "end_factor": c["eta_min"] / c["lr"],
        "past_end": "rise",
    },
    "ExponentialLR": lambda c: {"name": "exponential", "decay_rate": c["gamma"], "decay_steps": 1},
    "StepLR": lambda c: {"name": "step", "decay_rate": c["gamma"], "decay_steps": c["step_size"]},
    "LinearWarmupLRScheduler": lambda c: {"name": "constant", "warmup_steps": c["warmup_steps"]},
}


def lr_schedule(case):
    """One kind, two layouts: several schedulers by their names, or the later code's warm-up before a cosine."""
    c = case.config
    if "warmup_steps" in c:
        schedule = {"name": "cosine", "end_factor": c["eta_min"] / c["lr"], "torch_recursion": True}
        return outputs(lr=learning_rates(c["lr"], c["total_steps"], warmup_steps=c["warmup_steps"], **schedule))
    steps = {name: len(array) for name, array in case.arrays["outputs"].items()}
    return outputs(**{name: learning_rates(row["lr"], steps[name], **SCHEDULES[name](row)) for name, row in c.items()})


def train_loop(case):
    c = case.config
    changes = {
        "optim.lr": c["lr"],
        "optim.weight_decay": c["weight_decay"],
        "optim.decay_on": "all",
        "optim.eps": c["eps"],
        "optim.accum": 2,
        "optim.on_skip": "advance",
        "optim.clip.name": "percentile",
        "optim.clip.norm": c["max_norm"],
        "optim.clip.percentile": float(c["clip_percentile"]),
        "optim.clip.window": c["buffer_size"],
        "optim.schedule.name": "exponential",
        "optim.schedule.decay_rate": c["gamma"],
        "optim.schedule.decay_steps": 1,
    }
    changes |= {None: {}, "inflat_all": scaled(c)}[c["fp16_mode"]]
    config = settings(changes)
    averages = {rate: f"ema_{rate}".replace(".", "_") for rate in c["ema_rate"]}
    for rate, name in averages.items():
        config.optim.ema[name] = ema_row(rate)

    def loss(params, batch):
        return (batch["weight"][:, None] * jnp.square(batch["x"] @ params["W"].T)).mean(1).sum()

    rows = []
    for state, logged in train(config, case.weights, loss, [two_micro_batches(x) for x in case.inputs["x"]]):
        row = {"W": state.params["W"], "lr": logged["lr"], "grad_norm": logged["grad_norm"]}
        row["log_scale"] = jnp.log2(state.loss_scale.get("scale", 1.0))
        rows.append(row | {name: state.ema[name]["W"] for name in averages.values()})
    return outputs(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})


def scaled(c):
    """inflat_all: the loss is multiplied by 2^s, s = 20 at first, more by a little with every good step."""
    growth = {"init": 2.0**20, "growth_factor": 2.0 ** c["fp16_scale_growth"], "growth_interval": 1}
    limits = {"backoff_factor": 0.5, "min": 0.0, "max": float("inf")}
    row = {f"precision.loss_scale.{key}": value for key, value in (growth | limits).items()}
    return {"precision.compute": "float16", **row}


def two_micro_batches(x):
    """The first two rows and the rest, of equal weight, padded to one length and laid row by row in turn."""
    parts = x[:2], x[2:]
    length = max(map(len, parts))
    rows, weight = np.zeros((length, 2, x.shape[1]), x.dtype), np.zeros((length, 2), x.dtype)
    for j, part in enumerate(parts):
        rows[: len(part), j] = part
        weight[: len(part), j] = 0.5 / len(part)
    return {"x": jnp.asarray(rows.reshape(-1, x.shape[1])), "weight": jnp.asarray(weight.reshape(-1))}


KINDS = {
    "train_loop": train_loop,
    "grad_clip": grad_clip,
    "lr_schedule": lr_schedule,
}

LATER = {
    "ape",
    "attention",
    "attention_rope",
    "block_pack",
    "chunked_decoder",
    "ct_sdf",
    "ct_voxels",
    "ct_windows",
    "down_block",
    "encoder_decoder",
    "group_norm",
    "kl_clamp",
    "kl_vae",
    "mesh_sdf",
    "quantizer",
    "quantizer_ema",
    "region_loss",
    "serial_partition",
    "serialization_codes",
    "sparse_conv",
    "sparse_pool",
    "train_steps",
    "transformer_block",
    "up_block",
    "vqvae",
    "window_partition",
}

NOT_COMPARED: dict[str, dict[str, str]] = {}

COMPARE: dict = {}
