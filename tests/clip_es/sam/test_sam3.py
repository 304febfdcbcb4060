"""SAM 3 as a method, with seeded random weights: the library's own answers, and the house's rules about them."""

import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sams import save_phrased
from torchvision_names import processor

from clip_es import rle
from clip_es.config.methods import Sam3Config
from clip_es.config.run import DEFAULT
from clip_es.config.views import ViewsConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, ShapeError
from clip_es.formats import FORMATS, Source
from clip_es.localize.sam3 import Sam3, phrases_of
from clip_es.masks import decide, read_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.exchange.export import export
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import build_bank, load_vocabulary
from clip_es.prompts.bank import class_words
from clip_es.regions import Instances, Regions
from clip_es.sam.networks import load
from clip_es.sam.phrases import Asker
from clip_es.scaling import upsample
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.regions import read_instances
from clip_es.store.run import RunStore
from clip_es.store.tables import read_json
from clip_es.types import ImageRecord, Picture, PseudoMask

pytest.importorskip("transformers")

RGB = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_phrased(tmp_path_factory.mktemp("sam3") / "sam3")


@pytest.fixture(scope="module")
def network(folder):
    return load(str(folder), "phrased")


@pytest.fixture(scope="module")
def parts():
    encoder, words = load_encoder("scenes", device="cpu"), load_vocabulary("scenes")
    return encoder, build_bank(encoder, words), class_words(words, "none")


def method(network, parts, on_patches=False, **settings):
    encoder, bank, words = parts
    return Sam3(encoder, bank, network, Sam3Config(**settings), words, on_patches)


def picture(rgb=RGB):
    return Picture("one", rgb, np.zeros((16, 16, 3), np.uint8), 16)


def library(network, phrase):
    """The outputs of the model for one phrase, the whole way from pixels, without padding."""
    from clip_es.encoder.tokenize import tokenize

    ids = tokenize([phrase])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        return network.model(pixel_values=network.show(RGB).pixels, input_ids=ids, attention_mask=mask)


def test_answers_are_the_librarys_and_padding_does_not_matter(network):
    asker = Asker(network, at_once=2, least=-1.0)
    phrases = ["cat", "a red toy boat", "dog"]
    made = processor("sam3.image_processing_sam3", "Sam3ImageProcessor")
    for phrase, answer in zip(phrases, asker.ask(asker.see(RGB), phrases), strict=True):
        expected = library(network, phrase)
        tell = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(answer.logits, expected.semantic_seg[0, 0], **tell)
        torch.testing.assert_close(answer.masks, expected.pred_masks[0], **tell)
        assert answer.presence == pytest.approx(float(expected.presence_logits.sigmoid()), abs=1e-5)
        (semantic,) = made.post_process_semantic_segmentation(
            None, expected, [(40, 56)], return_segmentation_scores=True
        )
        ours = torch.nn.functional.interpolate(answer.logits.sigmoid()[None, None], (40, 56), mode="bilinear")
        torch.testing.assert_close(ours[0], semantic.segmentation_scores, **tell)
        things = made.post_process_instance_segmentation(None, expected, -1.0, 0.5, [(40, 56)])[0]
        assert (answer.things((40, 56), 0.5) != things["masks"].bool().numpy()).mean() < 1e-3
        torch.testing.assert_close(answer.scores, things["scores"], **tell)


def test_maps_of_a_label_alone_are_sam3s_own_probabilities(network, parts):
    sam = method(network, parts, background=False)
    found = sam.locate(picture(), sam.encode([picture()])[0], (2,))
    torch.testing.assert_close(found.maps.scores, found.raw.sigmoid())
    made = processor("sam3.image_processing_sam3", "Sam3ImageProcessor")
    outputs = types.SimpleNamespace(semantic_seg=found.raw[None])
    (expected,) = made.post_process_semantic_segmentation(None, outputs, [(40, 56)], return_segmentation_scores=True)
    torch.testing.assert_close(upsample(found.maps, (40, 56)).scores, expected.segmentation_scores, atol=1e-5, rtol=0)


def test_shares_sum_to_one_and_what_two_labels_claim_goes_to_the_surer_one(network, parts):
    sam = method(network, parts)
    found = sam.locate(picture(), sam.encode([picture()])[0], (2, 0, 5))
    assert found.maps.class_ids == (2, 0, 5)
    assert found.maps.background is not None
    torch.testing.assert_close(found.maps.scores.sum(0) + found.maps.background, torch.ones(16, 16))
    assert torch.equal(found.maps.scores.argmax(0), found.raw.argmax(0))
    mask = decide((40, 56), found.maps, DEFAULT.mask)
    assert set(np.unique(mask.decided)) <= {0, 3, 1, 6}


