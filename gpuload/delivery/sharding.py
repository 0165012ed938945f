"""Batches spread over the devices of a JAX mesh: the part that a process makes, and the global array of all parts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from gpuload.core.device import CPU, Device
from gpuload.delivery.base import Framework
from gpuload.delivery.jax import import_jax, to_jax
from gpuload.plan.order import Order


def shard_of(sharding: Any, batch_size: int) -> tuple[int, int]:
    """Return (rank, count): the part of each batch that this process makes, which its devices in the mesh settle.

    `batch_size` counts the samples of all processes together. Raise ValueError unless `sharding` is a
    `jax.sharding.NamedSharding` that spreads the first axis, and no other, in equal parts.
    """
    jax = import_jax()
    if not isinstance(sharding, jax.sharding.NamedSharding) or not isinstance(sharding.mesh, jax.sharding.Mesh):
        raise ValueError(f"sharding must be a jax.sharding.NamedSharding over a mesh of devices, not {sharding!r}")
    unsettled = jax.sharding.PartitionSpec.UNCONSTRAINED in sharding.spec
    if unsettled or any(axes is not None for axes in sharding.spec[1:]):
        rule = f"sharding must spread the first axis, that of the samples, and no other, not {sharding.spec}"
        raise ValueError(f"{rule}: pass NamedSharding(mesh, PartitionSpec(...)) with one entry")
    pieces = _pieces(sharding)
    if batch_size % pieces:
        raise ValueError(f"batch_size must be a multiple of the {pieces} parts that sharding makes, not {batch_size}")
    rows: dict[int, set[tuple[int, int]]] = {}
    for device, (index, *_) in sharding.devices_indices_map((batch_size,)).items():
        rows.setdefault(device.process_index, set()).add(index.indices(batch_size)[:2])
    spans = {process: (min(parts)[0], max(parts)[1]) for process, parts in rows.items()}
    sizes = {stop - start for start, stop in spans.values()}
    size = max(sizes)
    # Parts with gaps between them have fewer rows than their span.
    gaps = any(sum(stop - start for start, stop in parts) < size for parts in rows.values())
    if len(sizes) > 1 or gaps or any(start % size for start, _ in spans.values()):
        raise ValueError(
            "sharding must give each process one stretch of the batch, all of the same length, but the processes' rows "
            f"are {sorted(sorted(parts) for parts in rows.values())}: order the mesh's devices by process"
        )
    if jax.process_index() not in spans:
        raise ValueError("sharding must include devices of this process, but its mesh has none")
    return spans[jax.process_index()][0] // size, batch_size // size


def _pieces(sharding: Any) -> int:
    """Return the number of parts that the first axis is cut into."""
    axes = sharding.spec[0] if sharding.spec else ()
    names = axes if isinstance(axes, tuple) else (axes,)
    return math.prod(sharding.mesh.shape[name] for name in names if name is not None)


def check_last_batch(order: Order, sharding: Any) -> None:
    """Raise ValueError if the order ends in a short batch that the sharding cannot spread."""
    left, pieces = order.size % order.batch_size, _pieces(sharding)
    if order.last_batch == "keep" and left % pieces:
        fault = f"last_batch='keep' leaves a batch of {left}, which sharding cannot spread in {pieces} equal parts"
        raise ValueError(f"{fault}: pass last_batch='drop' or 'pad'")


def sharded(framework: Framework, sharding: Any, count: int, device: Device) -> Framework:
    """Return JAX as a framework whose batches are global arrays, assembled from the parts of `count` processes.

    `shard_of` has checked the sharding. Raise ValueError if its devices are of another kind than `device`, where this
    process makes its part.
    """
    jax = import_jax()
    platforms = {"cpu" if each.platform == "cpu" else "cuda" for each in sharding.device_set}
    if platforms != {"cpu" if device == CPU else "cuda"}:
        raise ValueError(
            f"sharding must be over devices like {device}, where batches are made, not over {', '.join(platforms)}: "
            f"pass device={min(platforms)!r}, or a mesh of other devices"
        )

    def assembled(array: Any, device: Device, dtype: str | None) -> Any:
        local = np.asarray(array) if device == CPU else to_jax(array, device)
        shape = (len(local) * count, *local.shape[1:])
        # PartitionSpec("data", None) fits images, and has more axes than labels [B].
        spec = jax.sharding.PartitionSpec(*sharding.spec[: local.ndim])
        here = jax.sharding.NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
        result = jax.make_array_from_process_local_data(here, local, shape)
        return result.astype("bfloat16") if dtype == "bfloat16" else result

    return dataclasses.replace(framework, convert=assembled)
