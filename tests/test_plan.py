"""Order, Augment and the crops: everything random, against references written here."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from gpuload import Augment, CenterCrop, ImageArray, Loader, Order, RandomResizedCrop
from gpuload.decode.crop import DRAWS, TRIES
from gpuload.images.affine import affine, flipped

seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 1000)


# Order ----------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), seeds, epochs)
def test_an_epoch_is_a_permutation_that_seed_and_epoch_settle(size, seed, epoch):
    order = Order(size=size, batch_size=7, shuffle=True, seed=seed, last_batch="keep")
    indices = order.indices(epoch)
    assert sorted(indices.tolist()) == list(range(size))
    again = Order(size=size, batch_size=3, shuffle=True, seed=seed, last_batch="pad")
    np.testing.assert_array_equal(again.indices(epoch), indices)


@given(seeds, epochs)
def test_epochs_and_seeds_differ(seed, epoch):
    order = Order(size=50, batch_size=8, shuffle=True, seed=seed)
    other = Order(size=50, batch_size=8, shuffle=True, seed=(seed + 1) % 2**64)
    # 50 samples have 3e64 orders: two alike by chance do not happen.
    assert (order.indices(epoch) != order.indices(epoch + 1)).any()
    assert (order.indices(epoch) != other.indices(epoch)).any()


def test_every_order_is_as_likely_as_every_other():
    order = Order(size=3, batch_size=1, shuffle=True, seed=5)
    counts = {}
    for epoch in range(6000):
        found = tuple(order.indices(epoch).tolist())
        counts[found] = counts.get(found, 0) + 1
    # Six orders, 1000 each; the standard deviation of a count is 29, and the seed is fixed.
    assert len(counts) == 6
    assert all(abs(count - 1000) < 4 * 29 for count in counts.values())


def test_without_shuffle_samples_come_as_they_are():
    order = Order(size=9, batch_size=4)
    for epoch in range(3):
        np.testing.assert_array_equal(order.indices(epoch), np.arange(9))


def philox(seed, epoch, stream, block):
    """Four 64-bit numbers of the generator Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    2011), in Python's whole numbers. Its counter is (block, 0, 0, stream), its key (seed, epoch)."""
    mask = 2**64 - 1
    a, b, c, d = block, 0, 0, stream
    for turn in range(10):
        left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        first = (seed + turn * 0x9E3779B97F4A7C15) & mask
        second = (epoch + turn * 0xBB67AE8584CAA73B) & mask
        a, b, c, d = (right >> 64) ^ b ^ first, right & mask, (left >> 64) ^ d ^ second, left & mask
    return [a, b, c, d]


def test_the_numbers_of_a_seed_are_a_promise():
    """Somebody resumes tomorrow what another version began today: which number goes where must never change.

    Order: Fisher and Yates' shuffle, from the last sample to the second, with the halves of the numbers of stream 0,
    the low one first; of each as many low bits as the greatest place has, drawn again where they say a greater one.
    Augmentation: eight blocks of stream 1 for each position, of
    each number the top 53 bits as a fraction. NumPy counts before it draws, so that block 1 is the first.
    """
    seed, epoch, size = 2**63 + 12345, 6, 11
    halves = iter(
        half
        for block in range(1, 20)
        for number in philox(seed, epoch, 0, block)
        for half in (number & 0xFFFFFFFF, number >> 32)
    )
    expected = list(range(size))
    for last in range(size - 1, 0, -1):
        mask = (1 << last.bit_length()) - 1
        place = next(half & mask for half in halves if half & mask <= last)
        expected[last], expected[place] = expected[place], expected[last]
    order = Order(size=size, batch_size=4, shuffle=True, seed=seed)
    assert order.indices(epoch).tolist() == expected

    position = 1001
    blocks = range(8 * position + 1, 8 * position + 9)
    numbers = [(number >> 11) / 2**53 for block in blocks for number in philox(seed, epoch, 1, block)]
    (rotation, width_shift, height_shift, shear, zoom_x, zoom_y, hflip, vflip, channel_shift, brightness), crop = (
        numbers[:10],
        numbers[10:],
    )
    step = steps(ALL, 1, seed=seed, epoch=epoch, first=position)

    def within(name, u):
        low, high = PARTS[name]
        return low + (high - low) * u

    matrix = composed(
        within("rotation", rotation),
        (within("width_shift", width_shift) * SIZE[1], within("height_shift", height_shift) * SIZE[0]),
        within("shear", shear),
        (within("zoom", zoom_x), within("zoom", zoom_y)),
        (SIZE[1] / 2, SIZE[0] / 2),
    )
    matrix = matrix @ mirror(hflip < PARTS["hflip"], vflip < PARTS["vflip"])
    np.testing.assert_allclose(square(step.matrices[0]), matrix, rtol=0, atol=1e-10)
    np.testing.assert_allclose(step.channel_shift, [-30 + 60 * channel_shift], rtol=1e-12)
    np.testing.assert_allclose(step.brightness, [0.4 + 1.2 * brightness], rtol=1e-12)
    np.testing.assert_allclose(step.crops, RandomResizedCrop().draw(np.array([crop])), rtol=1e-12)


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**40))
def test_an_order_that_is_not_listed_is_a_permutation_too(size, seed, epoch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuload.plan.order.LISTED", 0)
        order = Order(size=size, batch_size=7, shuffle=True, seed=seed)
        indices = order.indices(epoch)
        np.testing.assert_array_equal(np.sort(indices), np.arange(size))
        pieces = [batch for _, batch in order.batches(epoch, start=7 * min(2, len(order) - 1), together=3)]
        np.testing.assert_array_equal(np.concatenate(pieces), indices[min(2, len(order) - 1) * 7 :])
        if size > 100:
            assert (indices != Order(size=size, batch_size=7, shuffle=True, seed=seed).indices(epoch + 1)).any()


def test_an_order_that_is_not_listed_is_as_even_as_a_shuffle(monkeypatch):
    """Over many epochs: every sample is as likely at the first position, and neighbours are as far apart."""
    monkeypatch.setattr("gpuload.plan.order.LISTED", 0)
    order = Order(size=13, batch_size=4, shuffle=True, seed=3)
    orders = np.array([order.indices(epoch) for epoch in range(4000)])
    for position in (0, 6, 12):
        assert stats.chisquare(np.bincount(orders[:, position], minlength=13)).pvalue > 1e-4
    pairs = np.bincount(orders[:, 0] * 13 + orders[:, 1], minlength=169).reshape(13, 13)
    assert stats.chisquare(pairs[~np.eye(13, dtype=bool)]).pvalue > 1e-4
    large = Order(size=100_000, batch_size=4, shuffle=True, seed=3).indices(0)
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(large, np.arange(len(large)))[0, 1]) < 0.02


