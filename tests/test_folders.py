"""Tiny-ImageNet's folders: the cache, and what is refused. What they hold: see test_readers.py."""

import errno
import re
import shutil

import chex
import numpy as np
import pytest
from PIL import Image

from experiments.data import decode, jpegs, sets, tiny_imagenet
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


def test_images_come_by_class_then_file_and_test_images_as_annotated(root):
    assert tiny_imagenet.classes(root) == ("n01", "n02", "n10")
    arrays = tiny_imagenet.read(root)
    np.testing.assert_array_equal(arrays["train_labels"], [0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(arrays["test_labels"], [2, 0, 1])
    for part, values in (("train", [10, 20, 30, 100, 200, 210]), ("test", [205, 15, 105])):
        assert np.abs(arrays[f"{part}_images"][:, 9, 9, 0].astype(int) - values).max() <= 3


@pytest.mark.parametrize("cache_dir", ["", "elsewhere/deeper"])
def test_images_are_decoded_once(root, tmp_path, decoded, monkeypatch, capsys, cache_dir):
    cache_dir = str(tmp_path / cache_dir) if cache_dir else ""
    first = tiny_imagenet.read(root, cache_dir)
    chex.assert_trees_all_equal(first, tiny_imagenet.read(root, cache_dir))
    assert len(decoded) == len(set(decoded)) == 9
    (cache,) = tmp_path.rglob("*.npz")
    assert str(cache.parent) == (cache_dir or str(root))
    assert not list(tmp_path.rglob(".decoded*"))
    cache.unlink()
    monkeypatch.setattr(decode, "_CHUNK", 1)  # threads keep the order
    chex.assert_trees_all_equal(first, tiny_imagenet.read(root, cache_dir))
    (tmp_path / "file").write_text("")
    chex.assert_trees_all_equal(first, tiny_imagenet.read(root, str(tmp_path / "file")))
    assert "can't be written" in capsys.readouterr().err


def test_a_damaged_cache_is_made_anew(root, decoded, capsys):
    expected = tiny_imagenet.read(root)
    cache = root / tiny_imagenet.CACHE
    content = cache.read_bytes()

    def flipped(place):
        return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]

    # No archive, a part of one, and a bit in every array, where numpy sees no fault, its header, the
    # names and the table at the end. What goes unnoticed are times and attributes in the zip.
    places = [*range(0, 300, 37), *range(300, len(content) - 1800, 20_011)]
    damages = [b"", content[:-100], *map(flipped, places)]
    damages += map(flipped, range(len(content) - 1800, len(content), 197))
    for damaged in damages:
        cache.write_bytes(damaged)
        chex.assert_trees_all_equal(tiny_imagenet.read(root), expected)
    assert capsys.readouterr().err.count("is damaged") > 2 + len(places) / 2
    np.savez(cache, train_images=np.zeros(3))
    chex.assert_trees_all_equal(tiny_imagenet.read(root), expected)
    before = len(decoded)
    tiny_imagenet.read(root)
    assert len(decoded) == before


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
        fresh = tiny_imagenet.read(root, str(tmp_path / f"fresh{i}"))
        chex.assert_trees_all_equal(tiny_imagenet.read(root), fresh)


def _add(line):
    def change(root):
        with (root / ANNOTATIONS).open("a") as stream:
            stream.write(line)

    return change


def _move(name, to="lost"):
    return lambda root: (root / name).rename(root / to)


def _image(name):
    return lambda root: save(root / name, 50)


REFUSED = (
    (_move("train"), "which has no train;"),
    (_move("val/images"), "which has no val/images;"),
    (_move(ANNOTATIONS), f"which has no {ANNOTATIONS};"),
    (_move("train/n02/images"), "n02/images has no JPEG files; unpack that class anew"),
    (_move("train/n02", "train/n03"), r"names the class 'n02' for val_2\.JPEG, but train has no"),
    (_image("train/n04/images/n04_0.JPEG"), r"no image of the class 'n04', which train has; keep"),
    (_image("val/images/val_7.JPEG"), r"has 4 images but .* 3 lines \(see .*val_7\.JPEG\)"),
    (_add("val_9.JPEG\tn01\t0\n"), r"has 3 images but .* 4 lines \(see .*val_9\.JPEG\)"),
    (_add("val_1.JPEG\tn01\t0\n"), r"has 3 images but .* 4 lines \(see .*val_1\.JPEG\)"),
    (_add("val_1.JPEG n01\n"), "^Line 4 of .* is 'val_1.JPEG n01' but needs a file"),
)


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[said for _, said in REFUSED])
def test_folders_that_do_not_fit_are_refused(root, change, sentence):
    change(root)
    with pytest.raises(UserError, match=sentence):
        tiny_imagenet.read(root)


