"""What every source of pictures and labels has, and the commands that read one; the sources are in `sources`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar

import tyro

from clip_es.config.stages import LabelSource
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.records import Dataset, OnBadLabel


class Reading(NamedTuple):
    """How a data set is to be read."""

    on_bad_label: OnBadLabel = "fail"
    need_size: bool = False
    """Whether the records state a size where the data set does."""
    labelled: bool = True
    """Without labels no class of any picture is known."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """What every kind of data set has."""

    vocabulary: ClassVar[str | None] = "voc12"
    """The vocabulary that its commands have where none is named; None: that which `words` finds in the data."""
    weights: ClassVar[str] = "ViT-B/16"
    """The weights that its commands have where none are named."""

    labels: LabelSource = "given"
    """Where the labels come from: the data set, CLIP's own reading of the picture, or the method itself."""

    @property
    def label_source(self) -> LabelSource:
        """Whether the data set has labels, or they are to be found, or not even that."""
        return self.labels

    def words(self, vocabulary: str | None) -> Vocabulary:
        """The vocabulary that is named, or else that of the data set. Raises ConfigError, DataError."""
        return load_vocabulary(vocabulary or str(type(self).vocabulary))

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The records, their labels and ground truth numbered as in the vocabulary. Raises DataError, ConfigError."""
        return self.read(vocabulary, Reading(on_bad_label, need_size, labelled))

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """What `dataset` gives, for each kind of data set. Raises DataError, ConfigError."""
        raise NotImplementedError


S = TypeVar("S", bound=DataSource)


@dataclass(frozen=True, kw_only=True)
class OnSource(Generic[S]):
    """Base of the commands that read a data set."""

    source: Annotated[S, tyro.conf.arg(name="")]

    variants: ClassVar[Mapping[str, type[DataSource]]] = {}
    """Sources by name that have further flags or other defaults in this command."""

    @classmethod
    def of(cls, source: S, **options: Any):
        """The command on a source, with the defaults that fit it where no option is given."""
        return cls(source=source, **{**cls.defaults(type(source)), **options})

    @classmethod
    def defaults(cls, source: type[DataSource]) -> dict[str, Any]:
        """Options whose defaults depend on the source."""
        known = {field.name for field in fields(cls)}
        return {name: getattr(source, name) for name in ("vocabulary", "weights") if name in known}


def first(dataset: Dataset, limit: int | None) -> Dataset:
    """The first pictures of a data set, as `--limit` asks for; all of them where it does not."""
    return dataset if limit is None else replace(dataset, records=dataset.records[:limit])


def required(kind: type) -> dict[str, Any]:
    """tyro's mark for each field of a dataclass that only the user can fill."""
    return {
        field.name: tyro.MISSING
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }
