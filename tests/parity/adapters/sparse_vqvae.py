"""Golden cases of the sparse VQ-VAE: arrays renamed, jaxvae called."""

import jax.numpy as jnp
import numpy as np
import optax
from adapters.common import learning_rates, outputs

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


KINDS = {
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
    "train_loop",
    "train_steps",
    "transformer_block",
    "up_block",
    "vqvae",
    "window_partition",
}

NOT_COMPARED: dict[str, dict[str, str]] = {}

COMPARE: dict = {}
