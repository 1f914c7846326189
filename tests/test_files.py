"""Files that are whole or not there, and JSON that every parser reads."""

import errno
import json
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.system import files

SCALARS = st.none() | st.booleans() | st.integers() | st.text()
SCALARS |= st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS,
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)
DICTIONARIES = st.dictionaries(st.text(), VALUES)


def test_a_file_holds_what_was_written_and_nothing_is_beside_it(tmp_path):
    path = tmp_path / "file"
    for content in (b"longer than what is written over it", "", "Bézier ± 1\n", b"\x00\xff\r\n"):
        files.write_atomically(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
        assert os.listdir(tmp_path) == ["file"]


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a temporary name")


def half_written(self, content):
    with open(self, "wb") as file:
        file.write(content[: len(content) // 2])
    no_space()


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    for old in (None, "old"):
        for place, name, failure in (
            (Path, "write_bytes", half_written),
            (os, "replace", no_space),
        ):
            if old:
                path.write_text(old)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(place, name, failure)
                with pytest.raises(OSError, match=re.escape(str(path))) as caught:
                    files.write_atomically(path, "new")
            assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
            assert [file.read_text() for file in tmp_path.iterdir()] == [old] * bool(old)


def test_values_that_are_not_json_leave_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    files.write_json(path, {"a": 1})
    for value in (math.nan, [{"b": -math.inf}], {"c": [math.nan]}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            files.write_json(path, {"a": value})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["file.json"]


@settings(max_examples=10, deadline=None)
@given(st.lists(DICTIONARIES, min_size=1, max_size=4), DICTIONARIES)
def test_json_reads_back_as_what_was_written_and_rows_have_their_lines(rows, other):
    value = {"rows": rows, "tuple": (1, (2, 3)), **other}
    text = files.to_json(value)
    assert json.loads(text, parse_constant=pytest.fail) == json.loads(json.dumps(value))
    assert list(json.loads(text)) == list(value)
    if "rows" not in other:
        for line, row in zip(text.splitlines()[2:], rows, strict=False):
            assert json.loads(line.strip().rstrip(",")) == row
