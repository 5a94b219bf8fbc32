"""Glyph VAE: outlines of glyphs and their signed distance images -> latent -> outlines.

    python scripts/train.py --config=configs/glyph_vae.py                        # high_quality
    python scripts/train.py --config=configs/glyph_vae.py:small --config.optim.lr=2e-4
    python scripts/train.py --config=configs/glyph_vae.py --list_presets

Names in square brackets are those of the document where they differ.
"""

from jaxvae.config import Preset, apply_preset, ema_row, trainer_config


def base():
    c = trainer_config()
    c.task = "glyph_vae"

    c.model = dict(
        embed=384,  # width of the transformers; divisible by heads and by 4
        zdim=384,  # width of the latent
        heads=8,  # attention heads
        patch=16,  # side of an image patch, px
        vec_layers=3,  # layers of the token encoder
        enc_xlayers=2,  # layers of cross attention from tokens to the image, in the encoder
        dec_layers=8,  # layers of the decoder
        max_len=256,  # tokens of the longest glyph; longer ones are left out, counted and named
        decoder_image="full",  # what the decoder sees of the image: full, as in the original | dropout | none
        decoder_mask="teacher",  # teacher: it is told the slots to fill, as in the original | free: END decides
        decoder_tokens="none",  # none: all tokens at once, as in the original | previous: each from the one before
        coord_head="shared",  # shared: one head for all arguments, as in the original | by_command: lines, curves
    )
    c.loss = dict(
        l1_weight=30.0,  # coordinates, mean over arguments
        ce_weight=2.5,  # commands, weighted mean over tokens
        beta=1.0,  # KL in nats
        kl_scale="glyph",  # beta x nats per glyph | token: x nats per token, to match CE and L1, which are means
        beta_warmup=40_000,  # updates over which beta grows from 0; depends on the global step only
        free_bits=4.0,  # nats below which the KL is not pushed; 0 = no floor
        free_bits_mode="total",  # total: floor of the whole KL | per_dim: of every dimension, as the document's code
        image_dropout=0.5,  # share of examples whose image is hidden in training, for model.decoder_image = dropout
        previous_noise=0.0,  # normalised units, on the arguments that model.decoder_tokens = previous reads
        previous_dropout=0.0,  # share of the tokens that model.decoder_tokens = previous does not get to read
        class_weights="inverse",  # inverse frequency | inverse_with_absent: absent classes too, as the original | none
        detach_l1_and_kl=False,  # True cuts L1 and KL off from the gradient: the original's fault
    )
    c.data = dict(
        path="",  # fonts, folders of fonts, a prepared folder, or the original's .npz; '' = matplotlib's fonts
        charset="latin",  # ascii | latin | all | gb2312 | ranges such as U+0041-005A,U+4E00-9FFF | a text file
        overlaps="resolve",  # resolve: redraw contours that overlap, as they are filled by even-odd | keep
        cubic_tolerance_em=0.001,  # cubics become quadratics within this distance, em
        batch_size=12,  # [batch] glyphs per update
        split="glyph",  # what is new in validation: glyph: outlines | font: font files | family: families of fonts
        val_fraction=0.1,  # [val_split] of the distinct outlines, fonts or families
        split_seed=42,  # [seed] of the split alone
        image_size=128,  # [img_size] side of the signed distance image, px
        sdf="analytic",  # analytic: distance to the outline itself | raster: between pixels, as the original
        sdf_clip_px=8.0,  # distances are cut at this and divided by it
        rsm=True,  # [use_rsm] train on prefixes of 25, 50, 75, 100 % of the contours; False: on whole glyphs
        prefix_end="append",  # append: END follows the prefix | overwrite: END replaces its last Z, as the original
        num_buckets=4,  # lengths for which a step is compiled, from quantiles of the training data
        workers=2,  # threads that prepare batches
    )
    c.optim.lr = 3e-4
    c.optim.clip.norm = 1.0  # [grad_clip]
    c.optim.ema.average = ema_row(decay=0.999)
    c.train.epochs = 800
    c.train.log_every = 50
    c.train.sample_every = 15_000  # [export_every]
    c.train.eval_weights = "average"
    c.precision.compute = "bfloat16"  # [amp]
    return c


