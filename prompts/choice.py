"""By what a template is chosen, from labels alone: one table of the scores that order templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Select = Literal["sharpness", "share"]
"""sharpness: labels of one picture should score alike (the paper's). share: labels should score above background
words."""


@dataclass(frozen=True)
class TemplateScoring:
    """What is said of a score of templates."""

    name: str
    """As it begins a sentence."""
    lower: bool
    """Whether a lower score is better."""
    source: str = ""
    """Ends the sentence that it predicts mIoU."""

    @property
    def better(self) -> str:
        """The comparative of a better score."""
        return "lower" if self.lower else "higher"

    @property
    def best(self) -> str:
        """The superlative."""
        return "lowest" if self.lower else "highest"

    def verdict(self, direction: int) -> str:
        """Whether the score predicts mIoU, from the sign of their rank correlation, 0 where it is not known."""
        if not direction:
            return f"{self.name} does not predict mIoU here: the interval contains zero."
        score = self.name.split()[-1].lower()
        if direction == self.sign:
            return f"{self.name} misleads here: templates of {self.better} {score} make worse masks."
        return f"{self.name} predicts mIoU here: templates of {self.better} {score} make better masks{self.source}."

    @property
    def sign(self) -> int:
        """What to multiply the score with before sorting, so that the best comes first."""
        return 1 if self.lower else -1


SELECT: dict[Select, TemplateScoring] = {
    "sharpness": TemplateScoring("Sharpness", lower=True, source=", as in the paper"),
    "share": TemplateScoring("The labels' share", lower=False),
}
"""By name, as `--select` takes it."""

SHARE_DEFINITION = (
    "softmax over the picture's labels and the background words, what the labels hold together, mean over the pictures"
)
"""The definition of the share, beside `str(SharpnessConfig)`."""
