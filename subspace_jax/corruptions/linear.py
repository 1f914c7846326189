"""Linear maps of images, as matrices of an axis or small kernels."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def separable(matrix, images):
    """Applies a matrix `[out, in]` to both axes of images `[B, in, in, C]`."""
    matrix = matrix.astype(np.float32)
    return jnp.einsum("ij,bjkc,lk->bilc", matrix, images, matrix, precision="highest")


def gaussian_matrix(size, sigma, truncate=4.0, reflect=False):
    """The blur of an axis; beyond the edge its last pixel repeats, or the image is mirrored."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.eye(size)
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    columns = np.arange(size)[:, None] + taps
    if reflect:
        columns = np.minimum(columns % (2 * size), -1 - columns % (-2 * size))
    matrix = np.zeros((size, size))
    rows = np.broadcast_to(np.arange(size)[:, None], columns.shape)
    np.add.at(matrix, (rows, np.clip(columns, 0, size - 1)), weights / weights.sum())
    return matrix


def zoom_matrix(size, factor):
    """Bilinear magnification of the middle of an axis, cut to the old length."""
    crop = math.ceil(size / factor)
    length = round(crop * factor)
    position = np.linspace(0, crop - 1, length)[(length - size) // 2 :][:size]
    position = position[:, None] + (size - crop) // 2
    return np.maximum(0, 1 - np.abs(position - np.arange(size)))


def box_matrix(old, new):
    """Resizing of an axis from `old` to `new` pixels with a box filter."""
    scale = old / new
    support = max(scale, 1) / 2
    centre = (np.arange(new)[:, None] + 0.5) * scale
    distance = (np.arange(old) + 0.5 - centre) / (2 * support)
    weights = ((distance > -0.5) & (distance <= 0.5)).astype(np.float64)
    return weights / weights.sum(axis=1, keepdims=True)


def convolve(images, kernel):
    """Correlates images `[B, H, W, C]` with a small odd kernel, mirrored at the edge pixel."""
    margin, (count, height, width, channels) = len(kernel) // 2, images.shape
    planes = jnp.moveaxis(images, 3, 1).reshape(-1, 1, height, width)
    planes = jnp.pad(planes, ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    kernel = jnp.asarray(kernel, jnp.float32)[None, None]
    planes = jax.lax.conv(planes, kernel, (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(planes.reshape(count, channels, height, width), 1, 3)
