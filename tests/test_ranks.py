"""Which part of a batch is whose: asked of the real torch.distributed, Ray Train, JAX and torchrun, and trained with.

`programs/ddp.py` and `programs/ray_train.py` train in two processes; what both saw together is what one loader yields.
"""

import collections
import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuload
from gpuload.run import ranks

PROGRAMS = Path(__file__).with_name("programs")
PIXELS = np.random.default_rng(0).integers(0, 256, (37, 8, 6, 3), dtype=np.uint8)
VALUES = np.random.default_rng(1).random((39, 2), dtype=np.float32)


def run(folder: Path, *commands: list[Any], **variables: str) -> list[str]:
    """Run Python with these arguments, all at once, in a folder; what each printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {
        "CUDA_VISIBLE_DEVICES": "",  # Where two processes would share one GPU.
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(gpuload.__file__).parents[1]),
        "RAY_USAGE_STATS_ENABLED": "0",
        **variables,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Its own processes go with it, where it has to be ended.
        )
        for command in commands
    ]
    try:
        results = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors[-5000:]
    return [output for output, _ in results]


def need(*modules: str) -> None:
    """Skip where one of them is not installed. They are imported in other processes only."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What started the tests may have set them."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("shard", "expected"),
    [
        (None, (0, 1)),
        ((0, 1), (0, 1)),
        ((1, 3), (1, 3)),
        ([2, 3], (2, 3)),
        (np.array([1, 2]), (1, 2)),
        ("auto", (0, 1)),
    ],
)
def test_what_is_given(shard: Any, expected: tuple[int, int]) -> None:
    found = ranks.resolve(shard)
    assert found == expected
    assert [type(number) for number in found] == [int, int]


@pytest.mark.parametrize(
    "shard", [(2, 2), (-1, 2), (0, 0), (0, -1), (0.0, 2), (True, 2), ("0", "2"), (0,), (0, 1, 2), 1, "0/2", "all", ""]
)
def test_what_makes_no_sense(shard: Any) -> None:
    with pytest.raises(
        ValueError, match=r"shard must be 'auto', None or integers \(rank, count\) with .* not "
    ) as error:
        ranks.resolve(shard)
    assert repr(shard) in str(error.value)
    assert "the last of 4 is (3, 4)" in str(error.value)


def test_torchrun_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert ranks.resolve("auto") == (1, 3)
    assert ranks.resolve(None) == (0, 1)
    assert ranks.resolve((0, 2)) == (0, 2)


@pytest.mark.parametrize(
    ("rank", "size"),
    [("1", None), (None, "2"), ("2", "2"), ("-1", "2"), ("0", "0"), ("one", "2"), ("0", ""), ("0.0", "2")],
)
def test_environment_that_makes_no_sense(rank: str | None, size: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [("RANK", rank), ("WORLD_SIZE", size)]:
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="must be integers with 0 <= RANK < WORLD_SIZE, not ") as error:
        ranks.resolve("auto")
    assert f"RANK={rank!r} and WORLD_SIZE={size!r}: set both as torchrun does" in str(error.value)
    assert ranks.resolve((0, 2)) == (0, 2)  # The next step that it names.


def test_nothing_is_imported_and_the_answer_is_said_once(tmp_path: Path) -> None:
    script = """
        import logging, sys
        logging.basicConfig(level="INFO", stream=sys.stdout, format="%(name)s: %(message)s")
        from gpuload.run import ranks
        for _ in range(2):
            assert ranks.resolve("auto") == (1, 2)
        assert not {"torch", "ray", "jax"} & sys.modules.keys()
    """
    (output,) = run(tmp_path, ["-c", textwrap.dedent(script)], RANK="1", WORLD_SIZE="2")
    expected = "gpuload: shard='auto' is rank 1 of 2, says the environment's RANK and WORLD_SIZE"
    assert output.splitlines() == [expected]


