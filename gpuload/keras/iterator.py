"""The base of Keras' iterators: endless under `next`, numbered batches in `fit`, exact with a seed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from collections.abc import Iterator as Steps
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from gpuload.core.checks import checked_int
from gpuload.core.device import Device
from gpuload.delivery import Framework
from gpuload.images.choose import settle
from gpuload.images.pool import ImagePool
from gpuload.images.step import Step
from gpuload.keras.draws import Origin, Seeded, Shared, matrices
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.keras.transforms import ImageTransforms
from gpuload.run import checkpoint
from gpuload.sources import ImageSource
from gpuload.sources.fingerprint import fingerprint
from gpuload.sources.folder import SUFFIXES


class Position(NamedTuple):
    """The place of an iterator. The order has an origin if it was drawn, and not by NumPy's global generator."""

    total_batches_seen: int
    batch_index: int
    index_array: NDArray[np.int64] | None
    origin: Origin | None


@dataclass(frozen=True, kw_only=True)
class Visit(Step):
    """A step, and the place of the iterator after it."""

    after: Position
    rng: Any
    """The generator of its draws. At the end of an epoch, Keras draws the next order from it."""
    suffixes: NDArray[np.int64] | None
    """[B] numbers in the names of saved images."""


class Iterator(PrefetchedDataset):
    """The base of the iterators: order, random draws and state, as in Keras.

    Each batch is drawn from a generator seeded with `seed` + the number of earlier batches. Without a seed, NumPy's
    global generator draws, so that `numpy.random.seed` has its effect; the draws then run ahead of the batches.

    With a seed, `state_dict()` tells where the iterator stands, and `load_state_dict` goes on there: with `next`, by
    number, and in `fit`, which goes on in the interrupted epoch, in that epoch's order. (A `fit` that is called once
    more without an interruption draws another order first, as with Keras' iterators.)

    Args:
        source: The images.
        generator: The transforms. None: no transform.
        batch_size, shuffle, seed, save_to_dir, save_prefix, save_format: As of `ImageDataGenerator.flow`.
        data_format, dtype: As of the generator. None: the generator's own.
    """

    white_list_formats = SUFFIXES
    _number_error = ValueError  # Keras' iterators raise it.
    _places = ("batch", "batches_seen", "batch_index", "order")
    _suffix_limit = 10_000_000
    _options: dict[str, Any]
    _size: tuple[int, int]
    index_array: NDArray[np.int64] | None

    def __init__(
        self,
        source: ImageSource,
        generator: ImageTransforms | None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        data_format: str | None = None,
        dtype: str | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
    ):
        super().__init__()
        if generator is None:
            generator = ImageTransforms(data_format=data_format, dtype=dtype)
        for name in ("apply_transform", "get_random_transform", "random_transform"):
            if getattr(type(generator), name) is not getattr(ImageTransforms, name):
                raise NotImplementedError(
                    f"{type(generator).__name__}.{name} is not called by the iterators, which transform whole batches: "
                    "leave it as it is, and pass preprocessing_function or override standardize"
                )
        if hasattr(self, "_get_batches_of_transformed_samples"):
            raise NotImplementedError(
                f"{type(self).__name__}._get_batches_of_transformed_samples is not called: gpuload makes whole batches "
                "ahead; wrap the iterator, or override _batch(indices, images)"
            )
        self.source = source
        self.n = self.samples = len(source)
        self.batch_size = checked_int("batch_size", batch_size, 1)
        self.shuffle = shuffle
        self.seed = seed if seed is None else checked_int("seed", seed, 0)
        self.image_data_generator = generator
        self.data_format = data_format or generator.data_format
        if self.data_format != generator.data_format:
            raise ValueError(f"data_format must be the generator's, {generator.data_format!r}, not {data_format!r}")
        self.dtype = dtype or generator.dtype
        self.save_to_dir, self.save_prefix, self.save_format = save_to_dir, save_prefix, save_format
        if save_to_dir is not None and not os.path.isdir(save_to_dir):
            raise ValueError(f"save_to_dir must be a folder that exists, not {save_to_dir!r}: create it first")
        self._statistics = generator.statistics
        self._go_on_from(Position(0, 0, None, None))

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        with self.lock:
            self._renew()
            if self._course is None or not self._course.alive or self._numbers is not None:
                self._forget_pass()
                self._loaded = None
                self._restart(self._walk(), None)
            return self._take()

    def _renew(self) -> None:
        statistics = self.image_data_generator.statistics
        if any(now is not before for now, before in zip(statistics, self._statistics, strict=True)):
            self._close()
            self._pools.clear()
            self.__dict__.pop("_identity", None)
            self._statistics = statistics

    def next(self) -> Any:
        """Return the next batch; there is always one."""
        return next(self)

    def _end_epoch(self) -> None:
        self._drop()
        self.index_array, self._origin = self._order(self._left_generator)

    def reset(self) -> None:
        """Make the next batch the first of an epoch."""
        with self.lock:
            self._drop()
            self._forget_pass()
            self._loaded, self.batch_index = None, 0

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        self._ready()  # It settles the transform.
        ranges = self.image_data_generator.ranges
        bounds = ranges.fields(*self._size)
        options = {n: words for n, words in checkpoint.describe(self._transform).items() if n not in bounds}
        return {
            "seed": self.seed,
            "samples": self.n,
            "batch_size": self.batch_size,
            "shuffle": bool(self.shuffle),
            "source": fingerprint(self.source),
            "generator": checkpoint.in_words({**options, **checkpoint.describe(ranges)}),
        }

    def _place(self, over: bool) -> dict[str, Any]:
        if self.seed is None:
            raise RuntimeError(
                "state_dict() needs a flow with a seed, not seed=None, with which NumPy's global generator draws: its "
                "state would be too large. Pass seed"
            )
        order = None
        if self.shuffle and (over or self.index_array is not None):
            origin = Origin.of(self._left_generator) if over else self._origin
            if origin is None:
                raise RuntimeError(
                    "state_dict() cannot tell this epoch's order: NumPy's global generator drew it, as it does in "
                    "Keras where fit begins before any flow with a seed has made a batch. Make one before, with "
                    "flow[0], or save from the end of this epoch on"
                )
            order = [origin.value, origin.words]
        return {"batches_seen": self.total_batches_seen, "batch_index": self.batch_index, "order": order}

    def _go_to(self, place: dict[str, Any]) -> None:
        seen, index = (checked_int(name, place[name], 0) for name in ("batches_seen", "batch_index"))
        value, words = place["order"] or (None, None)
        origin = None if value is None else Origin(checked_int("order", value, 0), checked_int("order", words, 0))
        self._drop()
        self._go_on_from(Position(seen, index, None if origin is None else origin.draw(self.n), origin))

    def _go_on_from(self, place: Position) -> None:
        self.total_batches_seen, self.batch_index, self.index_array, self._origin = place

    @property
    def _left_generator(self) -> Any:
        """The generator of the next epoch's order: that of the last batch."""
        return np.random if self.seed is None else Shared.generator

    def _order(self, rng: Any) -> tuple[NDArray[np.int64], Origin | None]:
        if not self.shuffle:
            return np.arange(self.n), None
        origin = Origin.of(rng)
        return rng.permutation(self.n), origin

    def _position(self) -> Position:
        return Position(self.total_batches_seen, self.batch_index, self.index_array, self._origin)

    def _walk(self) -> Steps[Visit]:
        """Yield the batches of `next` from here on."""
        here = self._position()
        while True:
            first = here.batch_index * self.batch_size % self.n
            following = here.batch_index + 1 if self.n > first + self.batch_size else 0
            visit = self._visit(here, first, following, anew=here.batch_index == 0)
            here = visit.after
            yield visit

    def _visits(self, numbers: Sequence[int]) -> Steps[Visit]:
        here = self._position()
        for number in numbers:
            visit = self._visit(here, number * self.batch_size, here.batch_index, anew=False)
            here = visit.after
            yield visit

    def _visit(self, here: Position, first: int, following: int, anew: bool) -> Visit:
        """Return the batch from sample `first` on. `following` is the index after it; `anew` draws an order."""
        seen, _, order, origin = here
        rng: Any = np.random if self.seed is None else Seeded((self.seed + seen) % 2**32)
        if anew or order is None:
            order, origin = self._order(rng)
        indices = order[first : first + self.batch_size]
        height, width = self._size
        count = len(indices)
        drawn = self.image_data_generator.ranges.draw(rng, count, height, width)
        transform = self._transform
        moved = transform.warps or transform.flips
        return Visit(
            indices=indices,
            matrices=matrices(drawn, count, height, width) if moved else None,
            channel_shift=drawn.get("channel_shift_intensity"),
            brightness=drawn.get("brightness"),
            after=Position(seen + 1, following, order, origin),
            rng=rng,
            suffixes=np.array([rng.randint(self._suffix_limit) for _ in indices]) if self.save_to_dir else None,
            seed=(self.seed or 0) % 2**32,
            epoch=seen + 1,  # Each batch has its own substitutes for bad samples.
        )

    def _open(self, framework: Callable[[Device], Framework]) -> ImagePool:
        generator = self.image_data_generator
        self._transform = generator.augment(self._size, **self._options)
        job = settle(self.source, self._transform, cache=generator.cache, **generator.choice)
        return ImagePool(
            job,
            framework(job.device),
            batch_size=min(self.batch_size, self.n),
            threads=generator.threads,
            errors=generator.errors,
            cache=generator.cache,
        )

    def _deliver(self, pool: ImagePool, visit: Visit, made: Any) -> Any:
        self._go_on_from(visit.after)
        if self.seed is not None:
            Shared.generator = visit.rng
        images = self._cast(pool.convert(made))
        if visit.suffixes is not None:
            host = ops.convert_to_numpy(images)
            for image, index, suffix in zip(host, visit.indices, visit.suffixes, strict=True):
                name = f"{self.save_prefix}_{index}_{suffix}.{self.save_format}"
                picture = keras.utils.array_to_img(image, self.data_format, scale=True)
                picture.save(os.path.join(str(self.save_to_dir), name))
        return self._batch(visit.indices, images)

    def _cast(self, images: Any) -> Any:
        return cast(images, self.dtype)

    def _batch(self, indices: NDArray[np.int64], images: Any) -> Any:
        raise NotImplementedError


def cast(images: Any, dtype: Any) -> Any:
    """Return NumPy's or the backend's array with that dtype."""
    return images.astype(dtype, copy=False) if isinstance(images, np.ndarray) else ops.cast(images, dtype)


def share_of(generator: ImageTransforms | None, subset: str | None) -> tuple[float, float] | None:
    """Return the part of the samples that `subset` names, as shares; None: all."""
    split = generator.validation_split if generator else 0.0
    shares = {None: None, "training": (split, 1.0), "validation": (0.0, split)}
    if subset not in shares:
        raise ValueError(f"subset must be 'training', 'validation' or None, not {subset!r}")
    return shares[subset]
