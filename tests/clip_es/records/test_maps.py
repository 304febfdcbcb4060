"""Maps of any method: the same numbers from every kind of file, and nothing in them is run or guessed."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from struct import pack

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from clip_es.errors import ClipEsError, DataError, ShapeError
from clip_es.prompts import load_vocabulary
from clip_es.records.maps import MapFolder, find_maps

WORDS = load_vocabulary(["cat", "dog", "potted plant"])
MAPS = np.array([[[0, 51], [102, 255]], [[255, 0], [0, 0]]], np.uint8)
"""Of the classes 2 and 0, 2 x 2 pixels."""
SCALED = MAPS.astype(np.float32) / 255
KEYS = np.array([2, 0])


def folder(root: Path, **options) -> MapFolder:
    return find_maps(root, WORDS.names, WORDS.class_id, **options)


def every() -> np.ndarray:
    return np.stack([SCALED[1], np.zeros((2, 2), np.float32), SCALED[0]])


def save_pages(path: Path) -> None:
    first, *rest = [Image.fromarray(page) for page in every()]
    first.save(path, save_all=True, append_images=rest)


def save_pictures(root: Path, by_class: bool, deep: bool = False) -> None:
    for k, one in zip(KEYS, MAPS, strict=True):
        name = WORDS.names[k].replace(" ", "_")
        path = root / (f"{name}/a.png" if by_class else f"a/{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.astype(np.uint16) * 257 if deep else one).save(path)


def dump(path: Path, held: object, protocol: int, pickler: type = pickle.Pickler) -> None:
    """What numpy.save wrote with other versions, and Python 2 did."""
    content = np.empty((), object)
    content[()] = held
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickler(file, protocol).dump(content)


class Python2(pickle._Pickler):
    """Writes bytes and text as Python 2 did: as text without an encoding."""

    def save_text(self, obj: str | bytes) -> None:
        text = obj.encode() if isinstance(obj, str) else obj
        small = len(text) < 256
        self.write((pickle.SHORT_BINSTRING + bytes([len(text)])) if small else pickle.BINSTRING + pack("<i", len(text)))
        self.write(text)
        self.memoize(obj)

    dispatch = pickle._Pickler.dispatch | {bytes: save_text, str: save_text}


NESTED = torch.from_numpy(np.ascontiguousarray(SCALED.transpose(0, 2, 1))).transpose(1, 2)
"""The maps in a tensor whose rows are the columns of its storage."""

FORMS: dict[str, Callable[[Path], object]] = {
    "CLIP-ES": lambda root: np.save(root / "a.npy", {"keys": KEYS, "attn_highres": SCALED}),
    "others": lambda root: np.save(root / "a.npy", {"keys": KEYS, "cam": SCALED[:, :1], "high_res": SCALED}),
    "by number": lambda root: np.save(root / "a.npy", {2: SCALED[0], 0: SCALED[1]}),
    "by numpy's number": lambda root: np.save(root / "a.npy", {np.int64(2): SCALED[0], np.int32(0): SCALED[1]}),
    "by name": lambda root: np.save(root / "a.npy", {"potted plant": SCALED[0], "cat": SCALED[1]}),
    "by written number": lambda root: np.save(root / "a.npy", {"2": SCALED[0], "0": SCALED[1]}),
    "IRN": lambda root: np.save(
        root / "a.npy", {"keys": torch.tensor(KEYS), "cam": torch.tensor(SCALED[:, :1]), "high_res": SCALED}
    ),
    "tensors": lambda root: np.save(root / "a.npy", {"keys": torch.tensor(KEYS), "cam": NESTED.requires_grad_()}),
    "lists": lambda root: np.save(root / "a.npy", {"keys": list(KEYS), "high_res": list(SCALED)}),
    "tuples": lambda root: np.save(root / "a.npy", {"keys": (2, 0), "high_res": tuple(SCALED)}),
    "more beside": lambda root: np.save(
        root / "a.npy", {"name": "a", "size": (2, 2), "keys": KEYS, "high_res": SCALED[None], "none": None}
    ),
    "by columns": lambda root: np.save(
        root / "a.npy", {"keys": KEYS.astype(">f8"), "cam": np.asfortranarray(SCALED.astype(">f8"))}
    ),
    **{
        f"protocol {number}": lambda root, number=number: dump(
            root / "a.npy", {"keys": KEYS, "attn_highres": SCALED}, number
        )
        for number in range(6)
    },
    "Python 2": lambda root: dump(root / "a.npy", {"keys": KEYS, "attn_highres": SCALED}, 2, Python2),
    "npz without a name": lambda root: np.savez(root / "a.npz", every()),
    "npz by name": lambda root: np.savez(root / "a.npz", **{"potted plant": SCALED[0], "cat": SCALED[1]}),
    "npz": lambda root: np.savez(root / "a.npz", keys=KEYS, maps=SCALED),
    "ours": lambda root: np.savez(
        root / "a.npz", class_ids=KEYS, scores=np.ones(9), cam=1 - SCALED, refined=SCALED, probabilities=every()
    ),
    "npz by number": lambda root: np.savez(root / "a.npz", **{"2": SCALED[0], "0": SCALED[1]}),
    "bytes": lambda root: np.savez(root / "a.npz", keys=KEYS, maps=MAPS),
    "array": lambda root: np.save(root / "a.npy", every()),
    "pages": lambda root: save_pages(root / "a.tiff"),
    "tiles": lambda root: tifffile.imwrite(root / "a.tif", every(), tile=(16, 16), photometric="minisblack"),
    "doubles": lambda root: tifffile.imwrite(root / "a.tif", every().astype(np.float64), photometric="minisblack"),
    "bands": lambda root: tifffile.imwrite(root / "a.tif", every(), planarconfig="separate", photometric="minisblack"),
    "bands in pixels": lambda root: tifffile.imwrite(
        root / "a.tif", every().transpose(1, 2, 0), planarconfig="contig", photometric="minisblack"
    ),
    "a folder a picture": lambda root: save_pictures(root, False),
    "a folder a class": lambda root: save_pictures(root, True),
    "16 bit": lambda root: save_pictures(root, False, deep=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_maps(form, tmp_path):
    FORMS[form](tmp_path)
    found = folder(tmp_path)
    assert list(found.files) == ["a"]
    maps = found.read("a")
    by_class = dict(zip(maps.class_ids, maps.scores.numpy(), strict=True))
    assert set(by_class) == {0, 2}
    np.testing.assert_allclose(by_class[2], SCALED[0], atol=1e-7)
    np.testing.assert_allclose(by_class[0], SCALED[1], atol=1e-7)


def test_half_precision_comes_back_to_the_bit_and_the_order_of_the_file_stays(tmp_path):
    half = SCALED.astype(np.float16)
    np.save(tmp_path / "a.npy", {"keys": KEYS, "attn_highres": half})
    maps = folder(tmp_path).read("a")
    assert maps.class_ids == (2, 0)
    assert np.array_equal(maps.scores.numpy().astype(np.float16), half)


def test_sub_folders_are_part_of_the_name_as_they_are_for_pictures(tmp_path):
    (tmp_path / "street").mkdir()
    np.savez(tmp_path / "street/1.npz", keys=KEYS, maps=SCALED)
    save_pictures(tmp_path / "park", True)
    assert list(folder(tmp_path).files) == ["park__a", "street__1"]


def test_numbers_may_count_the_background(tmp_path):
    np.savez(tmp_path / "a.npz", keys=np.array([0, 3]), maps=SCALED)
    maps = folder(tmp_path, first_class=1).read("a")
    assert maps.class_ids == (2,)
    np.testing.assert_array_equal(maps.scores[0].numpy(), SCALED[1])


def test_other_values_are_stretched_where_that_is_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", keys=KEYS, maps=10 * SCALED - 3)
    with pytest.raises(DataError, match="--scale min-max"):
        folder(tmp_path).read("a")
    maps = folder(tmp_path, scale="min-max").read("a")
    np.testing.assert_allclose(maps.scores.numpy(), SCALED, atol=1e-6)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('it was run')",)


@pytest.mark.parametrize(
    ("held", "kind", "told"),
    [
        ({"keys": KEYS, "attn_highres": Bomb()}, DataError, "asks for more than arrays"),
        (Bomb(), DataError, "asks for more than arrays"),
        ({"keys": KEYS}, DataError, "no maps under a name that is known"),
        ({"keys": np.array([0, 7]), "maps": SCALED}, DataError, r"Found \[7\]"),
        ({"keys": np.array([0, 0]), "maps": SCALED}, DataError, "one class number for each map"),
        ({"keys": np.array([0]), "maps": SCALED}, DataError, "one class number for each map"),
        ({"keys": np.array([0.5, 1]), "maps": SCALED}, DataError, "no whole numbers"),
        ({"keys": KEYS, "maps": SCALED * np.nan}, DataError, "not finite"),
        ({"keys": KEYS, "maps": np.array([["a", "b"]])}, DataError, "has values that are no numbers|unknown kind"),
        ({0: SCALED[0], 1: SCALED[0, :1]}, ShapeError, "one size"),
        ([1, 2], DataError, "dictionary|array of maps"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_set_of_maps_is_refused_and_not_run(held, kind, told, tmp_path):
    np.save(tmp_path / "a.npy", np.array(held, dtype=object), allow_pickle=True)
    with pytest.raises(ClipEsError, match=told) as caught:
        folder(tmp_path).read("a")
    assert isinstance(caught.value, kind)
    assert "a.npy" in str(caught.value) or "a.npy" in str(caught.value.where)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.tif", "a/cat.png"])
@pytest.mark.parametrize("content", [b"", b"no numbers", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"])
def test_damaged_files_are_refused(name, content, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError):
        folder(tmp_path).read("a")


def test_colours_are_no_heat_map(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (2, 2), "red").save(tmp_path / "a/cat.png")
    with pytest.raises(DataError, match="must be grey"):
        folder(tmp_path).read("a")


def test_a_pickle_that_is_cut_off_anywhere_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", {"keys": KEYS, "attn_highres": SCALED})
    whole = (tmp_path / "a.npy").read_bytes()
    assert pickle.PROTO in whole
    for length in range(0, len(whole), 7):
        (tmp_path / "a.npy").write_bytes(whole[:length])
        with pytest.raises(DataError):
            folder(tmp_path).read("a")


def test_folders_that_cannot_be_right_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a folder"):
        folder(tmp_path / "missing")
    with pytest.raises(DataError, match="no maps in this folder"):
        folder(tmp_path)
    np.savez(tmp_path / "a.npz", keys=KEYS, maps=SCALED)
    np.save(tmp_path / "a.npy", every())
    with pytest.raises(DataError, match="two files hold the maps"):
        folder(tmp_path)


def test_maps_without_numbers_must_be_as_many_as_the_classes(tmp_path):
    np.save(tmp_path / "a.npy", SCALED)
    with pytest.raises(ShapeError, match="3 maps"):
        folder(tmp_path).read("a")
    np.save(tmp_path / "a.npy", np.zeros((3, 2, 2)))
    with pytest.raises(DataError, match="no map with a value above 0"):
        folder(tmp_path).read("a")


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Stored:
    """A tensor whose storage is something else, which torch.load would run where it trusts."""

    def __init__(self, inside: bytes) -> None:
        self.inside = inside

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.inside,)


class Built:
    def __init__(self, inside: bytes, size: tuple = (2, 2, 2), stride: tuple = (4, 2, 1)) -> None:
        self.arguments = (Stored(inside), 0, size, stride, False, {})

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


def saved(held: object) -> bytes:
    torch.save(held, content := io.BytesIO(), _use_new_zipfile_serialization=False)
    return content.getvalue()


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_inside_a_tensor_is_run(protocol, tmp_path):
    trap = tmp_path / "trap"
    for number, tensor in enumerate(
        (
            Built(pickle.dumps(Runs(trap))),
            Built(saved(Runs(trap))),
            Built(saved([1, 2])),
            Built(b"nothing"),
            Built(saved(torch.zeros(3).untyped_storage())),
            Built(saved(torch.zeros(3)._typed_storage()), (10**6, 10**6, 9), (0, 0, 0)),
            Runs(trap),
            Stored(saved(Runs(trap))),
        )
    ):
        dump(tmp_path / f"{number}.npy", {"keys": KEYS, "cam": tensor}, protocol)
    maps = folder(tmp_path)
    assert len(maps.files) == 8
    for image_id in maps.files:
        with pytest.raises(DataError):
            maps.read(image_id)
    assert not trap.exists()


def test_a_part_that_is_named_a_million_times_takes_no_memory(tmp_path):
    large = np.ones((1, 1000, 1000))
    dump(tmp_path / "a.npy", {"keys": KEYS, "cam": [large] * 100_000}, 4)
    lists: list = [SCALED[0]]
    for _ in range(60):
        lists = [lists, lists]
    dump(tmp_path / "b.npy", {"keys": KEYS, "cam": lists}, 4)
    for image_id, told in (("a", "more than a file holds"), ("b", "lists inside a list")):
        with pytest.raises(DataError, match=told):
            folder(tmp_path).read(image_id)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_that_was_saved_as_colours_is_still_grey(mode, tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(MAPS[0]).convert(mode).save(tmp_path / "a/cat.png")
    assert np.array_equal(folder(tmp_path).read("a").scores[0].numpy(), SCALED[0])
