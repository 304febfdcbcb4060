"""Whatever a file holds: it is read, or refused by one of our errors. benchmarks/malformed.py has thousands of cases.

The bytes come from two sides: hypothesis builds files that are nearly right, and the campaign spoils sound ones in a
process of its own, whose memory is limited and whose every open, program and connection is watched.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_es.config.run import ImageConfig
from clip_es.encoder import read_state_dict
from clip_es.errors import ClipEsError, ConfigError
from clip_es.images import look_at, read_picture
from clip_es.masks import read_confidence, read_mask
from clip_es.prompts import load_vocabulary
from clip_es.prompts.check import check_file
from clip_es.records import coco_instances, folder
from clip_es.records.voc import read_annotation
from clip_es.safe_yaml import load_yaml
from clip_es.store.failures import read_failures
from clip_es.store.summary import update_summary
from clip_es.types import ImageRecord

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "malformed.py"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and read as Linux does it")
EACH = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
SMALL = ImageConfig(max_megapixels=0.5, max_patches=64)


@contextmanager
def file(content: bytes, name: str = "a") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as where:
        path = Path(where, name)
        path.write_bytes(content)
        yield path


def read_or_refused(read, *arguments, **options):
    """What a reader returns; None where it refuses with an error of ours. Any other error is the test's."""
    with suppress(ClipEsError):
        return read(*arguments, **options)
    return None


# Files that are nearly right

CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"fdAT", b"tEXt", b"zTXt")


