r"""The 15 + 4 common corruptions of Hendrycks and Dietterich as jitted functions of a random key.

These are re-implementations of the published recipes: they are **not the official files** of
CIFAR-10-C, Tiny-ImageNet-C or ImageNet-C, and numbers measured with them are not numbers of those
benchmarks. Nothing is downloaded. The random ones draw from JAX's generators, frost has a texture
of its own making, and pixels stay real numbers (pixelation and JPEG work on integers and return
multiples of 1/255). The files are truncated to 8 bits: `floor(255 * images + 2e-5)`, whose last term
is the rounding of float32, gives the official pixels of the corruptions without randomness, on
average to 0.08 of 255 in CIFAR-10-C, JPEG to 0.17. The files of Tiny-ImageNet-C and ImageNet-C were
moreover stored as JPEG of quality 85, which is left out.

The benchmarks have three different tables of severities; the size of the images picks one: 32
pixels `CIFAR_C`, 64 pixels `TINY_IMAGENET_C`, 224 pixels `IMAGENET_C`. A higher severity is not
always a larger change: the tables of glass blur, frost, elastic transform, spatter and saturate go
to and fro.

The strength of each is in `severities.py`.

Source: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", and the constants of its published generators.
"""

import jax

from subspace_jax.corruptions import blur, digital, noise, weather

_BENCHMARK = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
_EXTRA = {
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}
# name -> jitted `(key, images, severity) -> images`
CORRUPTIONS = _BENCHMARK | _EXTRA
BENCHMARK, EXTRA = tuple(_BENCHMARK), tuple(_EXTRA)


def corrupt(name: str, key: jax.Array, images: jax.Array, severity: int) -> jax.Array:
    """Applies one of the 19 corruptions to images; not the official files, see the module.

    `CORRUPTIONS[name](key, images, severity)` is the same. It compiles once per severity and shape;
    every image has its own draw, which depends on its place in the batch.

    `name` is one of `BENCHMARK` (the 15 that benchmarks average over) or `EXTRA` (the other 4); images
    are `[B, S, S, 3]`, red, green, blue in [0, 1], S 32, 64 or 224; severity is static, 1 to 5.

    Returns images in [0, 1] of the same shape and type. Raises ValueError: an unknown name or severity,
    or images of another shape or type.

    >>> images = jax.numpy.full((2, 32, 32, 3), 0.5)
    >>> corrupt("brightness", jax.random.key(0), images, 3)[0, 0, 0]
    Array([0.65, 0.65, 0.65], dtype=float32)
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption is {name!r}; choose one of {', '.join(CORRUPTIONS)}.")
    return CORRUPTIONS[name](key, images, severity)
