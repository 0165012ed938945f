"""The kernels of windows: they compile for every GPU, and the engine gives what the reference gives.

g++ compiles the same source for the host, where it runs behind the runtime that engines use (tests/cuda_host), and once
more under that compiler's sanitizers.
"""

import gc
import itertools
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import cuda_host
import numpy as np
import pytest
from cuda_host import nvrtc, sanitizers
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from gpuload.core import device as cuda
from gpuload.core.codes import TYPES
from gpuload.delivery import CUPY_ALLOCATOR
from gpuload.gpu import compile as compiling
from gpuload.gpu import launch as gpu_launch
from gpuload.gpu.staging import SPARE
from gpuload.sources import Series
from gpuload.windows import resident
from gpuload.windows.device import WindowCupyEngine
from gpuload.windows.index import Windows
from gpuload.windows.job import WindowJob
from gpuload.windows.kernel import COPY, WINDOW, kernel_of
from gpuload.windows.launch import Launcher
from gpuload.windows.reference import Cutter, WindowNumpyEngine
from gpuload.windows.window import Window

ml_dtypes = pytest.importorskip("ml_dtypes")

WHOLE = ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
FLOATING = ["float16", "bfloat16", "float32", "float64"]
KERNELS = Path(__file__).parents[1] / "kernels"
SEED = 2**40 + 5  # Both words of the key of the noise are used.

needs_compiler = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")


def dtype_named(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def variants():
    """Return every source and set of options that the launcher can ask for."""
    found = set()
    windows = [{"mean": 1.0}, {}, {"extras": ("mask",)}, {"layout": "BCL"}, {"layout": "BCL", "extras": ("mask",)}]
    for name, window, out in itertools.product(WHOLE + FLOATING, windows, [None, "float32", "float16", "bfloat16"]):
        series = Series(np.zeros((6, 2), dtype_named(name)))
        kernel = kernel_of(WindowJob(series, Window(2, dtype=out, **window)))
        found.add((kernel.source, kernel.options))
    return sorted(found)


# Compiling ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="the sanitizer is for what runs on the host")
@pytest.mark.skipif(not nvrtc.available(), reason="neither NVRTC (pip install nvidia-cuda-nvrtc) nor nvcc is installed")
@pytest.mark.parametrize("jobs", [pytest.param(jobs, marks=pytest.mark.slow) for jobs in (nvrtc.spread, nvrtc.every)])
def test_every_variant_compiles_and_spills_nothing(jobs):
    """CuPy compiles in the user's process: errors, and registers kept in memory, must show here.

    Every variant is compiled for one architecture, and a type for as many architectures as it has variants. The slow
    test compiles every variant for every architecture.
    """
    made = [options for source, options in variants() if source == "window.cu"]
    assert len(made) > 40
    found = jobs("window.cu", made)
    for macro, kinds in (("IN", FLOATING + WHOLE), ("OUT", ["float16", "bfloat16", "float32"])):
        for option in {f"-D{macro}={TYPES[kind]}" for kind in kinds}:
            seen = [job.architecture for job in found if option in job.options]
            assert len(set(seen)) == min(len(seen), len(nvrtc.ARCHITECTURES)), option
    nvrtc.assert_clean([*found, *nvrtc.every("window_copy.cu", [gpu_launch.options()])])


def fields(dtype, prefix=""):
    """Name and offset of every field of a structure, those inside others too."""
    for name, (inner, offset, *_) in dtype.fields.items():
        yield prefix + name, offset
        if inner.fields:
            yield from ((f"{prefix}{name}.{below}", offset + at) for below, at in fields(inner))


@needs_compiler
def test_both_sides_lay_out_the_parameters_alike():
    source = compiling.kernel_source("window_copy.cu")
    checks = [f"static_assert(sizeof(Window) == {WINDOW.itemsize} && sizeof(Copy) == {COPY.itemsize});"]
    checks += [f'static_assert(offsetof(Window, {name}) == {offset}, "{name}");' for name, offset in fields(WINDOW)]
    assert len(checks) > 100
    code = cuda_host.host_source("window_copy.cu") + "\n".join(checks)
    cuda_host.compile_host("-fsyntax-only", "-x", "c++", "-", code=code)
    # As many members as fields: none is left out.
    for structure, dtype in (("Window", WINDOW), ("Copy", COPY)):
        body = re.search(rf"^struct {structure} {{(.*?)^}};", source, re.M | re.S)[1]
        members = re.findall(r"(\w+);", re.sub("//.*", "", body))
        assert members == list(dtype.names)


# The engine against the reference -------------------------------------------------------------------------------------


def numpy_of(array):
    """Return an array of an engine in NumPy."""
    if array is None or isinstance(array, np.ndarray):
        return array
    return array.numpy() if isinstance(array, cuda_host.HostArray) else array.get()


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, array.dtype.itemsize)


