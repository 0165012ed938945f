"""From the arguments of a `Loader` to the pool that carries them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpuload import delivery
from gpuload.core.device import Device
from gpuload.delivery.sharding import shard_of, sharded
from gpuload.images.augment import Augment
from gpuload.images.choose import settle
from gpuload.images.pool import ImagePool
from gpuload.options import Cache, Errors
from gpuload.plan.order import Order
from gpuload.run import checkpoint, ranks
from gpuload.sources import ImageSource, Series
from gpuload.sources.fingerprint import fingerprint
from gpuload.windows.pool import WindowPool
from gpuload.windows.window import Window

Arguments = Mapping[str, Any]
OfDevice = Callable[[Device], delivery.Framework]

HINTS = {
    "drop_last": "pass last_batch='drop'",
    "num_workers": "leave it out: batches are made by threads in this process; threads= sets their number",
    "pin_memory": "leave it out: batches are made on the device",
    "prefetch_factor": "pass prefetch=BATCHES",
    "persistent_workers": "leave it out: threads stay from epoch to epoch",
    "sampler": "pass shuffle= and shard=",
    "collate_fn": "arrange the batch where it is used, or pass gpuload.keras.dataset(loader, arrange)",
    "augment": "pass it as transform",
    "cache_limit": "pass cache=gpuload.Cache(limit=SIZE)",
    "cache_size": "pass cache=gpuload.Cache(size=(height, width))",
    "max_errors": "pass errors=gpuload.Errors(max_errors=NUMBER)",
    "errors_log": "pass errors=gpuload.Errors(log=PATH)",
    "max_pixels": "pass errors=gpuload.Errors(max_pixels=NUMBER)",
    "timeout": "pass errors=gpuload.Errors(timeout=SECONDS)",
}
"""Advice for arguments that a `Loader` does not have."""


def part_of(given: Arguments) -> tuple[int, int]:
    """Return (rank, count): the part of each batch that this process makes. Raise ValueError for a contradiction."""
    sharding, seed, skips = given["sharding"], given["seed"], given["errors"].on_error == "skip"
    if sharding is None:
        part = ranks.resolve(given["shard"])
        if part[1] > 1 and seed is None:
            raise ValueError(f"seed must be given with {part[1]} ranks, the same in all of them, not None")
        if part[1] > 1 and skips:
            raise ValueError(
                f"on_error='skip' would leave {part[1]} ranks with batches of different sizes, or without one: "
                "pass on_error='replace'"
            )
        return part
    if given["framework"] != "jax":
        raise ValueError(f"sharding is for framework='jax', not for {given['framework']!r}: leave it out")
    if seed is None:
        raise ValueError("seed must be given with sharding, the same in all processes, not None")
    if given["shard"] is not None:
        raise ValueError("shard and sharding both part batches among processes: leave shard out")
    if skips:
        raise ValueError("on_error='skip' leaves batches that sharding cannot spread: pass on_error='replace'")
    return shard_of(sharding, given["batch_size"])


def pool_of(given: Arguments, count: int) -> ImagePool | WindowPool:
    """Return the pool of the source; a batch is made in `count` parts, by as many processes.

    Raise ValueError for arguments that do not fit the source or each other.
    """
    sharding = given["sharding"]

    def framework(device: Device) -> delivery.Framework:
        chosen = delivery.choose(given["framework"], device)
        return chosen if sharding is None else sharded(chosen, sharding, count, device)

    options = {name: given[name] for name in ("prefetch", "threads")}
    # With `sharding`, `batch_size` is that of all parts together.
    options["batch_size"] = given["batch_size"] // (1 if sharding is None else count)
    if isinstance(given["source"], Series):
        return _window_pool(given, framework, options)
    return _image_pool(given, framework, options)


def _image_pool(given: Arguments, framework: OfDevice, options: Arguments) -> ImagePool:
    transform = given["transform"]
    if not isinstance(transform, Augment):
        raise ValueError(f"transform must be a gpuload.Augment for images, not {transform!r}")
    if given["residency"] != "auto":
        raise ValueError(f"residency={given['residency']!r} is for a Series, not for images: leave it out")
    named = {name: given[name] for name in ("device", "engine", "decoder", "cache")}
    job = settle(given["source"], transform, **named)
    more = {name: given[name] for name in ("channels_last", "errors", "cache")}
    return ImagePool(job, framework(job.device), **options, **more)


def _window_pool(given: Arguments, framework: OfDevice, options: Arguments) -> WindowPool:
    window = given["transform"]
    if not isinstance(window, Window):
        raise ValueError(f"transform must be a gpuload.Window for a Series, not {window!r}")
    if given["channels_last"]:
        raise ValueError("channels_last=True is for images, not for a Series: leave it out")
    if given["sharding"] is not None and window.layout == "LBC":
        raise ValueError(
            "layout='LBC' has time along the first axis, which sharding spreads: pass layout='BLC' or 'BCL'"
        )
    errors = given["errors"]
    policy = "on_error" if errors == Errors(on_error=errors.on_error) else "errors"
    for name, value, default in (
        ("decoder", given["decoder"], "auto"),
        (policy, errors, Errors()),
        ("cache", given["cache"], Cache()),
    ):
        if value != default:
            raise ValueError(f"{name} is for images that are read from files, not for a Series: leave it out")
    named = {name: given[name] for name in ("device", "engine", "residency")}
    return WindowPool.of(given["source"], window, framework=framework, shuffled=given["shuffle"], **named, **options)


def identity_of(given: Arguments, order: Order, source: ImageSource | Series) -> dict[str, Any]:
    """Return the values that a state must agree with, for JSON."""
    size = given["cache"].size
    return {
        "seed": order.seed,
        "samples": order.size,
        "batch_size": given["batch_size"],
        "shuffle": bool(order.shuffle),
        "last_batch": order.last_batch,
        "source": fingerprint(source),
        "transform": checkpoint.in_words(checkpoint.describe(given["transform"])),
        "cache_size": None if size is None else str(size),
    }
