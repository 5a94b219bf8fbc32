"""Normalisation layers with the conventions of the checkpoints that jaxvae reads."""

import functools

import flax.linen as nn

# Epsilon 1e-5 and the two-pass variance of PyTorch's LayerNorm. Flax's default (1e-6, E[x^2] - E[x]^2) loses
# digits when the mean is large against the spread. Statistics are float32 whatever the compute type.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)
