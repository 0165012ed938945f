"""Sources, beside Keras' own listing where there is one, and beside plain Python lists."""

from __future__ import annotations

import array
import io
import mmap
import os
import pathlib
import pickle
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gpuload import Augment, Loader
from gpuload.sources import (
    CustomSource,
    EncodedSource,
    FileSource,
    ImageArray,
    ImageBytes,
    ImageFolder,
    ImageFrame,
    ImageList,
    Series,
    Source,
    as_source,
)
from gpuload.sources.fingerprint import fingerprint, fingerprint_of_names

TREE = [
    "b cat/1.jpg",
    "b cat/10.JPG",
    "b cat/2.Jpeg",
    "b cat/photojpg",  # Keras asks for no dot
    "b cat/png",
    "b cat/.hidden.jpg",
    "b cat/notes.txt",
    "b cat/1.jpg.bak",
    "b cat/a/c/x.png",
    "b cat/a/z.bmp",
    "b cat/a-b/y.ppm",  # sorts between `a` and `a/c`
    "b cat/a/folder.jpg/inside.tif",
    "a/é/ü.jpg",
    "a/é/z.TIFF",
    "a/日本/写真 1.jpg",
    "a/\U0001f408.jpg",
    "a/0.gif",
    "Z/only.webp",
    "Z/deep/er/1.jpg",
    ".cache/1.jpg",
]


def plant(root: pathlib.Path, files: list[str]) -> pathlib.Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    root = plant(tmp_path / "root", TREE)
    outside = plant(tmp_path / "outside", ["far.jpg", "more/farther.jpg"])
    (root / "file directly in root.jpg").touch()
    (root / "b cat" / "empty").mkdir()
    (root / "b cat" / "link.jpg").symlink_to(outside / "far.jpg")
    (root / "b cat" / "broken.jpg").symlink_to(outside / "gone")
    (root / "b cat" / "self.jpg").symlink_to("self.jpg")
    (root / "b cat" / "b-link").symlink_to(outside)
    (root / "linked class").symlink_to(outside)
    return root


def keras_listing(root: os.PathLike[str] | str, classes: list[str] | None, follow_links: bool):
    os.environ.setdefault("KERAS_BACKEND", "torch")  # TensorFlow takes seconds to import
    image = pytest.importorskip("keras.src.legacy.preprocessing.image")
    return image.DirectoryIterator(os.fspath(root), None, classes=classes, follow_links=follow_links)


@pytest.mark.filterwarnings('ignore:Using ".tiff" files:UserWarning')
@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("classes", [None, ["b cat", "Z"], []])
@pytest.mark.parametrize("slash", ["", os.sep])
def test_folder_lists_as_keras_lists(tree, classes, follow_links, slash):
    expected = keras_listing(f"{tree}{slash}", classes, follow_links)
    source = ImageFolder(f"{tree}{slash}", classes, follow_links)
    assert source.filenames == expected.filenames
    assert [source.path(index) for index in range(len(source))] == expected.filepaths
    assert source.class_indices == expected.class_indices
    assert source.classes == list(expected.class_indices)
    assert source.labels.dtype == expected.labels.dtype
    np.testing.assert_array_equal(source.labels, expected.labels)


def test_folder_sorts_folders_by_whole_path(tree):
    """Not depth first: `-` sorts before the separator, so `a-b` comes between `a` and `a/c`."""
    nested = [name for name in ImageFolder(tree).filenames if name.startswith("b cat/a")]
    assert nested == ["b cat/a/z.bmp", "b cat/a-b/y.ppm", "b cat/a/c/x.png", "b cat/a/folder.jpg/inside.tif"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not text")
@pytest.mark.filterwarnings('ignore:Using ".tiff" files:UserWarning')
def test_folder_sorts_undecodable_names_as_keras_does(tmp_path):
    """Bytes and text sort differently here: \\xe4 alone is the surrogate U+DCE4, which sorts after U+4E2D."""
    folder = os.fsencode(tmp_path / "a")
    os.mkdir(folder)
    for name in (b"\xe4.jpg", "中.jpg".encode(), "\U0001f408.jpg".encode(), b"z.jpg"):
        with open(os.path.join(folder, name), "w"):
            pass
    source = ImageFolder(tmp_path)
    assert source.filenames == keras_listing(tmp_path, None, False).filenames
    assert source.paths(range(4)) == [os.fsencode(source.path(i)) for i in range(4)]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.text("aA-é1. 猫", min_size=1, max_size=3).filter(lambda t: t.strip(".")), min_size=2, max_size=4),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_folder_lists_any_tree_as_keras_lists(tmp_path_factory, parts, data):
    root = tmp_path_factory.mktemp("tree")
    suffixes = st.sampled_from([".jpg", ".JPEG", ".tif", ".txt", "ppm", ".png", ".jpg"])
    plant(root, [os.path.join(*folders, f"{name}{data.draw(suffixes)}") for *folders, name in parts])
    expected = keras_listing(root, None, False)
    if not expected.samples:
        with pytest.raises(ValueError, match="must hold images"):
            ImageFolder(root, allow_empty=True)
        return
    source = ImageFolder(root, allow_empty=True)
    assert source.filenames == expected.filenames
    np.testing.assert_array_equal(source.labels, expected.labels)


