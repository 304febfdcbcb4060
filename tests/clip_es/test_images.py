"""Files to pixels: every mode becomes RGB as documented, every bad file a DataError that helps."""

import struct
import sys
import threading
import warnings
import zlib
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from recorded import CASES, GOLDEN, recorded

from clip_es.config.run import REFERENCE, ImageConfig
from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.images import buckets, quiet_pillow, read_picture
from clip_es.types import ImageRecord

DEFAULT = ImageConfig()
PUBLISHED = replace(REFERENCE.image, crf_decoder="same")


def read(path, config=DEFAULT, patch=16, size_hw=None):
    return read_picture(ImageRecord("a", path, (), size_hw), patch, config)


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def colour(path, config=DEFAULT):
    """The colour of the first pixel."""
    return read(path, config).rgb[0, 0].tolist()


@pytest.mark.parametrize("case", CASES)
def test_the_encoders_copy_equals_the_published_one(case):
    picture = read(GOLDEN / case / "image.jpg", PUBLISHED)
    assert np.array_equal(picture.patches, recorded(f"{case}/tiny224")["input_u8"])
    assert np.array_equal(picture.patches, read(GOLDEN / case / "image.jpg").patches), (
        "an RGB file is read alike by both presets"
    )


def test_sizes_are_rounded_up_to_whole_patches(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (33, 16)))
    assert read(path).grid_hw == (1, 3)
    assert read(path).size_hw == (16, 33)
    assert read(path, patch=14).patches.shape == (28, 42, 3)


def test_a_picture_of_whole_patches_is_not_resampled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    picture = read(saved(tmp_path, Image.fromarray(pixels)))
    assert np.array_equal(picture.patches, pixels)
    assert np.array_equal(picture.rgb, pixels)


def test_one_pixel_is_a_picture(tmp_path):
    picture = read(saved(tmp_path, Image.new("RGB", (1, 1), (9, 8, 7))))
    assert picture.grid_hw == (1, 1)
    assert (picture.patches == (9, 8, 7)).all()


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, [255, 255, 255]),
        ("L", 100, [100, 100, 100]),
        ("LA", (100, 255), [100, 100, 100]),
        ("RGBA", (200, 0, 0, 255), [200, 0, 0]),
        ("RGBA", (200, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
        ("I;16", 65535, [255, 255, 255]),
        ("I;16", 257 * 100, [100, 100, 100]),
        ("I;16", 200, [1, 1, 1]),
    ],
)
def test_png_modes_become_rgb_as_documented(tmp_path, mode, value, expected):
    assert colour(saved(tmp_path, Image.new(mode, (4, 4), value))) == expected


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("CMYK", (0, 0, 0, 255), [0, 0, 0]),
        ("CMYK", (255, 0, 0, 0), [0, 255, 255]),
        ("F", 1.0, [255, 255, 255]),
        ("F", 0.2, [51, 51, 51]),
        ("F", 200.0, [200, 200, 200]),
        ("I", 65535, [255, 255, 255]),
    ],
)
def test_tiff_modes_become_rgb_as_documented(tmp_path, mode, value, expected):
    assert colour(saved(tmp_path, Image.new(mode, (4, 4), value), "a.tif")) == expected


@pytest.mark.parametrize(
    ("mode", "value"),
    [("F", -1.0), ("F", 256.0), ("F", 1.02), ("F", 2.6), ("F", float("nan")), ("I", 70_000), ("I", -1)],
)
def test_deep_values_out_of_range_are_refused_not_clipped(tmp_path, mode, value):
    with pytest.raises(DataError, match="leave their range"):
        read(saved(tmp_path, Image.new(mode, (4, 4), value), "a.tif"))


def test_a_palette_gives_its_colours_and_its_transparent_entry_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    path = saved(tmp_path, image, transparency=bytes([255, 255, 0]))
    assert read(path).rgb[0].tolist() == [[10, 20, 30], [40, 50, 60], [255, 255, 255]]


def test_cmyk_jpeg_is_read(tmp_path):
    red = saved(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "a.jpg", quality=100)
    assert np.abs(np.array(colour(red)) - [255, 0, 0]).max() <= 2


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert colour(path) == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_for_both_copies(tmp_path, orientation):
    upright = np.arange(20 * 33, dtype=np.uint16).reshape(20, 33) % 251
    upright = np.stack([upright.astype(np.uint8)] * 3, axis=-1)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    picture = read(path)
    assert np.array_equal(picture.rgb, upright)
    assert picture.grid_hw == (2, 3)
    assert np.array_equal(read(path, PUBLISHED).rgb, stored), "the published code ignores EXIF here"


def test_broken_exif_costs_nothing(tmp_path):
    path = saved(
        tmp_path, Image.new("RGB", (8, 8), "red"), "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40
    )
    assert read(path).size_hw == (8, 8)


