"""A real Chromium, driven by selenium, and the playground served to it by the command itself."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")

_INSTALLED = None not in (CHROMIUM, DRIVER, importlib.util.find_spec("selenium"))

needs_browser = pytest.mark.skipif(
    not _INSTALLED,
    reason="Chromium, its driver or selenium is not installed (Debian: apt-get install chromium chromium-driver)",
)

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    # A page that was left would keep its connections to the server, of which a browser has six.
    "--disable-features=BackForwardCache",
    "--force-color-profile=srgb",
    # A window behind another one works on as if it were looked at; otherwise its timers and pictures stand still.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)

_FOUND_BUSY = 180
"""Seconds that something may take on a machine with many tests at once; a server, which is a program of its own, has
longer."""


@contextlib.contextmanager
def chromium(size: tuple[int, int] = (1280, 1500)) -> Iterator[Any]:
    """A window with a fresh profile; closed at the end. A test is skipped where a Chromium is installed but cannot be
    started: one of another version than its driver, or one that is a stand-in for a snap."""
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (*_ARGUMENTS, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    options.add_experimental_option("perfLoggingPrefs", {"enableNetwork": True, "enablePage": False})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        try:
            driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        except WebDriverException as error:
            pytest.skip(f"Chromium cannot be started here: {str(error).splitlines()[0]}")
        driver.set_page_load_timeout(_FOUND_BUSY)
        try:
            yield driver
        finally:
            driver.quit()


def until(condition: Callable[[], Any], seconds: float = _FOUND_BUSY, what: str = "what is waited for") -> Any:
    """What the condition gives once that is true; elements that are replaced meanwhile are looked for again."""
    from selenium.common.exceptions import WebDriverException

    end, last = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except (WebDriverException, AssertionError, IndexError) as error:
            last = f": {error}"
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come within {seconds} seconds{last}")


def requests(driver: Any) -> list[str]:
    """Addresses that the window has asked for since the last call, of any scheme but those within the page."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            found.append(message["params"]["url"])
    return [url for url in found if urlparse(url).scheme not in {"data", "blob", "about", "chrome"}]


def violations(driver: Any) -> list[list]:
    """What axe-core finds in the page against WCAG 2 A and AA: the rule, and the elements that break it."""
    if not driver.execute_script("return Boolean(window.axe)"):
        driver.execute_script((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    driver.set_script_timeout(_FOUND_BUSY)
    return driver.execute_async_script(
        """const done = arguments[0];
        axe.run(document, { runOnly: ["wcag2a", "wcag2aa"] }).then(found => done(found.violations.map(one =>
            [one.id, one.nodes.map(node => node.html.slice(0, 200))])), error => done([[String(error), []]]));"""
    )


class Server:
    """`clip-es ui` in a process of its own."""

    def __init__(self, *words: str, log: Path) -> None:
        self.words, self.port, self.log = words, _free_port(), log
        self.address = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        """Start it, or start it again under the same address, and wait until it answers."""
        code = "import sys; from clip_es.pipelines.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "ui", *self.words, "--port", str(self.port)]
        around = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=around)
        try:
            until(self._answers, 3 * _FOUND_BUSY, "the server")
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server has ended: {self.log.read_text()}")
        asked = HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(asked), contextlib.suppress(OSError, HTTPException):
            asked.request("GET", "/alive")
            return asked.getresponse().status == 204
        return False

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def stop(self) -> int:
        """As Ctrl-C would; returns the exit code."""
        if self.runs:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _free_port() -> int:
    """Below those that the system gives to connections: one that asks for a port again and again, before anything
    listens there, would sooner or later be given that port and be connected with itself."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")
