r"""Formulas as MathML, made when the pages are built: no script of another host has to run in the reader's browser.

The notation is that of GitHub, so that the sources read well there too: a fence named `math`, and $`inline`$.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Extension
from markdown.inlinepatterns import InlineProcessor

_NAMESPACE = re.compile(r"\{http://www\.w3\.org/1998/Math/MathML\}")


def fence(source: str, language: str, css_class: str, options: dict, md: object, **_: object) -> str:
    """A block formula, for pymdownx.superfences."""
    return f'<div class="formula">{convert(source, display="block")}</div>'


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[ElementTree.Element, int, int]:
        node = ElementTree.fromstring(convert(m.group(1)))
        for part in node.iter():
            part.tag = _NAMESPACE.sub("", part.tag)
        return node, m.start(0), m.end(0)


class MathExtension(Extension):
    """$`inline`$ formulas."""

    def extendMarkdown(self, md) -> None:
        # Before the back-tick of code, whose priority is 190.
        md.inlinePatterns.register(_Inline(r"\$`([^`]+)`\$", md), "mathml", 200)


def makeExtension(**options: object) -> MathExtension:
    """What Python-Markdown calls."""
    return MathExtension(**options)
