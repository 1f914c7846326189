"""Common corruptions: properties of all, and distances to a sample of the files they imitate."""

import functools
import os
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import corruptions
from subspace_jax.corruptions import blur, severities, weather

NAMES = tuple(corruptions.CORRUPTIONS)
FIXED = {
    *("defocus_blur", "zoom_blur", "gaussian_blur", "brightness"),
    *("contrast", "pixelate", "jpeg_compression", "saturate"),
}
# Where the published table itself goes to and fro.
RESTLESS = {"glass_blur", "frost", "elastic_transform", "spatter", "saturate"}
FOLDER = os.environ.get("SUBSPACE_JAX_DATA_DIR", "")
SAMPLE = pathlib.Path(FOLDER, "cifar10_c_sample.npz")
needs_sample = pytest.mark.skipif(
    not (FOLDER and SAMPLE.exists() and SAMPLE.with_name("cifar10.npz").exists()),
    reason="SUBSPACE_JAX_DATA_DIR names no folder with cifar10_c_sample.npz and cifar10.npz",
)
every_name = pytest.mark.parametrize("name", NAMES)


@functools.cache
def pictures(size, count=8):
    """Smooth coloured clouds with a sharp dark square and a gray bar, in [0, 1]."""
    coarse = jax.random.uniform(jax.random.key(size), (count, 8, 8, 3))
    images = jax.image.resize(coarse, (count, size, size, 3), "cubic")
    images = jnp.clip(1.4 * images - 0.2, 0, 1)
    images = images.at[:, size // 4 : size // 2, size // 3 : size // 2].set(0.1)
    return images.at[:, -size // 5 :, size // 8 : size // 4].set(0.6)


def change(name, images, severity, key=0):
    corrupted = corruptions.corrupt(name, jax.random.key(key), images, severity)
    return float(jnp.abs(corrupted - images).mean())


def test_the_names():
    assert len(corruptions.BENCHMARK) == 15
    assert len(corruptions.EXTRA) == 4
    assert NAMES == corruptions.BENCHMARK + corruptions.EXTRA
    for name, function in corruptions.CORRUPTIONS.items():
        assert function.__name__ == name
        assert function.__doc__


@pytest.mark.parametrize("table", ["CIFAR_C", "TINY_IMAGENET_C", "IMAGENET_C"])
def test_tables_have_five_severities_of_every_corruption(table):
    table = getattr(severities, table)
    assert set(table) == set(NAMES)
    assert all(len(constants) == 5 for constants in table.values())


@every_name
@pytest.mark.parametrize(("size", "severity"), [(32, 1), (32, 5), (64, 4), (224, 2)])
def test_range_shape_and_type(name, size, severity):
    images = pictures(size, count=8 if size == 32 else 1)
    corrupted = corruptions.corrupt(name, jax.random.key(1), images, severity)
    chex.assert_trees_all_equal_shapes_and_dtypes(corrupted, images)
    chex.assert_tree_all_finite(corrupted)
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    assert not jnp.array_equal(corrupted, images)


@every_name
def test_severity_orders_the_change(name):
    changes = [change(name, pictures(32), severity) for severity in (1, 3, 5)]
    assert min(changes) > 0
    if name not in RESTLESS:
        assert changes == sorted(set(changes))


@every_name
def test_the_key_decides(name):
    images = jnp.broadcast_to(pictures(32)[:1], (8, 32, 32, 3))
    first, again, other = (
        corruptions.CORRUPTIONS[name](jax.random.key(key), images, 5) for key in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    assert jnp.array_equal(first, other) == (name in FIXED)
    # Equal images of a batch draw independently.
    assert jnp.array_equal(first[0], first[1]) == (name in FIXED)


@every_name
def test_compiles_once_per_severity_and_shape(name):
    function = corruptions.CORRUPTIONS[name]
    corruptions.corrupt(name, jax.random.key(0), pictures(32), 5)
    compiled = function._cache_size()
    for key in (0, 1):
        corruptions.corrupt(name, jax.random.key(key), pictures(32), 5)
    assert function._cache_size() == compiled


@pytest.mark.parametrize("name", ["brightness", "gaussian_noise", "jpeg_compression"])
def test_half_precision_stays(name):
    images = pictures(32).astype(jnp.bfloat16)
    assert corruptions.corrupt(name, jax.random.key(0), images, 1).dtype == jnp.bfloat16


@pytest.mark.parametrize("severity", [0, 6])
def test_unknown_severity(severity):
    with pytest.raises(ValueError, match=rf"severity is {severity}; choose 1, 2, 3, 4 or 5\."):
        corruptions.corrupt("fog", jax.random.key(0), pictures(32), severity)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'mist'; choose one of gaussian_noise, .*saturate\.$"):
        corruptions.corrupt("mist", jax.random.key(0), pictures(32), 1)


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (32, 32, 3), (2, 28, 28, 3), (2, 32, 64, 3)])
def test_other_images(shape):
    with pytest.raises(ValueError, match=r"S 32, 64 or 224 \(repeat the channel of a grayscale"):
        corruptions.corrupt("contrast", jax.random.key(0), jnp.zeros(shape), 1)


def test_bytes():
    with pytest.raises(ValueError, match="images are uint8; give floats"):
        corruptions.corrupt("contrast", jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), 1)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "gaussian_blur", "glass_blur", "motion_blur", "zoom_blur"]
)
@pytest.mark.parametrize("size", [32, 64])
def test_blurs_keep_a_constant(name, size):
    images = jnp.full((1, size, size, 3), 0.4)  # 102 / 255
    corrupted = corruptions.corrupt(name, jax.random.key(0), images, 5)
    chex.assert_trees_all_close(corrupted, images, atol=1e-5)


