"""The kernels of images: they compile for every GPU, and make what SciPy, Pillow and NumPy make.

As in `test_kernels`, g++ compiles the same source for the host, where it runs behind the runtime that the augmenter
uses, and once more under that compiler's sanitizers.
"""

import gc
import itertools
import re
import threading
import time
import weakref
from typing import NamedTuple

import cuda_host
import numpy as np
import pytest
from cuda_host import nvrtc, sanitizers
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gpuload.core import device as cuda
from gpuload.delivery import CUPY_ALLOCATOR, Allocator
from gpuload.gpu import compile as compiling
from gpuload.gpu import runtime as cupy_runtime
from gpuload.gpu.launch import options
from gpuload.gpu.staging import SPARE
from gpuload.gpu.store import TRANSFER, DeviceStore, Uploader, pitch
from gpuload.images import reference as image_numpy
from gpuload.images.augment import Augment
from gpuload.images.device import CupyAugmenter
from gpuload.images.step import Step
from gpuload.images.warp import WARP, Warper, placements

ml_dtypes = pytest.importorskip("ml_dtypes")

DTYPES = ("float32", "float16", "bfloat16", "uint8")
COLORS = {1: "grayscale", 3: "rgb", 4: "rgba"}

needs_compiler = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")


def variants():
    """Return every set of options of warp.cu."""
    made = (
        Warper(Augment(dtype=dtype), (2, 2, channels), source).options
        for source, dtype, channels in itertools.product(("uint8", "float32"), DTYPES, (1, 2, 3, 4, 7))
    )
    return list(dict.fromkeys(made))


# Compiling ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="the sanitizer is for what runs on the host")
@pytest.mark.skipif(not nvrtc.available(), reason="neither NVRTC (pip install nvidia-cuda-nvrtc) nor nvcc is installed")
@pytest.mark.parametrize("jobs", [nvrtc.spread, pytest.param(nvrtc.every, marks=pytest.mark.slow)])
def test_every_variant_compiles_and_spills_nothing(jobs):
    """CuPy compiles in the user's process: errors, and registers kept in memory, must show here.

    Every variant is compiled for one architecture, and every option for every architecture. The slow test compiles
    every variant for every architecture.
    """
    assert len(variants()) == 2 * 4 * 3
    found = jobs("warp.cu", variants())
    for architecture in nvrtc.ARCHITECTURES:
        seen = {option for job in found if job.architecture == architecture for option in job.options}
        assert seen == {option for made in variants() for option in made}
    nvrtc.assert_clean([*found, *nvrtc.every("copy.cu", [options()])])


@needs_compiler
@pytest.mark.parametrize(("file", "structure", "dtype"), [("warp.cu", "Warp", WARP), ("copy.cu", "Transfer", TRANSFER)])
def test_both_sides_lay_out_the_parameters_alike(file, structure, dtype):
    source = compiling.kernel_source(file)
    checks = [f"static_assert(sizeof({structure}) == {dtype.itemsize});"]
    checks += [
        f'static_assert(offsetof({structure}, {name}) == {offset} && sizeof({structure}::{name}) == {size}, "");'
        for name, (field, offset) in dtype.fields.items()
        for size in [field.itemsize]
    ]
    # As many members as fields, in their order: none is left out.
    body = re.search(rf"^struct {structure} {{(.*?)^}};", source, re.M | re.S)[1]
    assert re.findall(r"(\w+)(?:\[\d+\])?;", re.sub("//.*", "", body)) == list(dtype.names)
    code = cuda_host.host_source(file) + "\n".join(checks)
    macros = ("-DIN=u8", "-DOUT=f32", "-DCHANNELS=3")
    cuda_host.compile_host("-fsyntax-only", *macros, "-x", "c++", "-", code=code)


# Images against the reference -----------------------------------------------------------------------------------------


