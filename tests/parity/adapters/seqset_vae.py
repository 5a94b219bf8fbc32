"""Golden cases of the SeqSetVAE: arrays renamed, jaxvae called."""

import numpy as np
from adapters.common import follow_gradients, learning_rates, outputs, settings
from cases import check

from jaxvae.config import group_row, plateau_row
from jaxvae.health.monitors import make_monitors

MICRO = 1e6  # learning rates are stored in millionths


def optimizer(case):
    """Group i is the parameter i alone, with its learning rate and weight decay."""
    c = case.config
    config = settings({"optim.lr": c["lr"], "optim.weight_decay": 1.0, "optim.clip.norm": c["clip"]})
    config.optim.decay_on = "all"
    for i, (lr, decay) in enumerate(c["groups"]):
        config.optim.groups[f"group_{i}"] = group_row(f"^param_{i}$", lr / c["lr"], float(decay))
    params = {name: array for name, array in case.inputs.items() if name.startswith("param_")}
    gradients = {name: case.inputs[name.replace("param_", "grad_")][:, None] for name in params}
    return follow_gradients(config, params, gradients)


def plateau(case):
    c = case.config
    row = plateau_row("val/loss", factor=c["factor"], patience=c["patience"], min_lr=c["min_lr"])
    monitor = make_monitors({"plateau": row})["plateau"]
    rates, rows = [c["lr"] * 0.05, c["lr"]], []  # two groups, the set VAE's and the others'
    for value in case.inputs["metric"].tolist():
        if monitor.observe(value).reduce_lr:
            rates = [monitor.reduced(rate) for rate in rates]
        rows.append(rates)
    return outputs(lr=MICRO * np.array(rows))


def cosine_restarts(case):
    c = case.config
    cycles = {"decay_steps": c["T_0"], "restart_factor": c["T_mult"], "end_factor": c["eta_min"] / c["lr"]}
    return outputs(lr=MICRO * learning_rates(c["lr"], c["steps"], name="cosine_restarts", **cycles))


def compare_of_max(case, name, got, want):
    """`output_of_max` and `grad_of_max`, where a case gives them, stand for rtol (its manifest's rule)."""
    tolerance = dict(case.tolerance)
    section = "output_of_max" if name.startswith("outputs/") else "grad_of_max"
    tolerance["rtol"] = tolerance.get(section, tolerance["rtol"])
    check(name, got, want, tolerance)


KINDS = {
    "optimizer": optimizer,
    "plateau": plateau,
    "cosine_restarts": cosine_restarts,
}

LATER = {
    "asymmetric_loss",
    "bottleneck",
    "carry_forward",
    "checkpoint_keys",
    "classifier_head",
    "collapse_monitor",
    "collapse_statistics",
    "collate",
    "collate_carry",
    "cross_entropy",
    "elbo_loss",
    "finetune_loss",
    "focal_loss",
    "fused_features",
    "isab",
    "kl",
    "length_sampler",
    "loss_schedule",
    "mab",
    "metrics",
    "model_finetune",
    "model_joint",
    "model_pretrain",
    "planar_flow",
    "pma",
    "recency_mask",
    "recon_loss",
    "set_decoder",
    "set_encoder",
    "set_vae",
    "split_sets",
    "time_encoding",
    "training_diagnosis",
    "transformer",
}

NOT_COMPARED: dict[str, dict[str, str]] = {}

COMPARE = dict.fromkeys(KINDS, compare_of_max)