def test_every_background_word_takes_its_share(network, parts):
    one, two = method(network, parts, background=False), method(network, parts, weigh="none")
    seen = one.encode([picture()])[0]
    with_words = two.locate(picture(), seen, (2,))
    words = torch.stack([answer.logits for answer in two.asker.ask(seen.vision, two.background)])
    total = 1 + with_words.raw[0].exp() + words.exp().sum(0)
    torch.testing.assert_close(with_words.maps.scores[0], with_words.raw[0].exp() / total)


def test_a_picture_is_encoded_once_for_all_its_phrases(network, parts):
    calls = []
    hook = network.model.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    sam = method(network, parts)
    seen = sam.encode([picture()])[0]
    sam.locate(picture(), seen, (0, 1, 2, 3))
    sam.tag(picture(), seen)
    hook.remove()
    assert calls == [1]


def test_many_phrases_at_once_give_what_one_at_a_time_gives(network, parts):
    together, alone = (method(network, parts, phrases_at_once=count) for count in (50, 1))
    seen = together.encode([picture()])[0]
    for ids in ((0, 3, 1), None):
        a, b = (sam.locate(picture(), seen, ids) for sam in (together, alone))
        assert a.maps.class_ids == b.maps.class_ids
        torch.testing.assert_close(a.maps.scores, b.maps.scores, atol=1e-5, rtol=1e-4)


def test_without_labels_classes_occur_whose_presence_is_above_the_threshold(network, parts):
    sam = method(network, parts)
    seen = sam.encode([picture()])[0]
    tags = sam.tag(picture(), seen)
    middle = float(tags.scores.median())
    some = method(network, parts, presence=middle)
    found = some.locate(picture(), seen, None)
    assert found.maps.class_ids == tuple(k for k, likely in enumerate(tags.scores.tolist()) if likely > middle)
    assert found.maps.class_ids == some.tag(picture(), seen).class_ids
    torch.testing.assert_close(found.scores, tags.scores[list(found.maps.class_ids)])
    nothing = method(network, parts, presence=1.0).locate(picture(), seen, None)
    assert nothing.maps.class_ids == ()


def test_names_of_a_list_are_asked_one_by_one():
    assert phrases_of(["person with clothes,people,human"], "{}") == ("person with clothes", "people", "human")
    assert phrases_of(["cat", "cat"], "a photo of a {}") == ("a photo of a cat",)
    with pytest.raises(ConfigError, match="exactly once"):
        Sam3Config(phrase="no place for a name")


def test_the_best_phrase_of_a_class_counts_at_each_place(network, parts):
    encoder, bank, _ = parts
    words = [("cat", "dog")] + [("bird",)] * (bank.class_count - 1)
    sam = Sam3(encoder, bank, network, Sam3Config(background=False), words)
    seen = sam.encode([picture()])[0]
    cat, dog = (answer.logits for answer in sam.asker.ask(seen.vision, ["cat", "dog"]))
    torch.testing.assert_close(sam.locate(picture(), seen, (0,)).raw[0], torch.maximum(cat, dog), atol=1e-5, rtol=1e-5)


def test_maps_from_things_are_their_union_weighted_by_score(network, parts):
    sam = method(network, parts, maps="instances", background=False, instance_score=0.0)
    seen = sam.encode([picture()])[0]
    (answer,) = sam.asker.ask(seen.vision, sam.phrases[4])
    expected = (answer.scores[:, None, None] * answer.masks.sigmoid()).amax(0)
    found = sam.locate(picture(), seen, (4,))
    torch.testing.assert_close(found.maps.scores[0], expected, atol=1e-5, rtol=1e-3)
    nothing = method(network, parts, maps="instances", background=False, instance_score=1.0)
    assert float(nothing.locate(picture(), seen, (4,)).maps.scores.max()) < 1e-5


def test_refiners_on_the_patch_grid_get_maps_and_attention_there(network, parts):
    sam = method(network, parts, on_patches=True)
    shown = Picture("one", RGB, np.zeros((48, 64, 3), np.uint8), 16)
    seen = sam.encode([shown])[0]
    found = sam.locate(shown, seen, (1, 2))
    assert found.maps.scores.shape == (2, 3, 4)
    assert seen.attention.shape == (12, 12)
    assert float(seen.attention.abs().sum()) > 0


def test_a_picture_that_another_method_encoded_is_refused(network, parts):
    encoder = parts[0]
    with pytest.raises(ShapeError, match="encodes pictures itself"):
        method(network, parts).locate(picture(), encoder.encode([picture().patches])[0], (0,))