IN_ORDER = """
    import logging, os, sys
    rank, port = int(sys.argv[1]), sys.argv[2]
    import jax, torch.distributed
    from jax._src import xla_bridge
    from gpuload.run import ranks
    logging.getLogger("gpuload").addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger("gpuload").setLevel("INFO")

    # Imported is not initialised; and no device of JAX's is started to find that out.
    assert ranks.resolve("auto") == (0, 1)
    assert not xla_bridge.backends_are_initialized()
    # Each next one goes before those that were there, and tells something else.
    os.environ.update(RANK="5", WORLD_SIZE="7")
    assert ranks.resolve("auto") == (5, 7)
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=1 - rank)
    assert ranks.resolve("auto") == (1 - rank, 2)
    torch.distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/group", rank=rank, world_size=2)
    assert ranks.resolve("auto") == (rank, 2)
    torch.distributed.destroy_process_group()
    assert ranks.resolve("auto") == (1 - rank, 2)
    jax.distributed.shutdown()
    assert ranks.resolve("auto") == (5, 7)
"""


def test_jax_and_torch_in_two_processes(tmp_path: Path) -> None:
    need("jax", "torch")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    outputs = run(tmp_path, *(["-c", textwrap.dedent(IN_ORDER), str(rank), port] for rank in range(2)))
    for rank, output in enumerate(outputs):
        assert [line for line in output.splitlines() if line.startswith("shard=")] == [
            "shard='auto' is rank 0 of 1, since torch.distributed, Ray Train, JAX, the environment's RANK and "
            "WORLD_SIZE say nothing",
            "shard='auto' is rank 5 of 7, says the environment's RANK and WORLD_SIZE",
            f"shard='auto' is rank {1 - rank} of 2, says JAX",
            f"shard='auto' is rank {rank} of 2, says torch.distributed",
        ]


# What follows needs `gpuload.Loader(shard=...)`.


def expected(name: str) -> gpuload.Loader:
    """The loader of one process whose batches are the parts of both ranks, one after the other."""
    what, last_batch = name.split(", ")
    options = {"batch_size": 8, "shuffle": True, "seed": 1, "last_batch": last_batch, "device": "cpu"}
    if what == "windows":
        series = gpuload.Series(VALUES, targets=np.arange(39) - 2)
        return gpuload.Loader(series, gpuload.Window(3), **options)
    count = int(what.split()[0])
    source = gpuload.ImageArray(PIXELS[:count], labels=np.arange(count))
    return gpuload.Loader(source, gpuload.Augment(rescale=1 / 255, hflip=0.5, brightness=(0.5, 1.5)), **options)


def check(name: str, trained: list[dict[str, Any]]) -> None:
    """What two ranks saw, in batches of 4, and how they ended."""
    loader, (size, last_batch) = expected(name), name.split(", ")
    count = 37 if size == "windows" else int(size.split()[0])
    batches = 4 if last_batch == "drop" else 5  # Of 8 samples: 32 are in full ones.
    assert [rank["len"] for rank in trained] == [batches] * 2
    orders = []
    for epochs in zip(*(rank["epochs"] for rank in trained), strict=True):
        assert [len(epoch) for epoch in epochs] == [batches] * 2
        sizes = [[len(batch["labels"]) for batch in epoch] for epoch in epochs]
        # Of each step first what rank 0 saw, then rank 1.
        steps = [batch for step in zip(*epochs, strict=True) for batch in step]
        labels, means = ([value for batch in steps for value in batch[key]] for key in ("labels", "means"))
        if last_batch == "keep":
            assert sorted(labels) == list(range(count))
            # 5 are left of 37. Of 33 it is one, which cannot be parted: the last step takes another from before it.
            assert sizes == {37: [[4, 4, 4, 4, 2], [4, 4, 4, 4, 3]], 33: [[4, 4, 4, 3, 1], [4, 4, 4, 4, 1]]}[count]
        else:
            assert sizes == [[4] * batches] * 2
            times = collections.Counter(collections.Counter(labels).values())
            assert times == ({1: 32} if last_batch == "drop" else {1: 2 * count - 40, 2: 40 - count})
        whole = list(loader)  # The same samples, in this order and augmented alike.
        assert labels == np.concatenate([labels for _, labels in whole]).tolist()
        # Sums of up to 144 float32, added up in another order.
        means_of_whole = [inputs.reshape(len(inputs), -1).mean(1) for inputs, _ in whole]
        np.testing.assert_allclose(means, np.concatenate(means_of_whole), rtol=1e-5)
        orders.append(labels)
    assert len(orders) == 3
    assert all(one != other for one, other in itertools.combinations(orders, 2))
    first, second = (np.array(rank["parameters"]) for rank in trained)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


