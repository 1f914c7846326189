"""The soak test's parts, and its committed record; the whole of it runs for minutes."""

import json

import pytest
from records import ROOT

from benchmarks import faults, soak
from benchmarks.rounds import Failed

RECORD = ROOT / "results" / "soak" / "soak.json"


def written(folder, lines) -> faults.Notes:
    (folder / "notes").write_text(lines)
    return faults.Notes.read(folder / "notes")


def test_what_was_lost_follows_from_notes_and_the_newest_whole_checkpoint(tmp_path):
    lines = ["from 0 1.0", "step 4 1.5", "step 8 2.1", "save 8 2.2", "saved 8 2.3", "step 12 2.4"]
    lines += ["save 1800 3", "saved 1800 3.1", "evaluate 1800 3.5", "report 1800 4.0"]

    def lost(count, whole, end):
        notes = written(tmp_path, "".join(f"{line}\n" for line in lines[:count]))
        return tuple(faults.loss(notes, whole, end).values())

    assert lost(0, 0, 1) == ("start", 0, 0, 0)
    assert lost(1, 0, 2) == ("first step", 0, 0, 0)
    assert lost(3, 0, 2.25) == ("training", 8, 1.25, 1)
    assert lost(6, 0, 2.5) == ("writing a checkpoint", 12, 1.5, 2)
    assert lost(6, 8, 2.5) == ("training", 4, 0.3, 1)
    assert lost(9, 1800, 3.9) == ("evaluation", 0, 0, 0)
    assert lost(10, 1800, 4.1) == ("report", 0, 0, 0)


def test_a_checkpoint_that_is_overdue_is_a_failure(tmp_path):
    notes = "from 0 1\nstep 4 1.5\nstep 8 2.1\n"
    assert faults.loss(written(tmp_path, notes), 0, 2.2)["steps"] == 8
    with pytest.raises(Failed, match=r"No checkpoint was begun 1.10 s after 0"):
        faults.loss(written(tmp_path, notes + "step 12 2.2\n"), 0, 2.3)


def test_the_committed_table_is_that_of_the_record():
    found = json.loads(RECORD.read_text())
    assert soak.markdown(found) == RECORD.with_suffix(".md").read_text()
    assert "dirty" not in found["provenance"]["commit"]
    killed, told = found["kills"], found["signals"]
    assert killed["kills"] == len(killed["losses"]) == sum(killed["moments"].values()) >= 50
    assert all(killed["moments"].values())  # each of them was met
    assert {loss["intervals"] for loss in killed["losses"]} <= {0, 1, 2}
    assert told["signals"] == len(told["stopped_at_steps"]) + told["report_finished"] >= 3
    assert told["stopped_at_steps"]
