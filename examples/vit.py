"""A small vision transformer on digits: standard training, a line and a layerwise line."""

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from examples import compare

DESCRIPTION = """A vision transformer (Flax NNX) on scikit-learn's digits: 8 x 8 pixels in 16 patches.

    python -m examples.vit [--epochs N] [--seeds N] [--json FILE]

Trains a network, a line and a layerwise line with the same budget and seeds, and prints accuracy,
NLL and ECE on 540 test images: means and standard errors over seeds, which share the test images.
It shows that a subspace of transformers (attention, layer norm, embeddings) trains as one of
convolutional networks does. It does not show which method is better: the images are small and easy,
the training is short and nothing was tuned. Nothing is downloaded, and nothing written without
--json."""


class Block(nnx.Module):
    """Attention and an MLP, each behind a layer norm and beside an identity; `[B, T, width]`."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.norm_1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.norm_2 = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, 2 * width, rngs=rngs)
        self.out = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm_1(x))
        return x + self.out(nnx.gelu(self.hidden(self.norm_2(x))))


class VisionTransformer(nnx.Module):
    """Patches `[B, T, D]` in, logits `[B, 10]` out."""

    def __init__(self, tokens: int, features: int, depth: int, rngs: nnx.Rngs, width: int = 32):
        self.patch = nnx.Linear(features, width, rngs=rngs)
        self.position = nnx.Embed(tokens, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, 4, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patch(x) + self.position(jnp.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def patches(images: np.ndarray, size: int) -> np.ndarray:
    """Images `[N, H, W, C]` as `[N, H/size * W/size, size * size * C]`, row by row.

    Example:
      >>> patches(np.arange(16).reshape(1, 4, 4, 1), 2)[0, 1].tolist()
      [2, 3, 6, 7]
    """
    n, height, width, channels = images.shape
    grid = images.reshape(n, height // size, size, width // size, size, channels)
    return grid.swapaxes(2, 3).reshape(n, -1, size * size * channels)


def make_task(depth: int = 2) -> compare.Task:
    """Patches of 2 x 2 pixels, standardised with the mean and deviation of all training pixels."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.float32)
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=0.3, stratify=labels, random_state=0
    )
    x, x_test = (patches((part - x.mean()) / x.std(), size=2) for part in (x, x_test))
    make = lambda key: VisionTransformer(*x.shape[1:], depth, nnx.Rngs(key))
    graphdef = nnx.graphdef(make(jax.random.key(0)))
    return compare.Task(
        init_fn=lambda key: nnx.state(make(key), nnx.Param),
        apply_fn=lambda params, x: nnx.merge(graphdef, params)(x),
        train=(x, y.astype(np.int32)),
        test=(x_test, y_test.astype(np.int32)),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return compare.main("examples.vit", DESCRIPTION, make_task, argv)


if __name__ == "__main__":
    sys.exit(main())
