"""The host's free memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

SHARE = 0.25
"""Share of the free memory that a cache takes unless a limit is given."""

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def free_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """Return the bytes of memory available without swapping, in the machine or in the process's control group.

    It is the smaller of the two, and 0 if the system does not tell.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (proc / "meminfo").read_text(), re.M)
    except OSError:
        return 0
    return max(0, min([1024 * int(found[1]) if found else 0, *_left_in_groups(proc, groups)]))


def _left_in_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Yield the bytes left to each control group (version 2 or 1) above the process that has a limit."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = groups / "memory" if kinds else groups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
        # In a container the path may be the host's and not exist: then the top belongs to the container.
        here = top / path.strip("/")
        for folder in [top, *(part for part in (here, *here.parents) if top in part.parents)]:
            with contextlib.suppress(OSError):
                limit, used = ((folder / name).read_text().strip() for name in names)
                unused = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M)
                if limit.isdecimal():  # Not "max". The system gives up memory of files that are not in use.
                    yield int(limit) - int(used) + (int(unused[1]) if unused else 0)
