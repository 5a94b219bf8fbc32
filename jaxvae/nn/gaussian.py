"""The diagonal Gaussian posterior of a variational autoencoder, in one place and in float32."""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@flax.struct.dataclass
class GaussianPosterior:
    """q(z|x) = N(mean, exp(logvar)), one per example; `clamped` marks entries whose log-variance hit a bound.

    Shapes: all [..., z]. Build it with `from_parameters`, which is the only place where the bounds are applied.
    """

    mean: Float[Array, "... z"]
    logvar: Float[Array, "... z"]
    clamped: Bool[Array, "... z"]

    @classmethod
    def from_parameters(cls, mean, logvar, bounds: tuple[float, float]) -> GaussianPosterior:
        """From a network's outputs of any float type.

        The clamp is hard: an entry outside `bounds` (nats) gets no gradient. `clamped` keeps their number in
        sight, since a clamp would otherwise hide a variance that runs away.
        """
        mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
        low, high = bounds
        return cls(mean, jnp.clip(logvar, low, high), (logvar < low) | (logvar > high))

    def sample(self, eps: Float[Array, "... z"], scale: float = 1.0) -> Float[Array, "... z"]:
        """mean + scale * std * eps (Kingma and Welling 2014, section 2.4), with `eps` standard normal."""
        return self.mean + jnp.exp(0.5 * self.logvar) * eps * scale

    def kl(self) -> Float[Array, "... z"]:
        """KL(q || N(0, 1)) in nats, per example and dimension (Kingma and Welling 2014, appendix B)."""
        return -0.5 * (1.0 + self.logvar - jnp.square(self.mean) - jnp.exp(self.logvar))
