"""The table of a CSVLogger that goes on after a restart, where Lightning's would remove what is there."""

from __future__ import annotations

import csv
import os
from typing import Any

from pytorch_lightning.loggers.csv_logs import ExperimentWriter


class CsvFile(ExperimentWriter):
    """Lightning's writer of ``metrics.csv``, which keeps the rows and columns of an earlier start.

    Args:
        log_dir: Folder of the file.
        purge_step: First step whose rows are left out, as training goes on from there; None to keep all. Test scores of
            this step are replaced when there are new ones: the run that they ended may be a longer one now.
    """

    def __init__(self, log_dir: str, purge_step: int | None):
        self._purge_step = purge_step
        self._tests: set[frozenset[str]] = set()
        super().__init__(log_dir)

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Record a row."""
        figures = frozenset(metrics_dict)
        if step == self._purge_step and figures in self._tests:
            self._tests.remove(figures)
            self._write([row for row in self._rows() if int(row["step"]) != step or _figures(row) != figures])
        super().log_metrics(metrics_dict, step)

    def _check_log_dir_exists(self) -> None:
        """Take over what is there; Lightning removes it here."""
        if not self._fs.isfile(self.metrics_file_path):
            return
        self._write([row for row in self._rows() if self._stays(row)])

    def _rows(self) -> list[dict[str, Any]]:
        with self._fs.open(self.metrics_file_path, "r", newline="", errors="replace") as file:
            reader = csv.DictReader(file)
            self.metrics_keys = self.metrics_keys or list(reader.fieldnames or [])
            return list(reader)

    def _stays(self, row: dict[str, Any]) -> bool:
        # A row that was cut off by a kill has fewer cells; one that another row was written into has more.
        if None in row or None in row.values() or not str(row.get("step")).isdigit():
            return False
        step = int(row["step"])
        if step == self._purge_step and all(name.startswith("test/") for name in _figures(row)):
            self._tests.add(_figures(row))
            return True
        return self._purge_step is None or step < self._purge_step

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Write the rows with further columns; the file is whole at any time."""
        self._write(self._rows())

    def _write(self, rows: list[dict[str, Any]]) -> None:
        part = f"{self.metrics_file_path}.{os.getpid()}"
        with self._fs.open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            if self.metrics_keys:
                writer.writeheader()
            writer.writerows(rows)
        self._fs.mv(part, self.metrics_file_path)


def _figures(row: dict[str, Any]) -> frozenset[str]:
    return frozenset(name for name, value in row.items() if value and name != "step")