class Rig(NamedTuple):
    """A device, and how arrays on it are made."""

    device: cuda.Device
    allocator: Allocator
    runtime: cupy_runtime.Runtime

    def augmenter(self, transform, images):
        return CupyAugmenter(
            transform, images.shape[1:], images.dtype.name, self.device, self.allocator, runtime=self.runtime
        )

    def augmented(self, transform, images, step):
        """Return the batch of images of the host, in NumPy."""
        augmenter = self.augmenter(transform, images)
        upload = Uploader(images.shape[1:], images.dtype.name, self.runtime).upload(images)
        found = numpy_of(augmenter.augment(upload.address(), step, (upload,)))
        augmenter.close()
        return found


def numpy_of(array):
    """A copy in NumPy."""
    return array.numpy().copy() if isinstance(array, cuda_host.HostArray) else array.get()


@pytest.fixture(scope="session")
def builds():
    """All variants for the host, built at once."""
    if cuda_host.COMPILER is None:
        pytest.skip("g++ is not installed")
    if not cuda_host.SANITIZER:
        cuda_host.build_all([("copy.cu", options()), *(("warp.cu", made) for made in variants())])


@pytest.fixture
def rig(device, request):
    """Makes rigs of the device; on the host, of so many threads a block, arrays `skew` elements into their memory."""
    runtimes = []

    def make(threads=16, skew=0):
        if device != "cpu":
            pytest.importorskip("cupy")
            found = cuda.resolve(device)
            return Rig(found, CUPY_ALLOCATOR, cupy_runtime.CupyRuntime(found))
        runtimes.append(cuda_host.HostRuntime(threads))
        return Rig(cuda.CPU, cuda_host.allocator(skew), runtimes[-1])

    if device == "cpu":
        request.getfixturevalue("builds")
    yield make
    for runtime in runtimes:
        runtime.close()


def warped(images, transform, step):
    """[B, H, W, C] float32, by SciPy."""
    levels = images.astype(np.float32)
    if step.matrices is None:
        return levels
    return np.stack([image_numpy.warp(*pair, transform) for pair in zip(levels, step.matrices, strict=True)])


def coloured(image, step, row):
    """One warped image, recoloured by Pillow and NumPy. Pillow takes a second or a fourth channel for transparency,
    and leaves it alone; here all channels are levels."""
    if step.channel_shift is not None:
        image = image_numpy.shift_channels(image, float(step.channel_shift[row]))
    if step.brightness is not None:
        channels = np.split(image, image.shape[2], axis=2)
        image = np.concatenate([image_numpy.brighten(c, float(step.brightness[row])) for c in channels], axis=2)
    return image


