"""DistributedDataParallel over images and windows: `python -m torch.distributed.run --nproc-per-node 2 ddp.py FOLDER`.

FOLDER has the arrays, in data.npz; each process writes there what it saw, and the parameters that it ended with.
"""

import json
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

import gpuload

OPTIONS = {"batch_size": 4, "shuffle": True, "seed": 1, "shard": "auto", "framework": "torch", "device": "cpu"}


def images(pixels, last_batch):
    """An image's label is its number."""
    source = gpuload.ImageArray(pixels, labels=np.arange(len(pixels)))
    augment = gpuload.Augment(rescale=1 / 255, hflip=0.5, brightness=(0.5, 1.5))
    return gpuload.Loader(source, augment, last_batch=last_batch, **OPTIONS)


def windows(values, last_batch):
    """A window's target is its number."""
    series = gpuload.Series(values, targets=np.arange(len(values)) - 2)
    return gpuload.Loader(series, gpuload.Window(3), last_batch=last_batch, **OPTIONS)


def train(loader, features):
    """Three epochs: of each batch the labels and each sample's mean; and the parameters afterwards."""
    torch.manual_seed(distributed.get_rank())  # Unlike, until DistributedDataParallel makes them alike.
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Flatten(), nn.Linear(features, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    epochs = []
    for _ in range(3):
        seen = []
        for inputs, labels in loader:
            loss = nn.functional.mse_loss(model(inputs).squeeze(1), labels.float() / 10)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append({"labels": labels.tolist(), "means": inputs.flatten(1).mean(1).tolist()})
        epochs.append(seen)
    parameters = torch.cat([part.detach().flatten() for part in model.parameters()])
    return {"len": len(loader), "epochs": epochs, "parameters": parameters.tolist()}


def log_to(path):
    """Write there what gpuload says."""
    logger = logging.getLogger("gpuload")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(path))


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    log_to(folder / f"{rank}.log")
    data = np.load(folder / "data.npz")
    policies = ("keep", "drop", "pad")
    # Before there is a process group, torchrun's environment tells the rank; then the group does.
    found = {f"windows, {policy}": (windows(data["values"], policy), 6) for policy in policies}
    distributed.init_process_group("gloo", timeout=timedelta(minutes=2))
    for count in (37, 33):
        for policy in policies:
            found[f"{count} images, {policy}"] = images(data["pixels"][:count], policy), 144
    results = {name: train(loader, features) for name, (loader, features) in found.items()}
    (folder / f"{rank}.json").write_text(json.dumps(results))
    distributed.destroy_process_group()
