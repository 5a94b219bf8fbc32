"""jaxvae: variational autoencoders, VQ-VAEs and latent diffusion in JAX and Flax."""

__version__ = "0.1.0"
