"""Results of compilers, kept between test runs and shared by the processes of a run."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".pytest_cache" / "kernels"
DAYS = 7


def name_of(suffix: str, *key: str) -> Path:
    """Return the file of a result. The key is all that the result depends on."""
    return FOLDER / (hashlib.sha256("\0".join(key).encode()).hexdigest()[:32] + suffix)


def kept(suffix: str, make: Callable[[Path], object], *key: str) -> Path:
    """Return a file that `make` has written, now or in an earlier run; other processes wait meanwhile."""
    path = name_of(suffix, *key)
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _drop_old()
                partial = path.with_suffix(".partial")
                make(partial)
                partial.rename(path)
    path.touch()
    return path


def _drop_old() -> None:
    """Delete the results that no run has used for some days."""
    for path in FOLDER.iterdir():
        try:
            if path.stat().st_mtime < time.time() - DAYS * 86400:
                path.unlink(missing_ok=True)
        except FileNotFoundError:  # Another process deleted it.
            pass
