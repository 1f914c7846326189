"""Tiny-ImageNet's folders: order, labels, the cache, and what is refused."""

import errno
import io
import re
import shutil

import chex
import numpy as np
import pytest
from PIL import Image

from experiments.data import sets, tiny_imagenet
from experiments.system.errors import UserError

NAMES = ("n01", "n02", "n10")
TRAIN = {  # class -> file -> grey value
    "n10": {"n10_0.JPEG": 200, "n10_1.JPEG": 210},
    "n01": {"n01_1.JPEG": 20, "n01_0.JPEG": 10, "n01_10.JPEG": 30},
    "n02": {"n02_0.JPEG": 100},
}
VAL = {"val_3.JPEG": ("n10", 205), "val_1.JPEG": ("n01", 15), "val_2.JPEG": ("n02", 105)}
ANNOTATIONS = "val/val_annotations.txt"


def save(path, value, mode="RGB", size=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    color = value if mode == "L" else (value, value // 2, 0)
    Image.new(mode, (size, size), color).save(path, "JPEG", quality=100, subsampling=0)


def make(root):
    for name, images in TRAIN.items():
        for file, value in images.items():
            save(root / "train" / name / "images" / file, value)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
    for file, (_, value) in VAL.items():
        save(root / "val/images" / file, value)
    lines = [f"{file}\t{name}\t0\t1\t52\t48\n" for file, (name, _) in VAL.items()]
    (root / ANNOTATIONS).write_text("".join(lines))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    make(root)
    return root


@pytest.fixture
def root(template, tmp_path):
    """A data folder of one's own."""
    return shutil.copytree(template, tmp_path / "tiny")


@pytest.fixture
def decoded(monkeypatch):
    """The paths that have been decoded, as a growing list."""
    paths = []
    original = tiny_imagenet._image
    monkeypatch.setattr(
        tiny_imagenet, "_image", lambda path, size: paths.append(path) or original(path, size)
    )
    return paths


def test_classes_are_the_folders_by_name(root):
    (root / "train/notes.txt").write_text("not a class")
    (root / "train/.hidden").mkdir()
    assert tiny_imagenet.classes(root) == NAMES
    assert tiny_imagenet.classes(str(root)) == NAMES


def test_training_images_come_by_class_then_file_and_test_images_as_annotated(root):
    arrays = tiny_imagenet.read(root)
    np.testing.assert_array_equal(arrays["train_labels"], [0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(arrays["test_labels"], [2, 0, 1])
    for part, values in (("train", [10, 20, 30, 100, 200, 210]), ("test", [205, 15, 105])):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        chex.assert_shape(images, (len(values), 64, 64, 3))
        chex.assert_type([images, labels], [np.uint8, np.int32])
        color = np.stack([values, np.asarray(values) // 2, np.zeros(len(values))], axis=-1)
        assert np.abs(images - color[:, None, None]).max() <= 2  # JPEG is not exact
    assert arrays["num_classes"] == 3


def test_the_arrays_are_a_data_set(root):
    tiny_imagenet.read(root)
    train, test, num_classes = sets.load_arrays("any", str(root / tiny_imagenet.CACHE))
    arrays = tiny_imagenet.read(root)
    chex.assert_trees_all_equal(train, sets.Split(arrays["train_images"], arrays["train_labels"]))
    chex.assert_trees_all_equal(test, sets.Split(arrays["test_images"], arrays["test_labels"]))
    assert num_classes == 3


def test_greyscale_becomes_three_equal_channels(root):
    save(root / "train/n01/images/n01_0.JPEG", 77, mode="L")
    image = tiny_imagenet.read(root)["train_images"][0]
    chex.assert_trees_all_equal(image, np.full((64, 64, 3), 77, np.uint8))


def test_threads_keep_the_order(root, monkeypatch, decoded):
    expected = tiny_imagenet.read(root)
    (root / tiny_imagenet.CACHE).unlink()
    monkeypatch.setattr(tiny_imagenet, "CHUNK", 1)
    chex.assert_trees_all_equal(tiny_imagenet.read(root), expected)
    assert len(decoded) == 2 * 9
    assert len(set(decoded)) == 9


@pytest.mark.parametrize("cache_dir", ["", "elsewhere/deeper"])
def test_images_are_decoded_once(root, tmp_path, decoded, cache_dir):
    cache_dir = str(tmp_path / cache_dir) if cache_dir else ""
    first = tiny_imagenet.read(root, cache_dir)
    again = tiny_imagenet.read(root, cache_dir)
    assert len(decoded) == 9
    chex.assert_trees_all_equal(first, again)
    assert [str(path.parent) for path in tmp_path.rglob("*.npz")] == [cache_dir or str(root)]
    assert not list(tmp_path.rglob(".decoded*"))


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _flip_a_bit(cache):
    content = bytearray(cache.read_bytes())
    content[content.index(b"train_images") + 1000] ^= 1  # in an array, where numpy sees no fault
    cache.write_bytes(content)


DAMAGES = {
    "empty": lambda cache: cache.write_bytes(b""),
    "text": lambda cache: cache.write_text("not an archive"),
    "truncated": lambda cache: cache.write_bytes(cache.read_bytes()[:-100]),
    "a bit": _flip_a_bit,
    "no fingerprint": lambda cache: np.savez(cache, train_images=np.zeros(3)),
    "another array": lambda cache: cache.write_bytes(_npy(np.zeros(3))),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_made_anew(root, decoded, damage):
    expected = tiny_imagenet.read(root)
    damage(root / tiny_imagenet.CACHE)
    chex.assert_trees_all_equal(tiny_imagenet.read(root), expected)
    tiny_imagenet.read(root)
    assert len(decoded) == 2 * 9


def _relabel(root):
    lines = (root / ANNOTATIONS).read_text().splitlines()
    columns = [line.split("\t") for line in lines]
    names = [row[1] for row in columns]
    rows = [[row[0], name] for row, name in zip(columns, names[1:] + names[:1], strict=True)]
    (root / ANNOTATIONS).write_text("".join("\t".join(row) + "\n" for row in rows))


CHANGES = {
    "a file more": lambda root: save(root / "train/n02/images/n02_9.JPEG", 110),
    "a file less": lambda root: (root / "train/n01/images/n01_10.JPEG").unlink(),
    "another size": lambda root: Image.effect_noise((64, 64), 9).save(
        root / "train/n01/images/n01_0.JPEG"
    ),
    "other labels": _relabel,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_cache_of_other_files_is_made_anew(root, tmp_path, change):
    tiny_imagenet.read(root)
    change(root)
    chex.assert_trees_all_equal(
        tiny_imagenet.read(root), tiny_imagenet.read(root, str(tmp_path / "fresh"))
    )


def test_reading_works_where_no_cache_can_be_written(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    expected = tiny_imagenet.read(root)
    chex.assert_trees_all_equal(tiny_imagenet.read(root, str(tmp_path / "file")), expected)
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["train", "val/images", ANNOTATIONS])
def test_another_layout_is_refused(root, lost):
    (root / lost).rename(root / "lost")
    for call in (tiny_imagenet.classes, tiny_imagenet.read):
        with pytest.raises(
            UserError, match=rf"^config\.data_dir is '.*tiny', which has no {lost};"
        ):
            call(root)


def test_a_training_set_without_classes_is_refused(root):
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(UserError, match=r"train has no folders; unpack"):
        tiny_imagenet.classes(root)


@pytest.mark.parametrize("whole_folder", [False, True])
def test_an_empty_class_is_refused(root, whole_folder):
    images = root / "train/n02/images"
    shutil.rmtree(images) if whole_folder else (images / "n02_0.JPEG").unlink()
    with pytest.raises(UserError, match=r"n02/images has no JPEG files; unpack"):
        tiny_imagenet.read(root)


def test_classes_must_agree_between_the_parts(root):
    (root / "train/n02").rename(root / "train/n03")
    with pytest.raises(UserError, match=r"names the class 'n02' for val_2\.JPEG, but train has no"):
        tiny_imagenet.read(root)
    (root / "train/n03").rename(root / "train/n02")
    save(root / "train/n04/images/n04_0.JPEG", 50)
    with pytest.raises(UserError, match=r"no image of the class 'n04', which train has; keep"):
        tiny_imagenet.read(root)


def test_images_and_annotations_must_agree(root):
    original = (root / ANNOTATIONS).read_text()
    for extra, odd in (("val_9.JPEG\tn01\t0\n", "val_9"), ("val_1.JPEG\tn01\t0\n", "val_1")):
        (root / ANNOTATIONS).write_text(original + extra)
        with pytest.raises(UserError, match=rf"has 3 images but .* 4 lines \(see .*{odd}\.JPEG\)"):
            tiny_imagenet.read(root)
    (root / ANNOTATIONS).write_text(original)
    save(root / "val/images/val_7.JPEG", 50)
    with pytest.raises(UserError, match=r"has 4 images but .* 3 lines \(see .*val_7\.JPEG\)"):
        tiny_imagenet.read(root)


@pytest.mark.parametrize("line", ["val_1.JPEG n01", ""])
def test_lines_without_columns_are_refused(root, line):
    with (root / ANNOTATIONS).open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(UserError, match=rf"^Line 4 of .* is '{line}' but needs a file name and a"):
        tiny_imagenet.read(root)


def _unreadable(path, monkeypatch):
    original = Image.open

    def refuse(file):
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(file)

    monkeypatch.setattr(tiny_imagenet.Image, "open", refuse)


CORRUPTIONS = {
    "truncated": (lambda p, _: p.write_bytes(p.read_bytes()[:500]), r"can't be decoded \(.*\)"),
    "text": (lambda p, _: p.write_text("text"), r"can't be decoded \(it is no image\)"),
    "empty": (lambda p, _: p.write_bytes(b""), r"can't be decoded \(it is empty\)"),
    "size": (lambda p, _: save(p, 15, size=32), "has 32 x 32 pixels but .* have 64 x 64"),
    "unreadable": (_unreadable, r"can't be decoded \(Permission denied\)"),
}
every_corruption = pytest.mark.parametrize(
    ("corrupt", "reason"), CORRUPTIONS.values(), ids=CORRUPTIONS
)


def load(root, **options):
    return sets.load("tiny_imagenet", str(root), validation_size=0, **options)


@every_corruption
def test_a_corrupt_test_image_always_stops(root, monkeypatch, corrupt, reason):
    corrupt(root / "val/images/val_2.JPEG", monkeypatch)
    with pytest.raises(UserError, match=rf"^.*val_2\.JPEG {reason}; (unpack|resize)"):
        load(root, max_corrupt=100)
    assert not (root / tiny_imagenet.CACHE).exists()


@every_corruption
def test_a_corrupt_training_image_is_left_out_and_named(root, monkeypatch, capsys, corrupt, reason):
    whole = load(root)
    file = "train/n01/images/n01_1.JPEG"
    corrupt(root / file, monkeypatch)
    (root / tiny_imagenet.CACHE).unlink()
    found = _fresh(root, 1)
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(found.train.images, whole.train.images[[0, 2, 3, 4, 5]])
    np.testing.assert_array_equal(found.test.images, whole.test.images)
    ((name, why),) = found.skipped
    assert name == file
    assert re.fullmatch(reason, why)
    said = capsys.readouterr().err
    assert f"Left out: {root}/{file} {why}.\n1 corrupt training images were left out.\n" == said


def _fresh(root, max_corrupt):
    """As a new process would read it."""
    sets._parts.cache_clear()
    sets._load_arrays.cache_clear()
    tiny_imagenet._name.cache_clear()
    return load(root, max_corrupt=max_corrupt)


def test_the_limit_is_applied_to_the_cache_too_which_remembers(root, decoded, capsys):
    for name in ("n01_0", "n01_10"):
        (root / f"train/n01/images/{name}.JPEG").write_text("text")
    with pytest.raises(UserError) as caught:
        _fresh(root, 1)
    assert str(caught.value) == (
        f"2 training images of {root} can't be used (train/n01/images/n01_0.JPEG can't be decoded (it "
        "is no image), train/n01/images/n01_10.JPEG can't be decoded (it is no image)) but "
        "config.max_corrupt is 1; unpack the data set anew, or pass --config.max_corrupt=2 to train "
        "without them."
    )
    assert capsys.readouterr().err == ""
    assert len(decoded) == 9
    for limit in (2, 5):
        found = _fresh(root, limit)
        assert len(found.skipped) == 2
        assert "2 corrupt training images were left out" in capsys.readouterr().err
        load(root, max_corrupt=limit)
        assert capsys.readouterr().err == ""  # once
    assert len(decoded) == 9 + 2 * 2  # the two were looked at again: they might be mended
    with pytest.raises(UserError, match="but config.max_corrupt is 0;"):
        load(root)
    with pytest.raises(UserError, match="config.max_corrupt is -1; use 0 or more"):
        load(root, max_corrupt=-1)


def test_an_image_that_is_mended_with_its_size_kept_is_read(root, monkeypatch):
    with monkeypatch.context() as patch:
        _unreadable(root / "train/n01/images/n01_1.JPEG", patch)
        assert len(tiny_imagenet.read(root)["skipped"]) == 1
    arrays = tiny_imagenet.read(root)
    assert len(arrays["skipped"]) == 0
    assert len(arrays["train_images"]) == 6


def test_a_class_without_an_intact_image_is_refused(root):
    (root / "train/n02/images/n02_0.JPEG").write_bytes(b"")
    for _ in range(2):
        sentence = (
            r"^No image of .*n02/images can be used \(the first one can't be decoded \(it is empty"
        )
        with pytest.raises(UserError, match=sentence):
            tiny_imagenet.read(root)


def test_wherever_a_byte_of_the_cache_flips_the_pixels_are_right(root, capsys):
    expected = tiny_imagenet.read(root)
    content = (root / tiny_imagenet.CACHE).read_bytes()
    # In every array, its header, the names and the table at the end.
    places = [*range(0, 300, 37), *range(300, len(content) - 1800, 9001)]
    noticed = 0
    for place in [*places, *range(len(content) - 1800, len(content), 97)]:
        flipped = content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]
        (root / tiny_imagenet.CACHE).write_bytes(flipped)
        chex.assert_trees_all_equal(tiny_imagenet.read(root), expected)
        noticed += "is damaged" in capsys.readouterr().err
    # The rest are times and attributes of files in the zip, which say nothing of the arrays.
    assert noticed > len(places) / 2


def test_images_of_another_resolution_are_named(root):
    save(root / "val/images/val_1.JPEG", 15, size=32)
    with pytest.raises(UserError, match=r"val_1\.JPEG has 32 x 32 pixels but .* have 64 x 64;"):
        tiny_imagenet.read(root)
