"""Tiny-ImageNet's folders: the cache, and what is refused. What they hold: see test_readers.py."""

import re
import shutil

import chex
import numpy as np
import pytest
from PIL import Image

from experiments.data import decode, sets, tiny_imagenet
from experiments.system.errors import UserError

TRAIN = {"n10_0": 200, "n10_1": 210, "n01_1": 20, "n01_0": 10, "n01_10": 30, "n02_0": 100}
VAL = {"val_3.JPEG": ("n10", 205), "val_1.JPEG": ("n01", 15), "val_2.JPEG": ("n02", 105)}
ANNOTATIONS = "val/val_annotations.txt"


def save(path, value, size=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value, value // 2, 0)).save(path, "JPEG")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    for file, value in TRAIN.items():
        save(root / "train" / file[:3] / "images" / f"{file}.JPEG", value)
    (root / "train/n10/n10_boxes.txt").write_text("")
    (root / "train/notes.txt").write_text("not a class")
    (root / "train/.hidden").mkdir()
    for file, (_, value) in VAL.items():
        save(root / "val/images" / file, value)
    lines = [f"{file}\t{name}\t0\t1\t52\t48\n" for file, (name, _) in VAL.items()]
    (root / ANNOTATIONS).write_text("".join(lines))
    return root


@pytest.fixture
def root(template, tmp_path):
    """A data folder of one's own."""
    return shutil.copytree(template, tmp_path / "tiny")


@pytest.fixture
def decoded(monkeypatch):
    """The files that have been decoded, as a growing list."""
    names, original = [], decode.open_image

    def open_image(records, i):
        names.append(records.name(i))
        return original(records, i)

    monkeypatch.setattr(decode, "open_image", open_image)
    return names


def test_images_come_by_class_then_file_and_test_images_as_annotated(root, monkeypatch):
    monkeypatch.setattr(decode, "_CHUNK", 1)  # threads keep the order
    assert tiny_imagenet.classes(root) == ("n01", "n02", "n10")
    arrays = tiny_imagenet.read(root)
    np.testing.assert_array_equal(arrays["train_labels"], [0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(arrays["test_labels"], [2, 0, 1])
    for part, values in (("train", [10, 20, 30, 100, 200, 210]), ("test", [205, 15, 105])):
        assert np.abs(arrays[f"{part}_images"][:, 9, 9, 0].astype(int) - values).max() <= 3


def test_images_are_decoded_once_and_a_damaged_cache_is_made_anew(root, decoded, capsys):
    expected = tiny_imagenet.read(root)
    cache = root / tiny_imagenet.CACHE
    content = cache.read_bytes()

    def flipped(place):
        return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]

    # A part of an archive, and a bit in every array, where numpy sees no fault, its header, the
    # names and the table at the end. What goes unnoticed are times and attributes in the zip.
    places = [*range(0, 300, 37), *range(300, len(content) - 1800, 20_011)]
    damages = [content, content[:-100], *map(flipped, places)]
    damages += map(flipped, range(len(content) - 1800, len(content), 197))
    for damaged in damages:
        cache.write_bytes(damaged)
        chex.assert_trees_all_equal(tiny_imagenet.read(root), expected)
        assert len(decoded) == 9 or damaged != content
    assert capsys.readouterr().err.count("is damaged") > 1 + len(places) / 2
    cache.unlink()
    cache.mkdir()
    chex.assert_trees_all_equal(tiny_imagenet.read(root), expected)
    assert "can't be written" in capsys.readouterr().err


def test_a_cache_of_other_files_is_made_anew(root, tmp_path):
    labels = (root / ANNOTATIONS).read_text().replace("n01", "n03").replace("n02", "n01")
    changes = (
        lambda: save(root / "train/n02/images/n02_9.JPEG", 110),
        lambda: (root / "train/n01/images/n01_10.JPEG").unlink(),
        lambda: Image.effect_noise((64, 64), 9).save(root / "train/n01/images/n01_0.JPEG"),
        lambda: (root / ANNOTATIONS).write_text(labels.replace("n03", "n02")),
    )
    for i, change in enumerate(changes):
        tiny_imagenet.read(root)
        change()
        fresh = shutil.copytree(root, tmp_path / f"fresh{i}")
        (fresh / tiny_imagenet.CACHE).unlink()
        chex.assert_trees_all_equal(tiny_imagenet.read(root), tiny_imagenet.read(fresh))


def _add(root, line):
    with (root / ANNOTATIONS).open("a") as stream:
        stream.write(line)


# What is done to the folder, and what is said.
REFUSED = (
    (lambda root: shutil.rmtree(root / "train"), "which has no train;"),
    (
        lambda root: save(root / "val/images/val_7.JPEG", 50),
        r"has 4 images but .* 3 lines \(see .*val_7\.JPEG\)",
    ),
    (lambda root: _add(root, "val_1.JPEG n01\n"), "^Line 4 of .* is 'val_1.JPEG n01' but needs"),
)


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[said for _, said in REFUSED])
def test_folders_that_do_not_fit_are_refused(root, change, sentence):
    change(root)
    with pytest.raises(UserError, match=sentence):
        tiny_imagenet.read(root)


CORRUPTIONS = {
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:500]),
        r"can't be decoded \(.*\)",
    ),
    "empty": (lambda path: path.write_bytes(b""), r"can't be decoded \(it is empty\)"),
    "size": (lambda path: save(path, 15, size=32), "has 32 x 32 pixels but .* have 64 x 64"),
}


def load(root, max_corrupt=0):
    """As a new process would read it."""
    tiny_imagenet.check_skipped.cache_clear()
    return sets.load("tiny_imagenet", str(root), validation_size=0, max_corrupt=max_corrupt)


@pytest.mark.parametrize(("corrupt", "reason"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_training_images_are_left_out_and_named_and_test_images_stop(root, capsys, corrupt, reason):
    whole = load(root)
    file = "train/n01/images/n01_1.JPEG"
    corrupt(root / file)
    found = load(root, 1)
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(found.train.images, whole.train.images[[0, 2, 3, 4, 5]])
    np.testing.assert_array_equal(found.test.images, whole.test.images)
    ((name, why),) = found.skipped
    assert name == file
    assert re.fullmatch(reason, why)
    said = capsys.readouterr().err
    assert f"Left out: {root}/{file} {why}.\n1 corrupt training images were left out.\n" == said

    corrupt(root / "val/images/val_2.JPEG")
    with pytest.raises(UserError, match=rf"^.*val_2\.JPEG {reason}; restore it"):
        load(root, 100)


def test_more_than_the_limit_are_refused_and_nothing_is_cached(root):
    for name in ("n01_0", "n01_10"):
        (root / f"train/n01/images/{name}.JPEG").write_text("text")
    sentence = (
        r"^2 training images can't be used \(.*n01_0.JPEG can't be decoded \(it is no image\), "
    )
    sentence += ".*n01_10.JPEG .* config.max_corrupt is 1; .* pass --config.max_corrupt=2 to train"
    with pytest.raises(UserError, match=sentence):
        load(root, 1)
    assert len(load(root, 2).skipped) == 2
    assert not (root / tiny_imagenet.CACHE).exists()
    (root / "train/n02/images/n02_0.JPEG").write_bytes(b"")
    sentence = (
        r"^No image of .*n02/images can be used \(the first one can't be decoded \(it is empty"
    )
    with pytest.raises(UserError, match=sentence):
        load(root, 100)
