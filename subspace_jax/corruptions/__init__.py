r"""The 15 + 4 common corruptions of Hendrycks and Dietterich as jitted functions of a random key.

These are re-implementations: they are **not the official files** of CIFAR-10-C, Tiny-ImageNet-C or
ImageNet-C, and numbers measured with them are not numbers of those benchmarks. Frost has a texture of
its own making, and pixels stay real numbers. The files are truncated to 8 bits: `floor(255 * images +
2e-5)` gives the official pixels of the corruptions without randomness, on average to 0.08 of 255 in
CIFAR-10-C, JPEG to 0.17.

The benchmarks have three tables of severities; the size of the images picks one: 32 pixels `CIFAR_C`,
64 pixels `TINY_IMAGENET_C`, 224 pixels `IMAGENET_C`. A higher severity is not always a larger change.

Source: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", and the constants of its published generators.
"""

import jax

from subspace_jax.corruptions import blur, digital, noise, weather

_BENCHMARK = (
    *(noise.gaussian_noise, noise.shot_noise, noise.impulse_noise),
    *(blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur),
    *(weather.snow, weather.frost, weather.fog, digital.brightness, digital.contrast),
    *(digital.elastic_transform, digital.pixelate, digital.jpeg_compression),
)
_EXTRA = noise.speckle_noise, blur.gaussian_blur, weather.spatter, digital.saturate
# name -> jitted `(key, images, severity) -> images`
CORRUPTIONS = {function.__name__: function for function in (*_BENCHMARK, *_EXTRA)}
BENCHMARK, EXTRA = tuple(CORRUPTIONS)[:15], tuple(CORRUPTIONS)[15:]


def corrupt(name: str, key: jax.Array, images: jax.Array, severity: int) -> jax.Array:
    """Applies one of the 19 corruptions to images `[B, S, S, 3]` in [0, 1]; S is 32, 64 or 224.

    `name` is one of `BENCHMARK` (the 15 that benchmarks average over) or `EXTRA` (the other 4),
    severity is static, 1 to 5. Every image has its own draw, which depends on its place in the batch.
    Raises ValueError: an unknown name or severity, or images of another shape or type.

    >>> images = jax.numpy.full((2, 32, 32, 3), 0.5)
    >>> corrupt("brightness", jax.random.key(0), images, 3)[0, 0, 0]
    Array([0.65, 0.65, 0.65], dtype=float32)
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption is {name!r}; choose one of {', '.join(CORRUPTIONS)}.")
    return CORRUPTIONS[name](key, images, severity)
