"""Parts that several models share: attention, norms, positions, the Gaussian posterior."""
