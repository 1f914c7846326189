"""Five blurs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.corruptions.linear import convolve, gaussian_matrix, separable, zoom_matrix
from subspace_jax.corruptions.severities import corruption


@corruption
def defocus_blur(key, images, radius, alias_blur):
    """Convolves with a disk of `radius` pixels whose rim is softened by `alias_blur`."""
    del key
    reach = max(8, radius)
    squares = np.arange(-reach, reach + 1) ** 2
    disk = (squares[:, None] + squares <= radius**2).astype(np.float64)
    soft = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    soft = np.exp(-0.5 * (soft / alias_blur) ** 2)
    blur = functools.partial(np.convolve, v=soft / soft.sum(), mode="valid")
    disk = np.pad(disk / disk.sum(), len(soft) // 2, mode="reflect")
    disk = np.apply_along_axis(blur, 0, np.apply_along_axis(blur, 1, disk))
    return convolve(images, disk)


@corruption
def gaussian_blur(key, images, sigma):
    """Convolves with a normal density of `sigma` pixels."""
    del key
    return separable(gaussian_matrix(images.shape[1], sigma), images)


@corruption
def glass_blur(key, images, sigma, reach, rounds):
    """Blurs, moves pixels by less than `reach` at random in `rounds` sweeps, and blurs again.

    As in the original, whose exchange of two array views copies, a pixel takes the value of its
    neighbour, which keeps its own.
    """
    blur = gaussian_matrix(images.shape[1], sigma)
    pixels = jnp.floor(255 * separable(blur, images) + 1e-3) / 255
    pixels = pixels.reshape(len(images), -1, 3)
    for round_key in jax.random.split(key, rounds):
        sources = _sweep(round_key, len(images), images.shape[1], reach)
        pixels = jnp.take_along_axis(pixels, sources[..., None], axis=1)
    return separable(blur, pixels.reshape(images.shape))


def _sweep(key, count, size, reach):
    """Where each pixel's value comes from after one sweep `[B, S * S]`, last pixel first.

    A pixel whose neighbour was already swept gets the neighbour's new value: these chains are followed
    for all pixels at once.
    """
    place = np.arange(size * size, dtype=np.int32)
    inner = (place // size > reach) & (place // size <= size - reach)
    inner &= (place % size > reach) & (place % size <= size - reach)
    place, inner = jnp.asarray(place)[None], jnp.asarray(inner)[None]
    rows, columns = jax.random.randint(key, (2, count, size * size), -reach, reach)
    source = place + jnp.where(inner, size * rows + columns, 0)
    swept = (source > place) & jnp.take(inner[0], source)

    def follow(state):
        source, swept = state
        next_source, next_swept = (jnp.take_along_axis(a, source, axis=1) for a in state)
        return jnp.where(swept, next_source, source), swept & next_swept

    return jax.lax.while_loop(lambda state: state[1].any(), follow, (source, swept))[0]


@corruption
def motion_blur(key, images, radius, sigma):
    """Smears along a line whose angle is uniform in -45 to 45 degrees."""
    angles = jax.random.uniform(key, (len(images),), minval=-45, maxval=45)
    return smear_along(images, angles, radius, sigma)


def smear_along(images, angles, radius, sigma):
    """One-sided normal average along a line of whole pixels, per image; the edge repeats."""
    size = images.shape[1]
    steps = np.arange(2 * math.ceil(radius) + 1, dtype=np.float32)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    place = jnp.arange(size)

    def smear(image, angle):
        def add(total, tap):
            shift = jnp.stack([jnp.sin(angle), jnp.cos(angle)]) * tap[0]
            down, right = jnp.ceil(shift - 0.5).astype(jnp.int32)
            rows, columns = (jnp.clip(place + by, 0, size - 1) for by in (down, right))
            return total + tap[1] * image[rows[:, None], columns[None]], None

        return jax.lax.scan(add, jnp.zeros_like(image), (steps, weights))[0]

    return jax.vmap(smear)(images, jnp.deg2rad(angles))


@corruption
def zoom_blur(key, images, stop, step):
    """Averages the images and their magnifications by 1, 1 + step, ... below about `stop`."""
    del key
    factors = np.arange(1, stop, step)
    zoomed = sum(separable(zoom_matrix(images.shape[1], factor), images) for factor in factors)
    return (images + zoomed) / (len(factors) + 1)
