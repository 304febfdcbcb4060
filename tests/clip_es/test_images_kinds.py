"""Every kind of picture file has one stated treatment: each sentence of `clip_es/decode.py`, on real files."""

import io
import struct
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from clip_es.config.run import REFERENCE, ImageConfig
from clip_es.decode import MOST_SCANS
from clip_es.errors import ConfigError, DataError
from clip_es.images import look_at, read_picture
from clip_es.types import ImageRecord

DEFAULT = ImageConfig()
PUBLISHED = replace(REFERENCE.image, crf_decoder="same")
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(48)[:, None] * 5, np.arange(64) * 3, 90), axis=-1).astype(np.uint8)


def read(path, config=DEFAULT, patch=16):
    return read_picture(ImageRecord("a", path, ()), patch, config)


def written(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(depth: int, colour_type: int, values: np.ndarray) -> bytes:
    """A PNG of 8 or 16 bits a channel, `values` [h w channel]; Pillow cannot write 16-bit colour itself."""
    height, width = values.shape[:2]
    lines = values.astype(">u2" if depth == 16 else np.uint8)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)
    blocks = [
        (b"IHDR", struct.pack(">II5B", width, height, depth, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in blocks
    )


# 16 bits


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_is_scaled_over_its_whole_range(tmp_path, name):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    rgb = read(written(tmp_path / name, Image.fromarray(ramp))).rgb
    assert np.array_equal(rgb[..., 0], np.rint(ramp / 257).astype(np.uint8)), "257 = 65535 / 255"
    assert (rgb == rgb[..., :1]).all()


def test_16_bit_grey_tiff_of_either_byte_order(tmp_path):
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    for name, values in (("little.tif", ramp.astype("<u2")), ("big.tif", ramp.astype(">u2"))):
        rgb = read(written(tmp_path / name, Image.fromarray(values))).rgb
        assert np.array_equal(rgb[..., 1], np.rint(ramp / 257).astype(np.uint8))


def test_12_bits_in_16_are_not_guessed(tmp_path):
    values = np.full((8, 8), 4095, dtype=np.uint16)
    assert read(written(tmp_path / "a.png", Image.fromarray(values))).rgb.max() == 16  # 4095 / 257


@pytest.mark.parametrize(
    ("colour_type", "pixel", "expected"),
    [
        (2, [0xFFFF, 0x80FF, 0x0100], [255, 128, 1]),
        (4, [0x80FF, 0xFFFF], [128, 128, 128]),
        (4, [0x80FF, 0], [255, 255, 255]),
        (6, [0x10FF, 0x20FF, 0x30FF, 0xFFFF], [16, 32, 48]),
        (6, [0x10FF, 0x20FF, 0x30FF, 0], [255, 255, 255]),
    ],
)
def test_of_16_bit_colour_the_high_byte_counts(tmp_path, colour_type, pixel, expected):
    (tmp_path / "a.png").write_bytes(png(16, colour_type, np.full((4, 4, len(pixel)), pixel)))
    assert read(tmp_path / "a.png").rgb[0, 0].tolist() == expected


# Alpha


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_alpha_is_laid_over_white_and_only_the_published_way_drops_it(tmp_path, name):
    if name == "a.webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[:, 8:, 3] = 255
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    path = written(tmp_path / name, Image.fromarray(pixels), **options)
    rgb = read(path).rgb
    assert (rgb[:, :8] == 255).all()
    assert (rgb[:, 8:] == [200, 0, 0]).all()
    assert (read(path, PUBLISHED).rgb == [200, 0, 0]).all(), "the published code shows hidden colours"


def test_a_transparent_colour_of_an_rgb_or_grey_png_becomes_white(tmp_path):
    colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    assert read(written(tmp_path / "a.png", colour, transparency=(1, 2, 3))).rgb[0].tolist() == [[255] * 3, [4, 5, 6]]
    grey = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    assert read(written(tmp_path / "b.png", grey, transparency=8)).rgb[0].tolist() == [[7] * 3, [255] * 3]


# Several frames and pages


def test_of_several_frames_the_first_counts(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options = {
        "a.gif": {},
        "a.png": {},
        "a.tif": {},
        **({"a.webp": {"lossless": True}} if features.check("webp") else {}),
        **({"a.avif": {"quality": 100}} if features.check("avif") else {}),
    }
    for name, extra in options.items():
        path = written(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **extra)
        assert np.abs(read(path).rgb.astype(int) - [255, 0, 0]).max() <= 2, name
        assert look_at(path, DEFAULT).more_frames, name
        alone = written(tmp_path / f"alone-{name}", frames[0], **extra)
        assert not look_at(alone, DEFAULT).more_frames, name


def test_the_first_frame_of_a_gif_fills_the_canvas(tmp_path):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    path = written(tmp_path / "a.gif", image, transparency=0)
    assert (read(path).rgb == [10, 200, 30]).all()


# One format each


def test_a_progressive_jpeg_gives_the_pixels_of_the_baseline_one(tmp_path):
    image = Image.fromarray(SMOOTH)
    plain = read(written(tmp_path / "a.jpg", image, quality=80)).rgb
    progressive = written(tmp_path / "b.jpg", image, quality=80, progressive=True)
    assert b"\xff\xc2" in progressive.read_bytes(), "the mark of a progressive frame"
    assert np.array_equal(read(progressive).rgb, plain)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.ppm", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.tif", {"compression": "tiff_adobe_deflate"}),
        ("a.webp", {"lossless": True}),
        ("a.jp2", {"irreversible": False}),
    ],
)
def test_lossless_formats_give_back_every_pixel(tmp_path, name, options):
    needed = {"a.webp": "webp", "a.jp2": "jpg_2000"}.get(name)
    if needed and not features.check(needed):
        pytest.skip(f"this Pillow has no {needed}")
    assert np.array_equal(read(written(tmp_path / name, Image.fromarray(NOISE), **options)).rgb, NOISE)


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {}), ("a.webp", {"quality": 90}), ("a.avif", {"quality": 90})])
def test_lossy_formats_come_close(tmp_path, name, options):
    if name != "a.jpg" and not features.check(name[2:]):
        pytest.skip(f"this Pillow has no {name[2:]}")
    rgb = read(written(tmp_path / name, Image.fromarray(SMOOTH), **options)).rgb
    assert np.abs(rgb.astype(int) - SMOOTH).mean() < 3


