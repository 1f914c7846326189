"""Batches of JPEGs: what is in them depends on the seed, the step and the row alone."""

import itertools

import jpegs
import numpy as np
import pytest

from experiments.data.decode import Pictures
from experiments.data.jpegs import find
from experiments.data.loader import TRAINING, Batches, Loader, Options, Order
from experiments.system.errors import UserError

BATCH, EPOCHS, SEED = 8, 2, 3
NUM = len(jpegs.CLASSES) * jpegs.NUM_TRAIN - 5  # so that some are left out of every epoch
STEPS = EPOCHS * (NUM // BATCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return jpegs.make(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="module")
def split(folder):
    found = find(str(folder))
    chosen = np.arange(NUM)
    return Pictures.of(found.train, jpegs.SIDE).subset(chosen), found.train_labels[chosen]


def options(num_workers=0, num_threads=1, prefetch=1, max_corrupt=0):
    return Options(num_workers, num_threads, prefetch, max_corrupt)


def batches_of(split, loader, *, seed=SEED, crop=True, order=None):
    order = Order(NUM, BATCH, EPOCHS, seed) if order is None else order
    return Batches(*split, order, loader.rows(BATCH), crop=crop, seed=seed, stream=loader_stream)


loader_stream = TRAINING


def streamed(split, first=0, count=None, process=(0, 1), seed=SEED, **changes):
    """Images `[s, R, S, S, 3]` and labels `[s, R]` of some steps, read by one process."""
    one = Loader(options(**changes), *process)
    stream = one.stream(batches_of(split, one, seed=seed), first)
    found = list(itertools.islice(stream, count))
    stream.close()
    return tuple(np.stack(x) for x in zip(*found, strict=True))


@pytest.fixture(scope="module")
def reference(split):
    """All steps, one after another without Grain's threads."""
    source = batches_of(split, Loader(options()))
    images, labels, _ = zip(*(source[step] for step in range(STEPS)), strict=True)
    return np.stack(images), np.stack(labels)


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


# Order


def test_every_epoch_is_a_permutation_of_its_own():
    order = Order(NUM, BATCH, EPOCHS, SEED)
    assert len(order) == STEPS
    epochs = np.split(np.stack([order[step] for step in range(STEPS)]), EPOCHS)
    for epoch in epochs:
        assert len(np.unique(epoch)) == epoch.size
        assert epoch.min() >= 0
        assert epoch.max() < NUM
    assert (epochs[0] != epochs[1]).any()


def test_a_data_set_of_one_image_is_an_order_too():
    assert [Order(1, 1, 3, 0)[step].tolist() for step in range(3)] == [[0]] * 3


def test_seeds_have_orders_of_their_own_and_never_each_others():
    epochs = {
        (seed, epoch): Order(NUM, BATCH, EPOCHS, seed)[epoch * (STEPS // EPOCHS)].tolist()
        for seed in range(4)
        for epoch in range(EPOCHS)
    }
    assert len({tuple(first) for first in epochs.values()}) == len(epochs)


# Contents


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_hosts_and_threads_change_nothing(split, reference, processes, num_threads):
    parts = [
        streamed(split, process=(p, processes), num_threads=num_threads) for p in range(processes)
    ]
    assert all(part[0].shape[1] == BATCH // processes for part in parts)
    assert_equal([np.concatenate(x, axis=1) for x in zip(*parts, strict=True)], reference)


def test_worker_processes_change_nothing(split, reference):
    """Of one worker, `test_imagenet.py` says the same."""
    first = 3  # an odd one, so that two workers change places
    found = streamed(split, first, num_workers=2, num_threads=2, process=(1, 2))
    half = BATCH // 2
    assert_equal(found, [x[first:, half:] for x in reference])


@pytest.mark.parametrize("first", [1, STEPS // EPOCHS, STEPS - 1, STEPS])
def test_a_resumed_stream_goes_on_at_its_step(split, reference, first):
    if first == STEPS:
        assert list(Loader(options()).stream(batches_of(split, Loader(options())), first)) == []
    else:
        assert_equal(streamed(split, first), [x[first:] for x in reference])


def test_labels_are_those_of_the_images(split, reference):
    images, labels = reference
    # Levels tell the class: see `jpegs.picture`.
    levels = images.mean((2, 3, 4))
    np.testing.assert_array_equal(np.rint((levels - 60) / 45).clip(0, 3), labels)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32


def test_every_image_is_read_once_an_epoch_by_all_processes_together(split):
    read = []

    class Counting(Pictures):
        def _open(self, i):
            read.append(int(i))
            return super()._open(i)

    pictures = Counting(
        *(getattr(split[0], k) for k in ("records", "chosen", "side", "short_side"))
    )
    for p in range(2):
        streamed((pictures, split[1]), count=STEPS // EPOCHS, process=(p, 2), prefetch=1)
    used = read[: STEPS // EPOCHS * BATCH // 2]
    assert len(set(used)) == len(used)


def test_crops_differ_by_seed_step_and_row(split, reference):
    images, _ = reference
    other, _ = streamed(split, count=1, seed=SEED + 1)
    assert (other[0] != images[0]).any()
    order = np.zeros((2, BATCH), int)  # one image everywhere
    source = batches_of(split, Loader(options()), order=order)
    crops = np.concatenate([source[0][0], source[1][0]])
    assert len({crop.tobytes() for crop in crops}) > BATCH
    centred = batches_of(split, Loader(options()), order=order, crop=False)[0][0]
    assert len({image.tobytes() for image in centred}) == 1


# Unreadable images


@pytest.fixture
def damaged(tmp_path):
    """A split with two unreadable images, and the numbers of these."""
    root = jpegs.make(tmp_path / "imagenet")
    found = find(str(root))
    bad = (7, 20)
    for i, content in zip(bad, (b"text", None), strict=True):
        path = found.train.name(i)
        with open(path, "rb") as stream:
            content = content or stream.read()[:200]
        with open(path, "wb") as stream:
            stream.write(content)
    chosen = np.arange(NUM)
    return (Pictures.of(found.train, jpegs.SIDE).subset(chosen), found.train_labels[chosen]), bad


@pytest.mark.parametrize("processes", [1, 4])
def test_an_unreadable_image_is_replaced_by_the_next_row_of_the_whole_batch(
    damaged, processes, capsys
):
    split, bad = damaged
    loaders = [Loader(options(max_corrupt=2), p, processes) for p in range(processes)]
    parts = [list(one.stream(batches_of(split, one))) for one in loaders]
    labels = np.stack([np.concatenate([part[s][1] for part in parts]) for s in range(STEPS)])
    order = Order(NUM, BATCH, EPOCHS, SEED)
    met = set()
    for step in range(STEPS):
        examples = order[step]
        met |= set(examples) & set(bad)
        expected = [
            next(i for i in np.roll(examples, -row) if i not in bad) for row in range(BATCH)
        ]
        np.testing.assert_array_equal(labels[step], split[1][expected])
    assert met == set(bad)
    names = {name for one in loaders for name in one.corrupt}
    assert names == {split[0].name(i) for i in bad}
    said = capsys.readouterr().err
    assert all(f"Left out: {name} can't be decoded.\n" in said for name in names)
    if processes == 1:  # once each, though there are two epochs
        assert said.count("Left out") == len(bad)


def test_after_the_last_row_comes_the_first(damaged):
    split, (bad, _) = damaged
    order = np.array([[*range(BATCH - 1), bad]])
    one = Loader(options(max_corrupt=1))
    ((_, labels),) = one.stream(batches_of(split, one, order=order))
    np.testing.assert_array_equal(labels, split[1][[*order[0, :-1], order[0, 0]]])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_unreadable_images_stop_the_run(damaged, num_workers):
    split, _ = damaged
    one = Loader(options(num_workers=num_workers, max_corrupt=1))
    with pytest.raises(
        UserError,
        match=r"^2 training images can't be used \(.*JPEG can't be decoded\) but config\."
        r"max_corrupt is 1; ",
    ):
        list(one.stream(batches_of(split, one)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_without_a_readable_image_stops_the_run(damaged, num_workers):
    split, bad = damaged
    order = np.full((1, BATCH), bad[0])
    one = Loader(options(num_workers=num_workers, max_corrupt=9))
    with pytest.raises(UserError, match=r"^None of the 8 images of batch 0 can be decoded"):
        list(one.stream(batches_of(split, one, order=order)))


def test_processes_must_divide_the_batch():
    with pytest.raises(
        UserError, match="^A batch has 8 examples but .* over 3 processes; use 6 or 9"
    ):
        Loader(options(), 0, 3).rows(BATCH)


def test_threads_share_the_cores():
    assert options(num_threads=5).threads == 5
    assert 1 <= options(num_threads=0).threads <= 16
    assert options(num_threads=0, num_workers=1000).threads == 1
