"""Inputs that are damaged anyhow end in a run or in one sentence, never in a traceback."""

import contextlib
import functools
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from experiments import cifar
from experiments.import_weights import __main__ as import_weights
from experiments.import_weights.torch_names import to_torch
from experiments.runs import job
from experiments.system.errors import Interrupted
from experiments.system.values import flatten
from experiments.training.networks import CifarResNet
from tests import tiny

EXAMPLES = 85  # of each kind
NAMES = [name for name, _ in flatten(tiny.config().to_dict())]
ODD = ["", "nan", "-inf", "1e400", "None", "()", "(1,", "('a',)", "[]", "True", "a.b", "-1", "0"]
VALUES = st.one_of(
    st.sampled_from(ODD), st.integers().map(str), st.floats().map(str), st.text(max_size=6)
)
CONFIG = """from tests import tiny

def get_config(recipe):
    config = tiny.config(recipe, dataset="tiny")
    config.optimizer.learning_rate = 0.1
    return config
"""
CHANGES = [
    lambda x: x.astype(np.float32) * np.float32(np.nan),
    lambda x: x.astype(np.int64) - 300,
    lambda x: x.astype(object),
    lambda x: x.astype(str),
    lambda x: x[:0],
    lambda x: x[..., None],
    lambda x: x.T,
    lambda x: x[1:],
    lambda x: np.concatenate([x, x]),
    lambda x: x.ravel()[0],
]


@st.composite
def damaged(draw, content):
    """Bytes of which none, or some, are others, missing, doubled or new."""
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.integers(0, 12))
        new = draw(st.sampled_from([b"", 2 * content[start:end], b"0", b"[", b"-", b"\0\xff"]))
        rest = b"" if draw(st.integers(0, 9)) == 0 else content[end:]
        content = content[:start] + new + rest
    return content


def train(folder, *more, file=tiny.__file__, data="images.npz", workdir="new"):
    command = [f"--config={folder / file}:line", f"--config.data_dir={folder / data}"]
    return cifar.main([*command, f"--workdir={folder / workdir}", *more])


def flag(draw, folder):
    return train(folder, f"--{draw(st.sampled_from(NAMES))}={draw(VALUES)}")


def with_damaged(original, place, **given):
    """Trains with a file that is damaged at another place."""

    def kind(draw, folder):
        content = draw(damaged((folder / original).read_bytes()))
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(content)
        return train(folder, **given)

    return kind


def arrays(draw, folder):
    with np.load(folder / "images.npz") as file:
        found = dict(file)
    for name in draw(st.sets(st.sampled_from(sorted(found)), min_size=1)):
        found[name] = draw(st.sampled_from(CHANGES))(found[name])
    np.savez(folder / "odd.npz", **found)
    return train(folder, data="odd.npz")


def weights(draw, folder):
    content = (folder / "weights.safetensors").read_bytes()
    # The names and shapes are in front.
    content = draw(damaged(content[:3000])) + content[3000:]
    (folder / "odd.safetensors").write_bytes(content)
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [str(folder / "odd.safetensors"), str(folder / "out"), "--model", "cifar_resnet"]
    return import_weights.main([*command, "--depth", "8", "--width", "2"])


KINDS = {
    "flag": flag,
    "config file": with_damaged("config.py", "odd.py", file="odd.py"),
    "held config": with_damaged("config.json", "held/config.json", workdir="held"),
    "images": with_damaged("images.npz", "odd.npz", data="odd.npz"),
    "arrays": arrays,
    "weights": weights,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, network = tmp_path_factory.mktemp("fuzz"), CifarResNet(3, 8, 2)
    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    save_file(to_torch(network, variables), folder / "weights.safetensors")
    tiny.npz_file(folder / "images.npz")
    (folder / "config.py").write_text(CONFIG)
    (folder / "config.json").write_text(json.dumps(tiny.get_config().to_dict()))
    return folder


def ready(folder, config, *, data, **more):
    """In place of the training."""
    job.make_run(config, data)
    raise Interrupted("reached")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_end_in_a_run_or_in_a_sentence(kind, folder, monkeypatch):
    monkeypatch.setattr(job, "execute", ready)
    codes = set()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def check(data):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = KINDS[kind](data.draw, folder)
        codes.add(code)
        assert code in (0, 2, 75)
        assert (code == 2) == ("error: " in said.getvalue())

    check()
    assert 2 in codes
    assert codes & {0, 75}
