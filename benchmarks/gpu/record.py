"""A plugin of pytest, `-p benchmarks.gpu.record`: appends each result to a file as it comes, so that a run that is cut
off keeps them. The file's name is in the variable GPULOAD_TEST_RECORD."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "GPULOAD_TEST_RECORD"
_LONGEST = 2500
"""Characters of a reason that are kept: its end."""


class Recorder:
    """Writes a line for each test that has run, skipped tests too."""

    def __init__(self, path: Path):
        self._path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write a test's outcome, and why it failed."""
        if report.when != "call" and report.outcome == "passed":
            return
        reason = str(report.longrepr)[-_LONGEST:] if report.outcome == "failed" else ""
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration, "reason": reason}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def pytest_configure(config: Any) -> None:
    """Record in the process that hears of all tests, not in the workers of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(os.environ[VARIABLE])))
