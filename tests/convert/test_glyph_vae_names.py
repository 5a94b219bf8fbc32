"""The table of names: complete, and the same in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.convert.glyph_vae import glyph_vae
from jaxvae.convert.names import from_flax, to_flax
from jaxvae.errors import UserError
from jaxvae.models import GlyphVAE
from jaxvae.models.glyph_vae import Tokens
from jaxvae.train.setup import count_parameters

SMALL = dict(embed=16, zdim=4, heads=2, patch=4, vec_layers=2, enc_xlayers=1, dec_layers=2, max_len=12)


def shapes(**sizes):
    """Shapes of the parameters; nothing is computed."""
    ids, mask = jnp.zeros((1, 8), int), jnp.ones((1, 8), bool)
    tokens = Tokens(ids, jnp.zeros((1, 8, 4)), mask, contour_ids=ids, topology=ids)
    model = GlyphVAE(**sizes)
    eps = jnp.zeros((1, model.zdim))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, jnp.zeros((1, 128, 128)), eps))["params"]


@pytest.mark.parametrize("image", [True, False])
def test_every_parameter_has_a_name_and_comes_back_unchanged(image):
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape).astype(np.float32),
        shapes(**SMALL, decoder_image="full" if image else "none"),
    )
    table = glyph_vae(2, 1, 2, decoder_image=image)
    tensors = from_flax(table, params)
    assert tensors["enc.pix.stem.0.weight"].shape == (32, 1, 3, 3)
    assert tensors["enc.pix.proj.weight"].shape == (16, 32, 4, 4)
    assert tensors["enc.vec.encoder.0.mha.in_proj_weight"].shape == (48, 16)
    assert ("dec.blocks.5.ff.0.weight" in tensors) == image
    jax.tree.map(np.testing.assert_array_equal, to_flax(table, tensors), params)


def test_missing_and_unexpected_tensors_are_listed():
    table = glyph_vae(2, 1, 2)
    tensors = from_flax(table, jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes(**SMALL)))
    tensors["dec.extra"] = tensors.pop("enc.head.mlp.0.bias")
    with pytest.raises(UserError, match=r"missing enc.head.mlp.0.bias; unexpected dec.extra"):
        to_flax(table, tensors)


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        (dict(embed=512, zdim=512, heads=16, enc_xlayers=3, dec_layers=8), 66_518_093),
        (dict(embed=384, zdim=384, heads=8, enc_xlayers=2, dec_layers=8), 37_424_205),
        (dict(embed=384, zdim=384, heads=8, enc_xlayers=2, dec_layers=6), 32_691_021),
        (dict(embed=640, zdim=640, heads=16, enc_xlayers=3, dec_layers=10), 114_145_229),
        (dict(embed=256, zdim=128, heads=8, enc_xlayers=1, dec_layers=4), 12_966_989),
    ],
)
def test_parameter_counts_are_those_of_the_original(preset, count):
    """Specification of the glyph VAE, section 3.8."""
    assert count_parameters(shapes(**preset)) == count
