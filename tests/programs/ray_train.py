"""Ray Train's TorchTrainer over images: `python ray_train.py FOLDER`, with the files of ddp.py."""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import ray
import ray.train
from ddp import images, log_to, train
from ray.train.torch import TorchTrainer
from torch import distributed

from gpuload.run import ranks


def work(config):
    """What each of Ray's two workers does."""
    folder, rank = Path(config["folder"]), ray.train.get_context().get_world_rank()
    log_to(folder / f"{rank}.log")
    results = {"37 images, keep": train(images(np.load(folder / "data.npz")["pixels"], "keep"), 144)}
    # As with a trainer that has no process group of PyTorch's: Ray is asked, before the environment.
    distributed.destroy_process_group()
    os.environ.update(RANK="5", WORLD_SIZE="7")
    results["without a process group"] = ranks.resolve("auto")
    (folder / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    # Paths of sockets have 107 letters at most, which a folder of pytest's may pass.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary:
        ray.init(
            address="local",
            num_cpus=3,  # One for the trainer, as Ray before 2.51 takes it.
            object_store_memory=80 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=temporary,
        )
        trainer = TorchTrainer(
            work,
            train_loop_config={"folder": str(folder)},
            scaling_config=ray.train.ScalingConfig(num_workers=2, use_gpu=False),
            run_config=ray.train.RunConfig(storage_path=str(folder / "storage")),
        )
        trainer.fit()
        (folder / "driver.json").write_text(json.dumps(ranks.resolve("auto")))
        ray.shutdown()