@pytest.mark.parametrize("name", ["pixelate", "jpeg_compression"])
def test_digital_ones_return_bytes(name):
    corrupted = 255 * corruptions.corrupt(name, jax.random.key(0), pictures(64), 3)
    chex.assert_trees_all_close(corrupted, jnp.round(corrupted), atol=1e-4)


def test_jpeg_keeps_gray_constants():
    images = jnp.full((1, 32, 32, 3), 128 / 255)
    chex.assert_trees_all_close(
        corruptions.corrupt("jpeg_compression", jax.random.key(0), images, 5), images, atol=1e-6
    )


def test_shot_noise_counts_photons():
    corrupted = corruptions.corrupt(
        "shot_noise", jax.random.key(0), jnp.full((8, 32, 32, 3), 0.5), 5
    )
    chex.assert_trees_all_close(50 * corrupted, jnp.round(50 * corrupted), atol=1e-4)
    assert corrupted.mean() == pytest.approx(0.5, abs=0.005)
    assert corrupted.std() == pytest.approx((0.5 / 50) ** 0.5, rel=0.05)


def test_impulse_noise_hits_a_share():
    images = jnp.full((8, 32, 32, 3), 0.5)
    corrupted = corruptions.corrupt("impulse_noise", jax.random.key(0), images, 5)
    assert (corrupted == 1).mean() == pytest.approx(0.035, abs=0.005)
    assert (corrupted == 0).mean() == pytest.approx(0.035, abs=0.005)


def sequential_sweep(sources, reach):
    """The pixel-by-pixel loop that `_sweep` unrolls; `sources` are the neighbours' places."""
    size = int(len(sources) ** 0.5)
    pixels = np.arange(size * size)
    for row in range(size - reach, reach, -1):
        for column in range(size - reach, reach, -1):
            pixels[size * row + column] = pixels[sources[size * row + column]]
    return pixels


@pytest.mark.parametrize(("size", "reach"), [(32, 1), (64, 2), (32, 4)])
def test_glass_sweep_is_the_sequential_loop(size, reach):
    key = jax.random.key(3)
    rows, columns = np.asarray(jax.random.randint(key, (2, 2, size * size), -reach, reach))
    found = np.asarray(blur._sweep(key, 2, size, reach))
    for image in range(2):
        neighbours = np.arange(size * size) + size * rows[image] + columns[image]
        chex.assert_trees_all_equal(found[image], sequential_sweep(neighbours, reach))


def test_distance_is_the_nearest_edge():
    edges = jax.random.bernoulli(jax.random.key(0), 0.02, (2, 32, 32))
    found = np.asarray(weather._distance(edges))
    y, x = np.mgrid[:32, :32]
    for image in range(2):
        rows, columns = np.nonzero(np.asarray(edges[image]))
        expected = np.hypot(y[..., None] - rows, x[..., None] - columns).min(axis=2)
        np.testing.assert_allclose(found[image], np.minimum(expected, 20), atol=1e-4)


def test_no_edge_is_far_away():
    assert (weather._distance(jnp.zeros((1, 32, 32), bool)) == 20).all()


@pytest.fixture(scope="module")
def sample():
    images = np.load(SAMPLE.with_name("cifar10.npz"))["test_images"][:200]
    return np.load(SAMPLE), jnp.asarray(images / np.float32(255))


def pair(sample, name, severity):
    """Our pixels truncated to bytes as in the files, and the file's, float32 in [0, 255]."""
    files, images = sample
    ours = 255 * np.asarray(corruptions.corrupt(name, jax.random.key(7), images, severity))
    return np.floor(ours + 1e-3), files[name][severity - 1].astype(np.float32)


@needs_sample
@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("name", sorted(FIXED))
def test_fixed_ones_are_the_official_pixels(sample, name, severity):
    ours, official = pair(sample, name, severity)
    assert np.abs(ours - official).mean() <= (0.25 if name == "jpeg_compression" else 0.12)


def spectrum(corrupted, images):
    """Power of the gray change in five rings of spatial frequency, mean over images."""
    gray = (corrupted - 255 * np.asarray(images)).mean(axis=3)
    gray -= gray.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(gray)) ** 2).mean(axis=0)
    radius = 32 * np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    edges = (0.5, 1.5, 3, 6, 10, 17)
    rings = zip(edges[:-1], edges[1:], strict=True)
    return np.array([power[(radius >= low) & (radius < high)].mean() for low, high in rings])


@needs_sample
@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("name", ["gaussian_noise", "snow", "frost", "fog"])
def test_random_ones_have_the_statistics(sample, name, severity):
    ours, drawn = pair(sample, name, severity)
    assert ours.mean() == pytest.approx(drawn.mean(), abs=3)
    assert ours.std() == pytest.approx(drawn.std(), rel=0.05)
    ratio = spectrum(ours, sample[1]) / spectrum(drawn, sample[1])
    np.testing.assert_allclose(ratio, 1, atol=0.3)
