"""Images that stay on a GPU, or are brought there."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuload.gpu.launch import OPTIONS, THREADS, Launch, ceil_div, fields_of
from gpuload.gpu.runtime import Runtime
from gpuload.gpu.staging import ALIGNED, Slot, Staging

SOURCE = "warp.cu"

Addresses = NDArray[np.uint64]


Slots = NDArray[np.int64]


_PITCH = 16
"""Bytes at whose multiples images begin in a store, so that they are written as wide as they can be."""


def staged(runtime: Runtime, staging: Staging, arrays: dict[str, NDArray[Any]]) -> tuple[Slot, dict[str, int], int]:
    """A slot whose host side holds arrays, by name their addresses on the device, and how many bytes to copy."""
    offsets, size = {}, 0
    for name, array in arrays.items():
        offsets[name] = size
        size += -(-array.nbytes // ALIGNED) * ALIGNED
    slot = staging.take(size)
    runtime.wait(slot.read)
    for name, array in arrays.items():
        slot.host.array[offsets[name] :][: array.nbytes] = array.reshape(-1).view(np.uint8)
    return slot, {name: slot.device.pointer + offset for name, offset in offsets.items()}, size


def _spaced(numbers: Slots, step: int, first: int) -> Addresses:
    """Addresses of images by number, where `first` is that of number 0."""
    addresses: Addresses = numbers.astype(np.uint64) * np.uint64(step) + np.uint64(first)
    return addresses


def pitch(image_bytes: int) -> int:
    """Bytes that an image takes in a `DeviceStore`.

    >>> pitch(224 * 224 * 3), pitch(33 * 33 * 3)
    (150528, 3280)
    """
    return -(-image_bytes // _PITCH) * _PITCH


class DeviceStore:
    """Images that stay on the device, each in a slot of its own, which is written once, before it is read.

    Args:
        count: Slots.
        image_bytes: Of an image; in the store it takes `pitch(image_bytes)`.
        runtime: The device's.
    """

    def __init__(self, count: int, image_bytes: int, runtime: Runtime):
        self.count = count
        self.image_bytes = image_bytes
        self.pitch = pitch(image_bytes)
        self._runtime = runtime
        self._memory = runtime.memory(max(1, count * self.pitch))
        self._kernel = runtime.kernel(SOURCE, "copy_images", OPTIONS)
        self._staging = Staging(runtime)
        self._written = runtime.event()
        """Happens when all that was put so far is there."""

    def _addresses(self, slots: Slots) -> Addresses:
        numbers = np.asarray(slots, np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self.count):
            raise IndexError(f"slots must be from 0 to {self.count - 1}, not {numbers.min()} to {numbers.max()}")
        return _spaced(numbers, self.pitch, self._memory.pointer)

    def _follow(self, stream: int) -> None:
        if not self._runtime.happened(self._written):
            self._runtime.follow(stream, self._written)

    def address(self, slots: Slots, stream: int | None = None) -> Addresses:
        """[B] where the images of slots [B] begin, for work that is queued on `stream` from now on: it waits for all
        that was put. None: the runtime's own stream."""
        addresses = self._addresses(slots)
        self._follow(self._runtime.stream() if stream is None else stream)
        return addresses

    def put(self, slots: Slots, addresses: Addresses, keep: tuple[Any, ...] = (), stream: int | None = None) -> None:
        """Queue copies of images on the device into slots.

        Args:
            slots: [B] of the store.
            addresses: [B] where images of `image_bytes` each begin.
            keep: Whatever owns them; it is kept until they are copied.
            stream: On which they are written; None: the runtime's own.
        """
        runtime, count = self._runtime, len(slots)
        if not count:
            return
        own = runtime.stream() if stream is None else stream
        tables: dict[str, NDArray[Any]] = {
            "sources": np.ascontiguousarray(addresses, np.uint64),
            "destinations": self._addresses(slots),
        }
        slot, places, size = staged(runtime, self._staging, tables)
        try:
            slot.keep = keep
            # One event tells of everything that was put: what is put on a stream comes after what was put on others.
            self._follow(own)
            runtime.copy(slot.device.pointer, slot.host, size, own)
            launch = transfer(
                count, self.image_bytes, places["sources"], places["destinations"], threads=runtime.threads
            )
            runtime.launch(self._kernel, launch, own)
            runtime.record(self._written, own)
        finally:
            runtime.record(slot.read, own)
            self._staging.give(slot)

    def upload(self, slots: Slots, images: NDArray[Any]) -> None:
        """Copy images [B, H, W, C] of the host into slots [B]; returns when they are there."""
        addresses = self._addresses(slots)
        pixels = np.ascontiguousarray(images).reshape(len(addresses), -1).view(np.uint8)
        if pixels.shape[1] != self.image_bytes:
            raise ValueError(f"images must be of {self.image_bytes} bytes each, not {pixels.shape[1]}")
        # Neighbours that lie in the store as they lie on the host go at once.
        together = np.diff(addresses.astype(np.int64)) == self.image_bytes
        edges = [0, *(np.flatnonzero(~together) + 1), len(addresses)]
        for first, last in itertools.pairwise(edges):
            if last > first:
                self._runtime.upload(int(addresses[first]), pixels[first:last])

    def release(self) -> None:
        """Let go of what copies that are done were to keep."""
        self._staging.release()

    def close(self) -> None:
        """Return when all copies are done. The memory is freed with the store: what reads it has to be done first."""
        self._staging.close()


