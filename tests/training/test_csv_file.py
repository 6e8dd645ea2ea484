"""The table of a CSVLogger over restarts."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from robustseg.training.csv_file import CsvFile


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture
def folder(tmp_path):
    """A table with rows of steps 0 to 3, and of a test after two of them."""
    file = CsvFile(str(tmp_path), None)
    for step in range(4):
        file.log_metrics({"train/loss": 0.5}, step)
        if step == 2:
            file.log_metrics({"test/miou": 0.1}, step)
    file.save()
    return tmp_path


def test_a_restart_continues_from_its_step_and_takes_new_columns(folder):
    file = CsvFile(str(folder), 2)
    file.log_metrics({"another": 7}, 2)
    file.log_metrics({"train/loss": 0.25}, 2)
    file.save()
    losses = [row["train/loss"] for row in rows(folder) if "train/loss" in row]
    assert losses == ["0.5", "0.5", "0.25"]
    assert [row for row in rows(folder) if "another" in row] == [{"another": "7", "step": "2"}]
    assert [path.name for path in folder.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("again", [True, False])
def test_scores_of_the_step_stay_until_there_are_new_ones(folder, again):
    file = CsvFile(str(folder), 2)
    if again:
        file.log_metrics({"test/miou": 0.9}, 2)
        file.save()
    assert [row["test/miou"] for row in rows(folder) if "test/miou" in row] == ["0.9" if again else "0.1"]


@pytest.mark.parametrize("end", ["3", "3,", "3,0.5,1,2\r\n", "x,0.5,\r\n", "\xe9\r\n"])
def test_a_row_that_a_kill_cut_off_is_left_out(folder, end):
    with (folder / "metrics.csv").open("a", encoding="latin-1") as file:
        file.write(end)
    file = CsvFile(str(folder), 3)
    file.log_metrics({"train/loss": 0.25}, 3)
    file.save()
    assert [row["train/loss"] for row in rows(folder) if "train/loss" in row] == ["0.5", "0.5", "0.5", "0.25"]


def test_without_a_step_all_rows_stay(folder):
    before = rows(folder)
    file = CsvFile(str(folder), None)
    file.log_metrics({"train/loss": 0.25}, 4)
    file.save()
    assert rows(folder) == [*before, {"step": "4", "train/loss": "0.25"}]


def test_an_empty_file_begins_with_a_header(tmp_path):
    (tmp_path / "metrics.csv").touch()
    file = CsvFile(str(tmp_path), 0)
    file.log_metrics({"train/loss": 0.25}, 0)
    file.save()
    assert rows(tmp_path) == [{"step": "0", "train/loss": "0.25"}]
