"""The script of a report, in a real Chromium: its pictures are ordered and filtered, and nothing is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from browser import chromium, needs_browser, requests, until

from clip_es.pipelines.report import GalleryRow, Page

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
