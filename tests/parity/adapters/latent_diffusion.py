"""Golden cases of the latent diffusion: arrays renamed, jaxvae called."""

import jax
import jax.numpy as jnp
from adapters.common import follow_gradients, outputs, settings

from jaxvae.config import ema_row
from jaxvae.train.averages import update_average, weight_at


def ema_sequence(case):
    c, theta = case.config, jnp.asarray(case.inputs["theta"])
    assert c["inv_gamma"] == 1 and c["min_value"] == 0, "not in use by any preset"
    row = ema_row(c["beta"], c["update_every"], c["update_after_step"] + 1, c["power"])
    always = ema_row(c["beta"], 1, row.start, row.power)  # its decay at calls that are not due as well
    clock = jnp.arange(1, len(theta) + 1)

    def call(average, given):
        params, at = given
        average = update_average(average, params, row, at)
        return average, average

    weight = weight_at(row, clock)
    return outputs(
        ema=jax.lax.scan(call, theta[0], (theta, clock))[1],
        decay=jnp.where(weight == 0, -1, 1 - weight),
        decay_at=1 - weight_at(always, jnp.asarray(case.inputs["call_index"]) + 1),
    )


def optimizer_sequence(case):
    c = case.config
    config = settings(
        {
            "optim.name": "adam",
            "optim.lr": c["lr"],
            "optim.b1": c["b1"],
            "optim.b2": c["b2"],
            "optim.eps": c["eps"],
            "optim.weight_decay": c["weight_decay_l2"],
            "optim.decay_on": "all",
            "optim.clip.norm": c["max_grad_norm"],
            "optim.accum": c["accum"],
        }
    )
    gradients = {name: case.inputs[f"grad_{name}"] for name in case.weights}
    return follow_gradients(config, case.weights, gradients)


KINDS = {
    "ema_sequence": ema_sequence,
    "optimizer_sequence": optimizer_sequence,
}

LATER = {
    "autoencoder_kl",
    "checkpoint_file",
    "cross_attention",
    "ddim_coefficients",
    "ddim_sample",
    "ddim_times",
    "ddpm_sample",
    "diffusion_algebra",
    "diffusion_loss",
    "full_attention",
    "gaussian_posterior",
    "guidance",
    "health_checks",
    "image_preprocess",
    "interpolate",
    "kl_vae",
    "kl_vae_blocks",
    "linear_attention",
    "noise_schedule",
    "rms_norm",
    "supcon_loss",
    "time_embedding",
    "train_steps",
    "unet_conv_block",
    "unet_down_up",
    "unet_forward",
    "unet_resnet_block",
    "user_split",
    "wide_total_loss",
}

NOT_COMPARED: dict[str, dict[str, str]] = {}

COMPARE: dict = {}