def test_the_published_way_resizes_in_the_files_own_mode(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    path = saved(tmp_path, image)
    published, ours = read(path, PUBLISHED).patches, read(path).patches
    assert set(np.unique(published)) == {0, 255}, "a palette cannot be interpolated: nearest neighbour"
    assert len(np.unique(ours)) > 2
    deep = saved(tmp_path, Image.new("I;16", (4, 4), 300))
    assert colour(deep, PUBLISHED) == [255] * 3, "16 bit saturates"


def test_the_annotations_size_counts_only_when_asked_for(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (40, 20)))
    stretched = read(path, PUBLISHED, size_hw=(50, 30))
    assert (stretched.size_hw, stretched.grid_hw) == ((50, 30), (4, 2))
    assert read(path, DEFAULT, size_hw=(50, 30)).size_hw == (20, 40)
    assert read(path, PUBLISHED).size_hw == (20, 40), "where the annotation states none, the picture's own"


def test_a_stated_size_cannot_ask_for_all_memory(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (4, 4)))
    with pytest.raises(DataError, match="size stated in the annotation"):
        read(path, PUBLISHED, size_hw=(100_000, 100_000))


def test_opencv_reads_the_file_once_more_for_the_crf(tmp_path):
    pytest.importorskip("cv2")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    path = saved(tmp_path, Image.fromarray(pixels), "a.jpg", exif=exif, quality=100)
    picture = read(path, REFERENCE.image)
    assert picture.crf_rgb is not None
    assert picture.size_hw == (16, 32)
    assert picture.crf_rgb.shape == (32, 16, 3), "OpenCV applies EXIF"
    assert picture.crf_rgb[0, 0].argmax() == 0, "RGB, not BGR"
    assert read(path).crf_rgb is None


def test_a_missing_opencv_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"clip-es\[opencv\]"):
        read(saved(tmp_path, Image.new("RGB", (4, 4))), REFERENCE.image)


def png_header(width, height):
    """A PNG that promises much and holds nothing."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    blocks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in blocks
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a picture at all", "not a picture, whatever its name says.*not a pictur"),
        (b"\xff\xd8\xff\xe0", "not a picture|damaged"),
        # Pillow's own limit speaks first, where no other library has switched it off.
        (png_header(30_000, 30_000), "too many pixels.*(900000000|30000 x 30000)"),
        (png_header(12_000, 10_000), r"too many pixels.*1 to 100 million.*10000 x 12000.*max-megapixels"),
        (png_header(0, 5), "not a picture|damaged|too many pixels or none"),
        (png_header(40, 40), "damaged or cut off"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_bad_files_are_refused_with_a_reason(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.gif", "a.bmp"])
def test_truncated_pictures_are_refused(tmp_path, name, kept):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(pixels), name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError):
        read(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="no such picture"):
        read(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="folder"):
        read(tmp_path)


def test_random_damage_never_crashes(tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.gif", "a.tif", "a.webp"):
        path = saved(tmp_path, Image.fromarray(pixels), name, exif=exif)
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, min(len(whole), 200), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(damaged.tobytes())
            with suppress(DataError):
                read(path)


def test_a_patch_below_one_pixel_is_refused(tmp_path):
    with pytest.raises(ShapeError):
        read(saved(tmp_path, Image.new("RGB", (4, 4))), patch=0)


def test_reading_changes_nothing_for_others(tmp_path):
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    path = saved(tmp_path, Image.new("RGB", (4, 4)))
    threads = [threading.Thread(target=lambda: [read(path) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == before


def test_only_pillows_warnings_are_silenced():
    with quiet_pillow(), pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_a_large_picture_within_the_limit_does_not_warn(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert read(saved(tmp_path, Image.new("RGB", (9, 9)))).size_hw == (9, 9)


def grids(items, size, **options):
    return list(buckets(items, size, key=lambda item: item[0], **options))


def test_buckets_hold_one_grid_and_leave_when_full():
    items = [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("b", 5)]
    assert grids(items, 2) == [[("a", 1), ("a", 3)], [("b", 2), ("b", 5)], [("a", 4)]]


def test_buckets_lose_nothing_and_keep_the_order_of_arrival():
    rng = np.random.default_rng(0)
    items = [(int(g), i) for i, g in enumerate(rng.integers(0, 9, 200))]
    batches = grids(items, 4)
    assert sorted(item for batch in batches for item in batch) == sorted(items)
    assert all(len(batch) <= 4 and len({g for g, _ in batch}) == 1 and batch == sorted(batch) for batch in batches)
    assert grids(items, 4) == batches


def test_few_items_wait_at_any_time():
    taken = given = 0

    def source():
        nonlocal taken
        for i in range(100):
            taken += 1
            yield (i, i)  # every grid differs, the worst case

    for batch in buckets(source(), 8, hold=5, key=lambda item: item[0]):
        given += len(batch)
        assert taken - given < 5
    assert given == 100


def test_the_fullest_group_leaves_when_too_many_wait():
    items = [("a", 1), ("b", 2), ("b", 3), ("c", 4)]
    assert grids(items, 4, hold=4)[0] == [("b", 2), ("b", 3)]


def test_buckets_of_pictures_are_grouped_by_grid(tmp_path):
    sizes = [(16, 16), (32, 16), (10, 9)]
    pictures = [read(saved(tmp_path, Image.new("RGB", s), f"{i}.png")) for i, s in enumerate(sizes)]
    assert [[p.grid_hw for p in batch] for batch in buckets(pictures, 2)] == [[(1, 1), (1, 1)], [(1, 2)]]


def test_a_batch_of_none_is_refused():
    with pytest.raises(ConfigError):
        list(buckets([], 0))