@st.composite
def pngs(draw) -> bytes:
    """Chunks with true lengths and checksums; what stands in them may be anything."""
    width, height = draw(st.tuples(*[st.sampled_from([0, 1, 7, 300, 2**31 - 1, 2**32 - 1])] * 2))
    depth, colours = draw(st.sampled_from([1, 2, 4, 8, 16, 3])), draw(st.sampled_from([0, 2, 3, 4, 6, 5]))
    chunks = [
        (b"IHDR", struct.pack(">II5B", width, height, depth, colours, *draw(st.tuples(*[st.integers(0, 2)] * 3))))
    ]
    pixels = zlib.compress(draw(st.binary(max_size=80)) * draw(st.sampled_from([1, 100])))
    chunks += draw(st.lists(st.tuples(st.sampled_from(CHUNKS), st.binary(max_size=40)), max_size=3))
    chunks += [(b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@EACH
@given(pngs())
def test_any_png(content):
    with file(content) as path:
        read_or_refused(look_at, path, SMALL)
        picture = read_or_refused(read_picture, ImageRecord("a", path, ()), 16, SMALL)
        assert picture is None or picture.rgb.shape[0] * picture.rgb.shape[1] <= 500_000
        read_or_refused(read_mask, path)
        confidence = read_or_refused(read_confidence, path)
        assert confidence is None or 0 <= confidence.min() <= confidence.max() <= 1


NAME = st.text(alphabet="abcdot/\\.:;\0\ud800é'\"<&>!*[]{}#%- \n", max_size=12)


@EACH
@given(
    st.recursive(
        st.tuples(st.sampled_from(["object", "name", "size", "width", "height", "difficult", "x"]), NAME),
        lambda inner: st.tuples(st.sampled_from(["annotation", "object", "size"]), st.lists(inner, max_size=4)),
        max_leaves=12,
    ),
    st.sampled_from(["", '<?xml version="1.0" encoding="utf-7"?>', '<!DOCTYPE a [<!ENTITY e "x">]>', "\ufeff"]),
)
def test_any_xml(tree, head):
    def written(node) -> str:
        name, content = node
        inner = content if isinstance(content, str) else "".join(map(written, content))
        return f"<{name}>{inner}</{name}>"

    with file((head + written(tree)).encode("utf-8", "surrogatepass"), "a.xml") as path:
        found = read_or_refused(read_annotation, path)
        assert found is None or all(found[0])


@EACH
@given(st.lists(st.tuples(NAME, NAME), max_size=6), st.sampled_from(["image,labels", "labels,image", "image", ""]))
def test_any_table_keeps_to_its_folder(rows, header):
    text = "\n".join([header, *(",".join(row) for row in rows), "a.png,cat"])
    with tempfile.TemporaryDirectory() as where:
        root = Path(where, "pictures")
        root.mkdir()
        for path in (root / "a.png", Path(where, "d.png")):
            Image.new("1", (1, 1)).save(path)
        (Path(where) / "labels.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
        dataset = read_or_refused(folder, root, Path(where, "labels.csv"), class_id=load_vocabulary("voc12").class_id)
        for record in dataset.records if dataset else ():
            assert record.path.resolve().is_relative_to(root.resolve())
            assert "/" not in record.image_id


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | NAME,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
    max_leaves=6,
)


def nearly(**known: st.SearchStrategy) -> st.SearchStrategy:
    """An object with these keys, each of which may hold anything."""
    return st.fixed_dictionaries({key: value | VALUE for key, value in known.items()})


NUMBER = st.integers(1, 3)
SHAPE = st.lists(st.lists(st.floats(-5, 40), max_size=8), max_size=2)
RUNS = nearly(size=st.just([9, 11]), counts=st.lists(st.integers(-9, 99), max_size=4) | NAME)


@EACH
@given(
    nearly(
        images=st.lists(
            nearly(
                id=NUMBER,
                file_name=st.sampled_from(["a.png", "../d.png", "/d.png"]),
                height=st.just(9),
                width=st.just(11),
            ),
            max_size=3,
        ),
        annotations=st.lists(
            nearly(
                id=NUMBER,
                image_id=NUMBER,
                category_id=NUMBER,
                segmentation=SHAPE | RUNS,
                area=st.floats(),
                iscrowd=st.integers(0, 1),
            ),
            max_size=3,
        ),
        categories=st.lists(nearly(id=NUMBER, name=st.sampled_from(["cat", "dog"])), max_size=3),
    )
)
def test_any_coco_file_keeps_to_its_folder(tree):
    pytest.importorskip("pycocotools")
    with tempfile.TemporaryDirectory() as where:
        root = Path(where, "coco")
        (root / "train2014").mkdir(parents=True)
        for path in (root / "train2014" / "a.png", root / "d.png", Path(where, "d.png")):
            Image.new("1", (11, 9)).save(path)
        (root / "a.json").write_text(json.dumps(tree))
        names = load_vocabulary("coco14")
        dataset = read_or_refused(lambda: coco_instances(root, class_id=names.class_id, annotations=root / "a.json"))
        for record in dataset.records if dataset else ():
            assert record.path.resolve().is_relative_to(root.resolve())


@EACH
@given(
    VALUE
    | nearly(classes=st.lists(NAME | nearly(name=NAME, prompt=NAME, synonyms=st.lists(NAME, max_size=2)), max_size=4))
)
def test_any_vocabulary(tree):
    with file(json.dumps(tree).encode(), "a.yaml") as path:  # JSON is YAML, but for a few characters
        found = read_or_refused(load_vocabulary, path)
        read_or_refused(check_file, path)
        for name in found.names if found else ():
            name.encode()


@EACH
@given(VALUE)
def test_any_summary_is_written_anew_or_kept(tree):
    with file(json.dumps(tree).encode(), "summary.json") as path:
        update_summary(path.parent, {"miou": 1.5})
        assert json.loads(path.read_bytes())["miou"] == 1.5


@EACH
@given(
    st.binary(max_size=200)
    | st.lists(st.tuples(NAME, NAME, NAME, NAME)).map(
        lambda rows: "".join(",".join(row) + "\n" for row in [("image_id", "stage", "error", "reason"), *rows]).encode(
            "utf-8", "surrogatepass"
        )
    )
)
def test_any_table_of_failures(content):
    with file(content, "failures.csv") as path:
        read_failures(path)


TENSOR = nearly(
    dtype=st.sampled_from(["F16", "F32", "I64", "BOOL", "F8_E4M3"]),
    shape=st.lists(st.integers(0, 5), max_size=3),
    data_offsets=st.tuples(st.integers(0, 64), st.integers(0, 64)).map(list),
)
KEYS = st.sampled_from(["visual.conv1.weight", "visual.proj", "text_projection", "token_rows", "logit_scale", "a"])


@EACH
@given(st.dictionaries(KEYS, TENSOR, max_size=4) | VALUE, st.binary(max_size=64), st.integers(-2, 2))
def test_any_safetensors_header(tree, content, off):
    header = json.dumps(tree).encode()
    with file(max(0, len(header) + off).to_bytes(8, "little") + header + content, "a.safetensors") as path:
        assert read_or_refused(read_state_dict, path) is None


@EACH
@given(
    st.fixed_dictionaries(
        {
            "descr": st.sampled_from(["<f4", "|u1", "|O", "<U4", ">i8", "|V8", [("a", "<f4")]]) | VALUE,
            "fortran_order": st.booleans() | VALUE,
            "shape": st.sampled_from([(3, 20), (20,), (), (-1, 20), (2**40, 20), (0, 20)]) | VALUE,
        }
    ),
    st.binary(max_size=240),
)
def test_any_npy_header(header, content):
    text = repr(header).encode("utf-8", "replace")
    with tempfile.TemporaryDirectory() as where:
        Image.new("1", (1, 1)).save(Path(where, "a.png"))
        table = Path(where, "labels.npy")
        table.write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + content)
        names = load_vocabulary("voc12")
        read_or_refused(lambda: folder(Path(where), table, class_id=names.class_id, class_count=20))


# What YAML readers meet that PyYAML itself meets with other errors


@pytest.mark.parametrize(
    "text",
    [
        "!!bool x",
        "!!int ''",
        "!!float ''",
        "!!timestamp x",
        "2026-13-45",
        "9" * 5000,
        "[" * 2000,
        "&a [*a, *a]",
        "{a: 1, a: 2}",
        "!!python/object/apply:os.system [echo]",
        "\0",
        "? [a]\n: b",
    ],
)
def test_bad_yaml_is_one_kind_of_error(tmp_path, text):
    import yaml

    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
    (tmp_path / "words.yaml").write_text(f"- cat\n- {text}\n")
    with pytest.raises(ConfigError):
        load_vocabulary(tmp_path / "words.yaml")


@pytest.mark.parametrize("text", ["[" * 3000, "{" * 3000, "- " * 2000, "? " * 2000, '{"a":' * 2000])
def test_deep_yaml_is_refused_where_it_becomes_deep(text):
    import yaml

    with pytest.raises(yaml.YAMLError, match="nested too deeply"):
        load_yaml(text)
    assert load_yaml("[" * 60 + "]" * 60) is not None


# Sound files, spoilt


def campaign(out: Path, *flags: str) -> tuple[int, dict]:
    process = subprocess.run(
        [sys.executable, str(CAMPAIGN), "--out", str(out), *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (out / "malformed.json").is_file(), process.stdout[-2000:] + process.stderr[-2000:]
    return process.returncode, json.loads((out / "malformed.json").read_text())


@LINUX
def test_spoilt_files_are_read_or_refused_and_nothing_else_happens(tmp_path):
    code, told = campaign(tmp_path, "--cases", "800", "--seed", "7")
    assert told["troubles"] == []
    assert code == 0
    assert told["refused"] + told["accepted"] == told["cases"] == 800
    assert min(told["refused"], told["accepted"]) > 60, "files are spoilt neither hardly nor beyond recognition"
    assert all(counts["cases"] >= 10 for counts in told["readers"].values())


@LINUX
@pytest.mark.slow
def test_the_campaign_notices_whatever_a_reader_must_not_do(tmp_path):
    expected = {
        "wrong error": "wrong error",
        "crash": "crash",
        "hang": "hang",
        "escape by writing": "escape",
        "escape by reading": "escape",
        "escape by running": "escape",
        "escape by import": "escape",
        "memory": "memory",
    }
    traps = [f"trap: {name}" for name in expected]
    code, told = campaign(tmp_path, "--cases", str(len(traps)), "--longest", "10", "--only", *traps)
    assert code == 1
    assert {(t["reader"], t["kind"]) for t in told["troubles"]} >= {(f"trap: {k}", v) for k, v in expected.items()}
    assert told["cases"] == sum(counts["cases"] for counts in told["readers"].values()) == len(traps)


def test_arrays_of_objects_are_never_unpickled(tmp_path):
    class Marker:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    np.save(tmp_path / "labels.npy", np.array([Marker()], dtype=object), allow_pickle=True)
    Image.new("1", (1, 1)).save(tmp_path / "a.png")
    names = load_vocabulary("voc12")
    read_or_refused(lambda: folder(tmp_path, tmp_path / "labels.npy", class_id=names.class_id, class_count=20))
    assert not (tmp_path / "executed").exists()