def _unreadable(path, monkeypatch):
    original = jpegs.Files.__getitem__

    def refuse(self, i):
        if self.name(i) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(self, i)

    monkeypatch.setattr(jpegs.Files, "__getitem__", refuse)


CORRUPTIONS = {
    "truncated": (lambda p, _: p.write_bytes(p.read_bytes()[:500]), r"can't be decoded \(.*\)"),
    "empty": (lambda p, _: p.write_bytes(b""), r"can't be decoded \(it is empty\)"),
    "size": (lambda p, _: save(p, 15, size=32), "has 32 x 32 pixels but .* have 64 x 64"),
    "unreadable": (_unreadable, r"can't be decoded \(Permission denied\)"),
}


def load(root, max_corrupt=0):
    """As a new process would read it."""
    tiny_imagenet._name.cache_clear()
    return sets.load("tiny_imagenet", str(root), validation_size=0, max_corrupt=max_corrupt)


@pytest.mark.parametrize(("corrupt", "reason"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_training_images_are_left_out_and_named_and_test_images_stop(
    root, monkeypatch, capsys, corrupt, reason
):
    whole = load(root)
    file = "train/n01/images/n01_1.JPEG"
    (root / tiny_imagenet.CACHE).unlink()
    with monkeypatch.context() as patch:
        corrupt(root / file, patch)
        found = load(root, 1)
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(found.train.images, whole.train.images[[0, 2, 3, 4, 5]])
    np.testing.assert_array_equal(found.test.images, whole.test.images)
    ((name, why),) = found.skipped
    assert name == file
    assert re.fullmatch(reason, why)
    said = capsys.readouterr().err
    assert f"Left out: {root}/{file} {why}.\n1 corrupt training images were left out.\n" == said
    if corrupt is _unreadable:  # it is mended with its size kept
        assert not load(root).skipped

    (root / tiny_imagenet.CACHE).unlink()
    corrupt(root / "val/images/val_2.JPEG", monkeypatch)
    with pytest.raises(UserError, match=rf"^.*val_2\.JPEG {reason}; restore it"):
        load(root, 100)
    assert not (root / tiny_imagenet.CACHE).exists()


def test_the_limit_is_applied_to_the_cache_too_which_remembers(root, decoded, capsys):
    for name in ("n01_0", "n01_10"):
        (root / f"train/n01/images/{name}.JPEG").write_text("text")
    sentence = (
        r"^2 training images can't be used \(.*n01_0.JPEG can't be decoded \(it is no image\), "
    )
    sentence += (
        ".*n01_10.JPEG .* but config.max_corrupt is 1; .* pass --config.max_corrupt=2 to train"
    )
    with pytest.raises(UserError, match=sentence):
        load(root, 1)
    assert capsys.readouterr().err == ""
    assert len(decoded) == 9
    for limit in (2, 5):
        assert len(load(root, limit).skipped) == 2
        assert "2 corrupt training images were left out" in capsys.readouterr().err
        sets.load("tiny_imagenet", str(root), validation_size=0, max_corrupt=limit)
        assert capsys.readouterr().err == ""  # once
    assert len(decoded) == 9 + 4 * 2  # the two are looked at again: they might be mended
    (root / "train/n02/images/n02_0.JPEG").write_bytes(b"")
    sentence = (
        r"^No image of .*n02/images can be used \(the first one can't be decoded \(it is empty"
    )
    with pytest.raises(UserError, match=sentence):
        tiny_imagenet.read(root)