def test_folder_takes_relative_bytes_and_pathlike_roots(tree, monkeypatch):
    names = ImageFolder(tree).filenames
    assert ImageFolder(os.fsencode(tree)).filenames == names
    monkeypatch.chdir(tree.parent)
    source = ImageFolder("root", np.array(["b cat", "Z"]))
    assert source.path(0) == os.path.join("root", source.filenames[0])
    assert source.root == "root"
    assert {type(name) for name in source.classes} == {str}


def test_folder_allows_empty_classes_when_told_to(tmp_path):
    plant(tmp_path, ["a/1.jpg", "b/readme.txt", "c/1.jpg"])
    source = ImageFolder(tmp_path, allow_empty=True)
    assert source.class_indices == {"a": 0, "b": 1, "c": 2}
    np.testing.assert_array_equal(source.labels, [0, 2])


@pytest.mark.parametrize("target", ["a", "a/deep", ".", ".."])
def test_folder_refuses_loops_of_links(tmp_path, target):
    root = plant(tmp_path / "root", ["a/1.jpg", "a/deep/2.jpg", "b/1.jpg"])
    (root / "a" / "deep" / "loop").symlink_to(root / target)
    assert len(ImageFolder(root)) == 3
    with pytest.raises(ValueError, match=r"follow_links=True needs links without loops: '.*loop' leads back to"):
        ImageFolder(root, follow_links=True)


def test_folder_refuses_loops_through_a_second_folder(tmp_path):
    root = plant(tmp_path / "root", ["a/1.jpg"])
    outside = plant(tmp_path / "outside", ["2.jpg"])
    (root / "a" / "there").symlink_to(outside)
    (outside / "back").symlink_to(root / "a")
    with pytest.raises(ValueError, match=r"there/back' leads back to '.*root/a'"):
        ImageFolder(root, follow_links=True)


def test_folder_follows_two_links_to_one_folder(tmp_path):
    root = plant(tmp_path / "root", ["a/x/1.jpg"])
    (root / "a" / "y").symlink_to(root / "a" / "x")
    assert ImageFolder(root, follow_links=True).filenames == ["a/x/1.jpg", "a/y/1.jpg"]


def test_folder_errors(tmp_path):
    root = plant(tmp_path / "root", ["a/1.jpg", "b/1.jpg", "c/note.txt", "d/x/note.txt"])
    flat = plant(tmp_path / "flat", ["1.jpg", "2.PNG", "note.txt"])
    blank = plant(tmp_path / "blank", ["a/note.txt", "b/note.txt"])
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(FileNotFoundError, match=r"root must be a folder: '.*gone' does not exist; check the path"):
        ImageFolder(tmp_path / "gone")
    with pytest.raises(NotADirectoryError, match=r"root must be a folder: '.*1.jpg' is a file; .* ImageList"):
        ImageFolder(flat / "1.jpg")
    with pytest.raises(ValueError, match=r"one folder per class: .* no folders, but 2 images .* ImageList"):
        ImageFolder(flat)
    with pytest.raises(ValueError, match=r"one folder per class: .* but 0 images directly"):
        ImageFolder(bare)
    with pytest.raises(FileNotFoundError, match=r"classes must name folders in root: .* no 'e', 'f'; it has 'a', 'b'"):
        ImageFolder(root, ["a", "e", "f"])
    with pytest.raises(FileNotFoundError, match=r"has no 'd/x'"):
        ImageFolder(root, ["d/x"])
    with pytest.raises(ValueError, match=r"classes must not repeat a name: 'a' comes twice; name each once"):
        ImageFolder(root, ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"classes must be a sequence of names, not one: got 'a'; write \['a'\]"):
        ImageFolder(root, "a")
    with pytest.raises(ValueError, match=r"must hold images: .* none in 'c', 'd'; .* allow_empty=True"):
        ImageFolder(root)
    with pytest.raises(ValueError, match=r"must hold images: .* none in 'a', 'b'; .* follow_links=True"):
        ImageFolder(blank, allow_empty=True)


def test_long_lists_in_errors_are_cut(tmp_path):
    root = plant(tmp_path, [f"{index:02}/note.txt" for index in range(30)])
    with pytest.raises(ValueError, match="'08', '09' and 20 more; add files"):
        ImageFolder(root)


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=20), st.sampled_from(["", "root", "root/", "/data/träin"]), st.data())
def test_files_behave_as_a_list(files, root, data):
    source = ImageList(files, np.arange(len(files)), root=root)
    picks = data.draw(st.lists(st.integers(-len(files), len(files) - 1), max_size=30))
    full = [os.path.join(root, name) for name in files]

    assert len(source) == len(files)
    assert source.filenames == files
    assert [source.path(index) for index in range(-len(files), len(files))] == full + full
    paths = source.paths(picks)
    assert [os.fsdecode(path) for path in paths] == [full[index] for index in picks]

    taken = source.take(picks)
    assert type(taken) is ImageList
    assert taken.filenames == [files[index] for index in picks]
    np.testing.assert_array_equal(taken.labels, np.arange(len(files))[picks] if picks else [])
    twice = data.draw(st.lists(st.integers(0, len(picks) - 1), max_size=5)) if picks else []
    assert taken.take(twice).filenames == [files[picks[index]] for index in twice]

    some = data.draw(st.slices(len(files)))
    assert source.take(some).filenames == files[some]
    mask = data.draw(st.lists(st.booleans(), min_size=len(files), max_size=len(files)))
    assert source.take(mask).filenames == [name for name, keep in zip(files, mask, strict=True) if keep]
    assert source.filenames == files