def assert_equal(found, wanted, *, nan_is_nan):
    """Compare bit by bit, but let NaN have any bits if numbers were computed."""
    same = (bits(found) == bits(wanted)).all(axis=1)
    if nan_is_nan and wanted.dtype.kind not in "biu":
        same |= np.isnan(found.ravel()) & np.isnan(wanted.ravel())
    if not same.all():
        np.testing.assert_array_equal(found, wanted)
        raise AssertionError(f"bits differ at {np.flatnonzero(~same)}")


def assert_cut(found, wanted, job, step):
    """Numbers made one by one are equal. Statistics differ by the order of a sum, and noise by the last digits of a
    logarithm and a cosine."""
    window = job.window
    exact = window.per_sample is None and not window.jitter
    largest = 1.0
    if not exact and job.dtype.kind in "iu":
        largest = float(np.iinfo(job.dtype).max)
    elif not exact:
        values = np.asarray(job.series.values).astype(float)
        largest = max(1.0, float(np.abs(values[np.isfinite(values)]).max(initial=0)))
    factor = 1.0 if step.factors is None else max(1.0, float(step.factors.max()))
    # A sum of some hundred terms is good to about 1e-5 of the values' size in float32; normalized values are within
    # 12, the square root of the longest window here.
    digit = 1e-5 if np.dtype(job.compute_dtype) == np.float32 else 1e-12
    # The reference rounds the angle of a normal number to float32, whose last digit at 2 pi is 5e-7; the largest radius
    # is 5.8.
    tolerance = 5e-6 * window.jitter + factor * digit * (largest if window.per_sample != "standardize" else 12)
    own = job.target_channels is not None
    for name in ("inputs", "targets", "mask", "mean", "scale", "start"):
        a, b = numpy_of(getattr(found, name)), getattr(wanted, name)
        if b is None:
            assert a is None, name
            continue
        cast = name == "inputs" or (name == "targets" and own)
        if cast and job.out_dtype == "bfloat16":
            with np.errstate(over="ignore"):
                b = b.astype(ml_dtypes.bfloat16)
        assert a.shape == b.shape, name
        assert a.dtype == b.dtype, name
        if exact or name in ("mask", "start") or (name == "targets" and not own):
            assert_equal(a, b, nan_is_nan=cast and not job.plain)
            continue
        rounding = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(job.out_dtype, 0.0) if cast else 0.0
        few = 1e-5 if job.compute_dtype == np.float32 else 1e-6  # mean and scale are float32 in the end.
        np.testing.assert_allclose(
            a.astype(np.float64),
            b.astype(np.float64),
            rtol=rounding if cast else few,
            atol=(tolerance if cast else digit * largest * factor) + (6e-8 if rounding else 0),
            err_msg=name,
        )


def steps_of(job, *, batch, seed=0, position=2**33):
    """Return a step of random windows of the series and its last one, behind which other memory lies."""
    windows = Windows(job.window, job.series.segments, bounds=job.series.bounds, has_targets=job.has_targets)
    indices = np.random.default_rng(seed).integers(0, len(windows), batch)
    indices[seed % batch] = len(windows) - 1
    return windows.step(indices, seed=SEED, epoch=3, first=position)


