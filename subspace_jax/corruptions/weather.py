"""Snow, frost, fog and spatter."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.corruptions.blur import smear_along
from subspace_jax.corruptions.linear import convolve, gaussian_matrix, separable, zoom_matrix
from subspace_jax.corruptions.severities import corruption

_FROST_MEAN = (0.54, 0.635, 0.68)  # red, green, blue of the original textures, and their spread
_FROST_SPREAD = (0.21, 0.165, 0.16)
_FROST_CONTRAST = 0.6  # spread of the logarithm of the contrast within a texture
# By image size: how fast the amplitude falls with the frequency, and the spread within an image in
# units of the spread above.
_FROST_FIELD = {32: (0.65, 0.545), 64: (0.87, 0.525), 224: (1.02, 0.57)}
_GRAY = (0.299, 0.587, 0.114)
_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)


@corruption
def snow(key, images, mean, scale, zoom, threshold, radius, sigma, keep):
    """Whitens, and adds thresholded normal noise, magnified and smeared downwards, twice."""
    flakes_key, angle_key = jax.random.split(key)
    flakes = mean + scale * jax.random.normal(flakes_key, (*images.shape[:3], 1))
    flakes = separable(zoom_matrix(images.shape[1], zoom), flakes)
    flakes = jnp.floor(255 * jnp.clip(jnp.where(flakes < threshold, 0, flakes), 0, 1)) / 255
    angles = jax.random.uniform(angle_key, (len(images),), minval=-135, maxval=-45)
    flakes = smear_along(flakes, angles, radius, sigma)
    gray = jnp.tensordot(images, jnp.array(_GRAY), 1, precision="highest")[..., None]
    whiter = keep * images + (1 - keep) * jnp.maximum(images, 1.5 * gray + 0.5)
    return whiter + flakes + jnp.flip(flakes, (1, 2))


@corruption
def frost(key, images, keep, amount):
    """Adds a texture that is made here, not one of the five photographs of the original.

    It is a bluish normal random field whose amplitude falls with a power of the frequency, of uniform
    brightness and varying contrast, without ice crystals. Its steps to the next pixel and its standard
    deviation agree with crops of the photographs within 3 % at each size of image.
    """
    field_key, contrast_key, level_key = jax.random.split(key, 3)
    shape = images.shape[:3]
    decay, within = _FROST_FIELD[shape[1]]
    contrast = jnp.exp(_FROST_CONTRAST * _field(contrast_key, shape, 1.0) - _FROST_CONTRAST**2)
    field = contrast * _field(field_key, shape, decay)
    level = jax.random.uniform(level_key, (len(images), 1, 1), minval=-1, maxval=1)
    height = (0.83 * math.sqrt(3) * level + within * field)[..., None]
    mean, spread = (jnp.array(colour)[None, None, None] for colour in (_FROST_MEAN, _FROST_SPREAD))
    return keep * images + amount * jnp.clip(mean + spread * height, 0, 1)


def _field(key, shape, decay):
    """Normal random fields `[B, S, S]` of unit spread, amplitude by frequency to the power `-decay`."""
    size = shape[1]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf
    amplitude = jnp.asarray(frequency**-decay, jnp.float32)[None]
    waves = jnp.fft.rfft2(jax.random.normal(key, shape))
    waves = jax.lax.complex(amplitude * waves.real, amplitude * waves.imag)
    field = jnp.fft.irfft2(waves, (size, size))
    return field / field.std(axis=(1, 2), keepdims=True)


@corruption
def fog(key, images, amount, decay):
    """Adds a fractal height map of diamond-square steps and rescales to the old maximum."""
    size = images.shape[1]
    heights = _fractal(key, len(images), math.ceil(math.log2(size)), decay)[:, :size, :size, None]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    return (images + amount * heights) * brightest / (brightest + amount)


def _fractal(key, count, levels, decay):
    """Periodic height maps in [0, 1], `[B, 2^levels, 2^levels]`; steps shrink by `decay^2`."""
    draws = jax.random.uniform(key, (count, 4**levels - 1), minval=-1, maxval=1)
    corners = jnp.zeros((count, 1, 1))
    for level in range(levels):
        steps = draws[:, 4**level - 1 : 4 ** (level + 1) - 1] * decay ** (-2 * level)
        steps = jnp.moveaxis(steps.reshape(count, 3, 2**level, 2**level), 1, 0)
        right, below = jnp.roll(corners, -1, 2), jnp.roll(corners, -1, 1)
        middle = (corners + right + below + jnp.roll(right, -1, 1)) / 4 + steps[0]
        top = (corners + right + middle + jnp.roll(middle, 1, 1)) / 4 + steps[1]
        left = (corners + below + middle + jnp.roll(middle, 1, 2)) / 4 + steps[2]
        rows = jnp.stack([corners, top], axis=3), jnp.stack([left, middle], axis=3)
        corners = jnp.stack(rows, axis=2).reshape(count, 2 ** (level + 1), 2 ** (level + 1))
    corners -= corners.min(axis=(1, 2), keepdims=True)
    return corners / corners.max(axis=(1, 2), keepdims=True)


@corruption
def spatter(key, images, mean, scale, sigma, threshold, strength, mud):
    """Splashes water (`mud` False) or mud where blurred normal noise exceeds a threshold.

    The water's relief is built from the distance to the nearest edge of a splash, which is exact here.
    """
    size = images.shape[1]
    liquid = mean + scale * jax.random.normal(key, (*images.shape[:3], 1))
    liquid = separable(gaussian_matrix(size, sigma), liquid)
    if mud:
        cover = separable(gaussian_matrix(size, strength), (liquid > threshold).astype(jnp.float32))
        cover = jnp.where(cover < 0.8, 0, cover)
        return images * (1 - cover) + cover * jnp.array(_MUD)[None, None, None]
    liquid = jnp.floor(255 * jnp.clip(jnp.where(liquid < threshold, 0, liquid), 0, 1))
    relief = liquid * _relief(_distance(_edges(liquid[..., 0])))
    relief /= jnp.maximum(relief.max(axis=(1, 2, 3), keepdims=True), 1e-6)
    return images + strength * relief * jnp.array(_WATER)[None, None, None]


def _relief(distance):
    """Embosses distances `[B, S, S]` in [0, 20]: levels by rank, lit from a corner, 0 to 255."""
    box = np.full((3, 3), 1 / 9)
    level = jnp.floor(convolve(distance[..., None], box) + 1e-3)
    count = (level <= jnp.arange(21.0)[None, None, None]).sum(axis=(1, 2))  # [B, 21]
    lowest = jnp.take_along_axis(count, level.min(axis=(1, 2)).astype(jnp.int32), axis=1)
    rank = (count - lowest) / jnp.maximum(count[:, -1:] - lowest, 1)
    level = level[..., 0].astype(jnp.int32).reshape(len(level), -1)
    rank = jnp.round(255 * jnp.take_along_axis(rank, level, axis=1)).reshape(*distance.shape, 1)
    lit = convolve(rank, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    return jnp.round(convolve(jnp.clip(lit, 0, 255), box))


def _distance(edges):
    """Euclidean distance to the nearest edge pixel `[B, S, S]`, at most 20."""
    place = np.arange(edges.shape[1], dtype=np.float32)
    square = jnp.asarray((place[:, None] - place) ** 2)[None, None]
    along = (jnp.where(edges, 0.0, 400.0)[..., None] + square).min(axis=2)  # within the row
    across = (jnp.swapaxes(along, 1, 2)[..., None] + square).min(axis=2)
    return jnp.sqrt(jnp.minimum(jnp.swapaxes(across, 1, 2), 400))


def _edges(layer, low=50, high=150):
    """Canny's edges `[B, S, S]` of integers in [0, 255]: where, booleans."""
    across, down = _sobel(layer), jnp.swapaxes(_sobel(jnp.swapaxes(layer, 1, 2)), 1, 2)
    slope = jnp.abs(across) + jnp.abs(down)
    tangent = math.tan(math.pi / 8)
    side = {shift: _shifted(slope, *shift) for shift in np.ndindex(3, 3)}
    level = (slope > side[1, 0]) & (slope >= side[1, 2])
    upright = (slope > side[0, 1]) & (slope >= side[2, 1])
    falling = (slope > side[0, 0]) & (slope > side[2, 2])
    rising = (slope > side[0, 2]) & (slope > side[2, 0])
    diagonal = jnp.where(across * down < 0, rising, falling)
    steep = jnp.abs(down) > jnp.abs(across) * (tangent + 2)
    ridge = jnp.where(steep, upright, diagonal)
    ridge = jnp.where(jnp.abs(down) < jnp.abs(across) * tangent, level, ridge)
    weak, strong = ridge & (slope > low), ridge & (slope > high)

    def grow(state):
        grown = state[1]
        for shift in np.ndindex(3, 3):
            grown |= _shifted(state[1], *shift)
        return state[1], grown & weak

    return jax.lax.while_loop(
        lambda state: (state[0] != state[1]).any(), grow, (jnp.zeros_like(weak), strong)
    )[1]


def _shifted(planes, row, column):
    """`planes[:, i + row - 1, j + column - 1]`, zero outside."""
    size = planes.shape[1]
    padded = jnp.pad(planes, ((0, 0), (1, 1), (1, 1)))
    return padded[:, row : row + size, column : column + size]


def _sobel(planes):
    """Three times three derivative along the last axis; the edge repeats."""
    padded = jnp.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    step = padded[:, :, 2:] - padded[:, :, :-2]
    return step[:, :-2] + 2 * step[:, 1:-1] + step[:, 2:]