def test_take_of_more_files_than_one_chunk():
    files = [f"{index}.jpg" for index in range(70_000)]
    order = np.random.default_rng(0).permutation(len(files))
    assert ImageList(files).take(order).filenames == [files[index] for index in order]


@pytest.mark.parametrize("method", ["take", "paths"])
@pytest.mark.parametrize("indices", [3, [[0, 1]], [0.5], "0", None])
def test_indices_that_are_not_indices(method, indices):
    with pytest.raises(IndexError, match="indices must be one row of integers or booleans, or a slice"):
        getattr(ImageList(["a", "b"]), method)(indices)


@pytest.mark.parametrize("index", [2, -3])
def test_indices_out_of_range(index):
    source = ImageList(["a", "b"])
    for call in (source.path, lambda i: source.paths([i]), lambda i: source.take([i])):
        with pytest.raises(IndexError, match="out of bounds"):
            call(index)


def test_list_takes_every_kind_of_path():
    pd = pytest.importorskip("pandas")
    mixed = ["a.jpg", b"b.jpg", pathlib.Path("c.jpg")]
    expected = ["a.jpg", "b.jpg", "c.jpg"]
    assert ImageList(mixed).filenames == expected
    assert ImageList(tuple(mixed)).filenames == expected
    assert ImageList(np.array(expected)).filenames == expected
    assert ImageList(pd.Series(expected, index=[7, 8, 9])).filenames == expected
    assert ImageList(["/x/a.jpg"], root="/data").path(0) == "/x/a.jpg"


@pytest.mark.parametrize("labels", [[[1, 2], [3, 4]], np.zeros((2, 3, 4), np.float16), ["x", "y"], (True, False)])
def test_labels_are_kept_as_they_stand(labels):
    for source in (ImageList(["a", "b"], labels), ImageArray(np.zeros((2, 1, 1, 1), np.uint8), labels)):
        assert source.labels.dtype == np.asarray(labels).dtype
        np.testing.assert_array_equal(source.labels, labels)
        np.testing.assert_array_equal(source.take([1]).labels, np.asarray(labels)[[1]])


def test_list_errors():
    with pytest.raises(
        ValueError, match=r"labels must have one entry for each of paths: .*\[3\], paths has 2; give both"
    ):
        ImageList(["a", "b"], [1, 2, 3])
    with pytest.raises(ValueError, match=r"labels has shape \[\], paths has 1"):
        ImageList(["a"], 7)
    with pytest.raises(ValueError, match=r"paths must hold at least one path: it is empty; check"):
        ImageList([])
    for path in ("a.jpg", b"a.jpg", pathlib.PurePosixPath("a.jpg")):
        with pytest.raises(ValueError, match=r"paths must be a sequence of paths, not one path: got .*a\.jpg"):
            ImageList(path)
    with pytest.raises(ValueError, match=r"paths must hold paths \(.*\): entry 1 is 5; convert it or leave it out"):
        ImageList(["a", 5])
    with pytest.raises(ValueError, match=re.escape(r"entry 1 is 'b\x00c'")):
        ImageList(["a", "b\0c"])


def test_frame_of_classes():
    pd = pytest.importorskip("pandas")
    for dtype in (None, "category", object):
        frame = pd.DataFrame(
            {"filename": ["1.jpg", "2.jpg", "/3.jpg"], "class": ["dog", "Cat", "dog"]}, index=[5, 5, 6]
        )
        source = ImageFrame(frame.astype({"class": dtype}) if dtype else frame, "data")
        assert source.classes == ["Cat", "dog"]
        assert source.class_indices == {"Cat": 0, "dog": 1}
        assert source.labels.dtype == np.int32
        assert source.labels.tolist() == [1, 0, 1]
        assert [source.path(index) for index in range(3)] == ["data/1.jpg", "data/2.jpg", "/3.jpg"]
        assert source.take([1]).classes == ["Cat", "dog"]


def test_frame_of_numbers():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": ["1", "2"], "i": np.array([3, 4], np.int16), "f": np.array([0.5, 1.5], np.float32)})
    frame["nullable"] = pd.array([7, 8], dtype="Int64")
    source = ImageFrame(frame, x_col="x", y_col="i")
    assert (source.labels.dtype, source.labels.tolist(), source.classes) == (np.int16, [3, 4], None)
    assert ImageFrame(frame, x_col="x", y_col="nullable").labels.tolist() == [7, 8]
    source = ImageFrame(frame, x_col="x", y_col=["i", "f"])
    assert source.labels.dtype == np.float32
    assert source.labels.tolist() == [[3, 0.5], [4, 1.5]]
    assert ImageFrame(frame, x_col="x", y_col=None).labels is None


