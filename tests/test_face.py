"""The names of the package itself: what is there, and what comes when it is used."""

import subprocess
import sys

import subspace_jax

FIRST_TEN = (
    *("Subspace", "line", "bezier", "simplex", "layerwise", "cosine_penalty"),
    *("make_train_step", "recalibrate", "ensemble", "metrics"),
)


def test_the_face_has_30_names_of_which_ten_are_the_first_page():
    names, text = subspace_jax.__all__, subspace_jax.__doc__
    assert all(hasattr(subspace_jax, name) for name in names)
    assert tuple(names[:10]) == FIRST_TEN
    assert names[10:] == sorted(names[10:])
    assert len(set(names)) == 30
    assert not [name for name in names if f"`{name}`" not in text]
    page = text[: text.index("for when they are needed")]
    assert not [name for name in FIRST_TEN if f"`{name}`" not in page]


def test_what_needs_more_is_imported_when_it_is_used():
    program = """
import sys
import subspace_jax as ss
later = {"equinox", "flax", "matplotlib", "scipy.optimize", "subspace_jax.contrib"}
assert not later & sys.modules.keys()
for name in ss.contrib.__all__:
    assert getattr(ss.contrib, name).__name__ == f"subspace_jax.contrib.{name}"
assert "matplotlib" not in sys.modules
for module in (ss.nnx, ss.linen, ss.equinox):
    assert module.wrap and module.loss and module.deploy
ss.plotting.path
assert "matplotlib" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
