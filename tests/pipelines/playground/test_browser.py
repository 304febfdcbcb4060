"""Visits in a real Chromium: what a person does, what goes wrong, and what the page asks for meanwhile.

The visits share a server and a browser, because these cost seconds to start; each comes with nothing kept from before.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

import numpy as np
import pytest
from browser import Server, chromium, needs_browser, requests, until, violations
from made_up_run import MadeUpRun, make_run
from PIL import Image
from visit import Visit

from clip_es.masks import read_mask
from clip_es.pipelines.cli import parse
from clip_es.pipelines.commands.masks import Masks
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.playground.runs import PAGE, RunView
from clip_es.scenes.draw import CLASSES, Scene, SceneConfig, draw_scene

HOSTILE = ("<img src=x onerror=window.hacked=1>", "traffic light", "${window.hacked=1}{{7*7}}`+window.alert(1)+`")
"""Names of classes. If a page made anything but text of them, `window.hacked` would be there."""

pytestmark = [needs_browser, pytest.mark.slow]


@dataclass
class House:
    """A server with a run, and a browser, for all visits."""

    made: MadeUpRun
    server: Server
    window: object


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("playground")
    made = make_run(folder, PAGE + 2, classes=HOSTILE)
    with Server(str(made.run), "--refine", "affinity", log=folder / "server.log") as server, chromium() as window:
        yield House(made, server, window)


@pytest.fixture
def visit(house, tmp_path) -> Iterator[Visit]:
    """Somebody who has never been here; afterwards nothing but this machine was asked, and no name became a script."""
    if not house.server.runs:
        house.server.start()
    requests(house.window)
    visit = Visit(house.window, house.server, tmp_path)
    visit.come()
    yield visit
    asked = requests(visit.window)
    assert any(url.startswith(visit.server.address) for url in asked)
    assert {urlparse(url).hostname for url in asked if urlparse(url).scheme != "chrome-untrusted"} == {"127.0.0.1"}
    assert visit.run("return window.hacked") is None


def test_what_is_no_usable_picture_gets_a_clear_message(visit):
    text = visit.folder / f"{HOSTILE[0]}.png"
    text.write_text("no picture")
    visit.bring(text)
    visit.wait("#told", "not a picture")
    assert visit.one("#told [role=alert]")
    large = visit.folder / "large.png"
    Image.new("1", (10_000, 10_000)).save(large)
    visit.bring(large)
    visit.wait("#told", "too many pixels")
    assert "10000 x 10000" in visit.text("#told")
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
    frames[0].save(visit.folder / "moving.gif", save_all=True, append_images=frames[1:])
    visit.bring(visit.folder / "moving.gif")
    visit.wait("#told", "only the first is used")
    visit.wait("#status", "Name what is in the picture")
    assert not visit.sources("#mask")


def test_two_labels_give_maps_and_a_mask_and_nothing_is_encoded_twice(visit, capsys):
    scene = bring_scene(visit, 0, HOSTILE[0])
    begun = time.perf_counter()
    until(lambda: len(visit.sources("#mask")) == 2 and visit.encoded == 1, what="the mask")
    seconds, told = time.perf_counter() - begun, visit.text("#status")
    shown = visit.all("#steps section.label")
    assert [re.sub(r" score [\d.]+$", "", one.find_element("css selector", "h3").text) for one in shown] == [
        CLASSES[scene.class_ids[0]],
        HOSTILE[0],
    ]
    assert captions(visit) == ["clip-es", "after affinity", "what affinity changed"]
    assert HOSTILE[0] in visit.legend
    assert sum(visit.legend.values()) == pytest.approx(100, abs=0.3)  # each is rounded to a tenth
    the_slider_changes_the_mask_alone(visit)
    what_a_further_refiner_changed_is_shown(visit)
    assert visit.encoded == 1
    with capsys.disabled():
        sys.stdout.write(f"\nplayground: {seconds:.2f} s from drop to mask in Chromium; the server: {told}\n")


def the_slider_changes_the_mask_alone(visit: Visit) -> None:
    maps, (mask, picture) = visit.sources("#steps"), visit.sources("#mask")
    visit.slide("threshold", 1)
    until(lambda: visit.legend["undecided (255)"] > 50, what="hardly a pixel decided")
    assert visit.sources("#mask")[0] != mask
    visit.slide("threshold", 0)
    until(lambda: visit.legend["undecided (255)"] == 0, what="every pixel decided")
    assert visit.sources("#mask")[1] == picture
    assert visit.sources("#steps") == maps


def what_a_further_refiner_changed_is_shown(visit: Visit) -> None:
    visit.tick("refine", "crf")
    until(lambda: len(captions(visit)) == 5, what="a further step")
    assert captions(visit)[-2:] == ["after crf", "what crf changed"]
    rows = [row.text.split(" ")[0] for row in visit.all("#steps tbody tr")]
    assert rows == ["affinity", "crf"]


def test_edited_words_change_the_maps_and_the_command_line_says_them(visit):
    scene = bring_scene(visit, 0, HOSTILE[0])
    wait_for_mask(visit)
    visit.unfold("words")
    lines = visit.one("#said textarea").get_attribute("value").splitlines()
    assert [line.partition(":")[0] for line in lines] == [CLASSES[scene.class_ids[0]], HOSTILE[0]]
    edits = {
        "said": f"{lines[0]}; quite another thing",
        "templates": "a drawing of a {}.\nthe {} there.",
        "background": "sky\nstreet",
    }
    for field, text in edits.items():
        before = visit.sources("#steps")
        visit.write(field, text)
        until(
            lambda before=before: visit.sources("#steps") and visit.sources("#steps")[0] != before[0],
            what=f"other maps after {field}",
        )
    assert visit.encoded == 1
    the_command_line_is_one_that_the_program_reads(visit)
    what_is_taken_along_is_what_is_shown(visit)
    visit.open()  # once more, by somebody who reloads
    visit.wait("#told", "as before")
    wait_for_mask(visit)
    assert HOSTILE[0] in visit.text("#labels")
    visit.unfold("words")
    assert {field: visit.one(f"#{field} textarea").get_attribute("value") for field in edits} == edits | {
        "said": f"{edits['said']}\n{lines[1]}"
    }
    assert visit.encoded == 1  # the server knows the picture still


def the_command_line_is_one_that_the_program_reads(visit: Visit) -> None:
    visit.unfold("export")
    visit.slide("threshold", 0.6)
    until(lambda: "threshold 0.6" in visit.one("#command textarea").get_attribute("value"), what="the command line")
    words = shlex.split(visit.one("#command textarea").get_attribute("value"))
    assert words[:3] == ["clip-es", "masks", "folder"]
    read = parse(Masks, "clip-es masks folder", words[3:], "folder")
    assert read.template == ("a drawing of a {}.", "the {} there.")
    assert (read.config.refine, read.config.mask.threshold) == (("affinity",), 0.6)


def what_is_taken_along_is_what_is_shown(visit: Visit) -> None:
    visit.press("#pack")
    link = until(lambda: visit.all("#packed a[href*='.zip']"), what="the ZIP")[0].get_attribute("href")
    assert link.startswith(visit.server.address)
    with urlopen(link) as answer:
        packed = zipfile.ZipFile(io.BytesIO(answer.read()))
    assert {"labels.csv", "words.yaml", "command.txt", "mask.png", "confidence.png"} < set(packed.namelist())
    mask = read_mask(Path(packed.extract("mask.png", visit.folder)))
    assert 100 * (mask == 255).mean() == pytest.approx(visit.legend["undecided (255)"], abs=0.06)
    words = packed.read("words.yaml").decode()
    assert "quite another thing" in words
    assert "street" in words


def test_methods_stand_side_by_side(visit):
    bring_scene(visit, 0, HOSTILE[0])
    wait_for_mask(visit)
    visit.unfold("compare")
    visit.press("#compare-go")
    columns = until(lambda: visit.all("#comparison section.column"), what="the comparison")
    assert len(columns) == 2
    assert len({*visit.sources("#comparison")}) == 2
    first, second = (one.text for one in columns)
    assert "of the labels as the first" not in first
    assert "of the labels as the first" in second
    assert all(HOSTILE[0] in text for text in (first, second))
    visit.tick("methods", "sam3")  # it needs weights that are not here: the others are shown all the same
    visit.press("#compare-go")
    until(lambda: len(visit.all("#comparison section.column")) == 3, what="a third column")
    assert visit.one("#comparison [role=alert]").text
    assert len(visit.sources("#comparison")) == 2
    visit.choose("method", "patch-text")
    until(lambda: captions(visit)[:1] == ["patch-text"], what="maps of the other method")


def test_clipseg_answers_words_and_an_example(visit):
    scene = bring_scene(visit, 0)
    wait_for_mask(visit)
    visit.tab("Ask")
    name = CLASSES[scene.class_ids[0]]
    visit.press("#ask-go")
    visit.wait("#answers", "nothing to look for")
    visit.write("prompts", f"{name}\n{HOSTILE[0]}")
    visit.press("#ask-go")
    until(lambda: len(visit.all("#answers section")) == 2, what="two answers")
    assert [one.text for one in visit.all("#answers h3")] == [name, HOSTILE[0]]
    assert "not weakly supervised" in visit.text("#answers")
    visit.slide("probability", 0.01)
    until(lambda: "above 0.01" in visit.text("#answers"), what="another mask of the answers")
    shown = draw_scene(5, 0, SceneConfig(size_hw=(96, 128), objects=(2, 2)))
    Image.fromarray(shown.picture).save(visit.folder / "example.png")
    visit.bring(visit.folder / "example.png", "example")
    visit.has("example", "example.png")
    visit.press("#ask-go")
    visit.wait("#answers", "an example needs a mask")
    Image.fromarray(np.uint8(255 * (shown.mask == scene.class_ids[0] + 1))).save(visit.folder / "mask.png")
    visit.bring(visit.folder / "mask.png", "example-mask")
    visit.has("example-mask", "mask.png")
    visit.press("#ask-go")
    until(lambda: "the example as CLIP sees it" in visit.text("#answers"), what="the answer to the example")


def test_a_run_is_ordered_filtered_and_mended(visit, house):
    view = RunView(Run.open(house.made.run))
    visit.tab("Run")
    until(lambda: names_of(visit) == ids(view.chosen("expected-miou"))[:PAGE], what="the least sure first")
    visit.press("#onward")
    until(lambda: names_of(visit) == ids(view.chosen("expected-miou"))[PAGE:], what="the next page")
    visit.choose("by", "mean-confidence")
    until(lambda: names_of(visit) == ids(view.chosen("mean-confidence"))[:PAGE], what="another order")
    visit.choose("with", HOSTILE[2])
    few = ids(view.chosen("mean-confidence", 3))
    until(lambda: names_of(visit) == few[:PAGE], what="pictures with a class")
    assert 0 < len(few) < len(house.made.masks)
    name = names_of(visit)[0]
    the_brush_makes_an_edit_of_the_run(visit, house.made.run, name)
    visit.choose("which", "edited")
    until(lambda: names_of(visit) == [name], what="the edited ones")
    visit.open()
    visit.tab("Run")
    until(lambda: "edited" in visit.text(f"#strip button[data-picture='{name}']"), what="the run, read again")


def the_brush_makes_an_edit_of_the_run(visit: Visit, run: Path, name: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    canvas = open_in_brush(visit, name)
    Select(visit.one("#mender select.label")).select_by_visible_text(HOSTILE[2])
    before = read_mask(run / "masks" / f"{name}.png")
    ActionChains(visit.window).move_to_element_with_offset(canvas, -40, -40).click_and_hold().move_by_offset(
        60, 20
    ).release().perform()
    visit.wait("#mender .told", "1 stroke not saved")
    canvas.send_keys(Keys.SPACE)
    visit.wait("#mender .told", "2 strokes not saved")
    canvas.send_keys("z")
    visit.wait("#mender .told", "1 stroke not saved")
    visit.press("#mender button.save")
    visit.wait("#mender .told", "Saved:")
    after = read_mask(run / "masks" / f"{name}.png")
    assert set(np.unique(after[after != before])) == {3}
    with (run / "imported.csv").open(newline="") as file:
        rows = {row["image_id"]: row["format"] for row in csv.DictReader(file)}
    assert rows[name] == "playground"


def test_two_visitors_at_once_do_not_mix(visit):
    bring_scene(visit, 0, HOSTILE[0])
    wait_for_mask(visit)
    first = visit.window.current_window_handle
    visit.window.switch_to.new_window("window")
    try:
        visit.open()
        wait_for_mask(visit)
        tall = draw_scene(5, 1, SceneConfig(size_hw=(128, 64), objects=(1, 2)))
        Image.fromarray(tall.picture).save(visit.folder / "tall.png")
        visit.bring(visit.folder / "tall.png")
        other = visit.window.current_window_handle
        visit.window.switch_to.window(first)
        visit.label("another thing")
        visit.window.switch_to.window(other)
        visit.wait("#told", "64 x 128 pixels")
        until(lambda: visit.size() == (64, 128), what="the mask of the other picture")
        assert "another thing" not in visit.legend
        visit.window.switch_to.window(first)
        until(lambda: "another thing" in visit.legend, what="the mask of the first picture")
        assert visit.size() == (128, 96)
        visit.window.switch_to.window(other)
    finally:
        visit.window.close()
        visit.window.switch_to.window(first)


def test_a_server_that_dies_at_work_loses_nothing(visit, house):
    from selenium.webdriver.common.keys import Keys

    bring_scene(visit, 0, HOSTILE[0])
    wait_for_mask(visit)
    visit.tab("Run")
    name = names_of(visit)[1]
    open_in_brush(visit, name).send_keys(Keys.SPACE)
    visit.wait("#mender .told", "1 stroke not saved")
    visit.tab("Picture")
    visit.label("typed last")  # what follows from it is being computed, or not even that
    visit.server.kill()
    visit.wait(".gone", "The server has stopped")
    mask = house.made.run / "masks" / f"{name}.png"
    before = mask.read_bytes()
    visit.tab("Run")
    visit.press("#mender button.save")
    visit.server.start()
    visit.wait(".gone", "started again")
    assert mask.read_bytes() == before
    visit.open()
    visit.wait("#labels", "typed last")
    visit.wait("#labels", HOSTILE[0])
    visit.wait("#told", "Drop it once more")
    visit.tab("Run")
    open_in_brush(visit, name)
    visit.wait("#mender .told", "brought back")
    visit.press("#mender button.save")
    visit.wait("#mender .told", "Saved:")
    assert mask.read_bytes() != before


def test_everything_is_reached_by_the_keyboard(visit):
    from selenium.webdriver.common.keys import Keys

    visit.run("document.activeElement.blur(); window.scrollTo(0, 0);")
    order = ["labels", "find", "method", "refine", "words", "go", "threshold", "compare", "export"]
    reached: list[str] = []
    for _ in range(80):
        visit.window.switch_to.active_element.send_keys(Keys.TAB)
        inside = visit.run(
            "return arguments[0].filter(id => document.getElementById(id)?.contains(document.activeElement))", order
        )
        reached += inside
        if "export" in inside:
            break
    places = [reached.index(name) for name in order]
    assert places == sorted(places)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_contrast_names_and_roles_are_sound_and_nothing_is_cut_off(visit, scheme, width):
    window, features = visit.window, [{"name": "prefers-color-scheme", "value": scheme}]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        visit.open()
        bring_scene(visit, 0, HOSTILE[0])
        wait_for_mask(visit)
        for part in ("words", "compare", "export"):
            visit.unfold(part)
        visit.press("#compare-go")
        until(lambda: visit.all("#comparison section.column"), what="the comparison")
        sound(visit)
        visit.tab("Ask")
        visit.write("prompts", HOSTILE[0])
        visit.press("#ask-go")
        until(lambda: visit.all("#answers section"), what="an answer")
        sound(visit)
        visit.tab("Run")
        open_in_brush(visit, names_of(visit)[0])
        sound(visit)
        named = visit.run(
            """return [...document.querySelectorAll("[href],[src],[content]")].map(
                one => one.getAttribute("href") ?? one.getAttribute("src") ?? one.content)"""
        )
        elsewhere = [one for one in named if one.startswith(("http", "//"))]
        assert [one for one in elsewhere if not one.startswith(visit.server.address)] == []
    finally:
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        window.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def sound(visit: Visit) -> None:
    """Nothing against WCAG 2 A and AA, and the page is no wider than the window."""
    for _ in range(5):  # what has just come fades in, and is pale meanwhile
        if not (found := violations(visit.window)):
            break
        time.sleep(1)
    assert found == []
    wide = visit.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1]


def captions(visit: Visit) -> list[str]:
    """Of the pictures of the first label."""
    first = visit.all("#steps section.label")[0]
    columns = [one.text.splitlines() for one in first.find_elements("css selector", ".steps > div")]
    return [line for column in columns for line in column if line]


def bring_scene(visit: Visit, number: int, *labels: str) -> Scene:
    """A drawn scene with the first of its labels and further ones; the labels first, so the drop is what begins."""
    scene = draw_scene(5, number, SceneConfig(size_hw=(96, 128), objects=(2, 2)))
    path = visit.folder / f"scene {number}.png"
    Image.fromarray(scene.picture).save(path)
    visit.label(CLASSES[scene.class_ids[0]], *labels)
    visit.bring(path)
    visit.wait("#told", "128 x 96 pixels")
    return scene


def wait_for_mask(visit: Visit) -> None:
    """Until mask and picture are shown."""
    until(lambda: len(visit.sources("#mask")) == 2, what="the mask")


def names_of(visit: Visit) -> list[str]:
    """The pictures of the run that are shown, once there are any."""
    return until(
        lambda: [one.get_attribute("data-picture") for one in visit.all("#strip button[data-picture]")],
        what="pictures of the run",
    )


def ids(found: list) -> list[str]:
    """Of pictures in their order."""
    return [one.image_id for one in found]


def open_in_brush(visit: Visit, name: str):
    """A picture of the run; returns its canvas."""
    visit.press(f"#strip button[data-picture='{name}']")
    canvas = visit.one(f"#mender canvas[data-picture='{name}']")
    visit.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
    return canvas