@pytest.mark.parametrize(
    ("name", "mode", "pixel"),
    [
        ("a.tif", "CMYK", (0, 255, 255, 0)),
        ("a.jpg", "CMYK", (0, 255, 255, 0)),
        ("a.tif", "LAB", (138, 209, 198)),
        ("a.tif", "P", None),
        ("a.bmp", "P", None),
    ],
)
def test_other_colour_spaces_become_rgb(tmp_path, name, mode, pixel):
    image = Image.new("RGB", (16, 16), "red").convert("P") if pixel is None else Image.new(mode, (16, 16), pixel)
    rgb = read(written(tmp_path / name, image, **({"quality": 100} if name == "a.jpg" else {}))).rgb
    assert np.abs(rgb.astype(int) - [255, 0, 0]).max() <= 6


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.tif"])
def test_orientation_is_found_wherever_the_format_keeps_it(tmp_path, name):
    if name in {"a.webp", "a.avif"} and not features.check(name[2:]):
        pytest.skip(f"this Pillow has no {name[2:]}")
    upright = np.zeros((32, 48, 3), dtype=np.uint8)
    upright[:16, :16] = (250, 0, 0)
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    if name == "a.tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[274] = 6
        path = written(tmp_path / name, turned, tiffinfo=tags)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        path = written(tmp_path / name, turned, exif=exif, quality=100)
    rgb = read(path).rgb
    assert rgb.shape == (32, 48, 3)
    assert np.abs(rgb[:12, :12].astype(int) - [250, 0, 0]).max() < 12
    assert rgb[20:, 20:].max() < 12
    assert look_at(path, DEFAULT, pixels=False).size_hw == (32, 48), "the header alone tells it too"
    ignored = replace(DEFAULT, exif=False)
    assert read(path, ignored).rgb.shape[:2] == ((32, 48) if name == "a.tif" else (48, 32)), "TIFF is always turned"
    assert look_at(path, ignored, pixels=False).size_hw == read(path, ignored).size_hw


# Looking without an encoder


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.tif", "a.bmp"])
def test_a_look_shows_what_a_run_would_see(tmp_path, name):
    path = written(tmp_path / name, Image.fromarray(NOISE))
    look, header = look_at(path, DEFAULT), look_at(path, DEFAULT, pixels=False)
    assert look.rgb is not None
    assert np.array_equal(look.rgb, read(path).rgb)
    assert (look.size_hw, look.format, look.mode) == (header.size_hw, header.format, header.mode)
    assert header.rgb is None