def check(rig, transform, images, step):
    """The warp against SciPy, and all that follows, from there on, against Pillow and NumPy."""
    plain = {"rescale": None, "per_sample": None, "mean": None, "std": None, "dtype": "float32", "layout": "HWC"}
    bare = transform.replace(**plain)
    found = rig.augmented(bare, images, Step(indices=step.indices, matrices=step.matrices))
    wanted = warped(images, transform, step)
    if transform.fill_mode == "constant":
        # The fill value is no level of the images: the same positions are outside, to the bit.
        np.testing.assert_array_equal(found == transform.fill_value, wanted == transform.fill_value)
    # Between pixels, each of six operations in float32 rounds by 6e-8 of the largest level; SciPy rounds once.
    largest = float(max(np.abs(images).max(), abs(transform.fill_value)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=4e-7 * largest if transform.warp_order else 0)

    result = rig.augmented(transform, images, step)
    dtype = np.dtype(ml_dtypes.bfloat16 if transform.dtype == "bfloat16" else transform.dtype)
    assert result.dtype == dtype
    for row, image in enumerate(found):
        image = coloured(image, step, row)
        planes = image.transpose(2, 0, 1) if transform.layout == "CHW" else image
        assert result[row].shape == planes.shape
        if transform.per_sample is None:
            np.testing.assert_array_equal(result[row], cast(image_numpy.scale(planes, transform), dtype))
            continue
        exact = image_numpy.scale(planes.astype(np.float64), transform)
        # Rescaling and the mean each round by 6e-8 of the largest number; a deviation divides what they leave.
        size = float(np.abs(image).max()) * abs(transform.rescale or 1)
        tolerance = 3e-7 * size
        if transform.per_sample == "standardize":
            spread = float((image * np.float64(transform.rescale or 1)).std()) + 1e-6
            tolerance = tolerance / spread + 1e-6 * float(np.abs(exact).max())
        if transform.mean is not None:
            tolerance += 2e-7 * float(np.abs(transform.mean).max())
        if transform.std is not None:
            tolerance /= float(np.min(transform.std))
        if dtype == np.uint8:
            low, high = (cast(exact + side * tolerance, dtype) for side in (-1, 1))
            assert (low <= result[row]).all()
            assert (result[row] <= high).all()
            continue
        digits = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(transform.dtype, 1e-6)
        np.testing.assert_allclose(
            result[row].astype(np.float64), cast(exact, dtype).astype(np.float64), rtol=digits, atol=tolerance + 6e-8
        )


def cast(image, dtype):
    if dtype == np.uint8:
        image = np.clip(np.rint(image), 0, 255)
    with np.errstate(over="ignore"):
        return image.astype(np.float32).astype(dtype)


def matrices_of(rng, kind, count, height, width):
    """[B, 2, 3], or None."""
    if kind == "none":
        return None
    matrices = np.zeros((count, 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1
    if kind == "flips":
        matrices[:, 0, 0], matrices[:, 0, 2] = -1, width
        matrices[: count // 2, 1, 1], matrices[: count // 2, 1, 2] = -1, height
        return matrices
    if kind == "halves":  # Positions on borders, and halfway between two pixels.
        matrices[:, :, 2] = rng.integers(-4 * width - 8, 4 * width + 8, (count, 2)) / 2
        return matrices
    scale = 1 + 0.6 * rng.normal(size=(count, 2))
    matrices[:, 0, 0], matrices[:, 1, 1] = scale.T
    matrices[:, :, 2] = rng.normal(size=(count, 2)) * (height, width)
    if kind in ("any", "far"):
        matrices[:, 0, 1], matrices[:, 1, 0] = 0.5 * rng.normal(size=(2, count))
    if kind == "far":
        matrices *= 10.0 ** rng.integers(0, 6, (count, 1, 1))
    return matrices


@st.composite
def cases(draw):
    """Any transform, and small images with a step."""
    few = bool(cuda_host.SANITIZER)  # Each variant is built when it is first met.
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    length = st.one_of(st.integers(1, 5), st.integers(6, 40))
    height, width, channels = draw(length), draw(length), draw(st.sampled_from([3] if few else [1, 2, 3, 3, 4, 5]))
    batch = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(["uint8"] if few else ["uint8", "float32"]))
    kind = draw(st.sampled_from(["none", "flips", "level", "any", "any", "halves", "far"]))
    transform = {
        "size": (height, width),
        "color": COLORS.get(channels, "rgb"),
        "rotation": 1,  # Matrices are made here, but this says that there are some.
        "fill_mode": draw(st.sampled_from(["nearest", "constant", "reflect", "wrap"])),
        "fill_value": 300.5,
        "warp_order": draw(st.sampled_from([0, 1, 1])),
        "rescale": draw(st.sampled_from([None, 0, 1 / 255, -3.0])),
        "per_sample": draw(st.sampled_from([None, None, "center", "standardize"])),
        "dtype": draw(st.sampled_from(["uint8", "bfloat16"] if few else DTYPES)),
        "layout": draw(st.sampled_from([None, "HWC", "CHW"])),
    }
    for name in ("mean", "std"):
        numbers = (1 + rng.random(channels)).tolist()
        transform[name] = draw(st.sampled_from([None, 0.7, *([numbers] if channels in COLORS else [])]))
    drawn = {"matrices": matrices_of(rng, kind, batch, height, width)}
    if draw(st.booleans()):
        transform["channel_shift"] = 60.0
        drawn["channel_shift"] = rng.uniform(-60, 60, batch)
    if draw(st.booleans()):
        # Levels beyond 0 to 255 the reference stretches to them first; the kernel does not.
        transform["brightness"], transform["fill_value"] = (0.1, 2.5), 0.25
        drawn["brightness"] = rng.uniform(0.1, 2.5, batch)
    images = rng.integers(1, 256, (batch, height, width, channels)).astype(dtype)
    if dtype == "float32":
        images = np.minimum(images + rng.random(images.shape, np.float32), 255)
        if "brightness" not in transform:
            images -= 100
    if draw(st.booleans()):
        images[0] = images[0, 0, 0, 0]  # Its deviation is 0.
    event(f"{kind}, {transform['layout']}, {transform['dtype']}")
    return Augment(**transform), images, Step(indices=np.arange(batch), **drawn)


@settings(max_examples=60 if cuda_host.SANITIZER else 500)
@given(
    case=cases(),
    threads=st.sampled_from([4, 8] if cuda_host.SANITIZER else [1, 4, 16, 16, 32]),
    skew=st.sampled_from([0, 0, 1]),
)
def test_any_batch_is_what_the_reference_makes(rig, case, threads, skew):
    check(rig(threads, skew), *case)


SHAPES = {
    "rows of several tiles": (2, 9000, 3, "uint8"),
    "rows of several tiles, planes": (2, 5000, 1, "float32"),
    "one column": (6000, 1, 3, "float32"),
    "tiles of many rows": (150, 90, 3, "float32"),
    "no multiple of anything": (131, 67, 4, "float16"),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("per_sample", [None, "standardize"])
def test_large_images_are_cut_into_tiles(rig, name, per_sample):
    if cuda_host.SANITIZER and SHAPES[name][3] != "uint8":
        pytest.skip("each variant is built when it is first met")
    height, width, channels, dtype = SHAPES[name]
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, height, width, channels)).astype(np.uint8)
    transform = Augment(
        size=(height, width), color=COLORS[channels], rotation=1, dtype=dtype, per_sample=per_sample, rescale=1 / 4
    )
    for kind in ("any", "level"):
        step = Step(indices=np.arange(2), matrices=matrices_of(rng, kind, 2, height, width))
        check(rig(16), transform, images, step)
        check(rig(16, 1), transform.replace(layout="CHW", fill_mode="reflect"), images, step)


@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="a block of 512 threads takes a sanitizer long")
def test_blocks_of_full_size(rig):
    """Blocks have as many threads as on a GPU."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2, 70, 50, 3)).astype(np.uint8)
    transform = Augment(size=(70, 50), rotation=30, shear=10, zoom=0.3, hflip=0.5, channel_shift=30.0)
    for changes in ({}, {"per_sample": "standardize", "layout": "CHW"}, {"channel_shift": 0}):
        changed = transform.replace(**changes)
        check(rig(256), changed, images, changed.step(np.arange(2), seed=0, epoch=0, first=0))


def test_numbers_are_rounded_to_the_nearest_and_to_even(rig):
    """Values halfway between two of the output's numbers, and beyond its largest."""
    ties = np.arange(1, 1001, dtype=np.float64) * 2.0**-12 + 1
    values = np.concatenate([ties, ties * 2.0**-17, np.arange(-20, 300) / 2, [65519.0, 65520.0, 1e30, -1e30]])
    images = values.astype(np.float32).reshape(1, -1, 1, 1)
    step = Step(indices=np.arange(1))
    for dtype in DTYPES:
        transform = Augment(size=images.shape[1:3], color="grayscale", dtype=dtype)
        found = rig().augmented(transform, images, step)
        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        np.testing.assert_array_equal(found, cast(images, kind))


@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="each variant is built when it is first met")
def test_small_differences_of_large_levels_have_their_deviation(rig):
    """Squares of the levels would cancel: to 3% of the deviation, were they summed as they are."""
    rng = np.random.default_rng(6)
    images = (1e6 + rng.integers(0, 3, (2, 50, 40, 3)) / 16).astype(np.float32)
    transform = Augment(size=(50, 40), per_sample="standardize")
    found = rig().augmented(transform, images, Step(indices=np.arange(2)))
    for image, level in zip(found, images.astype(np.float64), strict=True):
        # The mean is rounded to float32, of which neighbours are 1/16 apart here.
        np.testing.assert_allclose(image, (level - np.float32(level.mean())) / level.std(), rtol=1e-4)


