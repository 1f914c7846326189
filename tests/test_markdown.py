"""Tables as Markdown and as text, and the command that prints them."""

import json

import pytest
from records import RESULTS, SUITES, committed, runs_of

from experiments import markdown
from experiments.results import tables


@pytest.mark.parametrize("name", SUITES)
def test_committed_tables_are_those_of_their_metrics(name):
    assert tables.results(committed(name)) + "\n" == (RESULTS / name / "table.md").read_text()


def test_a_cell_has_its_error_is_empty_or_says_that_it_is_not_finite():
    row = {"setting": "article", "label_noise": 0.0, "method": "line", "place": "midpoint"}
    row |= {"num_seeds": 3, "inference_passes": 1, "accuracy": {"mean": 0.93, "stderr": 0.001}}
    other = row | {"ece": {"mean": 0.01, "stderr": None}}
    rows = [row | {"nll": {"mean": None, "stderr": None}}, other]
    text = tables.results({"table": rows, "counts": "No claim has runs."})
    assert "unknown" in text  # budget
    assert "| article | 0 % | Line | midpoint | 1 | 93.00 ± 0.10 | not finite |  | 3 |" in text
    assert "| article | 0 % | Line | midpoint | 1 | 93.00 ± 0.10 |  | 1.00 | 3 |" in text


# The command


@pytest.fixture
def file(tmp_path):
    def write(name="metrics.json", **metrics):
        (tmp_path / name).write_text(json.dumps({"table": [], **metrics}))
        return str(tmp_path / name)

    return write


def test_two_suites_are_compared_by_seed(file, capsys):
    ours = runs_of("line", [0.95, 0.96, 0.95, 0.5]) + runs_of("sam", [0.9])
    ours = file("ours.json", runs=ours + runs_of("standard", [0.91, 0.93], noise=0.2))
    theirs = runs_of("line", [0.949, 0.9592, 0.949], nll=[0.4, 0.6, 0.5])
    theirs = file("theirs.json", runs=theirs + runs_of("standard", [0.9], noise=0.2))
    assert markdown.main([ours, "--against", theirs]) == 0
    assert capsys.readouterr().out.splitlines()[2:4] == [
        "| article | 0 % | Line | 3 | +0.09 ± 0.01 points, p 0.015 | +0.000 ± 0.058 nats, p 1.000 "
        "| +0.00 ± 0.00 points, p 1.000 |",
        "| article | 20 % | Standard | 1 | +1.00 points | +0.000 nats | +0.00 points |",
    ]


def test_what_cannot_be_printed_is_refused_in_one_sentence(file, tmp_path, capsys):
    suite = committed("digits")
    path, other = file(**suite), file("other.json", runs=runs_of("asam", [0.9], noise=0.9))
    cifar = file("cifar.json", runs=suite["runs"], config={"suite": "cifar10"})
    missing, broken, bare = (tmp_path / name for name in ("missing.json", "{.json", "bare.json"))
    broken.write_bytes(b"\xff{")
    bare.write_text('{"runs": []}')
    for arguments, said in (
        ([cifar, "--against", path], "the suites cifar10 and digits; compare"),
        ([file("x.json", runs=runs_of("sam", [0.9])), "--against", other], "no run of the same"),
        ([str(missing)], f"No such file or directory: {missing}; mend that"),
        ([str(broken)], f"{broken} is not JSON"),
        ([str(bare)], f"{bare} has no table; give"),
    ):
        assert markdown.main(arguments) == 2, arguments
        printed = capsys.readouterr()
        assert said in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
