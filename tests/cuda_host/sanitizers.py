"""Tests once more, under a sanitizer of g++."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import COMPILER

LIBRARIES = {"address,undefined": "libasan.so", "thread": "libtsan.so"}


def run_under(sanitizer: str, file: str, tests: str) -> None:
    """Run tests of a file, in a process that has the sanitizer's library loaded before all others.

    Args:
        sanitizer: A key of `LIBRARIES`.
        file: The file.
        tests: The tests, as for pytest's `-k`.
    """
    library = LIBRARIES[sanitizer]
    found = subprocess.run([str(COMPILER), f"-print-file-name={library}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    if not os.path.isabs(path):
        pytest.skip(f"{library} is not installed")
    environment = os.environ | {
        "LD_PRELOAD": path,
        "GPULOAD_TEST_SANITIZER": sanitizer,
        # Python itself leaves memory behind.
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", "-k", tests, file]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert re.search(r"\d+ passed", done.stdout)