class Upload:
    """Images of the host on their way to the device.

    Write into `pixels`, then `send`, and give this to `keep` of whatever reads `address`: the memory is used for other
    images as soon as nothing refers to the upload.
    """

    def __init__(self, runtime: Runtime, staging: Staging, shape: tuple[int, ...], dtype: np.dtype[Any]):
        self._runtime = runtime
        self._shape = shape
        self._dtype = dtype
        self._size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._slot = staging.take(max(1, self._size))
        # Once the launches that were to keep it have run: no event need tell of them.
        weakref.finalize(self, staging.give, self._slot).atexit = False
        self._sent = False

    @property
    def pixels(self) -> NDArray[Any]:
        """[M, H, W, C] to be written, by any threads, before `send`; the first look may wait for the device."""
        self._runtime.wait(self._slot.read)
        return self._slot.host.array[: self._size].view(self._dtype).reshape(self._shape)

    def send(self) -> None:
        """Queue the copy to the device, on the runtime's own stream."""
        stream = self._runtime.stream()
        if self._size:
            self._runtime.copy(self._slot.device.pointer, self._slot.host, self._size, stream)
        self._runtime.record(self._slot.read, stream)
        self._sent = True

    def address(self, stream: int | None = None) -> Addresses:
        """[M] where the images begin on the device, for work that is queued on `stream` from now on: it waits for the
        copy. None: the runtime's own stream."""
        if not self._sent:
            raise RuntimeError("images have no address before send(): call it when pixels are written")
        if not self._runtime.happened(self._slot.read):
            self._runtime.follow(self._runtime.stream() if stream is None else stream, self._slot.read)
        count = self._shape[0]
        step = self._size // count if count else 0
        return _spaced(np.arange(count), step, self._slot.device.pointer)


class Uploader:
    """Brings images of the host to the device ahead of time, through pinned memory that is used again.

    Args:
        shape: [H, W, C] of an image.
        dtype: Of its levels.
        runtime: The device's.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: str, runtime: Runtime):
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._runtime = runtime
        self._staging = Staging(runtime)

    def begin(self, count: int) -> Upload:
        """An upload of that many images, whose pixels are yet to be written."""
        return Upload(self._runtime, self._staging, (count, *self._shape), self._dtype)

    def upload(self, images: NDArray[Any]) -> Upload:
        """Images [M, H, W, C], copied and sent."""
        upload = self.begin(len(images))
        upload.pixels[...] = images
        upload.send()
        return upload

    def close(self) -> None:
        """Free the memory of uploads that nothing refers to, when the device has read it."""
        self._staging.close()


_SHARE = 2**16
"""Bytes that a block copies."""


TRANSFER = np.dtype(fields_of("u8 from to size share", "i4 shares threads"), align=True)
"""`struct Transfer` of the source."""


def transfer(count: int, size: int, sources: int, destinations: int, threads: int = THREADS) -> Launch:
    """The launch that copies `count` images of `size` bytes. `sources`, `destinations`: addresses of u64 [count]."""
    parameters: NDArray[np.void] = np.zeros((), TRANSFER)
    p: Any = parameters
    p["from"], p["to"], p["size"], p["share"] = sources, destinations, size, _SHARE
    p["shares"] = shares = max(1, ceil_div(size, _SHARE))
    p["threads"] = threads
    return Launch(kernel="copy_images", parameters=parameters, grid=count * shares, block=threads, shared=0)
