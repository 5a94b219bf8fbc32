"""Names of the glyph VAE's weights in the original's checkpoints (specification of the glyph VAE, section 3.7).

`enc` and `dec` are the two state dictionaries of a checkpoint; here they are prefixes of one set of names.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae.convert.names import ATTENTION, EMBEDDING, LINEAR, NORM, Table, conv_as_dense, within
from jaxvae.errors import UserError
from jaxvae.models.glyph_vae import GlyphVAE, Tokens

PIXEL_ENCODER: Table = [
    ("stem.0", "stem", conv_as_dense(1)),
    ("proj", "patch", conv_as_dense(32)),
    ("ln", "norm", NORM),
]

POSTERIOR_HEAD: Table = [
    ("mlp.0", "norm", NORM),
    ("mlp.1", "hidden", LINEAR),
    ("mlp.4", "out", LINEAR),
]


def vector_encoder(layers: int) -> Table:
    table = [
        ("emb_cmd", "command", EMBEDDING),
        ("proj_cmd", "command_proj", LINEAR),
        ("mlp_arg.0", "coord_in", LINEAR),
        ("mlp_arg.2", "coord_out", LINEAR),
        ("proj_arg", "coord_proj", LINEAR),
        ("proj_pos_abs", "position_proj", LINEAR),
        ("proj_pos_rel", "position_proj_2", LINEAR),
        ("emb_cid", "contour", EMBEDDING),
        ("proj_cid", "contour_proj", LINEAR),
        ("proj_topo", "topology_proj", LINEAR),
        ("ln_in", "norm_in", NORM),
    ]
    for i in range(layers):
        table += [
            (f"encoder.{2 * i}.ln", f"block_{i}_attention_norm", NORM),
            (f"encoder.{2 * i}.mha", f"block_{i}_attention", ATTENTION),
            (f"encoder.{2 * i + 1}.ln", f"block_{i}_mlp_norm", NORM),
            (f"encoder.{2 * i + 1}.ff.0", f"block_{i}_mlp/up", LINEAR),
            (f"encoder.{2 * i + 1}.ff.3", f"block_{i}_mlp/down", LINEAR),
        ]
    return table


def cross_attention(layers: int) -> Table:
    table = []
    for i in range(layers):
        table += [
            (f"layers.{i}.attn_block.fn.norm", f"layer_{i}_attention_norm", NORM),
            (f"layers.{i}.mha", f"layer_{i}_attention", ATTENTION),
            (f"layers.{i}.ffn_block.fn.norm", f"layer_{i}_mlp_norm", NORM),
            (f"layers.{i}.ffn_block.fn.fn.net.0", f"layer_{i}_mlp/up", LINEAR),
            (f"layers.{i}.ffn_block.fn.fn.net.3", f"layer_{i}_mlp/down", LINEAR),
        ]
    return table


def encoder(vec_layers: int, enc_xlayers: int) -> Table:
    return [
        *within("vec.", "vector/", vector_encoder(vec_layers)),
        *within("pix.", "pixel/", PIXEL_ENCODER),
        *within("xattn.", "cross/", cross_attention(enc_xlayers)),
        *within("head.", "head/", POSTERIOR_HEAD),
    ]


def decoder(layers: int, image: bool) -> Table:
    table = [
        ("pos_emb", "position", EMBEDDING),
        ("valid_emb", "valid", EMBEDDING),
        ("pos_proj", "position_proj", LINEAR),
        ("valid_proj", "valid_proj", LINEAR),
        ("z_proj", "z_proj", LINEAR),
        *(within("pix.", "pixel/", PIXEL_ENCODER) if image else []),
        ("head_cmd", "command_head", LINEAR),
        ("head_arg.0", "coord_norm", NORM),
        ("head_arg.1", "coord_hidden", LINEAR),
        ("head_arg.3", "coord_head", LINEAR),
    ]
    # The original numbers sublayers, so without the image there are two instead of three per layer.
    sublayers = ("self", "cross", "mlp") if image else ("self", "mlp")
    for i in range(layers):
        for j, sublayer in enumerate(sublayers):
            there, here = f"blocks.{i * len(sublayers) + j}", f"block_{i}_{sublayer}"
            table.append((f"{there}.ln", f"{here}_norm", NORM))
            if sublayer == "mlp":
                table += [(f"{there}.ff.0", f"{here}/up", LINEAR), (f"{there}.ff.3", f"{here}/down", LINEAR)]
            else:
                table.append((f"{there}.mha", here, ATTENTION))
    return table


def glyph_vae(vec_layers: int, enc_xlayers: int, dec_layers: int, decoder_image: bool = True) -> Table:
    """The whole model; names begin with `enc.` and `dec.`."""
    return [
        *within("enc.", "encoder/", encoder(vec_layers, enc_xlayers)),
        *within("dec.", "decoder/", decoder(dec_layers, decoder_image)),
    ]


# Where the sizes of a model stand: the tensor and its axis.
SIZES = {
    "embed": ("enc.vec.proj_cmd.weight", 0),
    "zdim": ("dec.z_proj.weight", 1),
    "patch": ("enc.pix.proj.weight", 3),
    "max_len": ("dec.pos_emb.weight", 0),
}


# Keys of `config.model` of which the original has one form.
ORIGINAL = {"decoder_mask": "teacher", "decoder_tokens": "none", "coord_head": "shared"}


def model_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Keys of `config.model` from the tensors' shapes: all but `heads`, which no shape shows.

    Raises:
      UserError: if a tensor that shows a size is missing, or has too few axes.
    """
    lacking = [name for name, axis in SIZES.values() if len(shapes.get(name, ())) <= axis]
    if lacking:
        raise UserError(f"no glyph VAE: {', '.join(lacking)} missing or of too few axes")

    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, name) is not None for name in shapes)

    image = any(name.startswith("dec.pix.") for name in shapes)
    return {key: shapes[name][axis] for key, (name, axis) in SIZES.items()} | {
        "vec_layers": count(r"enc\.vec\.encoder\.\d+\.mha\.in_proj_weight"),
        "enc_xlayers": count(r"enc\.xattn\.layers\.\d+\.mha\.in_proj_weight"),
        "dec_layers": count(r"dec\.blocks\.\d+\.ff\.0\.weight"),
        "decoder_image": "full" if image else "none",
        **ORIGINAL,
    }


def table(model: Mapping[str, Any]) -> Table:
    """The table for a `config.model`.

    Raises:
      UserError: for a decoder that the original does not have.
    """
    forms = {key: (form,) for key, form in ORIGINAL.items()} | {"decoder_image": ("full", "none")}
    for key, known in forms.items():
        if model[key] not in known:
            raise UserError(
                f"config.model.{key} = {model[key]!r}: the original has {' or '.join(map(repr, known))} only"
            )
    layers = model["vec_layers"], model["enc_xlayers"], model["dec_layers"]
    return glyph_vae(*layers, decoder_image=model["decoder_image"] == "full")


def parameter_shapes(model: Mapping[str, Any]) -> Any:
    """Shapes of the Flax parameters for a `config.model`; nothing is computed."""
    module = GlyphVAE(**model)
    ids = jnp.zeros((1, 1), int)
    tokens = Tokens(ids, jnp.zeros((1, 1, 4)), ids == 0, contour_ids=ids, topology=ids)
    image, eps = jnp.zeros((1, module.patch, module.patch)), jnp.zeros((1, module.zdim))
    return jax.eval_shape(lambda: module.init(jax.random.key(0), tokens, image, eps))["params"]