def test_views_of_the_picture_are_refused(folder):
    config = replace(DEFAULT, method="sam3", refine=(), views=ViewsConfig(flip=True)).using(
        sam3=Sam3Config(model=str(folder))
    )
    with pytest.raises(ConfigError, match="shown the picture itself"):
        MaskMaker.load("scenes", "scenes", config, "cpu")


def test_memory_with_two_hundred_phrases_is_flat(folder):
    """In a process of its own: the largest memory with 8 phrases, and with 200 after that."""
    code = (
        "import resource, sys, numpy as np, torch\n"
        "from clip_es.sam.networks import load\n"
        "from clip_es.sam.phrases import Asker\n"
        "torch.set_num_threads(1)\n"
        "asker = Asker(load(sys.argv[1], 'phrased'), at_once=4)\n"
        "seen = asker.see(np.zeros((40, 56, 3), np.uint8))\n"
        "most = []\n"
        "for count in (8, 200):\n"
        "    total = 0.0\n"
        "    for answer in asker.ask(seen, [f'thing {k}' for k in range(count)]):\n"
        "        total += float(answer.logits.mean())\n"
        "    most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "print(*most)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert many - few < 8 * 1024  # kilobytes; 200 phrases are heard and kept, 4 kB each


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes") / "scenes", ScenesConfig(train=0, val=2, side=(64, 64)))


def run(scenes, folder, out, *more):
    flags = ["--method", "sam3", "--sam3.model", str(folder), "--workers", "0", "--report-pictures", "0", *more]
    return main(["masks", "scenes", "--root", str(scenes), "--out", str(out), *flags])


def test_a_run_keeps_things_inside_the_mask_and_exports_them(scenes, folder, tmp_path):
    assert run(scenes, folder, tmp_path / "run", "--refine", "--sam3.instance-score", "0") == 0
    told = (tmp_path / "run/run.yaml").read_text()
    assert "masks with phrases (SA-Co)" in told
    assert "weakly_supervised: 'no'" in told
    for path in sorted((tmp_path / "run/instances").glob("*.json")):
        labels = read_mask(tmp_path / f"run/labels/{path.stem}.png")
        things = read_instances(path, (labels.shape[0], labels.shape[1]))
        for number, k in enumerate(things.class_ids):
            assert (labels[things.regions.mask(number)] == k + 1).all()


def test_things_are_exported_and_their_masks_come_back_exactly(tmp_path):
    """Two things of one class that overlap, of which the surer one has the shared pixels, and a rest in neither."""
    api = pytest.importorskip("cv2")
    labels = np.zeros((20, 30), np.uint8)
    labels[2:12, 2:28] = 3
    labels[14:18, 3:9] = 1
    left, right = np.zeros((2, 20, 30), bool)
    left[2:12, 2:16], right[0:12, 12:24] = True, True
    regions = Regions.of((20, 30), [rle.runs(left), rle.runs(right)], [0.9, 0.4])
    store = RunStore.open(tmp_path / "run", {"a": 1}, about={"classes": ["cat", "dog", "cow"], "images": None})
    with store:
        things = Instances(regions, (2, 2)).within(labels)
        sure = np.ones((20, 30), np.float32)
        mask = PseudoMask(labels, sure, (0, 2), labels, things)
        store.save(ImageRecord("one", Path("one.jpg"), (0, 2)), mask)
    run = Run.open(tmp_path / "run")
    for name in ("coco-rle", "cvat", "yolo-seg"):
        export(run, name, tmp_path / name, pictures="none")
    tree = read_json(tmp_path / "coco-rle/annotations/instances_train.json")
    told = [(one["category_id"], one["area"]) for one in tree["annotations"]]
    assert told == [(1, 24), (3, 40), (3, 140), (3, 80)]  # in neither, the surer one, what it leaves of the other
    with Source(tmp_path / "coco-rle") as source:
        (back,) = FORMATS["coco-rle"].read(source, run.names)
        np.testing.assert_array_equal(back.read((20, 30)), labels)
    objects = read_mask(tmp_path / "cvat/SegmentationObject/one.png")
    assert np.bincount(objects.ravel()).tolist() == [600 - 220, 140, 80]
    lines = (tmp_path / "yolo-seg/labels/train/one.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "2", "2", "2"]
    assert api


@pytest.mark.parametrize("labels", ["auto", "none"])
def test_a_run_finds_labels_by_their_presence(scenes, folder, tmp_path, labels):
    assert run(scenes, folder, tmp_path / "run", "--refine", "crf", "--labels", labels) == 0
    assert (tmp_path / "run/labels.csv").is_file()
    assert len(list(Path(tmp_path / "run/masks").glob("*.png"))) == 2
