"""ImageNet's folders and TFDS's records, and what is refused."""

import itertools
import shutil
from pathlib import Path

import cloudpickle
import jpegs
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data import jpegs as jpegs_module
from experiments.data import sets
from experiments.data.decode import Pictures
from experiments.data.jpegs import class_names, find
from experiments.system.errors import UserError


@pytest.fixture
def root(tmp_path):
    return jpegs.make(tmp_path / "imagenet")


def load(root, **changes):
    values = {"image_size": jpegs.SIDE, "validation_size": 0} | changes
    return sets.load("imagenet", str(root), **values)


# Folders


def test_images_come_by_class_then_file(root):
    (root / "train" / "notes.txt").write_text("not a class")
    (root / "train" / ".hidden").mkdir()
    found = find(str(root))
    assert found.classes == class_names(str(root)) == jpegs.CLASSES
    names = [found.train.name(i) for i in range(len(found.train))]
    assert names == sorted(map(str, (root / "train").glob("*/*.JPEG")))
    np.testing.assert_array_equal(found.train_labels, np.repeat(np.arange(4), jpegs.NUM_TRAIN))
    assert len(found.test) == len(found.test_labels) == 4 * jpegs.NUM_VAL
    assert found.train[5] == Path(names[5]).read_bytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: shutil.rmtree(r / "val"), r"imagenet', which has no val; ImageNet is"),
        (
            lambda r: [shutil.rmtree(p) for p in (r / "val").iterdir()],
            r"val has no folders of classes; unpack",
        ),
        (
            lambda r: (r / "train/n001").rename(r / "train/n000"),
            r"train has 4 classes but .*val has 4 \(only one has 'n000'\); give",
        ),
        (
            lambda r: [p.unlink() for p in (r / "train/n002").iterdir()],
            r"train/n002 has no JPEG files; unpack",
        ),
    ],
)
def test_folders_that_do_not_fit_are_refused(root, change, match):
    change(root)
    with pytest.raises(UserError, match=match):
        load(root)


def test_values_that_cannot_be_are_refused(root, tmp_path):
    for folder, options, sentence in (
        (root, {"num_classes": 1000}, r"num_classes is 1000 but .* has 4 classes; .* to 4\.$"),
        (root, {"image_size": 0}, r"image_size is 0; use 224, 64 or"),
        (tmp_path / "no.npz", {}, r"image_size is 16 but the images of .*no\.npz have one size"),
    ):
        with pytest.raises(UserError, match=rf"^config\.{sentence}"):
            load(folder, **options)
    assert load(root, num_classes=4).num_classes == 4


# TFDS


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The stock builder's name, version and features, of the images of a folder."""

    VERSION = tfds.core.Version("5.1.0")
    SOURCE, NAMES = None, ()

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=self.NAMES),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._examples("train"), "validation": self._examples("val")}

    def _generate_examples(self):
        raise NotImplementedError

    def _examples(self, part):
        for path in sorted((self.SOURCE / part).glob("*/*.JPEG")):
            yield path.name, {"image": path, "label": path.parent.name, "file_name": path.name}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The same images as folders, one of each of the 1,000 classes, and as records."""
    folder, records_of = (tmp_path_factory.mktemp(name) for name in ("many", "tfds"))
    names = tfds.builder("imagenet2012", data_dir=str(records_of)).info.features["label"].names
    rng = np.random.default_rng(0)
    for part, name in itertools.product(("train", "val"), names):
        (folder / part / name).mkdir(parents=True)
        noise = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        noise.save(folder / part / name / f"{name}_{part}.JPEG", "JPEG")
    Imagenet2012.SOURCE, Imagenet2012.NAMES = folder, names
    Imagenet2012(data_dir=str(records_of), file_format="array_record").download_and_prepare()
    return str(folder), str(records_of)


def test_tfds_has_the_images_of_the_folders(prepared, monkeypatch):
    expected, found = map(find, prepared)
    assert found.classes == expected.classes == class_names(prepared[1])
    for part in ("train", "test"):
        one, other = getattr(found, part), getattr(expected, part)
        labels, other_labels = (getattr(x, f"{part}_labels") for x in (found, expected))
        of = {other[i]: (other_labels[i], other.name(i)) for i in range(len(other))}
        for i in range(len(one)):
            label, name = of.pop(one[i])
            assert labels[i] == label
            assert one.name(i).endswith(f"({name.rsplit('/', 1)[1]})")
        assert not of
    monkeypatch.setattr(jpegs_module, "_read_labels", None)  # they are read once
    np.testing.assert_array_equal(find(prepared[1]).train_labels, found.train_labels)


def test_pictures_of_tfds_can_be_sent_to_processes(prepared):
    pictures = Pictures.of(find(prepared[1]).train, jpegs.SIDE)
    again = cloudpickle.loads(cloudpickle.dumps(pictures))
    np.testing.assert_array_equal(again[:3], pictures[:3])


def test_tfds_that_is_not_prepared_is_refused_with_what_to_do(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"^imagenet2012 is not prepared in .* put ILSVRC2012_"):
            load(folder)
    assert not (tmp_path / "none").exists()
