"""YAML of an untrusted file: plain values, no references, no repeated keys, one kind of error."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

_DEEPEST = 64
"""Lists and mappings inside each other; with thousands of them PyYAML takes seconds for a few kilobytes."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without references, which can make a small file unfold into a huge one, and without repeated keys."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        self._refuse_deep(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._refuse_deep(len(self.indents))
        return super().add_indent(column)

    def _refuse_deep(self, depth: int) -> None:
        if depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=self.get_mark())

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="references (*name) are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # PyYAML meets `!!bool x` with KeyError, `!!int ''` with IndexError, and so on
            value = getattr(node, "value", "")
            problem = f"{value!r} is not a value of the type {node.tag.rpartition(':')[2]}"[:200]
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def line_of(content: bytes | str, *keys: object) -> int | None:
    """The line of a key inside the tables of a YAML text, from 1; None where there is none."""
    try:
        node = yaml.compose(content, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    line = None
    for key in keys:
        rows = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((row for row in rows if row[0].value == str(key)), None)
        if found is None:
            return line
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def load_yaml(content: bytes | str) -> object:
    """The content of a YAML text. Raises yaml.YAMLError, whatever is wrong with it; nothing of it is ever run."""
    try:
        return yaml.load(content, _Loader)  # a SafeLoader
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:  # such as bytes that are no text
        raise yaml.YAMLError(f"{type(error).__name__}: {error}"[:200]) from error
