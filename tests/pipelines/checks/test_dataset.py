"""`clip-es check voc12|folder|...`: every problem of a data set in one go, with file names and the remedy."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.config.run import DEFAULT, ImageConfig
from clip_es.errors import DataError
from clip_es.pipelines.checks.dataset import KINDS, SERIOUS, DataCheck, _Job, _look_at_all, _one_by_one, check_data
from clip_es.pipelines.checks.estimate import Estimate, estimate
from clip_es.pipelines.cli import main
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.run import make_masks
from clip_es.pipelines.parallel.processes import Processes
from clip_es.pipelines.table import COMMANDS
from clip_es.prompts import load_vocabulary
from clip_es.prompts.vocabulary import ClassEntry, Vocabulary
from clip_es.records import Dataset, folder, voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.run import RunStore
from clip_es.types import ImageRecord

PETS = Vocabulary("pets", tuple(ClassEntry(name) for name in ("cat", "dog", "fish")))
PLAIN = ImageConfig()
RNG = np.random.default_rng(0)


def noise(height: int = 64, width: int = 80) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(*values: int, size: tuple[int, int] = (64, 80)) -> Image.Image:
    labels = np.zeros(size, dtype=np.uint8)
    for row, value in enumerate(values):
        labels[row] = value
    image = Image.fromarray(labels)
    image.putpalette(bytes(range(256)) * 3)
    return image


@pytest.fixture(scope="module")
def messy(tmp_path_factory) -> Path:
    """Pictures, a table and masks, with one trouble of each kind; nobody changes them."""
    root = tmp_path_factory.mktemp("messy")
    truth = root / "truth"
    truth.mkdir(parents=True)
    names = ("good", "plain", "annoying", "other", "wide", "wild", "bare", "colour")
    for name in names:
        noise().save(root / f"{name}.png")
        if name != "bare":
            mask(1).save(truth / f"{name}.png")
    mask(1, 2, size=(60, 80)).save(truth / "wide.png")  # four rows short
    mask(1, 9, 44).save(truth / "wild.png")  # pets has three classes
    mask(2).save(truth / "other.png")  # says dog where the labels say cat
    noise().save(truth / "colour.png")
    (root / "copy.png").write_bytes((root / "good.png").read_bytes())
    Image.open(root / "plain.png").save(root / "saved.bmp")
    (root / "twin.png").write_bytes((root / "annoying.png").read_bytes())
    (root / "torn.png").write_bytes((root / "good.png").read_bytes()[:5000])
    (root / "text.jpg").write_text("no picture")
    Image.new("1", (12_000, 9_000)).save(root / "huge.png")  # 108 million pixels in 20 kB
    noise(10, 10).save(root / "dot.png")
    frames = [noise(), noise()]
    frames[0].save(root / "film.gif", save_all=True, append_images=frames[1:])
    noise(1200, 1200).save(root / "phone.jpg")
    rows = [
        *(f"{name}.png,cat" for name in names),
        "copy.png,cat",
        "saved.bmp,cat",
        "twin.png,dog",
        "torn.png,cat",
        "text.jpg,cat",
        "huge.png,cat",
        "dot.png,cat;dog",
        "film.gif,cat;dog",
        "phone.jpg,cat;dog",
        "gone.png,cat",
        "good.png,cat",
        "one.png,kat",
        "two.png,kat;hamster",
        "three.png,",
        "../../secret.png,cat",
    ]
    for name in ("one", "two", "three"):
        noise().save(root / f"{name}.png")
    (root / "labels.csv").write_text("image,labels\n" + "".join(f"{row}\n" for row in rows))
    (root / "pets.yaml").write_text("classes: [cat, dog, fish]\n")
    return root


def looked(root: Path, vocabulary: Vocabulary = PETS, config: ImageConfig = PLAIN, **options) -> DataCheck:
    dataset = folder(root, root / "labels.csv", class_id=vocabulary.class_id, truth=root / "truth")
    skipped = folder(root, root / "labels.csv", class_id=vocabulary.class_id, on_bad_label="skip")
    return check_data(dataset, vocabulary, config, skipped=skipped, **options)


def found(result: DataCheck) -> dict[str, list[str]]:
    """Ids by kind."""
    return {kind: [f.image_id for f in result.findings if f.kind == kind] for kind in KINDS}


def test_every_problem_is_found_in_one_go(messy):
    result = looked(messy)
    by_kind = found(result)
    assert sorted(by_kind["picture"]) == ["text", "torn"]
    assert by_kind["large"] == ["huge"]
    assert by_kind["mask"] == ["colour"]
    assert by_kind["mask size"] == ["wide"]
    assert by_kind["values"] == ["wild"]
    assert sorted(by_kind["twice"]) == ["copy", "saved"]
    assert by_kind["contradiction"] == ["twin"]
    assert sorted(by_kind["labels"]) == ["other", "wide"]
    assert by_kind["frames"] == ["film"]
    assert by_kind["tiny"] == ["dot"]
    assert by_kind["reduced"] == ["phone"]
    assert "bare" in by_kind["no truth"]
    reasons = [f.detail for f in result.findings if f.kind == "entry"]
    for word in ("gone.png", "'good' is listed twice", "'kat'", "lists no object", "../../secret.png"):
        assert any(word in reason for reason in reasons), word
    assert result.listed == 23
    assert result.usable == 17
    assert [f.kind for f in result.problems] == sorted((f.kind for f in result.problems), key=list(KINDS).index)


def test_findings_say_what_was_expected_and_found(messy):
    details = {(f.kind, f.image_id): f.detail for f in looked(messy).findings}
    assert details["mask size", "wide"] == "60 x 80, its picture has 64 x 80"
    assert details["values", "wild"] == "9, 44; 3 classes make 0..3 and 255"
    assert details["labels", "other"] == "only the mask has dog; only the labels have cat"
    assert details["twice", "copy"].startswith("the same bytes as ")
    assert details["twice", "saved"].startswith("the same pixels in another file as ")
    assert details["contradiction", "twin"].endswith("cat there, dog here")
    assert "9000 x 12000" in details["large", "huge"]
    assert "5625 patches, 4096 allowed" in details["reduced", "phone"]
    assert "damaged or cut off" in details["picture", "torn"]


def test_unknown_labels_are_counted_with_the_nearest_name(messy):
    assert looked(messy).unknown_labels == (("kat", 2, "Nearest: 'cat'."), ("hamster", 1, ""))


def test_headers_alone_show_less(messy):
    by_kind = found(looked(messy, pixels=False))
    assert by_kind["picture"] == ["text"], "a torn file still has its header"
    assert by_kind["large"] == ["huge"]
    assert not by_kind["twice"]
    assert not by_kind["values"]


def test_a_raised_limit_lets_the_picture_in(messy):
    limits = replace(ImageConfig(), max_megapixels=120.0, max_patches=None)
    result = looked(messy, config=limits, pixels=False)
    assert not found(result)["large"]
    assert not found(result)["reduced"]
    assert (result.sizes_hw == [9000, 12000]).all(axis=1).any()


@pytest.mark.slow
def test_processes_find_the_same(messy):
    here, elsewhere = looked(messy), looked(messy, workers=2)
    assert here.findings == elsewhere.findings
    assert np.array_equal(here.sizes_hw, elsewhere.sizes_hw)


class Deadly(np.ndarray):
    """A table that ends the process that receives it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_picture_that_kills_its_process_costs_only_itself(messy):
    record = ImageRecord("good", messy / "good.png", (0,))
    deadly = np.zeros(256, np.uint8).view(Deadly)
    jobs = [_Job(record, None, None), _Job(record, None, deadly), _Job(record, None, None)]
    work = partial(_look_at_all, config=ImageConfig(), patch=16, names=("cat",), pixels=False)
    with Processes(1, tries=1) as pool:
        first, lost, last = _one_by_one(jobs, work, pool)
    assert first == last
    assert [finding.kind for finding in lost.findings] == ["picture"]
    assert "was killed" in lost.findings[0].detail


