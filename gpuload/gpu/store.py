"""Images that stay on a GPU (`DeviceStore`), and images on their way there (`Uploader`)."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.gpu.launch import Kernel, Launch, ceil_div, fields_of, fill, options
from gpuload.gpu.runtime import Runtime
from gpuload.gpu.staging import Staging

Addresses = NDArray[np.uint64]
Slots = NDArray[np.int64]

_COPY = Kernel("copy.cu", "copy_images", options())
_PITCH = 16
"""Images begin at multiples of so many bytes in a store, so that kernels may copy 16 bytes at once."""
_SHARE = 2**16
"""Bytes that a block copies."""

TRANSFER = np.dtype(fields_of("u8 from to size share", "i4 shares threads"), align=True)
"""`struct Transfer` of the source."""


def _spaced(numbers: Slots, step: int, first: int) -> Addresses:
    """Return the addresses of images by number; `first` is the address of image 0."""
    addresses: Addresses = numbers.astype(np.uint64) * np.uint64(step) + np.uint64(first)
    return addresses


def _follow(runtime: Runtime, stream: int | None, event: Any) -> None:
    """Let later work of the stream wait for an event. None: the runtime's own stream."""
    if not runtime.happened(event):
        runtime.follow(runtime.stream() if stream is None else stream, event)


def pitch(image_bytes: int) -> int:
    """Return the bytes that an image takes in a `DeviceStore`.

    >>> pitch(224 * 224 * 3), pitch(33 * 33 * 3)
    (150528, 3280)
    """
    return ceil_div(image_bytes, _PITCH) * _PITCH


class DeviceStore:
    """Images that stay on the device, each in a slot of its own. A slot is written once, before it is read.

    There are `count` slots. An image has `image_bytes` bytes, and a slot takes `pitch(image_bytes)`.
    """

    def __init__(self, count: int, image_bytes: int, runtime: Runtime):
        self.count = count
        self.image_bytes = image_bytes
        self.pitch = pitch(image_bytes)
        self._runtime = runtime
        self._memory = runtime.memory(max(1, count * self.pitch))
        self._kernel = runtime.kernel(_COPY)
        self._staging = Staging(runtime)
        self._written = runtime.event()
        """Happens when all images that were put are in their slots."""

    def _addresses(self, slots: Slots) -> Addresses:
        numbers = np.asarray(slots, np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self.count):
            raise IndexError(f"slots must be from 0 to {self.count - 1}, not {numbers.min()} to {numbers.max()}")
        return _spaced(numbers, self.pitch, self._memory.pointer)

    def address(self, slots: Slots, stream: int | None = None) -> Addresses:
        """Return the addresses of images in slots [B], and let later work of the stream wait for all that were put.

        `stream` reads the images. None: the runtime's own.
        """
        addresses = self._addresses(slots)
        _follow(self._runtime, stream, self._written)
        return addresses

    def put(self, slots: Slots, addresses: Addresses, keep: tuple[Any, ...] = (), stream: int | None = None) -> None:
        """Queue copies of images on the device, at addresses [B], into slots [B].

        Args:
            slots, addresses: The slots, and the images of `image_bytes` each.
            keep: The owners of the images' memory, kept until it is copied.
            stream: The stream that writes the images, and makes the copies. None: the runtime's own.
        """
        runtime, count = self._runtime, len(slots)
        if not count:
            return
        own = runtime.stream() if stream is None else stream
        slot, tables, size = self._staging.filled(
            {"from": np.ascontiguousarray(addresses, np.uint64), "to": self._addresses(slots)}
        )
        parameters: NDArray[np.void] = np.zeros((), TRANSFER)
        threads, shares = runtime.threads, max(1, ceil_div(self.image_bytes, _SHARE))
        fill(parameters, **tables, size=self.image_bytes, share=_SHARE, shares=shares, threads=threads)
        try:
            slot.keep = keep
            # One event stands for all copies because copies on one stream wait for earlier copies on others.
            _follow(runtime, own, self._written)
            runtime.copy(slot.device.pointer, slot.host, size, own)
            launch = Launch(kernel=_COPY, parameters=parameters, grid=count * shares, block=threads)
            runtime.launch(self._kernel, launch, own)
            runtime.record(self._written, own)
        finally:
            runtime.record(slot.read, own)
            self._staging.give(slot)

    def upload(self, slots: Slots, images: NDArray[Any]) -> None:
        """Copy images [B, H, W, C] of the host into slots [B], and wait for the copies."""
        addresses = self._addresses(slots)
        pixels = np.ascontiguousarray(images).reshape(len(addresses), -1).view(np.uint8)
        if pixels.shape[1] != self.image_bytes:
            raise ValueError(f"images must be of {self.image_bytes} bytes each, not {pixels.shape[1]}")
        # Images that are neighbours on both sides, with no gap between, are copied at once.
        together = np.diff(addresses.astype(np.int64)) == self.image_bytes
        edges = [0, *(np.flatnonzero(~together) + 1), len(addresses)]
        for first, last in itertools.pairwise(edges):
            if last > first:
                self._runtime.upload(int(addresses[first]), pixels[first:last])

    def release(self) -> None:
        """Drop the objects kept for copies that are done."""
        self._staging.release()

    def close(self) -> None:
        """Wait for all copies. The memory is freed with the store: work that reads it must be done by then."""
        self._staging.close()


