import pytest

from experiments.styles import METHODS, SUBSPACES, deployed, style_of, style_of_run


def test_methods_differ_in_color_or_marker():
    assert len({(style.color, style.marker) for style in METHODS.values()}) == len(METHODS)
    assert len({style.label for style in METHODS.values()}) == len(METHODS)
    assert set(METHODS) >= SUBSPACES


def test_unknown_method_keeps_its_name():
    assert style_of("new").label == "new"


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({}, "Standard"),
        ({"kind": "curve"}, "Curve"),
        ({"kind": "simplex", "subspace": {"num_endpoints": 5}}, "5-simplex"),
    ],
)
def test_style_of_run_is_that_of_its_kind(config, label):
    assert style_of_run(config).label == label


def test_deployed_is_the_midpoint_or_the_only_point():
    end, middle = {"name": "endpoint 0"}, {"name": "midpoint"}
    assert deployed([end, middle]) is middle
    assert deployed([end]) is end
    assert deployed([end, end]) is None
    assert deployed([]) is None