def test_labels_are_counted_and_company_is_noticed():
    sets = [(0,), (0, 1), (0, 1), (0, 1), (0, 2), (2,)]
    records = tuple(ImageRecord(str(i), Path("absent.png"), ids) for i, ids in enumerate(sets))
    vocabulary = Vocabulary("v", tuple(ClassEntry(name) for name in ("sea", "boat", "gull", "whale")))
    result = check_data(Dataset("d", records), vocabulary, ImageConfig())
    assert [(c.name, c.pictures, c.alone, c.always_with) for c in result.labels] == [
        ("sea", 5, 1, ()),
        ("boat", 3, 0, ("sea",)),
        ("gull", 2, 1, ()),
        ("whale", 0, 0, ()),
    ]
    assert [f.detail for f in result.findings if f.kind == "together"] == ["'boat' is in 3 pictures, always with 'sea'"]
    assert [f.detail for f in result.findings if f.kind == "absent"] == ["whale"]
    assert len(result.problems) == 6, "none of the pictures is there"


def test_a_stated_size_that_is_not_the_pictures_is_found(golden_voc):
    vocabulary = load_vocabulary("voc12")
    names = sorted(path.stem for path in (golden_voc / "Annotations").iterdir())
    changed, turned = names[0], names[1]
    for name, edit in ((changed, ("<width>", "<width>1")), (turned, None)):
        path = golden_voc / "Annotations" / f"{name}.xml"
        text = path.read_text()
        if edit:
            text = text.replace(*edit)
        else:
            text = text.replace("width>", "x>").replace("height>", "width>").replace("x>", "height>")
        path.write_text(text)
    result = check_data(voc(golden_voc, class_id=vocabulary.class_id), vocabulary, ImageConfig())
    details = {f.image_id: f.detail for f in result.findings if f.kind == "annotation"}
    assert set(details) == {changed, turned}
    assert "stated, the picture has" in details[changed]
    assert "turned by 90 degrees" in details[turned]