class Upload:
    """Images of the host on their way to the device.

    Write into `pixels`, then call `send`. Pass the upload as `keep` to the work that reads `address`: as soon as
    nothing refers to the upload, its memory is used for other images.
    """

    def __init__(self, runtime: Runtime, staging: Staging, shape: tuple[int, ...], dtype: np.dtype[Any]):
        self._runtime, self._shape, self._dtype = runtime, shape, dtype
        self._size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._slot = staging.take(max(1, self._size))
        # Launches that read the memory keep the upload, so no event is needed to tell when they are done.
        weakref.finalize(self, staging.give, self._slot).atexit = False
        self._sent = False

    @property
    def pixels(self) -> NDArray[Any]:
        """[M, H, W, C] to be written before `send`, by any thread. Waits for earlier reads of the memory."""
        self._runtime.wait(self._slot.read)
        return self._slot.host.array[: self._size].view(self._dtype).reshape(self._shape)

    def send(self) -> None:
        """Queue the copy to the device on the runtime's own stream."""
        stream = self._runtime.stream()
        if self._size:
            self._runtime.copy(self._slot.device.pointer, self._slot.host, self._size, stream)
        self._runtime.record(self._slot.read, stream)
        self._sent = True

    def address(self, stream: int | None = None) -> Addresses:
        """Return the addresses of the images [M] on the device, and let later work of the stream wait for the copy.

        `stream` reads the images. None: the runtime's own. Raise RuntimeError before `send`.
        """
        if not self._sent:
            raise RuntimeError("images have no address before send(): call it when pixels are written")
        _follow(self._runtime, stream, self._slot.read)
        count = self._shape[0]
        return _spaced(np.arange(count), self._size // max(1, count), self._slot.device.pointer)


class Uploader:
    """Brings images of `shape` (H, W, C) from the host to the device ahead of time, through pinned memory."""

    def __init__(self, shape: tuple[int, int, int], dtype: str, runtime: Runtime):
        self._runtime, self._shape, self._dtype = runtime, shape, np.dtype(dtype)
        self._staging = Staging(runtime)

    def begin(self, count: int) -> Upload:
        """Return an upload of that many images, with its pixels still to be written."""
        return Upload(self._runtime, self._staging, (count, *self._shape), self._dtype)

    def upload(self, images: NDArray[Any]) -> Upload:
        """Return an upload of images [M, H, W, C], sent already."""
        upload = self.begin(len(images))
        upload.pixels[...] = images
        upload.send()
        return upload

    def close(self) -> None:
        """Free the memory of uploads that nothing refers to, when the device has read it."""
        self._staging.close()