HIGH_QUALITY = {
    "model.embed": 512,
    "model.zdim": 512,
    "model.heads": 16,
    "model.enc_xlayers": 3,
    "data.batch_size": 16,
    "optim.lr": 4e-4,
    "loss.l1_weight": 40.0,
    "loss.ce_weight": 3.0,
    "loss.beta_warmup": 50_000,
    "loss.free_bits": 5.0,
    "train.epochs": 600,
    "train.sample_every": 20_000,
}

PRESETS = {
    "high_quality": Preset("the document's: 66.5M parameters, 10-20k glyphs, one accelerator", HIGH_QUALITY),
    "default": Preset("the original's name for the values of balanced", {}),
    "balanced": Preset("37.4M parameters, 5-15k glyphs", {}),
    "memory_limited": Preset(
        "32.7M parameters, small batches, 5-20k glyphs",
        {"model.dec_layers": 6, "data.batch_size": 6, "optim.lr": 2e-4, "train.epochs": 1000},
    ),
    "conservative": Preset("high_quality with a lower learning rate", HIGH_QUALITY | {"optim.lr": 3e-4}),
    "aggressive": Preset(
        "high_quality, wider and deeper: 114M parameters",
        HIGH_QUALITY | {"model.dec_layers": 10, "model.embed": 640, "model.zdim": 640, "data.batch_size": 12},
    ),
    "legacy": Preset(
        "the training that reported KL 634, with its faults: for study, not for use",
        {
            "model.embed": 256,
            "model.zdim": 128,
            "model.enc_xlayers": 1,
            "model.dec_layers": 4,
            "optim.lr": 2e-4,
            "loss.l1_weight": 10.0,
            "loss.ce_weight": 1.0,
            "loss.beta_warmup": 10_000,
            "loss.free_bits": 0.0,
            "loss.free_bits_mode": "per_dim",
            "loss.class_weights": "inverse_with_absent",
            "loss.detach_l1_and_kl": True,
            "data.prefix_end": "overwrite",
            "data.sdf": "raster",
        },
    ),
    "small": Preset(
        "a small model on Latin glyphs, float32: an hour on two cores",
        {
            "model.embed": 128,
            "model.zdim": 64,
            "model.heads": 4,
            "model.vec_layers": 2,
            "model.enc_xlayers": 1,
            "model.dec_layers": 4,
            "model.max_len": 96,
            "data.batch_size": 32,
            "data.image_size": 64,
            "data.sdf_clip_px": 4.0,
            "optim.lr": 1e-3,
            "optim.schedule.name": "cosine",
            "optim.schedule.warmup_steps": 200,
            "loss.beta": 0.03,
            "loss.beta_warmup": 2_000,
            "train.epochs": 0,
            "train.total_steps": 12_000,
            "train.sample_every": 1_000,
            "precision.compute": "float32",
        },
    ),
    "quickstart": Preset(
        "a tiny model on the capital letters of 12 faces, float32: a few minutes on two cores",
        {
            "model.embed": 96,
            "model.zdim": 32,
            "model.heads": 4,
            "model.patch": 8,
            "model.vec_layers": 1,
            "model.enc_xlayers": 1,
            "model.dec_layers": 2,
            "model.max_len": 64,
            "model.decoder_image": "none",
            "data.charset": "U+0041-005A",
            "data.batch_size": 32,
            "data.image_size": 32,
            "data.sdf_clip_px": 4.0,
            "data.num_buckets": 2,
            "optim.lr": 2e-3,
            "optim.schedule.name": "cosine",
            "optim.schedule.warmup_steps": 100,
            "optim.ema.average.decay": 0.99,
            "loss.beta": 0.01,
            "loss.beta_warmup": 500,
            "train.epochs": 0,
            "train.total_steps": 2_000,
            "train.eval_every": 500,
            "train.sample_every": 500,
            "train.save_every": 500,
            "precision.compute": "float32",
        },
    ),
}


def get_config(preset: str = "high_quality"):
    return apply_preset(base(), PRESETS, preset)
