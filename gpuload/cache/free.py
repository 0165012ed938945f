"""How much memory is free."""

from __future__ import annotations

import re
from pathlib import Path

SHARE = 0.25
"""Share of the free memory that a cache takes unless a limit is given."""

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def free_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """Bytes of the host's memory that can be had without swapping: of the machine, or of the control group that the
    process is in, whichever are fewer. 0 where the system does not tell."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (proc / "meminfo").read_text(), re.M)
    except OSError:
        return 0
    free = 1024 * int(found[1]) if found else 0
    return max(0, min([free, *_left_in_groups(proc, groups)]))


def _left_in_groups(proc: Path, groups: Path) -> list[int]:
    """What is left to each control group above the process, of version 2 or 1, that has a limit."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = groups / "memory" if kinds else groups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
        # In a container the path may be that of the host, which is not there: then the top is the container's own.
        here = top / path.strip("/")
        for folder in [top, *(part for part in (here, *here.parents) if top in part.parents)]:
            try:
                limit, used = ((folder / name).read_text().strip() for name in names)
                unused = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M)
            except OSError:
                continue
            if limit.isdecimal():  # Else "max". Files that were read and are not in use are given up when asked for.
                left.append(int(limit) - int(used) + (int(unused[1]) if unused else 0))
    return left
