"""What travels between host and GPU in a training loop, by a profile: never a batch."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GPU
from torch import nn

import gpuload

STEPS = 20
pytestmark = pytest.mark.gpu


def images(photos: Path) -> tuple[Any, Any]:
    """Small files, enlarged: a batch has a hundred times the bytes of its files, or of their coefficients."""
    return gpuload.ImageFolder(photos), gpuload.Augment(size=(224, 224), shear=10, zoom=0.2, hflip=0.5, rescale=1 / 255)


def windows(photos: Path) -> tuple[Any, Any]:
    values = np.random.default_rng(0).standard_normal((20_000, 16), dtype=np.float32)
    return gpuload.Series(values, values[:, 0]), gpuload.Window(256, per_sample="standardize")


@pytest.mark.parametrize("job", [images, windows])
def test_no_batch_travels(job: Any, photos: Path, device: str, tmp_path: Path) -> None:
    """Twenty training steps copy nothing to the host, and to the GPU no more than indices, matrices, files, labels."""
    if device != GPU:
        pytest.skip("there is nothing to travel to")
    source, transform = job(photos)
    loader = gpuload.Loader(
        source, transform, batch_size=16, shuffle=True, seed=0, framework="torch", device=device, last_batch="drop"
    )
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(1)).to(loader.device)
    optimizer: Any = None
    batch_bytes = 0

    def train(steps: int) -> None:
        nonlocal optimizer, batch_bytes
        while steps:
            for inputs, _ in loader:
                loss = model(inputs).square().mean()
                optimizer = optimizer or torch.optim.SGD(model.parameters(), 1e-6, foreach=False)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                batch_bytes = inputs.nbytes
                if not (steps := steps - 1):
                    break

    train(5)  # Uploads the series, and whatever is uploaded once.
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        train(STEPS)
        torch.cuda.synchronize()
    trace = tmp_path / "trace.json"
    profile.export_chrome_trace(str(trace))
    copied: Counter[str] = Counter()
    for event in json.loads(trace.read_text())["traceEvents"]:
        if event.get("cat") == "gpu_memcpy":
            copied[event["name"].split()[1]] += int(event["args"]["bytes"])
    per_step = {direction: total / STEPS for direction, total in copied.items()}
    # DALI's decoder may read a status; a batch is 9.6 MB of images, or 262 kB of windows.
    assert per_step.get("DtoH", 0) < 0.01 * batch_bytes, per_step
    assert per_step.get("HtoD", 0) < 0.25 * batch_bytes, per_step
