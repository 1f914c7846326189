"""Noise that is independent for each channel value."""

import jax
import jax.numpy as jnp

from subspace_jax.corruptions.severities import corruption


@corruption
def gaussian_noise(key, images, scale):
    """Adds normal noise of standard deviation `scale`."""
    return images + scale * jax.random.normal(key, images.shape)


@corruption
def shot_noise(key, images, photons):
    """Counts photons: Poisson noise where white is `photons` of them on average."""
    return jax.random.poisson(key, images * photons).astype(jnp.float32) / photons


@corruption
def impulse_noise(key, images, amount):
    """Salt and pepper: a share `amount` of all channel values turns 0 or 1."""
    u = jax.random.uniform(key, images.shape)
    return jnp.where(u < amount / 2, 0.0, jnp.where(u < amount, 1.0, images))


@corruption
def speckle_noise(key, images, scale):
    """Adds normal noise proportional to the pixel."""
    return images + scale * images * jax.random.normal(key, images.shape)
