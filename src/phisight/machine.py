"""The machine's main memory. The only place that asks for it; knows nothing of torch."""

from __future__ import annotations

from pathlib import Path

# A container's own limit (cgroup v2), which the machine's figures do not show.
_LIMIT, _USED = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
_FILE_PAGES = ("inactive_file", "active_file")


def total_memory() -> int:
    """Bytes of memory that this machine, or the container around us, has."""
    import psutil

    total: int = psutil.virtual_memory().total
    limit = _number(_LIMIT)
    return total if limit is None else min(total, limit)


def free_memory() -> int:
    """Bytes of memory that can be had without swapping; pages of mapped files count as free."""
    import psutil

    free: int = psutil.virtual_memory().available
    limit, used = _number(_LIMIT), _number(_USED)
    if limit is None or used is None:
        return free
    return min(free, max(0, limit - used + _file_pages()))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return None


def _file_pages() -> int:
    """Bytes of the container's use that are pages of files, given back when memory is needed."""
    try:
        lines = _USED.with_name("memory.stat").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.split()[0] in _FILE_PAGES)
    except (OSError, ValueError, IndexError):
        return 0
