"""Augmentation on a GPU: from decoded images of one size, anywhere in its memory, to the batch that is delivered.

One launch of `kernels/warp.cu` a step does the work; CuPy holds the memory. An object is used by one thread at a time.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.delivery import Allocator
from gpuload.gpu.runtime import CupyRuntime, Runtime
from gpuload.gpu.staging import Staging
from gpuload.gpu.store import Addresses
from gpuload.images.augment import Augment
from gpuload.images.step import Step
from gpuload.images.warp import Warper, placements


class CupyAugmenter:
    """Warps, recolours, normalizes, casts and lays out batches on a GPU, each with one small copy and one launch.

    Args:
        transform, shape, source_dtype: As of `Warper`, which checks them.
        device: The GPU.
        allocator: Makes the arrays of batches.
        runtime: Runs copies and launches. None: CuPy on `device`.
    """

    def __init__(
        self,
        transform: Augment,
        shape: tuple[int, int, int],
        source_dtype: str,
        device: Device,
        allocator: Allocator,
        runtime: Runtime | None = None,
    ):
        self._runtime = runtime = runtime or CupyRuntime(device)
        self._transform, self._device, self._allocator = transform, device, allocator
        self._warper = Warper(transform, shape, source_dtype, threads=runtime.threads)
        self._compiled = functools.cache(runtime.kernel)
        # Compiled now, so that a missing compiler is reported at the start.
        self._compiled(self._warper.kernel(transform.draws_channel_shift))
        self._staging = Staging(runtime)

    def augment(self, addresses: Addresses, step: Step, keep: tuple[Any, ...] = (), stream: int | None = None) -> Any:
        """Return a batch, [B, H, W, C] or [B, C, H, W] of the transform's dtype.

        Args:
            addresses: [B] addresses of the images on the device, each [H, W, C] in one piece. The work that writes the
                images must be done or precede on `stream`, as `DeviceStore.address` and `Upload.address` provide.
            step: The numbers that were drawn, [B] each.
            keep: The owners of that memory, kept until the launch has run.
            stream: The CUDA stream that reads the batch. None: the runtime's own; the batch is complete on return.
        """
        runtime, batch = self._runtime, len(addresses)
        if batch != step.batch_size:
            raise ValueError(f"addresses must be as many as the step has samples, {step.batch_size}, not {batch}")
        own = runtime.stream() if stream is None else stream
        with runtime.allocating(stream):
            out = self._allocator.empty(self._warper.output_shape(batch), self._transform.dtype, self._device)
        if not batch:
            return out
        arrays: dict[str, NDArray[Any]] = {"images": np.ascontiguousarray(addresses, np.uint64)}
        if step.matrices is not None:
            arrays["placements"] = placements(step.matrices)
        for name, numbers in (("shifts", step.channel_shift), ("factors", step.brightness)):
            if numbers is not None:
                arrays[name] = numbers.astype(np.float32)
        slot, places, size = self._staging.filled(arrays)
        try:
            launch = self._warper.launch(batch, places, self._allocator.pointer(out))
            slot.keep = keep
            runtime.copy(slot.device.pointer, slot.host, size, own)
            runtime.launch(self._compiled(launch.kernel), launch, own)
        finally:
            runtime.record(slot.read, own)
            self._staging.give(slot)
        if stream is None:
            runtime.finish(own)
            self._staging.release()
        return out

    def release(self) -> None:
        """Drop the objects kept for launches that have run."""
        self._staging.release()

    def close(self) -> None:
        """Wait for all launches, and free the memory."""
        self._staging.close()