def test_frame_errors():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"filename": ["1", "2", "3"], "class": ["a", None, None], "n": [1.0, np.nan, 2.0], "m": [1, 2, 3]}
    )
    frame["mixed"] = pd.Series([1, "a", 2.5], dtype=object)
    frame["names"] = pd.Series(["1", None, "3"])
    frame["numbers"] = [1, 2, 3]
    with pytest.raises(
        ValueError, match=r"x_col must be a column of dataframe: 'file' is not; .* 'filename', 'class', 'n'"
    ):
        ImageFrame(frame, x_col="file")
    with pytest.raises(ValueError, match=r"y_col must be a column of dataframe: 'k' is not"):
        ImageFrame(frame, y_col=["m", "k"])
    with pytest.raises(
        ValueError, match=r"y_col='class' must have no missing values: 2 of 3 are, the first in row 1 .*dropna"
    ):
        ImageFrame(frame)
    with pytest.raises(ValueError, match=r"y_col='n' must have no missing values: 1 of 3"):
        ImageFrame(frame, y_col=["m", "n"])
    with pytest.raises(ValueError, match=r"x_col='names' must have no missing values: 1 of 3 are, the first in row 1"):
        ImageFrame(frame, x_col="names", y_col=None)
    with pytest.raises(ValueError, match=r"dataframe\['numbers'\] must hold paths .*: entry 0 is .*1"):
        ImageFrame(frame, x_col="numbers", y_col=None)
    with pytest.raises(
        ValueError, match=r"y_col must name columns of numbers, or one .*'mixed' is object and begins with 1"
    ):
        ImageFrame(frame, y_col="mixed")
    with pytest.raises(ValueError, match=r"'filename' is .* and begins with '1'; convert it .*, or pass it alone"):
        ImageFrame(frame, y_col=["m", "filename"])
    with pytest.raises(ValueError, match=r"y_col must name a column: got \[\]; pass y_col=None"):
        ImageFrame(frame, y_col=[])
    with pytest.raises(ValueError, match=r"dataframe\['filename'\] must hold at least one path: it is empty"):
        ImageFrame(frame[:0])


def test_array_takes(tmp_path):
    images = np.random.default_rng(0).random((5, 2, 3, 1), np.float32)
    source = ImageArray(images, list("abcde"))
    assert len(source) == 5
    assert source.images is images
    taken = source.take([4, -5])
    np.testing.assert_array_equal(taken.images, images[[4, 0]])
    assert taken.labels.tolist() == ["e", "a"]
    assert np.shares_memory(source.take(slice(1, 3)).images, images)
    assert ImageArray(images.tolist()).images.dtype == np.float64

    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(4, 2, 2, 3))
    assert ImageArray(mapped).images is mapped
    assert isinstance(ImageArray(mapped).take(slice(2)).images, np.memmap)


def test_array_errors():
    with pytest.raises(ValueError, match=r"images must be \[N, H, W, C\] .*got uint8 \[5, 2, 2\]; images\[\.\.\., np"):
        ImageArray(np.zeros((5, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"N at least 1: got uint8 \[0, 2, 2, 3\]"):
        ImageArray(np.zeros((0, 2, 2, 3), np.uint8))
    for dtype in (np.int64, bool, np.complex64):
        name = np.dtype(dtype).name
        with pytest.raises(
            ValueError, match=rf"images must be uint8 or floating: got {name}; convert .*astype\('uint8'\)"
        ):
            ImageArray(np.zeros((1, 2, 2, 3), dtype))
    with pytest.raises(ValueError, match=r"labels must have one entry for each of images: .*\[2\], images has 3"):
        ImageArray(np.zeros((3, 2, 2, 3), np.uint8), [0, 1])


def test_sources_pickle_without_what_can_be_made_again(tree):
    for source in (ImageFolder(tree), ImageList(["a", "b"], [1, 2], root="r")):
        size = len(pickle.dumps(source))
        listed = source.filenames
        assert len(pickle.dumps(source)) == size
        again = pickle.loads(pickle.dumps(source))
        assert isinstance(again, FileSource)
        assert (again.filenames, again.root, again.classes) == (listed, source.root, source.classes)
        np.testing.assert_array_equal(again.labels, source.labels)
        assert again.take([1]).path(0) == source.path(1)
    array = pickle.loads(pickle.dumps(ImageArray(np.ones((1, 1, 1, 1), np.uint8))))
    assert array.images.tolist() == [[[[1]]]]


def test_reprs(tree):
    folder = ImageFolder(tree, ["Z"])
    assert repr(folder) == f"ImageFolder(1 files in {str(tree)!r}, labels: 1 classes)"
    assert repr(ImageList(["a", "b"], root="r")) == "ImageList(2 files in 'r', labels: none)"
    assert repr(ImageArray(np.ones((1, 2, 3, 4), np.uint8))) == "ImageArray(images: uint8 [1, 2, 3, 4], labels: none)"


def test_names_are_few_objects():
    """A million files must not be a million objects that the garbage collector, and every fork, visit."""
    source = ImageList([f"{index}.jpg" for index in range(1000)])
    assert len(pickle.dumps(source)) < 1000 * (len("999.jpg") + 1 + 8) + 1000


def test_pandas_is_not_imported():
    code = "import sys, gpuload.sources; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fingerprints_are_a_promise():
    """States on disk hold them."""
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    listed = ImageList(["a.jpg", "é/b.jpg"], labels=np.array([3, 1], np.int32), root="/data")
    large = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 80, 80, 1))
    for source, expected in [
        (listed, "bf16d0c493a8509d"),
        (listed.take([1, 0]), "fbc11b388486ace2"),
        (ImageList(["a.jpg"]), "63da2971e1abffc6"),
        (ImageList(["a", "b"], labels=np.array(["x", None], object)), "d6f0f3484a4ae815"),
        (ImageArray(np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3), labels=[0.5, 1.5]), "b07ffe41ec64b086"),
        (ImageArray(large), "1941b8c039243ee4"),
        (Series(rows), "1c2996e1adb7fa9a"),
        (
            Series(rows, np.arange(20, dtype=np.int64), groups=np.repeat([1, 2], 10), segments=[(0, 5), (7, 20)]),
            "097580abc3a60eca",
        ),
    ]:
        assert fingerprint(source) == expected
    assert fingerprint_of_names(listed) == "10d652d9c6eb5563"
    encoded = ImageBytes([b"one", b"second"], labels=np.array([0, 1], np.int32), names=["a", "b"])
    own = as_source(FullStore({"a": b"1", "b": b"22"}))
    for source, expected, of_names in [
        (encoded, "d14a1bae4a576157", "aff7e914975eef1d"),
        (encoded.take([1]), "3201e88e7513be6f", "5fa5eb1ef6f43e19"),
        (own, "17c69f590a40420c", "34d873142e184394"),
        (own.take([1]), "b91f66a41438a25f", "6e17dda6f31fa576"),
    ]:
        assert (fingerprint(source), fingerprint_of_names(source)) == (expected, of_names)


