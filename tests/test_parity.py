"""The comparison with the authors' own code: its committed record, and folders that are not theirs."""

import json
import re
import sys
from pathlib import Path

from benchmarks import parity

RESULTS = Path(__file__).resolve().parent.parent / "results" / "parity"


def test_the_committed_record_agrees_with_the_authors_code_after_ten_steps():
    found = json.loads((RESULTS / "parity.json").read_text())
    assert (RESULTS / "parity.md").read_text() == parity.markdown(found)
    assert found["differences"].keys() == parity.KINDS.keys()
    for name, by_dtype in found["differences"].items():
        for dtype, most in (("float64", 1e-8), ("float32", 1.0)):
            for values in by_dtype[dtype].values():
                assert len(values) == found["settings"]["steps"] == 10, name
                assert max(values) <= most, (name, dtype)
    record = found["provenance"]
    for commit in (record["commit"], record["authors_code"]["commit"]):
        assert re.fullmatch("[0-9a-f]{12}", commit)


def test_a_folder_that_is_not_theirs_is_one_sentence(tmp_path, monkeypatch, capsys):
    """Whatever it lacks, and whatever its files do when they are imported."""
    monkeypatch.setattr(parity, "find_spec", lambda name: True)  # as if PyTorch were there
    other = tmp_path / "other"
    for name in parity.FILES:
        path = other / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for folder, sentence in (
        (tmp_path / "none", "which has no args.py; give a clone of https://github.com/apple/"),
        (other, "which can't be imported (AttributeError: "),
    ):
        arguments = ["--authors_code", str(folder), "--output", str(tmp_path / "made")]
        assert parity.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --authors_code is {folder}, {sentence}")
        assert error.count("\n") == 1
    assert not (tmp_path / "made").exists()
    del sys.modules["args"]
