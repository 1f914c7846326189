"""Colour, warping and compression."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.corruptions.linear import box_matrix, gaussian_matrix, separable
from subspace_jax.corruptions.severities import corruption

# fmt: off
# Annex K of the JPEG standard, for quality 50.
_LUMINANCE = (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
              14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
              18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
              49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
_CHROMINANCE = (17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
                24, 26, 56, 99, 99, 99, 99, 99, 47, 66) + 38 * (99,)
# fmt: on


@corruption
def brightness(key, images, shift):
    """Adds `shift` to the value of hue, saturation, value."""
    del key
    value = images.max(axis=3, keepdims=True)
    ratio = jnp.where(value > 0, images / jnp.where(value > 0, value, 1), 1)
    return ratio * jnp.minimum(value + shift, 1)


@corruption
def saturate(key, images, factor, shift):
    """Multiplies the saturation of hue, saturation, value and adds `shift`; gray turns red."""
    del key
    value = images.max(axis=3, keepdims=True)
    drop = value - images
    chroma = drop.max(axis=3, keepdims=True)
    saturation = chroma / jnp.where(value > 0, value, 1)
    red = jnp.array([0.0, 1.0, 1.0])[None, None, None]
    share = jnp.where(chroma > 0, drop / jnp.where(chroma > 0, chroma, 1), red)
    return value * (1 - share * jnp.clip(factor * saturation + shift, 0, 1))


@corruption
def contrast(key, images, factor):
    """Moves pixels towards the mean colour of their image."""
    del key
    mean = images.mean(axis=(1, 2), keepdims=True)
    return mean + factor * (images - mean)


@corruption
def elastic_transform(key, images, size, strength, sigma, affine):
    """Warps by a random affine map, then by a smooth random displacement of every pixel.

    `strength`, `sigma` and `affine` are in units of `size` pixels.
    """
    affine_key, shift_key = jax.random.split(key)
    count, side = images.shape[:2]
    corner, half = side // 3, side // 2
    # Three points (x, y) and where they go; the images are sampled through the inverse map.
    points = half + np.array([[corner, corner], [corner, -corner], [-corner, -corner]], np.float32)
    points = jnp.asarray(points)[None]
    reach = size * affine
    moved = points + jax.random.uniform(affine_key, (count, 3, 2), minval=-reach, maxval=reach)
    moved = jnp.concatenate([moved, jnp.ones((count, 3, 1))], axis=2)
    inverse = jnp.linalg.solve(moved, jnp.broadcast_to(points, (count, 3, 2)))
    y, x = jnp.asarray(np.mgrid[:side, :side], jnp.float32)
    grid = jnp.stack([x, y, jnp.ones_like(x)], axis=2)
    x_from, y_from = jnp.moveaxis(
        jnp.einsum("hwk,bkd->bhwd", grid, inverse, precision="highest"), 3, 0
    )
    mirrored = functools.partial(_fold, period=2 * side - 2, turn=0)
    images = jax.vmap(functools.partial(_sample, fold=mirrored))(images, y_from, x_from)

    shift = jax.random.uniform(shift_key, (count, side, side, 2), minval=-1, maxval=1)
    shift = separable(gaussian_matrix(side, size * sigma, truncate=3.0, reflect=True), shift)
    y_from, x_from = (at[None] + size * strength * shift[..., i] for i, at in enumerate((y, x)))
    repeated = functools.partial(_fold, period=2 * side, turn=1)
    return jax.vmap(functools.partial(_sample, fold=repeated))(images, y_from, x_from)


def _fold(index, period, turn):
    """Mirrors indices into the image, at its edge pixel (`turn` 0) or beyond it (1)."""
    index = jnp.mod(index, period)
    return jnp.minimum(index, period - turn - index)


def _sample(image, y, x, fold):
    """Bilinear interpolation of an image `[S, S, 3]` at real coordinates `[S, S]`."""
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    rows = [fold(top.astype(jnp.int32) + step) for step in (0, 1)]
    columns = [fold(left.astype(jnp.int32) + step) for step in (0, 1)]
    upper = (1 - right) * image[rows[0], columns[0]] + right * image[rows[0], columns[1]]
    lower = (1 - right) * image[rows[1], columns[0]] + right * image[rows[1], columns[1]]
    return (1 - down) * upper + down * lower


@corruption
def pixelate(key, images, scale):
    """Shrinks to a share `scale` of the size and enlarges again, in 8 bits with a box filter."""
    del key
    size = images.shape[1]
    pixels = jnp.round(255 * images)
    for matrix in (box_matrix(size, int(size * scale)), box_matrix(int(size * scale), size)):
        matrix = jnp.asarray(matrix, jnp.float32)
        pixels = jnp.floor(jnp.einsum("lk,bjkc->bjlc", matrix, pixels, precision="highest") + 0.5)
        pixels = jnp.floor(jnp.einsum("ij,bjkc->bikc", matrix, pixels, precision="highest") + 0.5)
    return pixels / 255


@corruption
def jpeg_compression(key, images, quality):
    """Compresses as JPEG at `quality` of 100, by a real cosine transform with 4:2:0 colour.

    It rounds where the library of the official files does (IJG libjpeg 9, which halves the colours by
    transforms of 16 x 16 pixels that keep 8 x 8 coefficients); entropy coding is left out.
    """
    del key
    red, green, blue = jnp.moveaxis(jnp.round(255 * images), 3, 0)
    luma = jnp.round(0.299 * red + 0.587 * green + 0.114 * blue)
    blueness = jnp.round(128 - 0.168735892 * red - 0.331264108 * green + 0.5 * blue)
    redness = jnp.round(128 + 0.5 * red - 0.418687589 * green - 0.081312411 * blue)
    luma = _quantise(luma, _LUMINANCE, quality, 8)
    blueness = _quantise(blueness, _CHROMINANCE, quality, 16) - 128
    redness = _quantise(redness, _CHROMINANCE, quality, 16) - 128
    red = luma + jnp.round(1.402 * redness)
    green = luma + jnp.round(-0.344136286 * blueness - 0.714136286 * redness)
    blue = luma + jnp.round(1.772 * blueness)
    return jnp.stack([red, green, blue], axis=3) / 255


def _quantise(planes, table, quality, side):
    """Rounds 8 x 8 cosine coefficients of each square of planes `[B, S, S]`, integers 0 to 255."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.clip((np.array(table).reshape(8, 1, 8) * scale + 50) // 100, 1, 255)
    steps = jnp.asarray(8 * steps, jnp.float32)[None, None]  # in eighths, as the library
    cosines = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(side) + 1) / (2 * side))
    cosines[0] /= math.sqrt(2)
    forward = jnp.asarray(4 / side * cosines, jnp.float32)
    backward = jnp.asarray(cosines / 2, jnp.float32)
    count, size, _ = planes.shape
    blocks = (planes - 128).reshape(count, size // side, side, size // side, side)
    waves = jnp.einsum("ui,bricj,vj->brucv", forward, blocks, forward, precision="highest")
    waves = jnp.round(8 * waves)
    waves = steps / 8 * jnp.sign(waves) * jnp.floor((jnp.abs(waves) + steps / 2) / steps)
    blocks = jnp.einsum("ui,brucv,vj->bricj", backward, waves, backward, precision="highest")
    return jnp.clip(jnp.round(blocks) + 128, 0, 255).reshape(planes.shape)
