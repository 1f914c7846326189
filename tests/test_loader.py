"""Batches of JPEGs: what is in them depends on the seed, the step and the row alone."""

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
ORDER = Order(NUM, BATCH, EPOCHS, SEED)


def split_of(folder):
    found, chosen = find(str(folder)), np.arange(NUM)
    return Pictures.of(found.train, jpegs.SIDE).subset(chosen), found.train_labels[chosen]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return split_of(jpegs.make(tmp_path_factory.mktemp("imagenet")))


def loader(process=(0, 1), num_workers=0, num_threads=1, max_corrupt=0):
    return Loader(Options(num_workers, num_threads, 1, max_corrupt), *process)


def batches_of(split, rows=range(BATCH), seed=SEED, crop=True, order=ORDER):
    return Batches(*split, order, rows, crop=crop, seed=seed, stream=TRAINING)


def streamed(split, first, process, **changes):
    """Images `[s, R, S, S, 3]` and labels `[s, R]` from a step on, read by one process."""
    one = loader(process, **changes)
    stream = one.stream(batches_of(split, one.rows(BATCH)), first)
    return tuple(np.stack(x) for x in zip(*stream, strict=True))


@pytest.fixture(scope="module")
def reference(split):
    """All steps, one after another without Grain's threads."""
    source = batches_of(split)
    images, labels, _ = zip(*(source[step] for step in range(STEPS)), strict=True)
    return np.stack(images), np.stack(labels)


def test_every_epoch_is_a_permutation_of_its_own_and_so_is_every_seeds():
    assert len(ORDER) == STEPS
    orders = [Order(NUM, BATCH, EPOCHS, seed) for seed in range(SEED, SEED + 3)]
    batches = np.stack([order[step] for order in orders for step in range(STEPS)])
    epochs = batches.reshape(3 * EPOCHS, -1)
    assert {len(set(epoch)) for epoch in epochs.tolist()} == {epochs.shape[1]}
    assert set(epochs.flat) <= set(range(NUM))
    assert len(np.unique(epochs, axis=0)) == len(epochs)


# Contents


@pytest.mark.parametrize(
    ("first", "processes", "options"),
    [(0, 1, {"num_threads": 3}), (1, 4, {"num_threads": 2}), (3, 2, {"num_workers": 2})],
)
def test_who_reads_and_from_which_step_on_changes_nothing(
    split, reference, first, processes, options
):
    """From an odd step on, two workers change places."""
    parts = [streamed(split, first, (p, processes), **options) for p in range(processes)]
    found = [np.concatenate(x, axis=1) for x in zip(*parts, strict=True)]
    for one, other in zip(found, reference, strict=True):
        np.testing.assert_array_equal(one, other[first:])
    assert not list(loader().stream(batches_of(split), STEPS))


def test_labels_are_those_of_the_images(reference):
    images, labels = reference
    # Levels tell the class: see `jpegs.picture`.
    levels = images.mean((2, 3, 4))
    np.testing.assert_array_equal(np.rint((levels - 60) / 45).clip(0, 3), labels)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_crops_differ_by_seed_step_and_row(split, reference):
    assert (batches_of(split, seed=SEED + 1)[0][0] != reference[0][0]).any()
    order = np.zeros((2, BATCH), int)  # one image everywhere
    source = batches_of(split, order=order)
    crops = np.concatenate([source[0][0], source[1][0]])
    assert len({crop.tobytes() for crop in crops}) > BATCH
    centred = batches_of(split, order=order, crop=False)[0][0]
    assert len({image.tobytes() for image in centred}) == 1


# Unreadable images


@pytest.fixture
def damaged(tmp_path):
    """A split with two unreadable images, and the numbers of these."""
    pictures, labels = split_of(jpegs.make(tmp_path / "imagenet"))
    for i, content in ((7, b"text"), (20, pictures.records[20][:200])):
        with open(pictures.name(i), "wb") as stream:
            stream.write(content)
    return (pictures, labels), (7, 20)


def test_an_unreadable_image_is_replaced_by_the_next_row_of_the_whole_batch(damaged, capsys):
    (split, bad), processes = damaged, 4
    loaders = [loader((p, processes), max_corrupt=2) for p in range(processes)]
    parts = [list(one.stream(batches_of(split, one.rows(BATCH)))) for one in loaders]
    for step in range(STEPS):
        labels = np.concatenate([part[step][1] for part in parts])
        orders = (np.roll(ORDER[step], -row) for row in range(BATCH))
        expected = [next(i for i in order if i not in bad) for order in orders]
        np.testing.assert_array_equal(labels, split[1][expected])
    names = {name for one in loaders for name in one.corrupt}
    assert names == {split[0].name(i) for i in bad}
    said = capsys.readouterr().err
    assert all(f"Left out: {name} can't be decoded.\n" in said for name in names)


def test_after_the_last_row_comes_the_first(damaged):
    split, (bad, _) = damaged
    order = np.array([[*range(BATCH - 1), bad]])
    ((_, labels),) = loader(max_corrupt=1).stream(batches_of(split, order=order))
    np.testing.assert_array_equal(labels, split[1][[*order[0, :-1], order[0, 0]]])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_unreadable_images_stop_the_run(damaged, num_workers):
    split, bad = damaged
    for order, max_corrupt, said in (
        (ORDER, 1, r"^2 training images can't be used \(.*JPEG can't be decoded\) but config\.max"),
        (np.full((1, BATCH), bad[0]), 9, r"^None of the 8 images of batch 0 can be decoded"),
    ):
        one = loader(num_workers=num_workers, max_corrupt=max_corrupt)
        with pytest.raises(UserError, match=said):
            list(one.stream(batches_of(split, order=order)))


def test_processes_must_divide_the_batch_and_share_the_cores():
    with pytest.raises(UserError, match="^A batch has 8 examples but .* over 3 processes; use 9"):
        loader((0, 3)).rows(BATCH)
    for num_workers, num_threads, expected in ((0, 5, {5}), (0, 0, range(1, 17)), (1000, 0, {1})):
        assert Options(num_workers, num_threads, 1, 0).threads in expected