def engine_for(device, job, *, residency="device", threads=16, skew=0):
    """Return the engine, on the host or on a GPU, and a function that closes it and its device."""
    if device == "cpu":
        runtime = cuda_host.HostRuntime(threads)
        engine = WindowCupyEngine(
            job, device=cuda.CPU, allocator=cuda_host.allocator(skew), residency=residency, threads=2, runtime=runtime
        )
    else:
        runtime = None
        engine = WindowCupyEngine(
            job, device=cuda.resolve(device), allocator=CUPY_ALLOCATOR, residency=residency, threads=2
        )

    def close():
        engine.close()
        if runtime is not None:
            runtime.close()

    return engine, close


def check(device, job, *, batch=5, seed=0, **options):
    step = steps_of(job, batch=batch, seed=seed)
    wanted = Cutter(job)(step)
    engine, close = engine_for(device, job, **options)
    try:
        engine.submit(step)
        assert_cut(engine.result(), wanted, job, step)
    finally:
        close()


@pytest.fixture(scope="session")
def builds():
    """All variants for the host, built at once."""
    if cuda_host.COMPILER is None:
        pytest.skip("g++ is not installed")
    if not cuda_host.SANITIZER:
        cuda_host.build_all(variants())


@pytest.fixture
def where(device, request):
    """The device; on the host, with its builds."""
    if device == "cpu":
        request.getfixturevalue("builds")
    else:
        pytest.importorskip("cupy")
    return device