def test_images_of_one_batch_lie_anywhere(rig):
    """Images lie in a store and in two uploads, and one is used twice."""
    found = rig()
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (6, 9, 7, 3)).astype(np.uint8)
    store = DeviceStore(5, images[0].nbytes, found.runtime)
    store.upload(np.array([4, 0]), images[:2])
    uploader = Uploader((9, 7, 3), "uint8", found.runtime)
    one, two = uploader.upload(images[2:3]), uploader.upload(images[3:])
    where = np.concatenate(
        [two.address(), store.address(np.array([0, 4])), one.address(), store.address(np.array([4]))]
    )
    augmenter = found.augmenter(Augment(size=(9, 7)), images)
    batch = augmenter.augment(where, Step(indices=np.arange(7)), (one, two, store))
    np.testing.assert_array_equal(numpy_of(batch), images[[3, 4, 5, 1, 0, 2, 0]])
    assert numpy_of(augmenter.augment(where[:0], Step(indices=np.arange(0)))).shape == (0, 9, 7, 3)
    augmenter.close()


def test_positions_that_are_no_numbers_stay_inside_the_image(rig):
    """No matrix lets the kernel read beside the image: a sanitizer would see it."""
    images = np.full((4, 5, 6, 3), 7, np.uint8)
    matrices = np.zeros((4, 2, 3))
    for row, value in enumerate((np.nan, np.inf, -np.inf, 1e300)):
        matrices[row] = value
    for fill_mode, order in itertools.product(("nearest", "constant", "reflect", "wrap"), (0, 1)):
        transform = Augment(size=(5, 6), rotation=1, fill_mode=fill_mode, fill_value=7, warp_order=order, dtype="uint8")
        with np.errstate(invalid="ignore"):
            found = rig().augmented(transform, images, Step(indices=np.arange(4), matrices=matrices))
        if not order:
            assert (found == 7).all()


