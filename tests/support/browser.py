"""A real Chromium, driven by selenium, and the playground served to it by the command itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)",
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
    "--force-color-profile=srgb",
)

_FOUND_BUSY = 300
"""Seconds that something may take on a machine with many tests at once."""


@contextlib.contextmanager
def chromium(size: tuple[int, int] = (1280, 1500)) -> Iterator[Any]:
    """A window with a fresh profile; closed at the end."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (*_ARGUMENTS, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
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
        time.sleep(0.1)
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


class Server:
    """`clip-es ui` in a process of its own."""

    def __init__(self, *words: str, port: int | None = None, log: Path) -> None:
        self.port, self.log = port or _free_port(), log
        code = "import sys; from clip_es.pipelines.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "ui", *words, "--port", str(self.port)]
        around = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=around)
        self.address = f"http://127.0.0.1:{self.port}/"
        until(self._answers, what="the server")

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server has ended: {self.log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As Ctrl-C would; returns the exit code."""
        if self.process.poll() is None:
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
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
