"""The second half of an image's way on a GPU: levels of one size, wherever they lie, to the batch that is delivered.

`kernels/warp.cu` does the work in one launch a step; CuPy holds the memory. Each object is for one thread at a time,
but not all of them for the same one; into `Upload.pixels` several threads may write.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.core.device import Device
from gpuload.delivery import Allocator
from gpuload.gpu.runtime import CupyRuntime, Runtime
from gpuload.gpu.staging import Staging
from gpuload.gpu.store import Addresses, staged
from gpuload.images.augment import Augment
from gpuload.images.step import Step
from gpuload.images.warp import SOURCE, Drawn, Warper, placements


class CupyAugmenter:
    """Warps, recolours, normalizes, casts and lays out batches on a GPU, each with one small copy and one launch.

    Args:
        transform: What is done. What it says of decoding and resizing is not looked at.
        shape: [H, W, C] of an image.
        source_dtype: Of the images, "uint8" or "float32".
        device: Where.
        allocator: Makes the arrays that are filled.
        runtime: What runs copies and launches; None: CuPy on `device`.

    Raises ValueError for a transform that no GPU does, ImportError where CuPy or NVRTC is missing.
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
        self.runtime = runtime = runtime or CupyRuntime(device)
        """For stores and uploads of the same device, too."""
        self._transform = transform
        self._device = device
        self._allocator = allocator
        self._warper = Warper(transform, shape, source_dtype, threads=runtime.threads)
        self._kernels = {self._warper.kernel: self._compiled(self._warper.kernel)}
        self._staging = Staging(runtime)

    def _compiled(self, kernel: str) -> Any:
        return self.runtime.kernel(SOURCE, kernel, self._warper.options)

    def augment(self, addresses: Addresses, step: Step, keep: tuple[Any, ...] = (), stream: int | None = None) -> Any:
        """A batch: [B, H, W, C] or [B, C, H, W] of the transform's dtype, of the allocator.

        Args:
            addresses: [B] where the levels of each image begin on the device, [H, W, C] in one piece. What writes them
                must be queued on `stream` already, or be done: `DeviceStore.address` and `Upload.address` see to it.
            step: What was drawn, [B] each.
            keep: Whatever owns that memory; it is kept until the launch has run.
            stream: The CUDA stream on which the batch will be read. None: the runtime's own; then the batch is there
                on return.
        """
        runtime, batch = self.runtime, len(addresses)
        if batch != step.batch_size:
            raise ValueError(f"addresses must be as many as the step has samples, {step.batch_size}, not {batch}")
        own = runtime.stream() if stream is None else stream
        with runtime.allocating(own) if stream is None else contextlib.nullcontext():
            out = self._allocator.empty(self._warper.output_shape(batch), self._transform.dtype, self._device)
        if not batch:
            return out
        arrays: dict[str, NDArray[Any]] = {"images": np.ascontiguousarray(addresses, np.uint64)}
        if step.matrices is not None:
            arrays["placements"] = placements(step.matrices)
        if step.channel_shift is not None:
            arrays["shifts"] = step.channel_shift.astype(np.float32)
        if step.brightness is not None:
            arrays["factors"] = step.brightness.astype(np.float32)
        slot, places, size = staged(runtime, self._staging, arrays)
        try:
            launch = self._warper.launch(batch, Drawn(**places), self._allocator.pointer(out))
            if launch.kernel not in self._kernels:
                self._kernels[launch.kernel] = self._compiled(launch.kernel)
            slot.keep = keep
            runtime.copy(slot.device.pointer, slot.host, size, own)
            runtime.launch(self._kernels[launch.kernel], launch, own)
        finally:
            runtime.record(slot.read, own)
            self._staging.give(slot)
        if stream is None:
            runtime.finish(own)
            self._staging.release()
        return out

    def release(self) -> None:
        """Let go of what launches that have run were to keep."""
        self._staging.release()

    def close(self) -> None:
        """Free all memory, when the launches have run."""
        self._staging.close()