def test_fingerprints_tell_encoded_images_apart():
    images = [bytes([index % 256]) * 9 for index in range(1000)]
    changed = [*images[:-1], b"123456789"]
    sources = [ImageBytes(images), ImageBytes(changed), ImageBytes([*images[:500], b"longer than 9", *images[501:]])]
    sources += [
        CustomSource(kind(dict(enumerate(each)))) for kind in (Store, FullStore) for each in (images, images[1:])
    ]
    assert len({fingerprint(source) for source in sources}) == len(sources)
    assert len({fingerprint_of_names(source) for source in sources}) == len(sources)
    for one, other in ((ImageBytes(images), ImageBytes(list(map(bytearray, images)), names=["n"] * 1000)),):
        assert fingerprint(one) == fingerprint(other)
    labelled = ImageBytes(images, np.arange(1000))
    assert fingerprint(labelled) != fingerprint(sources[0])
    assert fingerprint_of_names(labelled) == fingerprint_of_names(sources[0])


def test_the_contract_of_sources(tree):
    for source in (ImageFolder(tree), ImageList(["a"]), ImageBytes([b"a"]), as_source(Store({"a": b"a"}))):
        assert isinstance(source, EncodedSource)
        assert as_source(source) is source
        assert source.labels is None or len(source.labels) == len(source)
        assert len(source.read(range(len(source)))) == len(source)
        assert isinstance(source.name(0), str)
        assert isinstance(hash(source.stamp(0)), int)
        assert len(source.take([0, 0])) == 2
    memory = ImageArray(np.zeros((1, 2, 2, 3), np.uint8))
    assert as_source(memory) is memory
    assert isinstance(memory, Source)
    assert not isinstance(memory, EncodedSource)
    assert as_source(series := Series(np.zeros(3))) is series


class Store:
    """A user's own source, of the least that is asked for."""

    def __init__(self, records):
        self.records = list(records.values())

    def __len__(self):
        return len(self.records)

    def read(self, indices):
        assert {type(index) for index in indices} <= {int}
        return [self.records[index] for index in indices]


class FullStore(Store):
    """A source with all that it may have."""

    def __init__(self, records):
        super().__init__(records)
        self.labels, self.keys = list(range(len(records))), list(records)

    def name(self, index):
        return self.keys[index]

    def stamp(self, index):
        return len(self.records[index]), "v1"


def picture(form="JPEG"):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(file, form)
    return file.getvalue()


def test_files_are_read_named_and_stamped(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    source = ImageList(["a", "gone", "empty", "folder"], root=tmp_path)
    found = source.read([0, 1, 2, 3, -4])
    assert (found[0], found[4]) == (b"one", b"one")
    assert [type(each) for each in found[1:4]] == [FileNotFoundError, OSError, IsADirectoryError]
    assert str(found[2]) == "the file is empty"
    assert source.read(slice(1)) == [b"one"]
    assert source.name(1) == str(tmp_path / "gone")
    stat = os.stat(tmp_path / "a")
    assert source.stamp(0) == (3, stat.st_mtime_ns)
    assert source.stamp(1) is None
    os.utime(tmp_path / "a", ns=(0, 7))
    assert source.stamp(0) == (3, 7)


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=20), st.data())
def test_bytes_behave_as_a_list(images, data):
    source = ImageBytes(images, np.arange(len(images)), map(str, range(len(images))))
    picks = data.draw(st.lists(st.integers(-len(images), len(images) - 1), max_size=30))
    mask = data.draw(st.lists(st.booleans(), min_size=len(images), max_size=len(images)))
    for indices in (picks, mask, data.draw(st.slices(len(images)))):
        expected = np.arange(len(images))[
            np.array(indices, bool if indices is mask else int) if isinstance(indices, list) else indices
        ].tolist()
        taken = source.take(indices)
        for found in (source.read(indices), taken.read(slice(None))):
            assert len(found) == len(expected)
            for image, index in zip(found, expected, strict=True):
                assert image is images[index] if images[index] else isinstance(image, OSError)
        assert taken.labels.tolist() == expected
        assert [taken.name(number) for number in range(len(taken))] == list(map(str, expected))
        assert [taken.stamp(number) for number in range(len(taken))] == [source.stamp(index) for index in expected]
    assert source.stamp(-1) == (len(images[-1]), zlib.crc32(images[-1]))


