"""A joint of the pipeline as one table: its own rows, and those that other installed packages bring.

Flags, help, error lists and docs are made from a table, so that a name stands in it and nowhere else. Another package
names its rows in its pyproject.toml:

    [project.entry-points."clip_es.refiners"]
    theirs = "their_package.refiner:REFINER"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import tyro

from clip_es.errors import ConfigError, nearest


@runtime_checkable
class Row(Protocol):
    """What every row of a table has."""

    @property
    def name(self) -> str:
        """As the flag has it: lower case, digits and hyphens."""
        ...

    @property
    def about(self) -> str:
        """One sentence for help, errors and docs; no full stop."""
        ...


R = TypeVar("R", bound=Row)


class Table(Mapping[str, R], Generic[R]):
    """Rows by name: our own first, then those of other packages, which are imported when the table is first used."""

    def __init__(self, kind: str, group: str, rows: Iterable[R], row_type: type) -> None:
        """`kind`: what a row is, in one word for messages; `group`: of the entry points."""
        self.kind, self.group, self._type = kind, group, row_type
        self._rows: dict[str, R] = {}
        self.broken: dict[str, str] = {}
        """Rows of other packages that could not be loaded, and why."""
        self._complete = False
        for row in rows:
            self._rows[row.name] = row

    def __getitem__(self, name: str) -> R:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def find(self, name: str, where: str | None = None) -> R:
        """The row of a name. Raises ConfigError: there is none; it lists those there are."""
        if name in self:
            return self[name]
        if name in self.broken:
            raise ConfigError(
                f"the {self.kind} {name!r} of another package cannot be loaded",
                where=where,
                found=self.broken[name],
                next_step="Update or uninstall that package.",
            )
        raise ConfigError(
            f"there is no such {self.kind}",
            where=where,
            expected=", ".join(self),
            found=repr(name),
            next_step=nearest(name, list(self)) or None,
        )

    def register(self, row: R) -> None:
        """Add a row for the rest of this process. Raises ConfigError: the name is taken, or is no name for a flag."""
        self._add(row, self._all())

    def remove(self, name: str) -> None:
        """Take out a row that was registered."""
        del self._rows[name]

    def sentences(self) -> str:
        """`name: about` of every row, for help texts."""
        return "; ".join(f"{row.name}: {row.about}" for row in self.values())

    def _all(self) -> dict[str, R]:
        if not self._complete:
            self._complete = True  # set first: a row's module may itself look into the table
            for point in entry_points(group=self.group):
                self._load(point)
        return self._rows

    def _load(self, point: EntryPoint) -> None:
        try:
            row = point.load()
            if not isinstance(row, self._type) or row.name != point.name:
                raise ConfigError(f"is not a {self._type.__name__} named {point.name!r}", found=repr(row)[:200])
            self._add(row, self._rows)
        except Exception as error:  # whatever another package does must not stop who does not use it
            self.broken[point.name] = f"{point.value}: {type(error).__name__}: {error}"

    def _add(self, row: R, rows: dict[str, R]) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9+-]*", row.name):
            raise ConfigError(
                f"this is not a name for a {self.kind}", expected="lower case, digits and hyphens", found=row.name
            )
        if row.name in rows:
            raise ConfigError(f"a {self.kind} has this name already", found=row.name)
        rows[row.name] = row


class Choice(tyro.constructors.PrimitiveConstructorSpec[str]):
    """A flag whose value is a name of a table. The table is asked when the flag is parsed, not when it is declared."""

    def __init__(self, table: Table[Any], usable: Callable[[Any], object] = bool) -> None:
        """`usable`: which rows may be chosen."""
        object.__setattr__(self, "_names", lambda: tuple(row.name for row in table.values() if usable(row)))
        object.__setattr__(self, "nargs", 1)
        object.__setattr__(self, "instance_from_str", lambda words: words[0])
        object.__setattr__(self, "is_instance", lambda value: isinstance(value, str))
        object.__setattr__(self, "str_from_instance", lambda value: [value])
        object.__setattr__(self, "_action", None)

    @property
    def choices(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The names."""
        return self._names()  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def metavar(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The names, as tyro writes choices."""
        return "{" + ",".join(self.choices) + "}"


def hint(table: Table[Any]) -> Callable[[str], str]:
    """What help says behind the default of a flag: the sentences of the table, read when help is asked for."""
    return lambda default: f"(default: {default}; {table.sentences()})"
