"""Whatever the files hold, the others are done, the reason is written down, and the exit code tells."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.pipelines.cli import main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "good.jpg")
    Image.fromarray(noise).save(folder / "turned.jpg", exif=turned())
    Image.fromarray(noise).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise).convert("L").save(folder / "grey.jpg")
    Image.fromarray(noise).convert("P").save(folder / "palette.png")
    Image.fromarray(np.dstack([noise, noise[..., :1]])).save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 65536, (40, 56), dtype=np.uint16)).save(folder / "deep.png")
    Image.fromarray(noise[:1, :1]).save(folder / "dot.png")
    (folder / "truncated.jpg").write_bytes((folder / "good.jpg").read_bytes()[:900])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture at all")
    (folder / "huge.png").write_bytes(huge_header())
    return folder


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def huge_header() -> bytes:
    """A PNG that says it has 30000 x 30000 pixels."""
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    data = bytearray(small.getvalue())
    data[16:24] = (30000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def run(pictures: Path, rows: list[str], out: Path, *flags: str) -> int:
    table = out.with_suffix(".csv")
    table.write_text("image,labels\n" + "".join(f"{row}\n" for row in rows))
    arguments = ["masks", "folder", "--images", str(pictures), "--labels", str(table), "--out", str(out)]
    return main([*arguments, "--weights", "scenes", "--vocabulary", "scenes", "--workers", "0", *flags])


def failures(out: Path) -> dict[str, dict[str, str]]:
    with (out / "failures.csv").open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


GOOD = ("good.jpg", "turned.jpg", "cmyk.jpg", "grey.jpg", "palette.png", "alpha.png", "deep.png", "dot.png")
BAD = {
    "truncated.jpg": "truncated",
    "empty.jpg": "empty",
    "text.jpg": "not a picture",
    "huge.png": "too many pixels",
    "absent.jpg": "not there",
}


def test_bad_pictures_are_rows_and_good_ones_are_masks(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(pictures, [f"{name},cat;car" for name in (*GOOD, *BAD)], out) == 1
    rows = failures(out)
    assert {path.stem for path in (out / "masks").iterdir()} == {Path(name).stem for name in GOOD}
    assert set(rows) == {Path(name).stem for name in BAD}
    for name, word in BAD.items():
        assert word in rows[Path(name).stem]["reason"].lower(), rows[Path(name).stem]
    assert "5 failed" in capsys.readouterr().out
    assert np.asarray(Image.open(out / "masks" / "turned.png")).shape == (56, 40)


def test_bad_rows_of_the_table_name_themselves_and_the_remedy(pictures, tmp_path):
    out = tmp_path / "run"
    rows = ["good.jpg,cat", "grey.jpg,kar", "cmyk.jpg,", "good.jpg,car", "../secret.jpg,cat", "alpha.png,cat;cat"]
    assert run(pictures, rows, out) == 1
    reasons = {row["reason"] for row in failures(out).values()}
    assert any("'kar'" in reason and "Nearest: 'car'" in reason for reason in reasons)
    assert any("no label" in reason or "lists no" in reason for reason in reasons)
    assert any("twice" in reason or "again" in reason or "already" in reason for reason in reasons)
    assert any("secret" in reason for reason in reasons)
    assert {path.stem for path in (out / "masks").iterdir()} == {"good", "alpha"}
    assert not list(tmp_path.glob("secret*"))


def test_a_bad_label_can_be_skipped(pictures, tmp_path):
    assert run(pictures, ["good.jpg,cat;kar"], tmp_path / "run", "--on-bad-label", "skip") == 0


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("none.pt", None, "no such"),
        ("empty.pt", b"", "empty"),
        ("text.pt", b"these are no weights", "weights"),
        ("cut.safetensors", b"\xff" * 16, "weights"),
    ],
)
def test_unusable_weights_say_so_before_any_picture(pictures, tmp_path, capsys, name, content, word):
    weights = tmp_path / name
    if content is not None:
        weights.write_bytes(content)
    assert run(pictures, ["good.jpg,cat"], tmp_path / "run", "--weights", str(weights)) == 2
    error = capsys.readouterr().err
    assert "WeightsError" in error
    assert name in error
    assert not (tmp_path / "run").exists()


def test_an_output_folder_with_other_things_in_it_is_refused(pictures, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holiday.txt").write_text("mine")
    assert run(pictures, ["good.jpg,cat"], tmp_path / "run") == 2
    assert "another --out" in capsys.readouterr().err
    assert (tmp_path / "run" / "holiday.txt").read_text() == "mine"


def test_other_settings_do_not_mix_with_a_run(pictures, tmp_path, capsys):
    assert run(pictures, ["good.jpg,cat"], tmp_path / "run") == 0
    assert run(pictures, ["good.jpg,cat"], tmp_path / "run", "--refine", "affinity") == 2
    assert 'Found --refine ["affinity"]' in capsys.readouterr().err