def test_what_no_gpu_does_raises():
    def warper(shape=(4, 4, 3), source="uint8", **options):
        return Warper(Augment(**options), shape, source)

    with pytest.raises(ValueError, match="images on a GPU must be uint8 or float32, not float64"):
        warper(source="float64")
    with pytest.raises(
        ValueError, match=r"images must have at most \d+ numbers each on a GPU, not \(40000, 40000, 3\)"
    ):
        warper((40000, 40000, 3))
    with pytest.raises(ValueError, match=r"mean must be one number or 2, one a channel of the images, not \(1, 2, 3\)"):
        warper((4, 4, 2), mean=(1, 2, 3))


def test_placements_are_scipys_sums():
    rng = np.random.default_rng(4)
    matrices = rng.normal(size=(100, 2, 3)) * 100
    for found, matrix in zip(placements(matrices), matrices, strict=True):
        offset = matrix[:, :2] @ (0.5, 0.5) + matrix[:, 2] - 0.5
        np.testing.assert_array_equal(found.reshape(2, 3), np.column_stack([matrix[:, :2], offset]))


# Memory and streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 15, 16, 100, 4096, 70_000, 70_001])
def test_copied_images_are_those_that_were_there(rig, size):
    """Copies begin at any address, and no byte beside them is written."""
    found = rig(8)
    rng = np.random.default_rng(size)
    images = rng.integers(0, 256, (4, 1, size, 1)).astype(np.uint8)
    store = DeviceStore(6, size, found.runtime)
    zeros = np.zeros((6, 1, size, 1), np.uint8)
    store.upload(np.arange(6), zeros)
    upload = Uploader((1, size, 1), "uint8", found.runtime).upload(images)
    store.put(np.array([5, 0, 2]), upload.address()[[0, 3, 1]], (upload,))
    augmenter = found.augmenter(Augment(size=(1, size), color="grayscale", dtype="uint8"), images)
    batch = augmenter.augment(store.address(np.arange(6)), Step(indices=np.arange(6)))
    zeros[[5, 0, 2]] = images[[0, 3, 1]]
    np.testing.assert_array_equal(numpy_of(batch), zeros)
    store.close()
    assert store.pitch == pitch(size) >= size
    with pytest.raises(IndexError, match="slots must be from 0 to 5, not -1 to 6"):
        store.address(np.array([-1, 6]))
    with pytest.raises(ValueError, match=f"images must be of {size} bytes each, not {2 * size}"):
        store.upload(np.arange(2), np.zeros((2, 2 * size), np.uint8))