def test_bytes_take_every_kind_of_image_without_a_copy():
    row = np.arange(12, dtype=np.uint8)
    memory = bytearray(row)
    kept = [bytes(row), memory, memoryview(memory), memoryview(memory).cast("b"), row, row[3:7], row.view(np.memmap)]
    source = ImageBytes(kept)
    found = source.read(range(len(kept)))
    assert [bytes(image) for image in found] == [bytes(each) for each in kept]
    assert [len(image) for image in found] == [12, 12, 12, 12, 12, 4, 12]
    assert found[0] is kept[0]
    assert found[1] is kept[1]
    row[:], memory[:] = 7, b"\7" * 12
    assert {bytes(image)[-1] for image in found[1:]} == {7}
    backwards = row[::-2]
    assert bytes(ImageBytes([backwards, memoryview(backwards)]).read([1])[0]) == backwards.tobytes()
    assert isinstance(ImageBytes([np.zeros(0, np.uint8)]).read([0])[0], OSError)


def test_bytes_take_every_kind_of_sequence():
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    images = [b"one\0", b"second", b"3"]
    column = np.empty(3, object)
    column[:] = images
    chunks = pa.chunked_array([pa.array(images[:1], pa.binary()), pa.array(images[1:], pa.binary())])
    arrow = [pa.array(images), pa.array(images, pa.large_binary()), chunks, pa.table({"image": chunks})["image"]]
    frames = [pd.Series(images, index=[5, 5, 6]), pd.Series(images, dtype=pd.ArrowDtype(pa.binary()))]
    for data in (images, tuple(images), column, iter(images), *frames, *arrow):
        assert list(map(bytes, ImageBytes(data).read(slice(None)))) == images
    more = pa.array(images * 2)
    arrow += [pa.array(images, pa.binary_view()), more[3:], pa.chunked_array([more[:0], more[1:3], more[3:4]])]
    for data in arrow[:4]:
        for chunk in getattr(data, "chunks", [data]):
            memory, (image,) = np.frombuffer(chunk.buffers()[2], np.uint8), ImageBytes(chunk).read([0])
            assert np.shares_memory(memory, np.frombuffer(image, np.uint8))
    assert len(ImageBytes(pa.array([b""]))) == 1
    with pytest.raises(ValueError, match="entry 1 is None; convert it or leave it out"):
        ImageBytes(pa.array([b"a", None]))
    with pytest.raises(ValueError, match="entry 0 is a StringScalar"):
        ImageBytes(pa.array(["a.jpg"]))


def test_bytes_names_labels_pickles_and_repr():
    images = [b"a", bytearray(b"b"), memoryview(b"c"), np.array([100], np.uint8)]
    source = ImageBytes(images, [[1, 2]] * 4)
    assert repr(source) == "ImageBytes(4 images, labels: int64 [4, 2])"
    assert [source.name(3), source.name(-1)] == ["image 3", "image 3"]
    again = pickle.loads(pickle.dumps(source))
    assert list(map(bytes, again.read(slice(None)))) == [b"a", b"b", b"c", b"d"]
    assert again.labels.tolist() == source.labels.tolist()
    assert ImageBytes([b"a", b"b"], names=["x", pathlib.Path("y/z")]).name(1) == "y/z"
    empty = source.take([])
    assert (len(empty), empty.read([]), empty.labels.shape) == (0, [], (0, 2))
    for call in (source.name, source.stamp, lambda i: source.read([i]), lambda i: source.take([i])):
        with pytest.raises(IndexError, match="index 4 is out of bounds for 4 samples"):
            call(4)
    with pytest.raises(IndexError, match="one boolean for each of 4 samples: got 2"):
        source.read([True, False])


SECRET = b"\xff\xd8\xff\xe0\0\x10" + b"secret" * 50_000


def refused(message, function, *args, seen=0, **options):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        function(*args, **options)
    assert len(str(caught.value)) <= 300
    assert str(caught.value).count("secret") <= seen
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data must hold at least one image: it is empty; check what it was made from"),
        (SECRET, r"data must be a list of encoded images, not a bytes: write \[data\]"),
        (memoryview(SECRET), r"not a memoryview: write \[data\]"),
        (np.frombuffer(SECRET, np.uint8), r"not an array uint8 \[300006\]: write \[data\]"),
        ("images", "not a str: gpuload.ImageList and gpuload.ImageFolder take paths"),
        (np.array(["a.jpg"]), r"not an array <U5 \[1\]: gpuload.ImageList and"),
        (np.array([b"a\0"]), r"not an array \|S2 \[1\]: keep them in a list, since NumPy cuts zeros off"),
        (5, "not an int: pass a list"),
        (["a.jpg"], "entry 0 is a str; gpuload.ImageList and gpuload.ImageFolder take paths"),
        ([SECRET, None], r"data must hold encoded images \(bytes, .*\): entry 1 is None; convert it or leave it out"),
        ([SECRET, 7], "entry 1 is an int; convert"),
        ([{"bytes": SECRET}], "entry 0 is a dict"),
        ([[SECRET]], "entry 0 is a list"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"entry 0 is an array uint8 \[4, 4, 3\]; gpuload.ImageArray takes decoded"),
        ([np.zeros(3, np.int8)], r"entry 0 is an array int8 \[3\]; convert"),
        ([memoryview(np.zeros(3, np.float32))], "entry 0 is a memoryview; convert"),
        ([memoryview(np.zeros((3, 3), np.uint8))], "entry 0 is a memoryview; convert"),
    ],
)
def test_bytes_errors(data, message):
    refused(message, ImageBytes, data)


