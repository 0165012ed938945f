"""Sources, beside Keras' own listing where there is one, and beside plain Python lists."""

from __future__ import annotations

import os
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuload.sources import FileSource, ImageArray, ImageFolder, ImageFrame, ImageList, Series, Source, SourceOfFiles
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


def test_the_contract_of_sources(tree):
    for source in (ImageFolder(tree), ImageList(["a"]), ImageArray(np.zeros((1, 2, 2, 3), np.uint8))):
        assert isinstance(source, Source)
        assert isinstance(source, SourceOfFiles) == isinstance(source, FileSource)