def values_of(rng, dtype, shape, *, missing=0.0, infinite=False):
    """Random numbers: whole ones over their whole range, others eighths with many different sizes."""
    dtype = dtype_named(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    values = np.round(rng.normal(0, 40, shape)) / 8
    values[rng.random(shape) < missing] = np.nan
    if infinite:
        values[rng.random(shape) < 0.1] = np.inf
        values[rng.random(shape) < 0.1] *= 1e4
    with np.errstate(over="ignore"):
        return values.astype(dtype)


@st.composite
def jobs(draw):
    """Any small job."""
    few = bool(cuda_host.SANITIZER)  # Variants take long to build then. All entry points occur.
    kinds = ["float32", "float16", "float64", "int16"] if few else FLOATING * 3 + WHOLE
    dtype = draw(st.sampled_from(kinds))
    item = draw(st.sampled_from([(), (1,), (2,), (3,), (4,), (7,), (2, 4), (33,), (40,)]))
    length = draw(st.one_of(st.integers(1, 40), st.integers(60, 130)))
    dilation, horizon = draw(st.integers(1, 3)), draw(st.sampled_from([0, 0, 1, 2, 5, 20]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    floating = dtype in FLOATING
    window = {"dilation": dilation, "horizon": horizon, "layout": draw(st.sampled_from(["BLC", "BCL", "LBC"]))}
    if floating:
        window["missing"] = draw(st.sampled_from(["keep", "zero", "forward", "forward"]))
    normalize = draw(st.sampled_from(["no", "no", "center", "standardize", "series"]))
    channels = int(np.prod(item))
    if normalize == "series":
        window["mean"] = rng.normal(size=channels).tolist()
        window["std"] = draw(st.sampled_from([None, 3.0, (1 + rng.random(channels)).tolist()]))
    elif normalize != "no":
        window["per_sample"] = normalize
    if draw(st.booleans()):
        window["scaling"] = draw(st.sampled_from([0.0, 0.3]))
        window["jitter"] = draw(st.sampled_from([0.0, 0.5]))
        window["reverse"] = draw(st.sampled_from([0.0, 0.5]))
        window["zoom"] = draw(st.sampled_from([0.0, 0.4]))
    window["dtype"] = None if few else draw(st.sampled_from([None, None, "float32", "float16", "bfloat16"]))
    extras = ["mask", "start"] + (["mean", "scale"] if "per_sample" in window else [])
    window["extras"] = draw(st.lists(st.sampled_from(extras), unique=True))
    if not horizon:
        window["target"] = draw(st.sampled_from([None, "start", "end", "after"]))
    rows = (length + horizon) * dilation + 50
    targets = None
    kind = draw(st.sampled_from(["none", "raw", "channels"]))
    if kind == "raw":
        shape = draw(st.sampled_from([(), (1,), (3,), (2, 2), (16,)]))
        targets = values_of(
            rng, draw(st.sampled_from(["int64", "float32", "uint8", "bool", "float16"])), (rows, *shape)
        )
    elif kind == "channels":
        window["target_channels"] = draw(st.lists(st.integers(0, channels - 1), min_size=1, max_size=9))
    share = draw(st.sampled_from([0.1, 0.5, 0.9, 0.0, 1.0])) if floating else 0
    infinite = normalize in ("no", "series") and not window.get("jitter") and draw(st.booleans())
    values = values_of(rng, dtype, (rows, *item), missing=share, infinite=infinite)
    how = draw(st.sampled_from(["plain", "plain", "plain", "fortran", "every other", "backwards"]))
    if how == "fortran":
        values = np.asfortranarray(values)
    elif how == "every other":
        values = np.repeat(values, 2, axis=0)[::2]
    elif how == "backwards":
        values = values[::-1]
    bounds = {}
    if draw(st.booleans()):
        bounds["segments"] = [(3, rows - 2)]
    job = WindowJob(Series(values, targets, **bounds), Window(length, **window))
    event(kernel_of(job).name)
    return job


EXAMPLES = 60 if cuda_host.SANITIZER else 400


@settings(max_examples=EXAMPLES)
@given(
    job=jobs(),
    batch=st.integers(1, 9),
    seed=st.integers(0, 99),
    threads=st.sampled_from([4, 8, 32] if cuda_host.SANITIZER else [4, 16, 16, 16, 64]),
    residency=st.sampled_from(["device", "device", "host"]),
    skew=st.sampled_from([0, 0, 1]),
)
def test_any_job_is_what_the_reference_makes(where, job, batch, seed, threads, residency, skew):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Infinity minus infinity, in the reference.
        try:
            step = steps_of(job, batch=batch, seed=seed)
        except ValueError as error:
            assume("too long" not in str(error))
            raise
        wanted = Cutter(job)(step)
    engine, close = engine_for(where, job, residency=residency, threads=threads, skew=skew)
    try:
        engine.submit(step)
        assert_cut(engine.result(), wanted, job, step)
    finally:
        close()


@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="each variant is built when it is first met")
@pytest.mark.parametrize("name", WHOLE + FLOATING)
def test_every_dtype_becomes_every_other_as_numpy_casts(where, name):
    """Values overflow float16, and lie halfway between two numbers, so that two roundings show."""
    rng = np.random.default_rng(0)
    values = values_of(rng, name, (400, 3), missing=0.1, infinite=True)
    if name in ("float32", "float64"):
        around = np.arange(1, 301, dtype=np.float64) * 2.0**-11 + 1
        tie = around + rng.choice([-(2.0**-40), 0, 2.0**-40], 300)  # float32 rounds these onto float16's ties.
        values[:300, 0] = np.float32(tie) if name == "float32" else tie
        values[:100, 1] = np.arange(100) * 2.0**-26  # Below float16's least normal number.
        values[100:200, 1] = 65500 + np.arange(100)
    for out, extra in itertools.product([None, "float32", "float16", "bfloat16"], [{}, {"mean": 0.0}]):
        for layout in ("BLC", "BCL"):
            job = WindowJob(Series(values), Window(12, dtype=out, layout=layout, extras=("mask",), **extra))
            with np.errstate(over="ignore"):
                check(where, job, batch=30)


SHAPES = {
    "longer than shared memory": (Window(20_000, per_sample="standardize", missing="forward", extras=("mean",)), 2),
    "longer than shared memory, stretched": (
        Window(20_000, per_sample="center", missing="forward", zoom=0.5, reverse=0.5, layout="BCL", extras=("mask",)),
        2,
    ),
    "a tile of some channels": (Window(700, per_sample="standardize", extras=("mean", "scale")), 29),
    "two tiles of channels": (Window(40, per_sample="standardize", layout="BCL", horizon=7, jitter=0.1), 50),
    "channels of two tiles as targets": (
        Window(40, per_sample="standardize", layout="BCL", horizon=7, target_channels=(49, 0, 33, 33, 31)),
        50,
    ),
    "several shares, number by number": (Window(9000, mean=1.0, jitter=0.5, missing="zero", extras=("mask",)), 3),
    "several shares, copied": (Window(40_000), 7),
    "several shares of pieces": (Window(5000, dilation=2, extras=("start",)), 7),
    "time last, several shares": (Window(1000, layout="BCL"), 5),
    "time second": (Window(3000, layout="LBC", mean=0.5, horizon=100), 5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_large_windows_are_shared_out_among_blocks(where, name):
    window, channels = SHAPES[name]
    rng = np.random.default_rng(1)
    rows = (window.length + window.horizon) * window.dilation + 100
    values = values_of(rng, "float32", (rows, channels), missing=0.05)
    values[200:4000:3] = np.nan
    values[5000:9000, 0] = np.nan
    check(where, WindowJob(Series(values), window), batch=3, threads=16)


@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="a block of 256 threads takes a sanitizer long")
@pytest.mark.parametrize("length", [1, 20, 200])
@pytest.mark.parametrize("batch", [1, 33])
def test_blocks_of_full_size(where, length, batch):
    """Blocks have as many threads as on a GPU, and several windows."""
    rng = np.random.default_rng(2)
    values = values_of(rng, "float32", (400, 3), missing=0.2)
    for window in (
        Window(length, per_sample="standardize", missing="forward", zoom=0.3, jitter=0.2, horizon=3),
        Window(length, mean=1.0, horizon=3, extras=("mask", "start")),
        Window(length, horizon=3),
    ):
        check(where, WindowJob(Series(values), window), batch=batch, threads=256)


@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="a sanitizer keeps a shadow of all of it")
def test_rows_beyond_two_to_the_31st_element(where, tmp_path):
    """Windows at the end of a sparse file, of which the host keeps only the pages that are read."""
    rows, channels = 2**31 // 4 + 1000, 4
    values = np.memmap(tmp_path / "large", np.int8, "w+", shape=(rows, channels))
    values[-200:] = np.arange(800).reshape(200, 4) % 127
    series = Series(values)
    for window in (Window(50), Window(50, mean=1.0), Window(50, per_sample="center")):
        job = WindowJob(series, window)
        windows = Windows(window, series.segments, has_targets=job.has_targets)
        step = windows.step(np.arange(len(windows) - 5, len(windows)), seed=0, epoch=0, first=0)
        if where == "cpu":  # The address of the map itself, in place of a copy of it.
            runtime = cuda_host.HostRuntime(16)
            held = resident.Resident(values, values.ctypes.data, channels)
            resident.residents.setdefault(series, {})[runtime.name, "values"] = held
            engine = WindowCupyEngine(
                job, device=cuda.CPU, allocator=cuda_host.allocator(), residency="device", threads=1, runtime=runtime
            )
            engine.submit(step)
            found = engine.result()
            runtime.close()
            assert not runtime.uploads or window.mean is not None
        else:
            engine, _ = engine_for(where, job)
            engine.submit(step)
            found = engine.result()
        engine.close()
        assert_cut(found, Cutter(job)(step), job, step)


def test_noise_is_the_plans_in_every_layout(where):
    rng = np.random.default_rng(3)
    values = values_of(rng, "float64", (300, 5))
    for layout, reverse in itertools.product(("BLC", "BCL", "LBC"), (0.0, 1.0)):
        window = Window(31, jitter=2.0, layout=layout, reverse=reverse)
        check(where, WindowJob(Series(values), window), batch=4)


# The engine -----------------------------------------------------------------------------------------------------------


RICH = Window(24, horizon=4, per_sample="standardize", jitter=0.1, zoom=0.2, extras=("mask", "mean", "scale", "start"))


@pytest.fixture
def series():
    return Series(values_of(np.random.default_rng(4), "float32", (500, 3), missing=0.1))


@pytest.mark.parametrize("residency", ["device", "host", "auto"])
@pytest.mark.parametrize("window", [Window(24), Window(24, target="end", extras=("start",)), RICH], ids=repr)
def test_many_steps_ahead_are_those_of_the_numpy_engine(where, series, window, residency):
    """And batches that are held do not change."""
    job = WindowJob(series, window)
    reference = WindowNumpyEngine(job, threads=2)
    engine, close = engine_for(where, job, residency=residency)
    steps = [steps_of(job, batch=4 + n % 3, seed=n, position=10 * n) for n in range(20)]
    held = []
    try:
        for n, step in enumerate(steps):
            engine.submit(step)
            reference.submit(step)
            if n >= 3:
                held.append((engine.result(), reference.result(), steps[n - 3]))
        assert engine.pending == 3
        while engine.pending:
            held.append((engine.result(), reference.result(), steps[len(held)]))
        for found, wanted, step in held:
            assert_cut(found, wanted, job, step)
    finally:
        close()
        reference.close()


@pytest.mark.usefixtures("builds")
def test_a_step_is_one_copy_and_one_launch(series):
    for residency, window in itertools.product(("device", "host"), (Window(24), RICH)):
        job = WindowJob(series, window)
        runtime = cuda_host.HostRuntime(16)
        engine = WindowCupyEngine(
            job, device=cuda.CPU, allocator=cuda_host.allocator(), residency=residency, threads=1, runtime=runtime
        )
        engine.submit(steps_of(job, batch=4))
        engine.result()
        assert (runtime.copies, runtime.launches) == (1, 1)
        engine.close()
        runtime.close()


@pytest.mark.parametrize("residency", ["device", "host"])
@pytest.mark.usefixtures("builds")
def test_buffers_are_used_again_only_when_they_were_read(series, residency):
    """Steps queued on a stream of the caller while the device stands still come out right."""
    job = WindowJob(series, Window(24, target="end", extras=("start",)))
    runtime = cuda_host.HostRuntime(16)
    engine = WindowCupyEngine(
        job, device=cuda.CPU, allocator=cuda_host.allocator(), residency=residency, threads=2, runtime=runtime
    )
    steps = [steps_of(job, batch=4, seed=n) for n in range(4)]
    runtime.gate.clear()
    found = []
    for step in steps:
        engine.submit(step)
        found.append(engine.result(7))
    assert runtime.pinned_buffers == 4
    runtime.gate.set()
    runtime.finish(7)
    for cut, step in zip(found, steps, strict=True):
        assert_cut(cut, Cutter(job)(step), job, step)
    for n in range(30):
        engine.submit(steps_of(job, batch=4, seed=n))
        engine.result()
    assert runtime.pinned_buffers == 4
    engine.close()
    runtime.close()


@pytest.mark.usefixtures("builds")
@pytest.mark.parametrize("residency", ["device", "host"])
def test_no_more_buffers_than_a_few_wait_for_the_device(series, residency):
    """A caller that never looks at a batch, while the device stands still, does not fill the host's memory."""
    job = WindowJob(series, Window(24, target="end", extras=("start",)))
    runtime = cuda_host.HostRuntime(16)
    engine = WindowCupyEngine(
        job, device=cuda.CPU, allocator=cuda_host.allocator(), residency=residency, threads=2, runtime=runtime
    )
    runtime.gate.clear()
    threading.Timer(0.5, runtime.gate.set).start()
    cuts = []
    for n in range(60):
        engine.submit(steps_of(job, batch=4, seed=n))
        cuts.append(engine.result(7))
    assert runtime.pinned_buffers <= 1 + SPARE
    runtime.finish(7)
    for n, cut in enumerate(cuts):
        step = steps_of(job, batch=4, seed=n)
        assert_cut(cut, Cutter(job)(step), job, step)
    engine.close()
    runtime.close()


def test_discarded_steps_leave_no_trace(where, series):
    for residency in ("device", "host"):
        job = WindowJob(series, RICH)
        engine, close = engine_for(where, job, residency=residency)
        for n in range(5):
            engine.submit(steps_of(job, batch=4, seed=n))
        engine.discard()
        assert engine.pending == 0
        step = steps_of(job, batch=6, seed=9)
        engine.submit(step)
        assert_cut(engine.result(), Cutter(job)(step), job, step)
        close()


@pytest.mark.parametrize("residency", ["device", "host"])
def test_mapped_files(where, tmp_path, residency):
    """Files of the other byte order work too; a file that was cut short raises."""
    values = values_of(np.random.default_rng(5), "float32", (300, 3))
    for order in ("<f4", ">f4"):
        np.save(tmp_path / "values.npy", values.astype(order))
        series = Series(tmp_path / "values.npy", targets=np.arange(300))
        job = WindowJob(series, Window(10, dilation=2))
        engine, close = engine_for(where, job, residency=residency)
        step = steps_of(job, batch=4)
        engine.submit(step)
        assert_cut(engine.result(), Cutter(job)(step), job, step)
        if residency == "host":
            os.truncate(tmp_path / "values.npy", 400)
            engine.submit(step)
            with pytest.raises(RuntimeError, match="values must keep their length while they are mapped"):
                engine.result()
            engine.submit(step)
            with pytest.raises(RuntimeError, match="values must keep their length"):
                engine.result()
        close()


@pytest.mark.usefixtures("builds")
def test_a_series_is_uploaded_once_and_freed_with_it():
    runtime = cuda_host.HostRuntime(16)
    series = Series(values_of(np.random.default_rng(6), "float32", (300, 3)), targets=np.arange(300))

    def engine(series, window):
        return WindowCupyEngine(
            WindowJob(series, window),
            device=cuda.CPU,
            allocator=cuda_host.allocator(),
            residency="device",
            threads=1,
            runtime=runtime,
        )

    engines = [engine(series, Window(10)), engine(series, Window(20, layout="LBC"))]
    assert runtime.uploads == 2
    before = len(resident.residents)
    engines.clear()
    del series
    gc.collect()
    assert len(resident.residents) == before - 1
    runtime.close()


@pytest.mark.usefixtures("builds")
def test_a_series_that_is_too_large_for_the_device_stays_on_the_host(series):
    for free, residency in ((2 * 500 * 3 * 4, "device"), (2 * 500 * 3 * 4 - 1, "host")):
        runtime = cuda_host.HostRuntime(16, free=free)
        engine = WindowCupyEngine(
            WindowJob(series, Window(10)), device=cuda.CPU, allocator=cuda_host.allocator(), threads=1, runtime=runtime
        )
        assert engine.residency == residency
        engine.close()
        runtime.close()


def test_what_no_gpu_can_do_raises():
    named = Series(np.zeros((20, 2), np.float32), targets=np.array(["a", "b"] * 10))
    with pytest.raises(ValueError, match=r"targets must be numbers of at most 16 bytes .* are <U1: .*np\.unique"):
        engine_for("cpu", WindowJob(named, Window(3)))
    wide = Series(np.broadcast_to(np.zeros((1, 1), np.int8), (2**20, 1000)))
    with pytest.raises(ValueError, match=r"length=1000000 and horizon=0 are too large for engine='cupy': .*1000 chan"):
        Launcher(WindowJob(wide, Window(1_000_000)))


# Sanitizers -----------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="runs under a sanitizer already")
@pytest.mark.parametrize(
    ("sanitizer", "tests"),
    [
        ("address,undefined", "any_job or large_windows or noise or many_steps"),
        ("thread", "any_job or large_windows"),
    ],
)
def test_nothing_is_read_or_written_astray_and_no_threads_race(sanitizer, tests):
    """The tests above once more, in a process that has the sanitizer's library loaded."""
    sanitizers.run_under(sanitizer, __file__, tests)


# Finding devices and kernels ------------------------------------------------------------------------------------------

FAKES = {
    "libcuda.so.1": r"""
#include <cstdio>
extern "C" int cuInit(unsigned) { std::puts("cuInit"); return 0; }
extern "C" int cuDeviceGetCount(int *count) { *count = 5; return 0; }
""",
    "libnvidia-ml.so.1": r"""
#include <cstdio>
#include <cstdint>
extern "C" int nvmlInit_v2() { return 0; }
extern "C" int nvmlShutdown() { return 0; }
extern "C" int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
extern "C" int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = reinterpret_cast<void *>(std::uintptr_t(index + 1));
    return 0;
}
extern "C" int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    std::snprintf(text, size, "GPU-%c0ffee", int('a' - 1 + reinterpret_cast<std::uintptr_t>(device)));
    return 0;
}
""",
}


@needs_compiler
@pytest.mark.parametrize(
    ("libraries", "visible", "printed"),
    [
        (["libcuda.so.1", "libnvidia-ml.so.1"], None, "3"),
        (["libcuda.so.1", "libnvidia-ml.so.1"], "", "0"),
        (["libcuda.so.1", "libnvidia-ml.so.1"], "-1", "0"),
        (["libcuda.so.1", "libnvidia-ml.so.1"], "2,1", "2"),
        (["libcuda.so.1", "libnvidia-ml.so.1"], "GPU-b0,GPU-a0ffee,GPU-z", "2"),
        (["libcuda.so.1", "libnvidia-ml.so.1"], "MIG-b0", "cuInit\n5"),
        (["libcuda.so.1"], None, "cuInit\n5"),
        (["libnvidia-ml.so.1"], None, "0"),
    ],
)
def test_devices_are_counted_without_beginning_cuda(tmp_path, libraries, visible, printed):
    """`cuInit` is the call after which a forked process cannot use CUDA."""
    for library in libraries:
        (tmp_path / "fake.cpp").write_text(FAKES[library])
        subprocess.run(
            [cuda_host.COMPILER, "-shared", "-fPIC", tmp_path / "fake.cpp", "-o", tmp_path / library], check=True
        )
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    environment["LD_LIBRARY_PATH"] = str(tmp_path)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    if len(libraries) < 2 and cuda.device_count():
        pytest.skip("the machine's own driver would be found")
    code = "from gpuload.core import device; print(device.device_count())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == printed.split()


def test_a_kernel_without_cupy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"kernels on a GPU need CuPy, .*: pip install 'gpuload\[cuda13\]'"):
        compiling.kernel("window.cu", "window_copy", ("-DNOT_COMPILED_YET",), cuda.Device(0))


@needs_compiler
def test_a_source_is_one_text_whose_lines_keep_their_places():
    """Each file stands in it once, and a compiler's message names the file and line of an error."""
    text = compiling.kernel_source("window.cu")
    assert "#include" not in text
    assert text.count("typedef unsigned char u8;") == text.count("MISSING_FORWARD = 2") == 1
    options = [option for option in gpu_launch.options(IN="none", OUT="f32", COMPUTE="f32") if "-D" in option]
    with pytest.raises(RuntimeError) as raised:
        cuda_host.compile_host("-fsyntax-only", *options, "-x", "c++", "-", code=cuda_host.host_source("window.cu"))
    places = set(re.findall(r"^(\S+):(\d+):\d+: note: in expansion of macro .IN.", str(raised.value), re.M))
    assert {"window.cu", "window/element.cuh", "window/tile.cuh"} <= {file for file, _ in places}
    for file, line in places:
        assert re.search(r"\bIN\b", (KERNELS / file).read_text().splitlines()[int(line) - 1]), (file, line)


def test_a_missing_source_says_so():
    with pytest.raises(FileNotFoundError, match=r"kernels/none\.cu is neither beside nor in .*: install gpuload again"):
        compiling.kernel_source("none.cu")


@pytest.mark.gpu
def test_a_source_that_does_not_compile_names_the_line(device):
    if device == "cpu":
        pytest.skip("only CuPy compiles")
    with pytest.raises(RuntimeError, match=r"kernels/window\.cu does not compile for cuda:0 with .*-DIN=none.*error"):
        compiling.kernel("window.cu", "window_map", gpu_launch.options(IN="none"), cuda.resolve(device))