def test_bytes_errors_of_labels_and_names():
    refused(
        r"labels must have one entry for each of data: labels has shape \[3\], data has 1",
        ImageBytes,
        [SECRET],
        [1, 2, 3],
    )
    refused(
        "names must have one entry for each of data: names has 2, data has 1", ImageBytes, [SECRET], names=["a", "b"]
    )
    refused("names must be a sequence with one name for each of data, not a str", ImageBytes, [SECRET], names="a")
    refused(
        r"names must hold text or paths: entry 0 is a bytes; .*list\(map\(str", ImageBytes, [SECRET], names=[SECRET]
    )


def test_own_sources_need_len_and_read_alone():
    source = as_source(Store({"a": b"1", "b": bytearray(b"22"), "c": np.array([51], np.uint8), "d": KeyError("d")}))
    assert isinstance(source, CustomSource)
    assert (len(source), source.labels, source.name(-1), source.stamp(3)) == (4, None, "sample 3", None)
    found = source.read([2, 0, 1, 3])
    assert list(map(bytes, found[:3])) == [b"3", b"1", b"22"]
    assert isinstance(found[3], KeyError)
    assert isinstance(CustomSource(Store({"a": b""})).read([0])[0], OSError)
    assert repr(source) == "CustomSource(Store, 4 samples, labels: none)"
    assert source.read([]) == []


def test_own_sources_with_labels_names_and_stamps():
    source = as_source(FullStore({"a": b"1", "b": b"22", "c": b"333"}))
    assert source.labels.tolist() == [0, 1, 2]
    assert (source.name(1), source.stamp(1)) == ("b", (2, "v1"))
    taken = source.take([2, 1, 1]).take([True, False, True])
    assert (len(taken), taken.labels.tolist(), taken.read(slice(None))) == (2, [2, 1], [b"333", b"22"])
    assert (taken.name(0), taken.stamp(-1)) == ("c", (2, "v1"))
    again = pickle.loads(pickle.dumps(taken))
    assert again.read([0]) == [b"333"]

    class Named(Store):
        name, stamp = "the data set", 3

    assert as_source(Named({"a": b"1"})).name(0) == "sample 0"
    assert as_source(Named({"a": b"1"})).stamp(0) is None


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ([], ValueError, "Own.read must return one entry for each index: it returned 0 for 1"),
        ([b"1", b"2"], ValueError, "it returned 2 for 1"),
        (SECRET, TypeError, "Own.read must return a list with one entry for each index: it returned a bytes"),
        (None, TypeError, "it returned None"),
        ([None], TypeError, r"Own.read must return encoded images .*Exception .*: that of sample 0 is None"),
        (["secret"], TypeError, "that of sample 0 is a str"),
        ([KeyError], TypeError, "that of sample 0 is a type"),
        ([np.zeros((2, 2), np.uint8)], TypeError, r"that of sample 0 is an array uint8 \[2, 2\]"),
    ],
)
def test_own_sources_that_read_something_else(returned, error, message):
    class Own(Store):
        def read(self, indices):
            return returned

    refused(message, CustomSource(Own({"a": b"1"})).read, [0])
    with pytest.raises(error, match=r"Own\.read"):
        CustomSource(Own({"a": b"1"})).read([0])


def test_errors_of_own_sources():
    class Own(Store):
        labels = (1, 2)

        def stamp(self, index):
            return ([],)

    refused(
        r"labels must have one entry for each of source: labels has shape \[2\], source has 1",
        as_source,
        Own({"a": b""}),
    )
    refused(
        "Own.stamp must return something hashable, or None: for sample 1 it is a tuple",
        as_source(Own({"a": b"", "b": b""})).stamp,
        1,
    )
    refused(r"source must hold at least one sample: len\(source\) is 0; check", as_source, Store({}))

    class Methods(Store):
        def labels(self):
            return [1]

    refused(r"source.labels must be an array .*, not a method: add @property", as_source, Methods({"a": b""}))