@pytest.fixture
def host(builds):
    """A rig on the host whose streams can be held."""
    runtime = cuda_host.HostRuntime(16)
    yield Rig(cuda.CPU, cuda_host.allocator(), runtime)
    runtime.close()


@pytest.fixture
def images():
    return np.random.default_rng(5).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)


PLAIN = Augment(size=(8, 8), dtype="uint8")


def given_time():
    """Let code that fails to wait go on, and be seen."""
    time.sleep(0.05)


def step_of(count):
    return Step(indices=np.arange(count))


def test_a_step_is_one_copy_and_one_launch(host, images):
    store = DeviceStore(4, images[0].nbytes, host.runtime)
    store.upload(np.arange(4), images)
    assert host.runtime.uploads == 1  # Neighbours go together.
    transform = Augment(size=(8, 8), rotation=5, channel_shift=3, brightness=(0.5, 1.5), per_sample="center")
    augmenter = host.augmenter(transform, images)
    augmenter.augment(store.address(np.arange(4)), transform.step(np.arange(4), seed=0, epoch=0, first=0))
    assert (host.runtime.copies, host.runtime.launches) == (1, 1)
    with pytest.raises(ValueError, match="addresses must be as many as the step has samples, 4, not 3"):
        augmenter.augment(store.address(np.arange(3)), step_of(4))


def test_what_was_put_on_slow_streams_is_read_on_others(host, images):
    """Streams 2 and 3 stand still while the batch is asked for on stream 4."""
    store = DeviceStore(4, images[0].nbytes, host.runtime)
    uploader = Uploader((8, 8, 3), "uint8", host.runtime)
    augmenter = host.augmenter(PLAIN, images)
    releases = [host.runtime.hold(stream) for stream in (2, 3)]
    for stream, rows in ((2, slice(0, 2)), (3, slice(2, 4))):
        upload = uploader.upload(images[rows])
        store.put(np.arange(4)[rows], upload.address(stream), (upload,), stream)
    del upload
    batch = augmenter.augment(store.address(np.arange(4), 4), step_of(4), (store,), 4)
    given_time()
    assert (batch.numpy() == cuda_host.PATTERN).all()
    releases[1].set()  # Stream 3 comes after stream 2.
    given_time()
    assert (batch.numpy() == cuda_host.PATTERN).all()
    releases[0].set()
    host.runtime.finish(4)
    np.testing.assert_array_equal(batch.numpy(), images)