def test_exif_turns_the_picture_its_mask_does_not(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(64, 80).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "truth").mkdir()
    mask(1, size=(64, 80)).save(tmp_path / "truth" / "a.png")
    (tmp_path / "labels.csv").write_text("image,labels\na.png,cat\n")
    assert "turned by 90 degrees" in looked(tmp_path).problems[0].detail
    assert "--image.no-exif" in KINDS["mask size"][1]
    assert not looked(tmp_path, config=ImageConfig(exif=False)).problems


def test_a_million_pictures_take_little_memory(tmp_path):
    """Half a kilobyte for each of 500: 40 bytes of size and hash, and what one chunk needs at a time."""
    noise().save(tmp_path / "a.png")
    records = tuple(ImageRecord(str(i), tmp_path / "a.png", (0,)) for i in range(500))
    dataset = Dataset("d", records)
    check_data(Dataset("d", records[:20]), PETS, ImageConfig(), pixels=False)
    peaks = []
    for _ in range(3):  # What other threads of this process need meanwhile is counted too, so the least counts.
        tracemalloc.start()
        result = check_data(dataset, PETS, ImageConfig(), pixels=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.usable == 500
    assert min(peaks) < 250_000


LIMITED = """
import resource, sys
from clip_es.config.run import ImageConfig
from clip_es.pipelines.checks.dataset import check_data
from clip_es.prompts import load_vocabulary
from clip_es.records import folder
from pathlib import Path
status = Path("/proc/self/status").read_text()
used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize:"))
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
root = Path(sys.argv[1])
pets = load_vocabulary(root / "pets.yaml")
result = check_data(folder(root, root / "labels.csv", class_id=pets.class_id), pets, ImageConfig())
print(sorted((f.kind, f.image_id) for f in result.problems))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited and read as Linux does it")
def test_400_mib_are_enough_whatever_the_files_claim(tmp_path):
    Image.new("1", (12_000, 9_000)).save(tmp_path / "bomb.png")  # would be 324 MB as RGB, and more on the way
    Image.new("L", (13_000, 13_000)).save(tmp_path / "second.tif", compression="tiff_lzw")
    noise(3000, 4000).save(tmp_path / "photo.jpg")
    (tmp_path / "pets.yaml").write_text("[cat, dog]\n")
    (tmp_path / "labels.csv").write_text("image,labels\nbomb.png,cat\nsecond.tif,cat\nphoto.jpg,cat\n")
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert process.stdout.strip() == "[('large', 'bomb'), ('large', 'second')]", process.stderr[-2000:]


# The command


def run(root: Path, *flags: str) -> int:
    arguments = ["check", "folder", "--images", str(root), "--labels", str(root / "labels.csv")]
    return main([*arguments, "--vocabulary", str(root / "pets.yaml"), "--truth", str(root / "truth"), *flags])


def test_the_command_names_files_and_remedies(messy, capsys):
    assert run(messy, "--no-estimate", "--shown", "2") == 1
    told = capsys.readouterr().out
    for words in (str(messy / "torn.png"), "--on-bad-label skip", "--image.max-megapixels", "re-index the masks"):
        assert words in told
    assert "... and" in told, "only two of a kind are shown"
    assert "23 entries, 17 usable" in told


def test_the_report_holds_every_finding(messy, tmp_path, capsys):
    assert run(messy, "--no-estimate", "--out", str(tmp_path / "report.csv")) == 1
    assert run(messy, "--no-estimate", "--out", str(tmp_path / "report.json")) == 1
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["findings"] == rows
    assert {row["kind"] for row in rows if row["severity"] == "problem"} == set(SERIOUS) - {"annotation"}
    assert all(row["remedy"] for row in rows)
    assert report["problems"] == sum(row["severity"] == "problem" for row in rows)
    assert report["unknown_labels"] == [{"label": "kat", "times": 2}, {"label": "hamster", "times": 1}]
    assert [label["name"] for label in report["labels"]] == ["cat", "dog", "fish"]


@pytest.mark.parametrize("flags", [("--out", "report.txt"), ("--shown", "-1"), ("--measure", "0")])
def test_wrong_flags_are_refused_before_any_picture_is_read(tmp_path, flags, capsys):
    assert run(tmp_path, *flags) == 2
    assert "ConfigError" in capsys.readouterr().err


def test_a_sound_data_set_passes(golden_voc, capsys):
    assert main(["check", "voc12", "--root", str(golden_voc), "--fast", "--no-estimate"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_weights_are_not_fetched_for_an_estimate(golden_voc, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLIP_ES_CACHE", str(tmp_path / "cache"))
    assert main(["check", "voc12", "--root", str(golden_voc), "--fast"]) == 0
    assert "ViT-B/16 is not on this machine yet" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


# The estimate


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=0, val=12, side=(96, 160)))


@pytest.fixture(scope="module")
def maker() -> MaskMaker:
    return MaskMaker.load(config=replace(DEFAULT, refine=("affinity",)), device="cpu")


def test_the_estimate_is_what_the_run_then_takes(scenes, maker, tmp_path):
    dataset = voc(scenes, "val", class_id=maker.vocabulary.class_id)
    sizes = check_data(dataset, maker.vocabulary, maker.config.image, pixels=False).sizes_hw
    expected = estimate(dataset.records, sizes, maker, count=6, out=tmp_path)
    with RunStore.open(tmp_path / "run", {}) as store:
        make_masks(dataset.records, maker, store, workers=0)
    disk = sum(-(-f.stat().st_size // 4096) * 4096 for f in (tmp_path / "run").glob("*/*.png")) / 2**20
    assert (expected.pictures, expected.measured) == (12, 6)
    assert expected.disk_mib == pytest.approx(disk, rel=0.2)
    assert expected.largest_hw == tuple(max(sizes.tolist(), key=lambda size: size[0] * size[1]))
    assert expected.measured_largest
    assert 50 < expected.memory_mib < 20_000
    assert {"read", "encode", "localize", "affinity"} <= set(expected.seconds_by_stage)
    assert expected.seconds == pytest.approx(12 * sum(expected.seconds_by_stage.values()))
    assert not expected.troubles


def test_what_the_machine_has_not_is_a_problem():
    known = {
        "pictures": 10,
        "measured": 1,
        "seconds_by_stage": {},
        "workers": 0,
        "seconds": 1.0,
        "memory_mib": 4000.0,
        "gpu_memory_mib": None,
        "largest_hw": (3000, 4000),
        "measured_largest": False,
        "disk_mib": 900.0,
        "disk_free_mib": 1000.0,
        "memory_free_mib": 8000.0,
    }
    assert not Estimate(**known).troubles
    assert "disk" in Estimate(**{**known, "disk_mib": 1001.0}).troubles[0]
    assert "--image.max-patches" in Estimate(**{**known, "memory_mib": 8001.0}).troubles[0]


def test_nothing_can_be_estimated_where_nothing_can_be_read(maker):
    with pytest.raises(DataError, match="no picture can be read"):
        estimate([], np.zeros((0, 2), dtype=np.int32), maker)


def test_the_command_estimates(scenes, capsys):
    assert main(["check", "scenes", "--root", str(scenes), "--fast", "--measure", "2", "--refine", "affinity"]) == 0
    told = capsys.readouterr().out
    assert "for 12 pictures" in told
    assert "MiB free" in told


def test_whatever_masks_can_be_made_of_can_be_checked():
    kinds = {name.split()[1] for name in COMMANDS if name.startswith("masks ")}
    assert {name.split()[1] for name in COMMANDS if name.startswith("check ")} == kinds


def test_pictures_without_labels_are_checked_too(messy, capsys):
    arguments = [
        "check",
        "folder",
        "--images",
        str(messy),
        "--labels",
        "none",
        "--vocabulary",
        str(messy / "pets.yaml"),
    ]
    assert main([*arguments, "--no-estimate"]) == 1
    told = capsys.readouterr().out
    assert "No labels are given." in told
    assert str(messy / "torn.png") in told
    assert "no picture. Fine where" not in told


def test_a_preset_sets_the_defaults(golden_voc, capsys):
    """The published settings take sizes from the annotation, so an annotation without one is a problem."""
    path = next((golden_voc / "Annotations").iterdir())
    path.write_text(path.read_text().replace("width>", "breadth>"))
    arguments = ["check", "voc12", "--root", str(golden_voc), "--fast", "--no-estimate"]
    assert main(arguments) == 0
    assert main([*arguments, "--preset", "reference"]) == 1
    assert path.name in capsys.readouterr().out
