"""What happens to uint8 images on the device: augmentation, then normalisation, inside jit."""

import jax
import jax.numpy as jnp

# Mean and standard deviation per channel, for intensities in [0, 1].
NORMALIZATIONS = {
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # What the article used for CIFAR-10 too.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tiny_imagenet": ((0.480, 0.448, 0.397), (0.276, 0.269, 0.282)),
    "none": ((0.0,), (1.0,)),
}


def normalize(images: jax.Array, name: str) -> jax.Array:
    """uint8 images `[B, H, W, C]` as float32 with the named mean and standard deviation removed."""
    mean, std = (jnp.asarray(x, jnp.float32)[None, None, None] for x in NORMALIZATIONS[name])
    return (images.astype(jnp.float32) / 255 - mean) / std


def crop_and_flip(key: jax.Array, images: jax.Array, padding: int = 4) -> jax.Array:
    """Random crops of images `[B, H, W, C]` padded with black, flipped with probability 1/2."""
    size, height, width, channels = images.shape
    offset_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (size, 2), 0, 2 * padding + 1)
    flips = jax.random.bernoulli(flip_key, shape=(size, 1, 1, 1))
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))

    def crop(image, offset):
        return jax.lax.dynamic_slice(
            image, (offset[0], offset[1], jnp.zeros_like(offset[0])), (height, width, channels)
        )

    cropped = jax.vmap(crop)(jnp.pad(images, pad), offsets)
    return jnp.where(flips, cropped[:, :, ::-1], cropped)


def _as_they_are(key: jax.Array, images: jax.Array) -> jax.Array:
    del key
    return images


RANDOM_RESIZED_CROP = "random_resized_crop"  # done where images are decoded: see decode.py

AUGMENTATIONS = {
    "none": _as_they_are,
    "crop_and_flip": crop_and_flip,
    RANDOM_RESIZED_CROP: _as_they_are,
}
