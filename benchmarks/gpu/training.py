"""A ResNet-50 that trains: how long it waits for batches, beside batches that are there already."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gpuload
from benchmarks.gpu.cold import SIDE, repeated
from benchmarks.gpu.effort import Effort
from benchmarks.jobs import SHEAR, ZOOM, Job, endless, synchronize
from benchmarks.photos import photos

WARM_UP = 8
"""Steps before those that are measured."""
LONGEST = 5.0
"""Seconds of steps that are measured, at most."""
IMAGE_BYTES = 2**27
"""Memory of the device that a ResNet-50 needs for an image of a batch, about, with a margin."""


def network(device: str) -> Any:
    """Return a ResNet-50, or on the CPU the smallest network that takes images."""
    import torch

    if device == "cpu":
        return torch.nn.Sequential(torch.nn.AvgPool2d(SIDE), torch.nn.Flatten(), torch.nn.Linear(3, 1000))
    import torchvision

    torch.backends.cudnn.benchmark = True
    return torchvision.models.resnet50().to(device, memory_format=torch.channels_last)


def trained(net: Any, batches: Iterator[Any], steps: int, device: str) -> dict[str, float]:
    """Return images per second, and the share of the time that the loop spends waiting for `next`."""
    import torch

    optimizer, waited, images, start = torch.optim.SGD(net.parameters(), 0.01), 0.0, 0, time.perf_counter()
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronize(device)
            waited, images, start = 0.0, 0, time.perf_counter()
        if images and time.perf_counter() - start > LONGEST:
            break
        asked = time.perf_counter()
        inputs, labels = next(batches)
        waited += time.perf_counter() - asked
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(net(inputs), labels.long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        images += len(inputs)
    synchronize(device)
    seconds = time.perf_counter() - start
    return {"images_per_second": images / seconds, "in_next": waited / seconds}


def run(effort: Effort, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for batches that are there already, decoded in each epoch, and kept on the device; twice each."""
    import torch

    batch = effort.batch
    if device != "cpu":
        while batch * IMAGE_BYTES > torch.cuda.mem_get_info()[0]:
            batch //= 2
    net, job = network(device), Job(photos(effort.photographs), SIDE, batch, device)
    form = {"memory_format": torch.channels_last}
    inputs = torch.randn(batch, 3, SIDE, SIDE, device=device).contiguous(**form)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    transform = gpuload.Augment(size=(SIDE, SIDE), shear=SHEAR, zoom=ZOOM, hflip=0.5, rescale=1 / 255)
    options: dict[str, Any] = {"batch_size": batch, "shuffle": True, "seed": 0, "device": device}
    options |= {"framework": "torch", "channels_last": True, "last_batch": "drop"}
    caches = {"decoded": None, "kept": "host" if device == "cpu" else "device"}
    loaders = {}
    for name, cache in caches.items():
        source = repeated(job, effort.epoch if cache is None else effort.photographs)
        loaders[name] = gpuload.Loader(source, transform, cache=cache, **options)
    for _ in loaders["kept"]:  # Its first epoch fills the cache.
        pass
    for _ in range(2):
        ready = iter(lambda: (inputs, labels), None)
        yield {"batches": "ready", "batch": batch, **trained(net, ready, effort.steps, device)}
        for name, loader in loaders.items():
            row = trained(net, iter(endless(loader)), effort.steps, device)
            stats = loader.stats(last=effort.steps)
            waiting = {key: stats[key] for key in ("wait_share", "wait_ms")}
            yield {"batches": name, "batch": batch, **row, **waiting}
    for loader in loaders.values():
        loader.close()