def test_a_billion_samples_are_shuffled_without_a_list_of_them():
    order = Order(size=10**9, batch_size=4, shuffle=True, seed=1)
    tracemalloc.start()
    first, batch = next(order.batches(epoch=0, start=800_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert first == 800_000_000
    assert len(set(batch.tolist())) == 4
    assert batch.max() < 10**9
    assert peak < 10**5


@pytest.mark.parametrize("last_batch", ["keep", "drop", "pad"])
@given(data=st.data())
def test_batches_hold_what_the_last_batch_policy_says(last_batch, data):
    size = data.draw(st.integers(1, 200), "size")
    batch = data.draw(st.integers(1, min(64, size) if last_batch == "drop" else 64), "batch")
    shuffle = data.draw(st.booleans(), "shuffle")
    order = Order(size=size, batch_size=batch, shuffle=shuffle, seed=3, last_batch=last_batch)
    epoch = order.indices(4).tolist()
    expected = [epoch[first : first + batch] for first in range(0, size, batch)]
    short = batch - len(expected[-1])
    if short and last_batch == "drop":
        expected.pop()
    if short and last_batch == "pad":
        # The epoch's first samples, and round again where there are fewer samples than the batch wants.
        expected[-1] = expected[-1] + [epoch[n % size] for n in range(short)]
    found = list(order.batches(4))
    assert len(order) == len(found) == len(expected)
    assert [indices.tolist() for _, indices in found] == expected
    assert [first for first, _ in found] == [number * batch for number in range(len(expected))]

    start = data.draw(st.integers(0, len(order) + 2), "start")
    rest = list(order.batches(4, start=start * batch))
    assert [indices.tolist() for _, indices in rest] == expected[start:]
    assert [first for first, _ in rest] == [number * batch for number in range(start, len(expected))]
    assert order.left(start * batch) == len(rest)


def test_a_data_set_smaller_than_a_batch_is_gone_round_several_times():
    ((first, indices),) = Order(size=3, batch_size=8, last_batch="pad").batches(0)
    assert (first, indices.tolist()) == (0, [0, 1, 2, 0, 1, 2, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be an integer of at least 1, not 0"),
        ({"size": 2.0}, r"size must be an integer of at least 1, not 2\.0"),
        ({"size": True}, "size must be an integer of at least 1, not True"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, not 0"),
        ({"batch_size": "8"}, "batch_size must be an integer of at least 1, not '8'"),
        ({"batch_size": None}, "batch_size must be an integer of at least 1, not None"),
        ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
        ({"seed": 0.5}, r"seed must be an integer of at least 0, not 0\.5"),
        ({"seed": 2**64}, r"seed must be below 2\*\*64, not 18446744073709551616"),
        ({"last_batch": "repeat"}, "last_batch must be one of keep, drop, pad, not 'repeat'"),
        (
            {"last_batch": "drop", "batch_size": 11},
            "last_batch='drop' leaves no batch: batch_size=11 is more than the 10 samples; "
            "lower batch_size or use last_batch='keep'",
        ),
    ],
)
def test_order_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Order(**{"size": 10, "batch_size": 4, **arguments})


def test_order_takes_numpy_integers_and_the_greatest_seed():
    order = Order(size=np.int32(4), batch_size=np.int64(4), shuffle=True, seed=2**64 - 1, last_batch="drop")
    assert len(order) == 1
    assert (type(order.size), type(order.batch_size)) == (int, int)
    assert sorted(order.indices(0).tolist()) == [0, 1, 2, 3]


# What Augment draws ---------------------------------------------------------------------------------------------------

SIZE = (20, 32)  # height, width
PARTS = {
    "rotation": (10.0, 40.0),
    "width_shift": (0.05, 0.3),
    "height_shift": (-0.3, -0.1),
    "shear": (5.0, 25.0),
    "zoom": (0.6, 1.7),
    "hflip": 0.4,
    "vflip": 0.7,
}
ALL = Augment(size=SIZE, **PARTS, channel_shift=30, brightness=(0.4, 1.6), crop=RandomResizedCrop())
DRAWN = ("matrices", "crops", "channel_shift", "brightness")


def steps(augment, count, *, seed=0, epoch=0, first=0):
    return augment.step(np.arange(count), seed=seed, epoch=epoch, first=first)


def assert_same(step, other, names=DRAWN):
    for name in names:
        np.testing.assert_array_equal(getattr(step, name), getattr(other, name), err_msg=name)


def joined(pieces, name):
    return np.concatenate([getattr(piece, name) for piece in pieces])


@given(seeds, epochs, st.integers(0, 10**9), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_what_a_sample_draws_depends_on_seed_epoch_and_position_alone(seed, epoch, first, lengths):
    """A stretch drawn at once, in pieces of any length, and sample by sample: bit for bit the same."""
    total = sum(lengths)
    at_once = steps(ALL, total, seed=seed, epoch=epoch, first=first)
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    for cuts in (zip(starts, lengths, strict=True), ((n, 1) for n in range(total))):
        pieces = [steps(ALL, length, seed=seed, epoch=epoch, first=first + start) for start, length in cuts]
        for name in DRAWN:
            np.testing.assert_array_equal(joined(pieces, name), getattr(at_once, name), err_msg=name)


def test_which_sample_stands_at_a_position_does_not_matter():
    here, there = (ALL.step(indices, seed=1, epoch=2, first=3) for indices in (np.arange(5), np.arange(5)[::-1]))
    assert_same(here, there)
    assert there.indices.tolist() == [4, 3, 2, 1, 0]


def test_seeds_epochs_and_positions_draw_apart():
    base = steps(ALL, 6, seed=1, epoch=1)
    for other in (
        steps(ALL, 6, seed=2, epoch=1),
        steps(ALL, 6, seed=1, epoch=2),
        steps(ALL, 6, seed=1, epoch=1, first=6),
    ):
        for name in DRAWN:
            assert not np.isin(getattr(base, name), getattr(other, name)).all(), name


@pytest.mark.parametrize("last_batch", ["keep", "pad"])
def test_another_batch_size_draws_the_same_for_the_same_position(last_batch):
    source = ImageArray(np.zeros((13, 4, 6, 3), np.uint8))
    transform = ALL.replace(size=None, crop=None)
    drawn = {}
    for batch_size in (1, 2, 5, 13):
        loader = Loader(
            source,
            transform,
            batch_size=batch_size,
            shuffle=True,
            seed=9,
            last_batch=last_batch,
            device="cpu",
            engine="numpy",
        )
        plan = list(loader.steps(3))
        drawn[batch_size] = [joined(plan, name)[:13] for name in ("indices", "matrices", "channel_shift", "brightness")]
    for found in drawn.values():
        for part, expected in zip(found, drawn[1], strict=True):
            np.testing.assert_array_equal(part, expected)


def test_the_global_generator_is_neither_read_nor_moved():
    drawn = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        before = np.random.get_state()  # noqa: NPY002
        order = Order(size=20, batch_size=4, shuffle=True).indices(0)
        drawn.append((order, steps(ALL, 4)))
        after = np.random.get_state()  # noqa: NPY002
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    assert_same(drawn[0][1], drawn[1][1])


@pytest.mark.parametrize("name", ["crop", "channel_shift", "brightness"])
def test_an_option_beside_the_geometry_moves_no_other_draw(name):
    on, off = (steps(augment, 9, seed=4, first=50) for augment in (ALL, ALL.replace(**{name: _default(name)})))
    gone = "crops" if name == "crop" else name
    assert getattr(off, gone) is None
    assert_same(on, off, [other for other in DRAWN if other != gone])


@pytest.mark.parametrize(
    "name", ["color", "fill_mode", "warp_order", "rescale", "per_sample", "dtype", "interpolation"]
)
def test_what_draws_nothing_moves_nothing(name):
    value = {
        "color": "grayscale",
        "fill_mode": "wrap",
        "warp_order": 0,
        "rescale": 0.5,
        "per_sample": "center",
        "dtype": "uint8",
        "interpolation": "nearest",
    }[name]
    assert_same(steps(ALL, 5), steps(ALL.replace(**{name: value}), 5))


def _default(name):
    return getattr(Augment(), name)


def square(matrices):
    """[..., 2, 3] as [..., 3, 3]."""
    bottom = np.broadcast_to([0.0, 0.0, 1.0], (*matrices.shape[:-2], 1, 3))
    return np.concatenate([matrices, bottom], axis=-2)


def test_a_matrix_is_the_product_of_what_each_option_draws_alone():
    """So no geometric option moves the draws of another, and their order is rotation, shift, shear, zoom, then flips.

    Shift comes as one factor: its two halves only add up. All are taken about the same point, so that the moves to
    that point and back between two factors cancel. The last digits of the products differ: 1e-12 of 32 pixels.
    """
    groups = (["rotation"], ["width_shift"], ["height_shift"], ["shear"], ["zoom"], ["hflip"], ["vflip"])
    product = np.eye(3)
    for names in groups:
        alone = Augment(size=SIZE, **{name: PARTS[name] for name in names})
        product = product @ square(steps(alone, 64, seed=8, first=7).matrices)
    together = steps(Augment(size=SIZE, **PARTS), 64, seed=8, first=7).matrices
    np.testing.assert_allclose(square(together), product, rtol=0, atol=1e-10)


def test_nothing_is_drawn_where_nothing_is_random():
    step = steps(Augment(size=SIZE, rescale=2, fill_mode="wrap"), 3)
    assert all(getattr(step, name) is None for name in DRAWN)
    assert step.batch_size == 3


def extracted(name, matrices):
    """What was drawn for one geometric option that is on alone, read back from its matrices."""
    height, width = SIZE
    if name == "rotation":
        return np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    if name == "shear":
        return np.degrees(np.arctan2(-matrices[:, 0, 1], matrices[:, 1, 1]))
    return {
        "width_shift": matrices[:, 0, 2] / width,
        "height_shift": matrices[:, 1, 2] / height,
        "zoom_x": matrices[:, 0, 0],
        "zoom_y": matrices[:, 1, 1],
    }[name]


COUNT = 4000


def assert_uniform(values, low, high):
    """Within the range, and spread over it.

    The mean of 4000 uniform numbers has a standard deviation of 0.0046 of the range, its quarter points have 0.0069;
    seeds are fixed, and four deviations are allowed.
    """
    assert (values >= low - 1e-9).all()
    assert (values <= high + 1e-9).all()
    share = (values - low) / (high - low)
    assert abs(share.mean() - 0.5) < 0.019
    np.testing.assert_allclose(np.quantile(share, [0.25, 0.75]), [0.25, 0.75], rtol=0, atol=0.028)


@pytest.mark.parametrize("name", ["rotation", "width_shift", "height_shift", "shear", "zoom_x", "zoom_y"])
@pytest.mark.parametrize("pair", [True, False], ids=["pair", "number"])
def test_geometric_ranges_are_kept_and_filled(name, pair):
    option = name.split("_")[0] if name.startswith("zoom") else name
    neutral = 1.0 if option == "zoom" else 0.0
    value = PARTS[option] if pair else 0.3
    low, high = value if pair else (neutral - value, neutral + value)
    matrices = steps(Augment(size=SIZE, **{option: value}), COUNT).matrices
    assert_uniform(extracted(name, matrices), low, high)


def test_zoom_is_drawn_for_x_and_y_independently():
    matrices = steps(Augment(size=SIZE, zoom=0.5), COUNT).matrices
    # Correlations of 4000 independent pairs have a standard deviation of 0.016.
    assert abs(np.corrcoef(matrices[:, 0, 0], matrices[:, 1, 1])[0, 1]) < 0.065


@pytest.mark.parametrize(
    ("arguments", "name", "low", "high"),
    [
        ({"channel_shift": 30}, "channel_shift", -30, 30),
        ({"channel_shift": (5, 6)}, "channel_shift", 5, 6),
        ({"brightness": (0.4, 1.6)}, "brightness", 0.4, 1.6),
    ],
)
def test_colour_ranges_are_kept_and_filled(arguments, name, low, high):
    assert_uniform(getattr(steps(Augment(size=SIZE, **arguments), COUNT), name), low, high)


@pytest.mark.parametrize("name", ["hflip", "vflip"])
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_flips_come_as_often_as_asked(name, probability):
    # The other flip always happens, so that there are matrices for a probability of 0 as well.
    flips = {"hflip": 1.0, "vflip": 1.0, name: probability}
    matrices = steps(Augment(size=SIZE, **flips), COUNT, seed=6).matrices
    axis = 0 if name == "hflip" else 1
    share = (matrices[:, axis, axis] < 0).mean()
    # Four standard deviations of a share of 4000; none for 0 and 1, which are exact.
    assert abs(share - probability) <= 4 * math.sqrt(probability * (1 - probability) / COUNT)


# Matrices -------------------------------------------------------------------------------------------------------------


def move(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def composed(rotation, shift, shear, zoom, center):
    """Factor by factor, each as text books write it."""
    a, s = math.radians(rotation), math.radians(shear)
    turn = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, -math.sin(s), 0], [0, math.cos(s), 0], [0, 0, 1]])
    grow = np.diag([zoom[0], zoom[1], 1.0])
    return move(*center) @ turn @ move(*shift) @ tilt @ grow @ move(-center[0], -center[1])


def mirror(horizontal, vertical):
    """Where the output is flipped, its pixel at x shows what was to be at width - x."""
    matrix = np.diag([-1.0 if horizontal else 1.0, -1.0 if vertical else 1.0, 1.0])
    matrix[:2, 2] = SIZE[1] * horizontal, SIZE[0] * vertical
    return matrix


angles = st.floats(-360, 360)
pixels = st.tuples(st.floats(-50, 50), st.floats(-50, 50))
factors = st.tuples(st.floats(0.1, 5), st.floats(0.1, 5))


@given(angles, pixels, angles, factors, pixels, st.booleans(), st.booleans())
def test_affine_and_flipped_are_the_product_of_their_factors(rotation, shift, shear, zoom, center, hflip, vflip):
    # Products of numbers below 100 in float64; 1e-9 pixels is far from any rounding that matters.
    matrix = affine(rotation=rotation, shift=shift, shear=shear, zoom=zoom, center=center)
    expected = composed(rotation, shift, shear, zoom, center)
    np.testing.assert_allclose(square(matrix), expected, rtol=0, atol=1e-9)

    both = square(flipped(matrix, hflip, vflip, SIZE))
    np.testing.assert_allclose(both, expected @ mirror(hflip, vflip), rtol=0, atol=1e-9)


def test_affine_broadcasts_its_arguments():
    rotation, zoom = np.linspace(-90, 90, 5), np.linspace(0.5, 2, 3)[:, None]
    matrices = affine(rotation=rotation, shift=(zoom, 1.0), zoom=(zoom, 2.0), center=(3, 4))
    assert matrices.shape == (3, 5, 2, 3)
    one = composed(rotation[4], (zoom[1, 0], 1.0), 0, (zoom[1, 0], 2.0), (3, 4))
    np.testing.assert_allclose(square(matrices[1, 4]), one, rtol=0, atol=1e-12)


def test_flipped_leaves_its_argument_alone():
    matrices = affine(rotation=np.array([3.0, 4.0]), center=(1, 1))
    before = matrices.copy()
    result = flipped(matrices, [True, False], False, (8, 8))
    np.testing.assert_array_equal(matrices, before)
    np.testing.assert_array_equal(result[1], before[1])


# Directions, on pixels ------------------------------------------------------------------------------------------------


def shown(image, **options):
    """The image as the reference engine shows it."""
    loader = Loader(ImageArray(image[np.newaxis]), Augment(**options), batch_size=1, device="cpu", engine="numpy")
    with loader:
        (batch,) = loader
    return batch[0]


def picture(height, width):
    """Every level another one."""
    return np.random.default_rng(0).permutation(height * width * 3).reshape(height, width, 3).astype(np.float32)


# Quarter turns and whole pixels need no interpolation. What is left is sin(90 degrees) being 1 - 1e-17 or so, times the
# step between two pixels.
EXACT = {"rtol": 0, "atol": 1e-2}


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("side", [8, 9])
def test_positive_rotation_turns_content_counter_clockwise(side, order):
    image = picture(side, side)
    for quarters in (-1, 1, 2):
        turned = shown(image, rotation=(90 * quarters, 90 * quarters), warp_order=order)
        np.testing.assert_allclose(turned, np.rot90(image, quarters), **EXACT)


def test_positive_width_shift_moves_content_left():
    image = picture(6, 10)
    for pixel in (1, 3, -2):
        moved = shown(image, width_shift=(pixel / 10, pixel / 10))
        inside = slice(0, 10 - pixel) if pixel > 0 else slice(-pixel, 10)
        np.testing.assert_allclose(moved[:, inside], np.roll(image, -pixel, axis=1)[:, inside], **EXACT)
        # What comes in repeats the border.
        edge = image[:, -1:] if pixel > 0 else image[:, :1]
        np.testing.assert_allclose(np.delete(moved, np.r_[inside], axis=1) - edge, 0, **EXACT)


def test_positive_height_shift_moves_content_up():
    image = picture(10, 6)
    for pixel in (1, 3, -2):
        moved = shown(image, height_shift=(pixel / 10, pixel / 10))
        inside = slice(0, 10 - pixel) if pixel > 0 else slice(-pixel, 10)
        np.testing.assert_allclose(moved[inside], np.roll(image, -pixel, axis=0)[inside], **EXACT)


def test_zoom_above_one_shows_more_of_the_image_smaller():
    image = picture(9, 9)
    small = shown(image, zoom=(3, 3), fill_mode="constant", fill_value=-1)
    np.testing.assert_allclose(small[3:6, 3:6], image[1::3, 1::3], **EXACT)
    assert (np.delete(small, np.r_[3:6], axis=0) == -1).all()


def test_the_center_stays_where_it_is():
    image = picture(9, 12)
    center = (3.5, 7.5)  # the middle of the pixel in column 3, row 7
    for options in ({"rotation": (30, 30)}, {"shear": (20, 20)}, {"zoom": (1.5, 1.5)}):
        np.testing.assert_allclose(shown(image, center=center, **options)[7, 3], image[7, 3], **EXACT)


def test_positive_shear_moves_what_is_below_the_middle_to_the_right():
    """sin(30 degrees) is a half: the output reads half a pixel further left for each row further down."""
    image = np.zeros((9, 9, 1), np.float32)
    image[:, 4] = 1.0
    columns = shown(image, shear=(30, 30))[..., 0]
    where = (columns * np.arange(9)).sum(1) / columns.sum(1)
    # Linear interpolation keeps the centre of a line; the rows at the rim would read beyond the image.
    np.testing.assert_allclose(where[1:8], 4 + 0.5 * (np.arange(1, 8) - 4), rtol=0, atol=1e-5)


def test_flips_are_numpys():
    image = picture(5, 8)
    np.testing.assert_array_equal(shown(image, hflip=1), image[:, ::-1])
    np.testing.assert_array_equal(shown(image, vflip=1), image[::-1])
    np.testing.assert_array_equal(shown(image, hflip=1, vflip=1), image[::-1, ::-1])


# Crops ----------------------------------------------------------------------------------------------------------------


def nearest_whole(x):
    return math.floor(x + 0.5)


def one_crop(height, width, scale, ratio, numbers):
    """RandomResizedCrop's rules for one image, spelled out: ten areas, ten aspect ratios, then the place."""
    for attempt in range(10):
        area = (scale[0] + (scale[1] - scale[0]) * numbers[attempt]) * (height * width)
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + (high - low) * numbers[10 + attempt])
        tall, wide = max(nearest_whole(math.sqrt(area / aspect)), 1), max(nearest_whole(math.sqrt(area * aspect)), 1)
        if tall <= height and wide <= width:
            top = math.floor(numbers[20] * (height - tall + 1))
            left = math.floor(numbers[21] * (width - wide + 1))
            return top, left, tall, wide
    tall, wide = height, width
    if width / height < ratio[0]:
        tall = min(max(nearest_whole(width / ratio[0]), 1), height)
    elif width / height > ratio[1]:
        wide = min(max(nearest_whole(height * ratio[1]), 1), width)
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def boxes(crop, height, width, uniforms):
    """The crop's own boxes, for one size and many rows of numbers."""
    found = crop.boxes(np.full(len(uniforms), height), np.full(len(uniforms), width), (1, 1), crop.draw(uniforms))
    return [tuple(int(number) for number in box) for box in found]


lengths = st.integers(1, 3000)


def pairs(strategy):
    return st.tuples(strategy, strategy).map(sorted).map(tuple)


scales = pairs(st.floats(0.001, 1))
ratios = pairs(st.floats(0.05, 20))


@given(lengths, lengths, scales, ratios, st.integers(0, 2**32))
@example(3000, 10, (0.9, 1.0), (0.75, 4 / 3), 0)
@example(10, 3000, (0.9, 1.0), (0.75, 4 / 3), 0)
@example(1, 1, (0.001, 0.001), (20, 20), 0)
def test_random_resized_crop_follows_its_rules(height, width, scale, ratio, seed):
    uniforms = np.random.default_rng(seed).random((8, 22))
    crop = RandomResizedCrop(scale=scale, ratio=ratio)
    found = boxes(crop, height, width, uniforms)
    assert found == [one_crop(height, width, scale, ratio, row) for row in uniforms]
    for top, left, tall, wide in found:
        assert tall >= 1
        assert wide >= 1
        assert 0 <= top <= height - tall
        assert 0 <= left <= width - wide


def test_random_resized_crop_falls_back_to_the_middle():
    """An image far from every ratio: ten tries fail, and the box is the largest allowed one, in the middle."""
    uniforms = np.random.default_rng(0).random((4, DRAWS))
    crop = RandomResizedCrop(scale=(0.9, 1), ratio=(0.5, 2))
    assert set(boxes(crop, 10, 100, uniforms)) == {(0, 40, 10, 20)}
    assert set(boxes(crop, 100, 10, uniforms)) == {(40, 0, 20, 10)}


def test_the_first_try_that_fits_is_taken():
    """Ratios of 10 do not fit into a square at this area, those of 1 do."""
    crop = RandomResizedCrop(scale=(0.25, 0.25), ratio=(1, 10))
    row = np.full((1, DRAWS), 0.999)
    row[0, TRIES + 4] = row[0, TRIES + 7] = 0.0
    row[0, 2 * TRIES :] = 0.0, 0.999
    assert boxes(crop, 100, 100, row) == [(0, 50, 50, 50)]


def test_every_place_of_a_crop_is_as_likely():
    crop = RandomResizedCrop(scale=(0.25, 0.25), ratio=(1, 1))
    found = np.array(boxes(crop, 4, 4, np.random.default_rng(1).random((3600, DRAWS))))
    assert (found[:, 2:] == 2).all()
    counts = np.bincount(found[:, 0] * 3 + found[:, 1])
    # Nine places, 400 each, with a standard deviation of 19 at a fixed seed.
    assert counts.shape == (9,)
    assert (abs(counts - 400) < 4 * 19).all()


def test_area_and_aspect_ratio_are_spread_as_documented():
    """Area evenly, aspect ratio evenly in its logarithm; a large image, so that rounding to pixels hides nothing, and
    areas up to a half, so that every first try fits."""
    crop = RandomResizedCrop(scale=(0.1, 0.5), ratio=(3 / 4, 4 / 3))
    step = steps(Augment(size=SIZE, crop=crop), COUNT)
    found = crop.boxes(np.full(COUNT, 3000), np.full(COUNT, 3000), SIZE, step.crops)
    area, aspect = found[:, 2] * found[:, 3] / 3000**2, found[:, 3] / found[:, 2]
    # Rounding to whole pixels moves a side by up to 1 in 800.
    assert area.min() > 0.0995
    assert area.max() < 0.501
    assert_uniform(np.clip(area, 0.1, 0.5), 0.1, 0.5)
    assert_uniform(np.clip(np.log(aspect), -math.log(4 / 3), math.log(4 / 3)), -math.log(4 / 3), math.log(4 / 3))


@given(lengths, lengths, st.integers(1, 512), st.integers(1, 512))
def test_center_crop_is_keras_keep_aspect_ratio(height, width, target_height, target_width):
    """The box that Keras' `load_img(keep_aspect_ratio=True)` cuts, in its whole-number arithmetic."""
    tall = min(height, width * target_height // target_width)
    wide = min(width, height * target_width // target_height)
    tall, wide = max(tall, 1), max(wide, 1)  # Keras cuts boxes without pixels here.
    (found,) = CenterCrop().boxes([height], [width], (target_height, target_width))
    assert tuple(map(int, found)) == ((height - tall) // 2, (width - wide) // 2, tall, wide)


@given(lengths, lengths, st.tuples(st.integers(1, 64), st.integers(1, 64)), st.floats(0.001, 1))
def test_center_crop_stays_inside_the_image(height, width, size, fraction):
    crop = CenterCrop(fraction=fraction)
    ((top, left, tall, wide),) = crop.boxes([height], [width], size)
    assert tall >= 1
    assert wide >= 1
    assert 0 <= top <= height - tall
    assert 0 <= left <= width - wide
    # In the middle, as nearly as whole pixels allow.
    assert abs((height - tall) - 2 * top) <= 1
    assert abs((width - wide) - 2 * left) <= 1


def test_center_crop_of_224_256():
    """What is seen after resizing the shorter side to 256 and cutting out 224 x 224."""
    for crop in (CenterCrop(fraction=224 / 256), CenterCrop(resize=256)):
        assert crop.boxes([256, 1024], [340, 512], (224, 224)).tolist() == [[16, 58, 224, 224], [288, 32, 448, 448]]


@given(lengths, lengths, st.integers(1, 300), st.data())
def test_center_crop_after_a_resize_is_torchvisions(height, width, length, data):
    """Sizes and places in torchvision's arithmetic: `Resize(length)`, then `CenterCrop(size)`."""
    size = data.draw(st.tuples(st.integers(1, length), st.integers(1, length)))
    longer = int(length * max(height, width) / min(height, width))
    tall, wide = (length, longer) if height <= width else (longer, length)
    top, left = round((tall - size[0]) / 2.0), round((wide - size[1]) / 2.0)
    (found,) = CenterCrop(resize=length).boxes([height], [width], size)
    y, x = height / tall, width / wide
    np.testing.assert_allclose(found, [top * y, left * x, size[0] * y, size[1] * x], rtol=1e-12, atol=1e-9)


# Messages -------------------------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 64}, r"size must be \(height, width\) in pixels, not 64"),
        ({"size": (1, 2, 3)}, r"size must be \(height, width\) in pixels, not \(1, 2, 3\)"),
        ({"size": (0, 8)}, "size must be an integer of at least 1, not 0"),
        ({"size": (8, 2.5)}, r"size must be an integer of at least 1, not 2\.5"),
        ({"crop": 0.9}, r"crop must be a CenterCrop, a RandomResizedCrop or None, not 0\.9"),
        ({"crop": CenterCrop}, "crop must be a CenterCrop, a RandomResizedCrop or None, not <class"),
        (
            {"interpolation": "cubic"},
            "interpolation must be one of nearest, bilinear, bicubic, lanczos, box, hamming, not 'cubic'",
        ),
        (
            {"interpolation": "lanczos", "antialias": False},
            "antialias=False is for nearest and bilinear, not interpolation='lanczos'",
        ),
        ({"color": "bgr"}, "color must be one of rgb, grayscale, rgba, not 'bgr'"),
        ({"fill_mode": "mirror"}, "fill_mode must be one of nearest, constant, reflect, wrap, not 'mirror'"),
        ({"dtype": "float64"}, "dtype must be one of float32, float16, bfloat16, uint8, not 'float64'"),
        ({"per_sample": "scale"}, "per_sample must be one of center, standardize, not 'scale'"),
        ({"layout": "NHWC"}, "layout must be one of HWC, CHW, not 'NHWC'"),
        ({"rotation": "much"}, r"rotation must be a number or a pair \(low, high\), not 'much'"),
        ({"rotation": None}, r"rotation must be a number or a pair \(low, high\), not None"),
        ({"width_shift": (1, 2, 3)}, r"width_shift must be a number or a pair \(low, high\), not \(1, 2, 3\)"),
        ({"height_shift": (0.2, 0.1)}, r"height_shift must be finite with low <= high, not \(0\.2, 0\.1\)"),
        ({"shear": NAN}, "shear must be finite with low <= high, not nan"),
        ({"shear": -5}, "shear must be finite with low <= high, not -5"),
        ({"channel_shift": (0, INF)}, r"channel_shift must be finite with low <= high, not \(0, inf\)"),
        ({"zoom": 1.5}, r"zoom must stay above 0, not 1\.5"),
        ({"zoom": (0, 1)}, r"zoom must stay above 0, not \(0, 1\)"),
        ({"zoom": "big"}, r"zoom must be a number or a pair \(low, high\), not 'big'"),
        ({"hflip": 1.5}, r"hflip must be a probability from 0 to 1, not 1\.5"),
        ({"hflip": NAN}, "hflip must be a probability from 0 to 1, not nan"),
        ({"vflip": -0.1}, r"vflip must be a probability from 0 to 1, not -0\.1"),
        ({"brightness": 0.5}, r"brightness must be a pair of factors \(low, high\) of at least 0, not 0\.5"),
        ({"brightness": (-1, 1)}, r"brightness must be a pair of factors \(low, high\) of at least 0, not \(-1, 1\)"),
        ({"brightness": (1.2, 0.8)}, r"brightness must be finite with low <= high, not \(1\.2, 0\.8\)"),
        ({"warp_order": 6}, "warp_order must be an integer from 0 to 5, not 6"),
        ({"warp_order": -1}, "warp_order must be an integer of at least 0, not -1"),
        ({"warp_order": 1.0}, r"warp_order must be an integer of at least 0, not 1\.0"),
        ({"function": "double"}, "function must be callable, not 'double'"),
        ({"fill_value": NAN}, "fill_value must be a finite number, not nan"),
        ({"rescale": INF}, "rescale must be a finite number, not inf"),
        ({"mean": [1, 2]}, r"mean must be one finite number or 3, one a channel, not \[1, 2\]"),
        ({"mean": NAN}, "mean must be one finite number or 3, one a channel, not nan"),
        ({"mean": [1, 2, 3], "color": "grayscale"}, r"mean must be one finite number or 1, one a channel, not \[1, 2"),
        ({"std": [[1.0]]}, r"std must be one finite number or 3, one a channel, not \[\[1\.0\]\]"),
        ({"std": 0}, "std must be above 0, not 0"),
        ({"std": (1, 2, -3)}, r"std must be above 0, not \(1, 2, -3\)"),
        ({"zca": np.eye(4)}, "zca needs size: its matrix belongs to images of one size"),
        (
            {"zca": np.eye(4), "size": (2, 3)},
            r"zca must have shape \(18, 18\) for size=\(2, 3\) and 3 channels, not \(4, 4\)",
        ),
        # What Python itself would say about these names neither the argument nor the rule.
        ({"hflip": "often"}, "hflip must be a probability from 0 to 1, not 'often'"),
        ({"vflip": None}, "vflip must be a probability from 0 to 1, not None"),
        ({"mean": "imagenet"}, "mean must be .*, not 'imagenet'"),
        ({"std": [1, None, 1]}, r"std must be .*, not \[1, None, 1\]"),
        ({"rescale": "1/255"}, "rescale must be .*, not '1/255'"),
        ({"fill_value": "black"}, "fill_value must be .*, not 'black'"),
        ({"fill_value": None}, "fill_value must be .*, not None"),
        ({"center": 5}, "center must be .*, not 5"),
        ({"center": (1, 2, 3)}, r"center must be .*, not \(1, 2, 3\)"),
        ({"center": (NAN, 1)}, r"center must be .*, not \(nan, 1\)"),
    ],
)
def test_augment_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Augment(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0}, r"fraction must be in \(0, 1\], not 0"),
        ({"fraction": 1.1}, r"fraction must be in \(0, 1\], not 1\.1"),
        ({"fraction": NAN}, r"fraction must be in \(0, 1\], not nan"),
        ({"fraction": "half"}, r"fraction must be in \(0, 1\], not 'half'"),
    ],
)
def test_center_crop_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        CenterCrop(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": (0, 1)}, r"scale must be \(low, high\) with 0 < low <= high <= 1, not \(0, 1\)"),
        ({"scale": (0.5, 1.5)}, r"scale must be \(low, high\) with 0 < low <= high <= 1, not \(0\.5, 1\.5\)"),
        ({"scale": (0.8, 0.2)}, r"scale must be \(low, high\) with 0 < low <= high <= 1, not \(0\.8, 0\.2\)"),
        ({"scale": (NAN, 1)}, r"scale must be \(low, high\) with 0 < low <= high <= 1, not \(nan, 1\)"),
        ({"scale": 0.5}, r"scale must be \(low, high\) with .*, not 0\.5"),
        ({"scale": (0.1, 0.5, 1)}, r"scale must be \(low, high\) with .*, not \(0\.1, 0\.5, 1\)"),
        ({"ratio": (0, 1)}, r"ratio must be \(low, high\) with 0 < low <= high, not \(0, 1\)"),
        ({"ratio": (2, 1)}, r"ratio must be \(low, high\) with 0 < low <= high, not \(2, 1\)"),
        ({"ratio": ("a", "b")}, r"ratio must be \(low, high\) with .*, not \('a', 'b'\)"),
        ({"ratio": (1, INF)}, r"ratio must be .*, not \(1, inf\)"),
    ],
)
def test_random_resized_crop_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        RandomResizedCrop(**arguments)


def test_replace_checks_again():
    augment = Augment(size=(4, 4), hflip=0.5)
    assert augment.replace(vflip=1).vflip == 1
    with pytest.raises(ValueError, match="vflip must be a probability from 0 to 1, not 2"):
        augment.replace(vflip=2)


def test_repr_tells_what_differs_from_the_default():
    assert repr(Augment(size=[4, 8], hflip=0.5, color="grayscale")) == (
        "Augment(size=(4, 8), color='grayscale', hflip=0.5)"
    )


def test_ranges_as_numpy_arrays_are_ranges():
    """Pairs often come out of a calculation."""
    pair = (0.5, 1.5)
    for name in ("rotation", "zoom", "channel_shift", "brightness"):
        given_pair, given_array = (steps(Augment(size=SIZE, **{name: value}), 4) for value in (pair, np.array(pair)))
        assert_same(given_pair, given_array)
