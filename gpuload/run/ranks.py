"""The part of each batch that belongs to this process, as the framework that runs the training tells."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, Literal

from gpuload.core.available import announce
from gpuload.core.checks import checked_int

Shard = Literal["auto"] | tuple[int, int] | None


def resolve(shard: Shard) -> tuple[int, int]:
    """Return (rank, count): this process makes part number `rank` of `count` equal parts of a batch.

    Args:
        shard: None for (0, 1); the pair itself; or "auto", which takes the first of these that answers, and logs once
            which: `torch.distributed`, Ray Train, JAX, each if it was imported and initialised in this process; RANK
            and WORLD_SIZE in the environment, as torchrun sets them; else (0, 1). JAX starts its devices to answer.

    Raises:
        ValueError: another value; or RANK and WORLD_SIZE that make no sense, or one without the other.

    >>> resolve(None), resolve((1, 4)), resolve("auto")
    ((0, 1), (1, 4), (0, 1))
    >>> resolve((4, 4))
    Traceback (most recent call last):
    ValueError: shard must be 'auto', None or integers (rank, count) with 0 <= rank < count, not (4, 4): ranks count \
from 0, so the last of 4 is (3, 4)
    """
    if shard is None:
        return 0, 1
    if isinstance(shard, str) and shard == "auto":
        for name, ask in SOURCES.items():
            if (found := ask()) is not None:
                announce(f"shard='auto' is rank {found[0]} of {found[1]}, says {name}")
                return found
        announce(f"shard='auto' is rank 0 of 1, since {', '.join(SOURCES)} say nothing")
        return 0, 1
    try:
        return _pair(*shard)
    except (TypeError, ValueError):
        raise ValueError(
            f"shard must be 'auto', None or integers (rank, count) with 0 <= rank < count, not {shard!r}: ranks count "
            "from 0, so the last of 4 is (3, 4)"
        ) from None


def _pair(rank: object, count: object) -> tuple[int, int]:
    pair = checked_int("rank", rank, 0), checked_int("count", count, 1)
    if pair[0] >= pair[1]:
        raise ValueError(f"rank must be below count, not {pair!r}")
    return pair


def _torch() -> tuple[int, int] | None:
    distributed: Any = sys.modules.get("torch.distributed")
    # A PyTorch built without it has no `is_initialized`.
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def _ray() -> tuple[int, int] | None:
    train: Any = sys.modules.get("ray.train")
    if train is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray Train's version 1 warns outside of a worker, and gives (0, 1).
            context = train.get_context()
            found = context.get_world_rank(), context.get_world_size()
    # Version 2 raises RuntimeError outside of a worker, and DeprecationWarning if Ray Tune runs the function, where
    # version 1 gives None.
    except (RuntimeError, DeprecationWarning):
        return None
    return None if None in found or found[1] == 1 else found


def _jax() -> tuple[int, int] | None:
    jax: Any = sys.modules.get("jax")
    if jax is None:
        return None
    # Without distributed processes, `process_count` would start JAX's devices for a known answer.
    if hasattr(jax.distributed, "is_initialized"):
        initialized = jax.distributed.is_initialized()
    else:  # JAX before 0.5.1 has no public way.
        initialized = sys.modules["jax._src.distributed"].global_state.client is not None
    return (jax.process_index(), jax.process_count()) if initialized else None


def _environment() -> tuple[int, int] | None:
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None and size is None:
        return None
    try:
        return _pair(int(rank or ""), int(size or ""))
    except ValueError:
        raise ValueError(
            "shard='auto' reads RANK and WORLD_SIZE, which must be integers with 0 <= RANK < WORLD_SIZE, not "
            f"RANK={rank!r} and WORLD_SIZE={size!r}: set both as torchrun does, make the loader after "
            "torch.distributed.init_process_group, or pass shard=(rank, count)"
        ) from None


SOURCES = {
    "torch.distributed": _torch,
    "Ray Train": _ray,
    "JAX": _jax,
    "the environment's RANK and WORLD_SIZE": _environment,
}
"""Functions to ask, in this order. Each returns (rank, count), or None."""
