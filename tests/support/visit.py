"""A visit to the playground: what a person does in the window, each in a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from browser import Server, until


@dataclass
class Visit:
    """A window on a server, and a folder for what the visitor brings."""

    window: Any
    server: Server
    folder: Path

    def come(self) -> None:
        """Open the page as somebody who has never been here."""
        self.window.execute_cdp_cmd(
            "Storage.clearDataForOrigin", {"origin": self.server.address.rstrip("/"), "storageTypes": "all"}
        )
        self.open()

    def open(self) -> None:
        """Open the page, or open it again."""
        self.window.get(self.server.address)
        self.tab("Picture")

    def all(self, css: str) -> list[Any]:
        """The elements as they are now."""
        return self.window.find_elements("css selector", css)

    def one(self, css: str) -> Any:
        """The first element, once it is shown."""
        return until(lambda: next((one for one in self.all(css) if one.is_displayed()), None), what=css)

    def text(self, css: str) -> str:
        """What the element shows."""
        return self.window.find_element("css selector", css).text

    def wait(self, css: str, text: str) -> None:
        """Until the element shows the text."""
        until(lambda: text in self.text(css), what=f"{text!r} in {css}")

    def sources(self, css: str) -> list[str]:
        """Of the pictures in the element."""
        return [image.get_attribute("src") for image in self.all(f"{css} img")]

    def run(self, script: str, *values: Any) -> Any:
        """What a script gives."""
        return self.window.execute_script(script, *values)

    def tab(self, name: str) -> None:
        """Go to a tab."""

        def gone() -> bool:
            found = [one for one in self.all("button[role=tab]") if one.text.strip() == name]
            for one in found:
                self.run("arguments[0].scrollIntoView({ block: 'center' })", one)  # a banner may cover the edge
                one.click()
                return one.get_attribute("aria-selected") == "true"
            return False

        until(gone, what=f"the tab {name}")

    def unfold(self, part: str) -> None:
        """Open a part of the page that is folded at first."""
        button = self.one(f"#{part} button")
        if "open" not in (button.get_attribute("class") or "").split():
            button.click()

    def bring(self, path: Path, field: str = "file") -> None:
        """Drop a file on a field."""
        until(lambda: self.all(f"#{field} input[type=file]"), what=f"the field {field}")[0].send_keys(str(path))

    def has(self, field: str, name: str) -> None:
        """Until a field shows the name of the file it was given; the suffix stands in a piece of its own."""
        until(lambda: name in "".join(self.text(f"#{field}").split()), what=f"{name} in {field}")

    def label(self, *names: str) -> None:
        """Type labels, each with Enter."""
        from selenium.webdriver.common.keys import Keys

        field = self.one("#labels input")
        for name in names:
            field.send_keys(name, Keys.ENTER)
            self.wait("#labels", name)
        field.send_keys(Keys.ESCAPE)

    def choose(self, field: str, value: str) -> None:
        """Choose from a list."""
        from selenium.webdriver.common.keys import Keys

        box = self.one(f"#{field} input")
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(value, Keys.ENTER)
        until(lambda: box.get_attribute("value") == value, what=f"{value} in {field}")

    def tick(self, field: str, name: str) -> None:
        """Tick a box, or take the tick away."""
        (box,) = [one for one in self.all(f"#{field} label") if one.text.strip() == name]
        box.click()

    def write(self, field: str, text: str) -> None:
        """Replace what a field of text holds, and leave it."""
        from selenium.webdriver.common.keys import Keys

        box = self.one(f"#{field} :is(textarea, input)")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text, Keys.TAB)

    def slide(self, field: str, value: float) -> None:
        """Move a slider."""
        self.run(
            """const [slider, value] = arguments; slider.focus(); slider.value = value;
            for (const kind of ["input", "change"]) slider.dispatchEvent(new Event(kind, { bubbles: true }));""",
            self.one(f"#{field} input[type=range]"),
            value,
        )

    def press(self, css: str) -> None:
        """Press a button."""
        self.one(css).click()

    @property
    def encoded(self) -> int:
        """How often the picture went through the encoder, as the page says."""
        return int(self.text("#status .encoded"))

    @property
    def legend(self) -> dict[str, float]:
        """Per cent of the mask by name."""
        script = """return [...document.querySelectorAll("#mask .legend li")].map(
            row => [row.querySelector("span").textContent, parseFloat(row.querySelector("b").textContent)])"""
        return dict(self.run(script))

    def size(self, css: str = "#mask .picture img") -> tuple[int, int]:
        """Width and height of a picture that is shown."""
        script = "const at = document.querySelector(arguments[0]); return [at.naturalWidth, at.naturalHeight];"
        width, height = self.run(script, css)
        return width, height
