"""A visit in a real Chromium: what a person does, what goes wrong, and what the page asks for meanwhile.

One long test, because a browser and a server cost seconds to start; its steps are functions whose names say what they
show.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from browser import Server, chromium, needs_browser, requests, until
from PIL import Image

from clip_es.masks import read_mask
from clip_es.scenes.draw import CLASSES, SceneConfig, draw_scene

HOSTILE = ("<img src=x onerror=window.hacked=1>", "traffic light", "${window.hacked=1}{{7*7}}`+window.alert(1)+`")
"""Names of classes. If a page made anything but text of them, `window.hacked` would be there."""

pytestmark = [needs_browser, pytest.mark.slow]


@dataclass
class Visit:
    """A window on a server, and what the visitor has."""

    window: Any
    server: Server
    folder: Path
    run: Path

    def one(self, css: str) -> Any:
        """The first element, once there is one."""
        return until(lambda: self.window.find_elements("css selector", css), what=css)[0]

    def text(self, css: str) -> str:
        """What the element shows."""
        return self.window.find_element("css selector", css).text

    def sources(self, css: str) -> list[str]:
        """Of the pictures."""
        return [image.get_attribute("src") for image in self.window.find_elements("css selector", f"{css} img")]

    def tab(self, name: str) -> None:
        """Go to a tab."""
        tabs = self.window.find_elements("css selector", "button[role=tab]")
        found = [one for one in tabs if one.text.strip() == name]
        assert found, f"no tab {name}"
        found[0].click()

    def drop(self, path: Path) -> None:
        """Bring a file."""
        self.one("#file input[type=file]").send_keys(str(path))

    def label(self, *names: str) -> None:
        """Type labels, each with Enter."""
        from selenium.webdriver.common.keys import Keys

        for name in names:
            field = self.one("#labels input")
            field.send_keys(name, Keys.ENTER)
            until(lambda name=name: name in self.text("#labels"), what=f"the label {name}")
        field.send_keys(Keys.ESCAPE)


@pytest.fixture
def visit(tmp_path, made_up_run, monkeypatch):
    import made_up_run as module

    monkeypatch.setattr(module, "CLASSES", HOSTILE)
    made = made_up_run(tmp_path, 3)
    log = tmp_path / "server.log"
    with Server(str(made.run), "--refine", "affinity", log=log) as server, chromium() as window:
        yield Visit(window, server, tmp_path, made.run)


def test_a_visit(visit, capsys):
    visit.window.get(visit.server.address)
    until(lambda: visit.tab("Picture") is None)
    what_is_no_usable_picture_gets_a_clear_message(visit)
    of_an_animation_the_first_frame_is_used(visit)
    seconds = two_labels_give_maps_and_a_mask(visit)
    the_slider_changes_the_mask_and_encodes_nothing(visit)
    nothing_but_this_machine_was_asked(visit)
    with capsys.disabled():
        sys.stdout.write(f"\nplayground: {seconds:.2f} s from drop to mask in Chromium\n")


@pytest.mark.skipif(os.environ.get("CLIP_ES_BROWSER") != "all", reason="minutes long; set CLIP_ES_BROWSER=all")
def test_a_long_visit(visit):
    visit.window.get(visit.server.address)
    until(lambda: visit.tab("Picture") is None)
    two_labels_give_maps_and_a_mask(visit)
    an_edited_synonym_changes_the_maps_and_encodes_nothing(visit)
    the_brush_makes_an_edit_of_the_run(visit)
    a_page_that_is_reloaded_is_as_it_was(visit)
    two_visitors_do_not_mix(visit)
    a_server_that_dies_loses_nothing(visit)
    nothing_but_this_machine_was_asked(visit)
    nothing_elsewhere_is_named(visit)
    everything_is_reached_by_the_keyboard(visit)
    contrast_names_and_roles_are_sound(visit)


def what_is_no_usable_picture_gets_a_clear_message(visit: Visit) -> None:
    text = visit.folder / "<img src=x onerror=window.hacked=1>.png"
    text.write_text("no picture")
    visit.drop(text)
    until(lambda: "not a picture" in visit.text("#told"))
    assert visit.one("#told [role=alert]")
    large = visit.folder / "large.png"
    Image.new("1", (10_000, 10_000)).save(large)
    visit.drop(large)
    until(lambda: "too many pixels" in visit.text("#told"))
    assert "10000 x 10000" in visit.text("#told")
    assert visit.window.execute_script("return window.hacked") is None


def of_an_animation_the_first_frame_is_used(visit: Visit) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
    frames[0].save(visit.folder / "moving.gif", save_all=True, append_images=frames[1:])
    visit.drop(visit.folder / "moving.gif")
    until(lambda: "only the first is used" in visit.text("#told"))


def two_labels_give_maps_and_a_mask(visit: Visit) -> float:
    scene = draw_scene(5, 0, SceneConfig(size_hw=(96, 128), objects=(2, 2)))
    Image.fromarray(scene.picture).save(visit.folder / "scene.png")
    visit.label(CLASSES[scene.class_ids[0]], HOSTILE[0])
    begun = time.perf_counter()
    visit.drop(visit.folder / "scene.png")
    until(lambda: "128 x 96 pixels" in visit.text("#told"))
    until(lambda: len(visit.sources("#mask")) == 2 and visit.text("#status .encoded") == "1", what="the mask")
    seconds = time.perf_counter() - begun
    shown = visit.window.find_elements("css selector", "#steps section.label")
    assert [one.find_element("css selector", "h3").text.split(" 0.")[0] for one in shown][1] == HOSTILE[0]
    assert len(shown[0].find_elements("css selector", "figure")) == 3  # the map, after affinity, and the change
    assert HOSTILE[0] in visit.text("#mask .legend")
    assert visit.window.execute_script("return window.hacked") is None
    return seconds


def the_slider_changes_the_mask_and_encodes_nothing(visit: Visit) -> None:
    from selenium.webdriver.common.keys import Keys

    before = visit.sources("#mask")
    slider = visit.one("#threshold input[type=range]")
    share = visit.text("#mask .legend")
    for _ in range(4):
        slider.send_keys(Keys.PAGE_UP)
    until(lambda: visit.sources("#mask")[0] != before[0] and visit.text("#mask .legend") != share, what="another mask")
    assert visit.sources("#mask")[1] == before[1]  # the picture itself
    assert visit.text("#status .encoded") == "1"


def an_edited_synonym_changes_the_maps_and_encodes_nothing(visit: Visit) -> None:
    from selenium.webdriver.common.keys import Keys

    before = visit.sources("#steps")
    visit.one("#words button").click()
    field = visit.one("#said textarea")
    until(lambda: field.is_displayed())
    lines = field.get_attribute("value").splitlines()
    assert len(lines) == 2
    field.clear()
    field.send_keys(f"{lines[0]}; quite another thing", Keys.TAB)
    until(lambda: visit.sources("#steps") and visit.sources("#steps")[0] != before[0], what="other maps")
    assert visit.text("#status .encoded") == "1"


def contrast_names_and_roles_are_sound(visit: Visit) -> None:
    source = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    visit.window.execute_script(source)
    visit.window.set_script_timeout(300)
    found = visit.window.execute_async_script(
        """const done = arguments[0];
        axe.run(document, { runOnly: ["wcag2a", "wcag2aa"] }).then(found => done(found.violations.map(one =>
            [one.id, one.nodes.map(node => node.html.slice(0, 200))])), error => done([[String(error), []]]));"""
    )
    assert found == []


def everything_is_reached_by_the_keyboard(visit: Visit) -> None:
    from selenium.webdriver.common.keys import Keys

    visit.window.execute_script("document.activeElement.blur(); window.scrollTo(0, 0);")
    order = ["labels", "find", "method", "refine", "words", "go", "threshold", "compare", "export"]
    reached: list[str] = []
    for _ in range(80):
        visit.window.switch_to.active_element.send_keys(Keys.TAB)
        inside = visit.window.execute_script(
            "return arguments[0].filter(id => document.getElementById(id)?.contains(document.activeElement))", order
        )
        reached += inside
        if "export" in inside:
            break
    places = [reached.index(name) for name in order]
    assert places == sorted(places)


def the_brush_makes_an_edit_of_the_run(visit: Visit) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    visit.tab("Run")
    first = visit.one("#strip button[data-picture]")
    name = first.get_attribute("data-picture")
    first.click()
    canvas = visit.one(f"#mender canvas[data-picture='{name}']")
    Select(visit.one("#mender select.label")).select_by_visible_text(HOSTILE[2])
    visit.window.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    before = read_mask(visit.run / "masks" / f"{name}.png")
    ActionChains(visit.window).move_to_element_with_offset(canvas, -40, -40).click_and_hold().move_by_offset(
        60, 20
    ).release().perform()
    until(lambda: "1 stroke not saved" in visit.text("#mender .told"))
    canvas.send_keys(Keys.SPACE)
    until(lambda: "2 strokes not saved" in visit.text("#mender .told"))
    canvas.send_keys("z")
    until(lambda: "1 stroke not saved" in visit.text("#mender .told"))
    visit.one("#mender button.save").click()
    until(lambda: "Saved:" in visit.text("#mender .told"), what="the edit")
    after = read_mask(visit.run / "masks" / f"{name}.png")
    assert set(np.unique(after[after != before])) == {3}
    with (visit.run / "imported.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["image_id"], row["format"]) == (name, "playground")
    until(lambda: "edited" in visit.text(f"#strip button[data-picture='{name}']"))
    assert visit.window.execute_script("return window.hacked") is None


def a_page_that_is_reloaded_is_as_it_was(visit: Visit) -> None:
    visit.window.refresh()
    until(lambda: visit.tab("Picture") is None)
    until(lambda: HOSTILE[0] in visit.text("#labels"), what="the labels")
    until(lambda: len(visit.sources("#mask")) == 2, what="the mask")
    assert visit.text("#status .encoded") == "1"  # by the same server, from what it knows


def two_visitors_do_not_mix(visit: Visit) -> None:
    first = visit.window.current_window_handle
    scene = draw_scene(5, 1, SceneConfig(size_hw=(128, 64), objects=(1, 2)))
    Image.fromarray(scene.picture).save(visit.folder / "tall.png")
    visit.window.switch_to.new_window("window")
    visit.window.get(visit.server.address)
    until(lambda: visit.tab("Picture") is None)
    until(lambda: len(visit.sources("#mask")) == 2, what="the mask")
    visit.drop(visit.folder / "tall.png")
    other = visit.window.current_window_handle
    visit.window.switch_to.window(first)
    visit.one("#go").click()
    visit.window.switch_to.window(other)
    until(lambda: "64 x 128 pixels" in visit.text("#told"))
    until(lambda: _shape(visit) == (64, 128), what="the mask of the other picture")
    visit.window.switch_to.window(first)
    until(lambda: _shape(visit) == (128, 96), what="the mask of the first picture")
    visit.window.switch_to.window(other)
    visit.window.close()
    visit.window.switch_to.window(first)


def a_server_that_dies_loses_nothing(visit: Visit) -> None:
    from selenium.webdriver.common.keys import Keys

    until(lambda: visit.tab("Run") is None)
    button = visit.window.find_elements("css selector", "#strip button[data-picture]")[1]
    name = button.get_attribute("data-picture")
    button.click()
    canvas = visit.one(f"#mender canvas[data-picture='{name}']")
    canvas.send_keys(Keys.SPACE)
    until(lambda: "1 stroke not saved" in visit.text("#mender .told"))
    visit.server.kill()
    until(lambda: "The server has stopped" in visit.text(".gone"))
    before = (visit.run / "masks" / f"{name}.png").read_bytes()
    visit.one("#mender button.save").click()
    again = Server(str(visit.run), "--refine", "affinity", port=visit.server.port, log=visit.server.log)
    visit.server.process = again.process
    until(lambda: "started again" in visit.text(".gone"))
    assert (visit.run / "masks" / f"{name}.png").read_bytes() == before
    visit.window.refresh()
    until(lambda: visit.tab("Run") is None)
    visit.one(f"#strip button[data-picture='{name}']").click()
    until(lambda: "brought back" in visit.text("#mender .told"), what="the stroke")
    visit.one("#mender button.save").click()
    until(lambda: "Saved:" in visit.text("#mender .told"), what="the edit")
    assert (visit.run / "masks" / f"{name}.png").read_bytes() != before
    visit.tab("Picture")
    until(lambda: HOSTILE[0] in visit.text("#labels"), what="the labels")
    until(lambda: "Drop it once more" in visit.text("#told"), what="the message about the picture")


def nothing_but_this_machine_was_asked(visit: Visit) -> None:
    asked = requests(visit.window)
    assert any(url.startswith(visit.server.address) for url in asked)
    assert {urlparse(url).hostname for url in asked if urlparse(url).scheme != "chrome-untrusted"} == {"127.0.0.1"}


def nothing_elsewhere_is_named(visit: Visit) -> None:
    named = visit.window.execute_script(
        """return [...document.querySelectorAll("[href],[src],[content]")].map(
            one => one.getAttribute("href") ?? one.getAttribute("src") ?? one.content)"""
    )
    assert [one for one in named if one.startswith(("http", "//")) and not one.startswith(visit.server.address)] == []


def _shape(visit: Visit) -> tuple[int, int]:
    """Width and height of the picture beside the mask."""
    return tuple(
        visit.window.execute_script(
            "const at = document.querySelector('#mask .picture img'); return [at.naturalWidth, at.naturalHeight];"
        )
    )