def test_a_header_hides_damage_that_the_pixels_show(tmp_path):
    path = written(tmp_path / "a.jpg", Image.fromarray(NOISE))
    path.write_bytes(path.read_bytes()[:-900])
    assert look_at(path, DEFAULT, pixels=False).size_hw == (48, 64)
    with pytest.raises(DataError, match="damaged or cut off"):
        look_at(path, DEFAULT)


# Limits


def test_many_scans_are_refused_at_once(tmp_path):
    """The last scan of a progressive file again and again: 139 bytes for a pass over a hundred million pixels."""
    whole = encoded(Image.new("L", (9000, 9000)), "JPEG", progressive=True, quality=50)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    path = tmp_path / "bomb.jpg"
    path.write_bytes(whole[:-2] + scan * 5000 + whole[-2:])
    start = time.process_time()
    with pytest.raises(DataError, match=f"too many scans.*at most {MOST_SCANS}"):
        read(path)
    assert time.process_time() - start < 1, "decoding it would take minutes"


def test_only_scans_of_the_picture_itself_are_counted(tmp_path):
    image = Image.fromarray(NOISE)
    thumbnail = b"Exif\0\0" + b"\xff\xda\0\2" * (MOST_SCANS + 1)
    path = written(tmp_path / "a.jpg", image, exif=thumbnail, progressive=True)
    assert look_at(path, DEFAULT).size_hw == (48, 64), "what an application's segment holds is no scan"
    path.write_bytes(path.read_bytes() + b"\xff\xda\0\2" * (MOST_SCANS + 1))
    assert look_at(path, DEFAULT).size_hw == (48, 64), "nor is what follows the end, such as a telephone's film"


def test_the_pixel_limit_can_be_raised_beyond_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses at twice this
    path = written(tmp_path / "a.png", Image.fromarray(NOISE))  # 3072 pixels
    assert read(path).size_hw == (48, 64), "100 million are allowed"
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(DataError, match=r"too many pixels.*--image\.max-megapixels"):
        read(path, replace(DEFAULT, max_megapixels=0.003))
    with pytest.raises(DataError, match=r"--image\.max-megapixels"):
        read(path, replace(DEFAULT, max_megapixels=0.001))
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_the_encoder_sees_large_pictures_smaller_and_masks_keep_their_size(tmp_path):
    path = written(tmp_path / "a.png", Image.new("RGB", (1600, 1200)))
    picture = read(path, replace(DEFAULT, max_patches=1000))
    assert picture.size_hw == (1200, 1600)
    assert picture.grid_hw == (27, 36)  # 75 x 100 patches shrunk by the root of 1000 / 7500
    assert read(path).grid_hw == (55, 73)  # 4096 of 7500
    assert read(path, PUBLISHED).grid_hw == (75, 100), "no limit in the published code"


@pytest.mark.parametrize("size", [(1, 9000), (9000, 1), (300, 300)])
def test_a_reduced_grid_is_never_empty_and_never_too_large(tmp_path, size):
    path = written(tmp_path / "a.png", Image.new("1", size))
    for most in (1, 2, 7, 100):
        rows, columns = read(path, replace(DEFAULT, max_patches=most)).grid_hw
        assert 1 <= rows * columns <= most


def test_limits_out_of_range_are_refused():
    for wrong in ({"max_patches": 0}, {"max_megapixels": 0.0}, {"max_megapixels": 1e6}):
        with pytest.raises(ConfigError):
            replace(DEFAULT, **wrong)


def test_heic_is_read_where_its_library_is_and_named_where_it_is_not(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    rgb = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    heif.from_pillow(Image.fromarray(rgb)).save(tmp_path / "a.heic", quality=-1)
    record = ImageRecord("a", tmp_path / "a.heic", (0,))
    assert np.abs(read_picture(record, 16, ImageConfig()).rgb.astype(int) - rgb).max() <= 3
    monkeypatch.setattr("clip_es.decode._knows_heif", lambda: False)
    with pytest.raises(DataError, match=r"the extra `heif`.*pip install 'clip-es\[heif\]'"):
        read_picture(record, 16, ImageConfig())