def results(folder: Path) -> list[Any]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def said(folder: Path, rank: int) -> list[str]:
    """Where the process of this rank has its number from."""
    lines = (folder / f"{rank}.log").read_text().splitlines()
    return [line for line in lines if line.startswith("shard=")]


def test_torchrun(tmp_path: Path) -> None:
    """Images and windows of every policy, with DistributedDataParallel."""
    need("torch")
    np.savez(tmp_path / "data.npz", pixels=PIXELS, values=VALUES)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run(tmp_path, [*launch, PROGRAMS / "ddp.py", tmp_path])
    both = results(tmp_path)
    names = [
        f"{what}, {policy}" for what in ("windows", "37 images", "33 images") for policy in ("keep", "drop", "pad")
    ]
    assert [list(rank) for rank in both] == [names] * 2
    for name in names:
        check(name, [rank[name] for rank in both])
    for rank in range(2):
        assert said(tmp_path, rank) == [
            f"shard='auto' is rank {rank} of 2, says the environment's RANK and WORLD_SIZE",
            f"shard='auto' is rank {rank} of 2, says torch.distributed",
        ]


@pytest.mark.slow
def test_ray_train(tmp_path: Path) -> None:
    """Two workers: with a process group of PyTorch's, and without one."""
    need("ray", "torch")
    np.savez(tmp_path / "data.npz", pixels=PIXELS)
    run(tmp_path, [PROGRAMS / "ray_train.py", tmp_path])
    both = results(tmp_path)
    check("37 images, keep", [rank["37 images, keep"] for rank in both])
    assert [rank["without a process group"] for rank in both] == [[0, 2], [1, 2]]
    for rank in range(2):
        assert said(tmp_path, rank) == [
            f"shard='auto' is rank {rank} of 2, says torch.distributed",
            f"shard='auto' is rank {rank} of 2, says Ray Train",
        ]
    assert json.loads((tmp_path / "driver.json").read_text()) == [0, 1]  # Which is no worker.


@pytest.mark.parametrize("last_batch", ["keep", "drop", "pad"])
@pytest.mark.parametrize("count", [2, 3])
def test_windows_by_torchrun_environment(last_batch: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in this process: together they are the windows of one loader."""
    series = gpuload.Series(VALUES, targets=np.arange(39) - 2)
    options = {"shuffle": True, "seed": 3, "last_batch": last_batch, "device": "cpu"}
    whole = gpuload.Loader(series, gpuload.Window(3), batch_size=5 * count, **options)
    monkeypatch.setenv("WORLD_SIZE", str(count))
    loaders = []
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        loaders.append(gpuload.Loader(series, gpuload.Window(3), batch_size=5, shard="auto", **options))
    for _ in range(2):
        steps = list(zip(*loaders, strict=True))
        assert {len(loader) for loader in loaders} == {len(steps)}
        parts = [part for step in steps for part in step]
        assert min(len(labels) for _, labels in parts) > 0
        for got, wanted in zip(zip(*parts, strict=True), zip(*whole, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(got), np.concatenate(wanted))


def test_ranks_need_a_seed_and_a_sample_each() -> None:
    source = gpuload.ImageArray(PIXELS, labels=np.arange(37))
    with pytest.raises(ValueError, match="seed must be given with 2 ranks, the same in all of them, not None"):
        gpuload.Loader(source, gpuload.Augment(), batch_size=4, shard=(0, 2), device="cpu")
    with pytest.raises(ValueError, match="last_batch='keep' cannot part 37 samples among 2 ranks in batches of 1 each"):
        gpuload.Loader(source, gpuload.Augment(), batch_size=1, shard=(0, 2), seed=1, device="cpu")
    with pytest.raises(ValueError, match=r"shard must be 'auto', None or integers .* not \(2, 2\)"):
        gpuload.Loader(source, gpuload.Augment(), batch_size=4, shard=(2, 2), seed=1, device="cpu")