class Decoding:
    """A data set as PyTorch has them."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise AssertionError("it is not asked")


class Unsized:
    def read(self, indices):
        return []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "source must be a source of images or a Series, not None: pass ImageFolder, .* of gpuload, or an"),
        (5, "not an int: pass ImageFolder"),
        (Unsized(), r"not an Unsized: .* an object with len\(source\) and read\(indices\)"),
        (Store, "not the class Store: make an object of it first"),
        ("data/train", r"not the path 'data/train': pass gpuload.ImageFolder\(source\) for a folder, "),
        (pathlib.Path("a" * 5000), r"not the path 'aaa.*\.\.\.: pass gpuload.ImageFolder"),
        (b"a.jpg", "not the path b'a.jpg'"),
        (SECRET, r"not a bytes with one encoded image: pass gpuload.ImageBytes\(\[source\]\)"),
        (bytearray(SECRET), r"not a bytearray with one encoded image"),
        ([SECRET], r"not a list of bytes: pass gpuload.ImageBytes\(source\)"),
        ([memoryview(SECRET)], r"not a list of memoryview: pass gpuload.ImageBytes"),
        ([np.frombuffer(SECRET, np.uint8)], r"not a list of ndarray: pass gpuload.ImageBytes"),
        ([b"a.jpg"], r"ImageBytes\(source\) for encoded images, gpuload.ImageList\(source\) for paths"),
        (["a.jpg"], r"not a list of str: pass gpuload.ImageList\(source\)"),
        (np.array(["a.jpg"]), r"gpuload.ImageList\(source\)"),
        ((pathlib.Path("a.jpg"),), r"not a tuple of \w+Path: pass gpuload.ImageList\(source\)"),
        ([("a.jpg", 0)], r"not a list of tuple with a path: pass gpuload.ImageList\(paths, labels\), with"),
        ([], "not a list without a first entry: pass ImageFolder"),
        ([5], "not a list of int: pass ImageFolder"),
        ([np.zeros((4, 4, 3))], r"pass gpuload.ImageArray\(np.stack\(source\)\)"),
        ([np.zeros((4, 4))], r"pass gpuload.Series\(source\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"not an array uint8 \[2, 4, 4, 3\]: pass gpuload.ImageArray\(source\)"),
        (Decoding(), r"not a Decoding without read\(indices\): pass an object .*; see help\("),
        ({"a": SECRET}, r"not a dict without read\(indices\)"),
        (array.array("B", SECRET), r"not an array without read\(indices\)"),
        (iter([SECRET]), "not a list_iterator: pass ImageFolder"),
    ],
)  # fmt: skip
def test_values_that_are_no_source(value, message):
    refused(message, as_source, value)
    refused(message, Loader, value, Augment(size=(8, 8)), batch_size=1)


def test_values_of_other_libraries_that_are_no_source(tmp_path):
    pd, pa, torch = map(pytest.importorskip, ("pandas", "pyarrow", "torch"))
    for value, message in [
        (pd.DataFrame({"image": [SECRET]}), r"not a DataFrame: pass gpuload.ImageFrame\(source\), or gpuload.Series"),
        (pd.Series([SECRET]), r"not a Series of bytes: pass gpuload.ImageBytes\(source\)"),
        (pd.Series(["a.jpg"]), r"not a Series of str: pass gpuload.ImageList\(source\)"),
        (pa.array([SECRET]), r"not a BinaryArray of BinaryScalar: pass gpuload.ImageBytes\(source\)"),
        (pa.chunked_array([["a.jpg"]]), r"not a ChunkedArray of StringScalar: pass gpuload.ImageList\(source\)"),
        (torch.zeros(2, 4, 4, 3), r"not a Tensor: pass gpuload.ImageArray\(source\) for images \[N, H, W, C\]"),
        (torch.utils.data.TensorDataset(torch.zeros(3)), r"not a TensorDataset without read\(indices\)"),
    ]:
        refused(message, as_source, value)
    path = tmp_path / "image"
    path.write_bytes(SECRET)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        refused(r"not a mmap with one encoded image: pass gpuload.ImageBytes", as_source, mapped)
        refused("not a BufferedReader: pass ImageFolder", as_source, file)


def test_loader_takes_own_sources():
    options = {"batch_size": 2, "device": "cpu"}
    own = FullStore({"a": picture(), "b": picture("PNG"), "c": picture("BMP")})
    loader = Loader(own, Augment(size=(8, 8)), **options)
    assert (len(loader), loader.source.source, loader.source.name(2)) == (2, own, "c")
    again = pickle.loads(pickle.dumps(loader))
    assert isinstance(again.source, CustomSource)
    assert again.state_dict() == loader.state_dict()
    assert len(Loader(ImageBytes([picture()] * 3), Augment(size=(8, 8)), **options)) == 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_encoded_images_are_no_paths(form):
    image = picture(form)
    rule = "paths must hold paths, but entry 1 is an encoded image: gpuload.ImageBytes takes those"
    for each in (image, bytearray(image), memoryview(image), np.frombuffer(image, np.uint8)):
        refused(rule, ImageList, ["a.jpg", each])
    refused("paths must be a sequence of paths, not an encoded image: gpuload.ImageBytes takes those", ImageList, image)
    refused("root must be the path of a folder: got .*; gpuload.ImageBytes takes encoded images", ImageFolder, image)


def test_messages_of_sources_show_no_data():
    pd = pytest.importorskip("pandas")
    text = SECRET[6:].decode()
    refused("entry 0 is an encoded image", ImageList, [SECRET])
    refused("entry 0 is 'secret.{1,60}; convert it or leave it out", ImageList, [text], seen=20)
    refused("entry 0 is {'bytes'", ImageList, [{"bytes": text}], seen=20)
    refused(r"paths must be a sequence of paths, not one path: got '.*; write \['", ImageList, text, seen=20)
    refused("root must be the path of a folder: got 'secret", ImageFolder, text, seen=20)
    frame = pd.DataFrame({"filename": [SECRET], "class": [SECRET]})
    refused(r"dataframe\['filename'\] must hold paths, but entry 0 is an encoded image", ImageFrame, frame)
    refused("y_col must name columns of numbers", ImageFrame, frame.assign(filename="a.jpg"), seen=20)
    refused(r"images must be \[N, H, W, C\]: .*; gpuload.ImageBytes takes encoded images", ImageArray, [SECRET])
    refused("classes must be a sequence of names", ImageFolder, "root", text, seen=20)
    refused("values must be an array with time", Series, np.array(text), seen=20)
    # Paths may begin as bitmaps, or as files of RIFF, do.
    assert ImageList([b"BMW/1.jpg", b"RIFF/1.jpg", b"II*/1.jpg"]).filenames[0] == "BMW/1.jpg"
