"""Pictures in memory are read as the same pictures in files are, and what is no picture is refused in words."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es.config.stages import ImageConfig
from clip_es.decode import to_rgb
from clip_es.errors import ClipEsError, DataError, ShapeError
from clip_es.given import given_image, given_path, in_memory, is_one_picture
from clip_es.images import read_picture
from clip_es.types import ImageRecord

WHERE = Path("picture")
RGB = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def pixels(given: object) -> np.ndarray:
    return np.asarray(to_rgb(given_image(given, WHERE, ImageConfig()), WHERE))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize(
    "given",
    [
        RGB,
        RGB.astype(np.int64),
        RGB.astype(np.uint16) * 257,
        (RGB.astype(np.uint16) * 257).astype(">u2"),
        RGB / 255,
        RGB.astype(np.float32),
        RGB[:, ::-1][:, ::-1],
        torch.from_numpy(RGB).permute(2, 0, 1),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255).requires_grad_(),
        Image.fromarray(RGB),
        encoded(Image.fromarray(RGB)),
        bytearray(encoded(Image.fromarray(RGB))),
        memoryview(encoded(Image.fromarray(RGB))),
    ],
    ids=lambda given: f"{type(given).__name__}-{getattr(given, 'dtype', '')}",
)
def test_the_same_picture_in_every_form_has_the_same_pixels(given):
    assert np.array_equal(pixels(given), RGB)


def test_grey_alpha_and_one_channel_are_read_as_in_files():
    grey = RGB[..., 0]
    for given in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(pixels(given), np.repeat(grey[..., None], 3, axis=2))
    hidden = np.dstack([RGB, np.zeros((5, 7), np.uint8)])
    assert (pixels(hidden) == 255).all(), "what is transparent lies on white"


def test_a_picture_in_memory_becomes_what_its_file_becomes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "turned.jpg"
    Image.fromarray(RGB).save(file, exif=exif)
    stored = read_picture(ImageRecord("turned", file, ()), 4, ImageConfig())
    for image in (file.read_bytes(), Image.open(file)):
        given = read_picture(ImageRecord("turned", WHERE, (), image=image), 4, ImageConfig())
        assert given.size_hw == (7, 5)
        assert np.array_equal(given.rgb, stored.rgb)
        assert np.array_equal(given.patches, stored.patches)


def test_opencv_reads_bytes_as_it_reads_their_file_and_has_nothing_to_read_of_pixels(tmp_path):
    pytest.importorskip("cv2")
    config = ImageConfig(crf_decoder="opencv")
    data = encoded(Image.fromarray(RGB), "JPEG")
    (tmp_path / "picture.jpg").write_bytes(data)
    stored = read_picture(ImageRecord("picture", tmp_path / "picture.jpg", ()), 4, config)
    given = read_picture(ImageRecord("picture", WHERE, (), image=data), 4, config)
    assert np.array_equal(given.crf_rgb, stored.crf_rgb)
    assert read_picture(ImageRecord("picture", WHERE, (), image=RGB), 4, config).crf_rgb is None


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (RGB.transpose(2, 0, 1), ShapeError, "np.moveaxis(image, 0, -1)"),
        (torch.from_numpy(RGB), ShapeError, "image.permute(2, 0, 1)"),
        (RGB[..., :2], ShapeError, "[5, 7, 2]"),
        (RGB[None], ShapeError, "[1, 5, 7, 3]"),
        (RGB[:0], DataError, "too many pixels or none"),
        (RGB > 7, DataError, "a mask, not a picture"),
        (RGB.astype(object), DataError, "object"),
        (RGB.astype(complex), DataError, "complex128"),
        (RGB.astype(np.int32) * 3, DataError, "0 .. 312 (int32)"),
        (RGB / 255 - 0.5, DataError, "image * std + mean"),
        (np.full((2, 2), np.nan), DataError, "nan"),
        (RGB * 10.0, DataError, "0..255 where the largest is 4 or more"),
        (RGB / 255 * 2.55, DataError, "0 .. 1.04 (float64)"),
        (RGB / 40, DataError, "image * std + mean"),
        (RGB.astype(np.uint16), DataError, "image.astype('uint8')"),
        (torch.empty(3, 4, 4, device="meta"), DataError, "NotImplementedError"),
        ((torch.ones(3, 4, 4)).to_sparse(), DataError, "cannot be read. Found RuntimeError"),
        (b"", DataError, "0 bytes"),
        (b"no picture at all", DataError, "not a picture"),
        (encoded(Image.fromarray(RGB), "JPEG")[:-60], DataError, "damaged or cut off"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused_in_words(given, kind, told):
    record = ImageRecord("picture", WHERE, (), image=given)
    with pytest.raises(kind) as caught:
        read_picture(record, 4, ImageConfig())
    assert told in str(caught.value)
    assert "picture" in str(caught.value)


def test_a_picture_that_was_closed_is_refused_by_that_reason(tmp_path):
    image = Image.open(io.BytesIO(encoded(Image.fromarray(RGB))))
    image.close()
    with pytest.raises(DataError, match=r"this Pillow picture cannot be read\. Found ValueError: Operation on closed"):
        given_image(image, WHERE, ImageConfig())


def test_a_black_picture_of_16_bits_is_black():
    assert not pixels(np.zeros((2, 2, 3), np.uint16)).any()


def test_too_many_pixels_are_refused_before_they_are_decoded():
    config = ImageConfig(max_megapixels=0.001)
    for given in (np.zeros((40, 40, 3), np.uint8), Image.new("L", (40, 40)), encoded(Image.new("L", (40, 40)))):
        with pytest.raises(DataError, match="too many pixels"):
            given_image(given, WHERE, config)


def test_an_address_in_the_web_is_not_fetched():
    with pytest.raises(DataError, match="not fetched from the network"):
        given_path("https://example.org/cat.jpg")
    assert given_path(b"bytes") is None
    assert given_path("folder/cat.jpg") == Path("folder/cat.jpg")
    assert given_path("~/cat.jpg") == Path("~/cat.jpg").expanduser()
    assert given_path("~nobody-of-this-name/cat.jpg") == Path("~nobody-of-this-name/cat.jpg")
    for address in ("file:///cat.jpg", "s3://bucket/cat.jpg", "data:image/png;base64,AAAA"):
        with pytest.raises(DataError, match="pass the path of a file"):
            given_path(address)
    assert given_path("C:/cat.jpg") == Path("C:/cat.jpg")


@pytest.mark.parametrize("given", [None, 7, {"path": "a.jpg"}, [[1, 2]]])
def test_what_stands_for_no_picture_is_refused_by_its_type(given):
    with pytest.raises(DataError, match=f"Found {type(given).__name__}"):
        in_memory(given, WHERE)


def test_an_open_file_is_read_from_its_start_and_text_is_refused(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(Image.fromarray(RGB)))
    with file.open("rb") as opened:
        for _ in range(2):
            assert np.array_equal(pixels(in_memory(opened, WHERE)), RGB)
    written = io.BytesIO()
    Image.fromarray(RGB).save(written, "PNG")
    assert np.array_equal(pixels(in_memory(written, WHERE)), RGB)
    with pytest.raises(ClipEsError, match='"rb"'):
        in_memory(io.StringIO("text"), WHERE)


def test_what_is_one_picture_and_what_are_several():
    one = ("a.jpg", Path("a.jpg"), b"x", RGB, RGB[..., 0], torch.zeros(3, 4, 4), Image.new("L", (1, 1)), io.BytesIO())
    several = (["a.jpg"], ("a.jpg",), iter([]), RGB[None], torch.zeros(2, 3, 4, 4), np.array(["a.jpg"]), {"a.jpg"})
    assert all(map(is_one_picture, one))
    assert not any(map(is_one_picture, several))