def test_uploads_are_read_when_they_are_there(host, images):
    """The runtime's own stream, on which they go, stands still at first."""
    uploader = Uploader((8, 8, 3), "uint8", host.runtime)
    augmenter = host.augmenter(PLAIN, images)
    release = host.runtime.hold(host.runtime.stream())
    upload = uploader.begin(4)
    with pytest.raises(RuntimeError, match=r"images have no address before send\(\)"):
        upload.address()
    for row in range(4):
        upload.pixels[row] = images[row]
    upload.send()
    batch = augmenter.augment(upload.address(7), step_of(4), (upload,), 7)
    given_time()
    assert (batch.numpy() == cuda_host.PATTERN).all()
    release.set()
    host.runtime.finish(7)
    np.testing.assert_array_equal(batch.numpy(), images)


class Owner:
    """An owner of memory."""


def test_memory_is_kept_until_it_was_read(host, images):
    """Memory is kept until a launch has read it, and dropped at the next batch or at `release`."""
    store = DeviceStore(4, images[0].nbytes, host.runtime)
    store.upload(np.arange(4), images)
    augmenter = host.augmenter(PLAIN, images)
    for use in (
        lambda keep: augmenter.augment(store.address(np.arange(4), 7), step_of(4), keep, 7),
        lambda keep: store.put(np.array([0]), store.address(np.array([1])), keep, 7),
    ):
        owner = Owner()
        alive = weakref.ref(owner)
        release = host.runtime.hold(7)
        held = use((owner,))
        del owner
        for _ in range(2):
            augmenter.release()
            store.release()
            gc.collect()
            assert alive() is not None
        release.set()
        host.runtime.finish(7)
        augmenter.release()
        store.release()
        assert alive() is None
        del held
    # On the runtime's own stream a batch is there on return, and nothing is kept.
    owner = Owner()
    alive = weakref.ref(owner)
    augmenter.augment(store.address(np.arange(4)), step_of(4), (owner,))
    del owner
    assert alive() is None


def test_an_uploads_memory_is_used_again_only_when_it_was_read(host, images):
    """Many batches are queued while the device stands still, each from an upload that only the launch keeps."""
    uploader = Uploader((8, 8, 3), "uint8", host.runtime)
    augmenter = host.augmenter(PLAIN, images)
    host.runtime.gate.clear()
    threading.Timer(0.3, host.runtime.gate.set).start()
    batches = []
    for n in range(40):
        upload = uploader.upload(images + np.uint8(n))
        batches.append(augmenter.augment(upload.address(7), step_of(4), (upload,), 7))
        del upload
    # Buffers of launches that wait, and as many small ones for addresses.
    assert host.runtime.pinned_buffers <= 2 * (SPARE + 2)
    host.runtime.finish(7)
    for n, batch in enumerate(batches):
        np.testing.assert_array_equal(batch.numpy(), images + np.uint8(n))
    augmenter.close()
    uploader.close()


def test_uploads_that_nobody_reads_do_not_fill_the_memory(host, images):
    """Uploads reuse buffers even while the device stands still."""
    uploader = Uploader((8, 8, 3), "uint8", host.runtime)
    host.runtime.gate.clear()
    threading.Timer(0.3, host.runtime.gate.set).start()
    for _ in range(40):
        uploader.upload(images)
    assert host.runtime.pinned_buffers <= SPARE + 1
    uploader.close()


# Sanitizers -----------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(bool(cuda_host.SANITIZER), reason="runs under a sanitizer already")
@pytest.mark.parametrize(
    ("sanitizer", "tests"),
    [
        ("address,undefined", "any_batch or tiles or no_numbers or copied or stream or memory"),
        ("thread", "any_batch or tiles or copied"),
    ],
)
def test_nothing_is_read_or_written_astray_and_no_threads_race(sanitizer, tests):
    """The tests above once more, in a process that has the sanitizer's library loaded."""
    sanitizers.run_under(sanitizer, __file__, tests)
