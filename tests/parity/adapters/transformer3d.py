"""Golden cases of Transformer3D: arrays renamed, jaxvae called."""

import numpy as np
from adapters.common import learning_rates, outputs
from ml_collections import ConfigDict

from jaxvae.config import early_stop_row, plateau_row
from jaxvae.health.monitors import EarlyStop, make_monitors
from jaxvae.train.loss_scale import init_loss_scale, update_loss_scale

INFINITY = 3e38  # stands for it in the files


def training_control(case):
    c = case.config
    stop = c["early_stopping"]
    monitors = make_monitors(
        {
            "plateau": plateau_row("metric", **c["plateau"]),
            "early_stop": early_stop_row("metric" if stop["patience"] else "", **stop),
        }
    )
    plateau, early = monitors["plateau"], monitors.get("early_stop", EarlyStop("metric"))
    lowest = EarlyStop("metric")  # its best is the best checkpoint's: the lowest value, by whatever margin
    lr, stop_epoch, rows = c["lr"], -1, []
    for epoch, value in enumerate(case.inputs["metric"].tolist()):
        row = {"lr_during": lr}
        verdicts = {name: monitor.observe(value) for name, monitor in monitors.items()}
        lowest.observe(value)
        row["save_best"] = lowest.count == 0 and stop_epoch < 0
        if verdicts["plateau"].reduce_lr:
            lr = plateau.reduced(lr)
        if "early_stop" in verdicts and verdicts["early_stop"].stop and stop_epoch < 0:
            stop_epoch = epoch
        row |= {"lr_after": lr, "best": plateau.best, "num_bad_epochs": plateau.bad}
        row |= {"cooldown_counter": plateau.cooling, "es_best": early.best, "es_count": early.count}
        rows.append(row)
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for name in ("best", "es_best"):
        found[name] = np.clip(found[name], -INFINITY, INFINITY)
    return outputs(**found, stop_epoch=stop_epoch)


def lr_schedule(case):
    c = case.config
    lr, epochs, warmup = c["lr"], c["epochs"], c["warmup_epochs"]
    after_warmup = {
        "cosine": {"name": "cosine", "end_factor": c["cosine_eta_min"] / lr},
        "step": {
            "name": "step",
            "decay_rate": c["scheduler_factor"],
            "decay_steps": max(1, (epochs - warmup) // 3),
        },
    }[c["scheduler_type"]]
    return outputs(
        lr=learning_rates(lr, epochs, warmup_steps=warmup, warmup_factor=c["warmup_lr"] / lr, **after_warmup)
    )


def grad_scaler(case):
    c = case.config
    row = ConfigDict({**c, "init": c["init_scale"], "min": 0.0, "max": float("inf")})
    state, scales = init_loss_scale(row), []
    for overflow in case.inputs["metric_found_inf"]:
        scales.append(state["scale"])
        state = update_loss_scale(state, not overflow, row)
    return outputs(scale=np.stack(scales), skipped=case.inputs["metric_found_inf"])


KINDS = {
    "training_control": training_control,
    "lr_schedule": lr_schedule,
    "grad_scaler": grad_scaler,
}

LATER = {
    "angle_layer_norm",
    "angle_pe",
    "angle_warping",
    "clip_pose_encoder",
    "dataset",
    "decoder_clip",
    "decoder_keypoint",
    "decoder_pose_only",
    "encoder_decoder",
    "euler_from_matrix",
    "feature_field",
    "feature_warping",
    "frequency_encoder",
    "gradients",
    "hybrid_pose_encoder",
    "inference_normalise",
    "keypoint_normalise",
    "landmark_standard",
    "loss",
    "optimizer_steps",
    "pose_attention",
    "pose_buckets",
    "pose_pe",
    "pose_text",
    "self_attention_block",
    "spatial_fusion",
    "stack_gradients",
    "transformer_stack",
    "validate",
}

NOT_COMPARED: dict[str, dict[str, str]] = {}

COMPARE: dict = {}
