"""A report in a real Chromium: its pictures are ordered and filtered, and nothing is asked for."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from browser import chromium, needs_browser, requests, until, violations

from clip_es.masks import read_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.exchange.worst import rank
from clip_es.pipelines.report import GalleryRow, Page
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.scenes.draw import CLASSES

pytestmark = [needs_browser, pytest.mark.slow]

HOSTILE = "<img src=x onerror=window.hacked=1>"


def test_pictures_are_ordered_by_score_and_filtered_by_label(tmp_path):
    from selenium.webdriver.support.select import Select

    grey = np.full((8, 8, 3), 90, np.uint8)
    rows = [
        GalleryRow([[("picture", grey)]], {0, label}, name=name, scores={"mIoU": score})
        for name, label, score in (("good", 1, 90.0), ("bad", 2, 10.0), (HOSTILE, 2, 50.0))
    ]
    page = Page("A run", "Three pictures.")
    page.gallery(rows, ("background", "cat", HOSTILE))
    page.write(tmp_path / "report.html")
    with chromium((900, 700)) as window:
        requests(window)
        window.get((tmp_path / "report.html").as_uri())

        def shown():
            found = window.find_elements("css selector", ".row .told b")
            return [one.text for one in found if one.is_displayed()]

        assert shown() == ["good", "bad", HOSTILE]
        Select(window.find_element("css selector", "[data-for=order]")).select_by_visible_text("lowest mIoU first")
        until(lambda: shown() == ["bad", HOSTILE, "good"])
        Select(window.find_element("css selector", "[data-for=label]")).select_by_visible_text(f"those with {HOSTILE}")
        until(lambda: shown() == ["bad", HOSTILE])
        assert window.find_element("css selector", ".tools output").text == "2 of 3 pictures"
        assert window.execute_script("return window.hacked") is None
        assert {url.split(":")[0] for url in requests(window)} <= {"file", "chrome-untrusted"}


def test_the_report_of_a_run_is_read_from_its_least_sure_picture_on(tmp_path):
    from selenium.webdriver.support.select import Select

    root, out = make(tmp_path / "scenes", ScenesConfig(train=0, val=3, side=(64, 80))), tmp_path / "run"
    flags = ["--split", "val", "--refine", "affinity", "--report-pictures", "3", "--workers", "0"]
    assert main(["masks", "scenes", "--root", str(root), "--out", str(out), *flags]) == 0
    report, scores = out / "report.html", {one.image_id: one.scores for one in rank(Run.open(out)).pictures}
    with chromium((390, 800)) as window:
        requests(window)
        window.get(report.as_uri())

        def find(css):
            return window.find_elements("css selector", css)

        def shown():
            return [one.text for one in find(".row .told b") if one.is_displayed()]

        assert [one.text for one in find("nav a")] == [one.text for one in find("h2")]
        find("nav a")[1].click()
        assert window.current_url.endswith(find("h2")[1].get_attribute("id"))
        for kind, name in (("mean confidence", "mean-confidence"), ("expected mIoU", "expected-miou")):
            Select(find("[data-for=order]")[0]).select_by_visible_text(f"lowest {kind} first")
            until(lambda name=name: shown() == sorted(scores, key=lambda one: scores[one][name]))
        worst = shown()[0]
        assert f"expected mIoU {100 * scores[worst]['expected-miou']:.2f}" in find(".row .told")[0].text
        places = out / "masks", root / "SegmentationClass"
        labels = {one: set(np.unique([read_mask(place / f"{one}.png") for place in places])) for one in scores}
        label = max(labels[worst] - {0, 255})
        expected = [one for one in shown() if label in labels[one]]
        Select(find("[data-for=label]")[0]).select_by_visible_text(f"those with {CLASSES[label - 1]}")
        until(lambda: shown() == expected)
        legend = find(".legend")[0].text
        assert CLASSES[label - 1] in legend
        assert "map: 0 to 1" in legend
        assert violations(window) == []
        wide = window.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1]
        asked = {urlparse(url) for url in requests(window)}
        assert {Path(unquote(url.path)) for url in asked if url.scheme == "file"} == {report}
        assert {url.scheme for url in asked} <= {"file", "chrome-untrusted"}
