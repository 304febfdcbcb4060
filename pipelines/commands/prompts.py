"""`clip-es prompts ...`: synonyms, background words and faults of any vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from clip_es import records
from clip_es.config.run import ImageConfig
from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import ConfigError
from clip_es.pipelines.commands.flags import VocabularyFlag, WeightsFlag
from clip_es.pipelines.console import say, show_table, summarize, track
from clip_es.pipelines.sweep.features import FeatureCache, pooled_features
from clip_es.prompts.background import propose
from clip_es.prompts.bank import build_bank
from clip_es.prompts.check import check_file
from clip_es.prompts.sharpness import SharpnessConfig, several_labels, sharpness
from clip_es.prompts.synonyms import candidates, fuse, most_likely, no_meaning, rank, with_entry
from clip_es.prompts.vocabulary import ClassEntry, Vocabulary
from clip_es.prompts.vocabulary_files import load_vocabulary
from clip_es.prompts.wordnet import WordNet, load_wordnet
from clip_es.prompts.write import write_vocabulary
from clip_es.records import Dataset


@dataclass(frozen=True, kw_only=True)
class PromptsSuggest:
    """Propose synonyms for a class from WordNet, for the meaning that CLIP's text space finds most likely."""

    class_: Annotated[str, tyro.conf.arg(name="class")]
    """A class of the vocabulary, or any other word."""
    vocabulary: VocabularyFlag = "voc12"
    weights: WeightsFlag = "ViT-B/16"
    template: str | None = None
    """Sentence to compare words in; None: the vocabulary's first."""
    special: bool = False
    """Also propose kinds of the thing: for a car its sedan."""
    sense: str | None = None
    """Take this meaning, such as mouse.n.04, instead of the most likely one."""
    root: Path | None = None
    """Rank by the effect on sharpness over this folder in VOC layout, instead of by agreement with the class."""
    split: str = "train"
    """Name of a list in ImageSets/Segmentation of --root."""
    images: Path | None = None
    """As --root, for a folder of pictures with --labels."""
    labels: Path | None = None
    """The CSV of labels of --images."""
    sharpness: Annotated[SharpnessConfig, tyro.conf.arg(name="")] = field(default_factory=SharpnessConfig)
    cache: Path | None = None
    """Folder of image features; None: features in $CLIP_ES_CACHE or the user's cache folder."""
    wordnet: Path | None = None
    """Folder of WordNet's dict files; None: nltk's data, or where Debian's wordnet-base puts them."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    apply: Path | None = None
    """Write a copy of the vocabulary with the first proposal fused into the class to this YAML file."""

    def run(self) -> int:
        """Print the meanings and the words."""
        wordnet = load_wordnet(self.wordnet)
        vocabulary, class_id = including(load_vocabulary(self.vocabulary), self.class_)
        entry, template = vocabulary.classes[class_id], self.template or vocabulary.templates[0]
        encoder = load_encoder(self.weights, device=self.device)
        score, shown = self._pictures(encoder, vocabulary, class_id)
        found = most_likely(wordnet, _cpu(encoder), vocabulary, class_id, template, shown)
        if not found:
            raise no_meaning(entry)
        chosen = found[0].sense
        if self.sense:
            known = [meaning.sense.key for meaning in found]
            if self.sense not in known:
                raise ConfigError(f"'{entry.name}' has no such sense", expected=", ".join(known), found=self.sense)
            chosen = wordnet.sense(self.sense)
        rows = [(m.sense.key, ", ".join(m.sense.words[:4]), m.sense.gloss, f"{m.agreement:.3f}") for m in found]
        show_table(f"What '{entry.name}' may mean", ("sense", "words", "gloss", "agreement"), rows)
        if not found[0].exact:
            say(f"WordNet does not know '{entry.name}'; these are meanings of its last word.")
        words = rank(
            _cpu(encoder), entry, candidates(wordnet, vocabulary, class_id, chosen, self.special), template, score
        )
        summarize({"sense": chosen.key, "words": [asdict(word) for word in words]})
        if not words:
            say(f"No word for {chosen.key} that the vocabulary does not have already.")
            return 0
        show_table(
            f"Words for {chosen.key}, best first by {'sharpness' if score else 'agreement with the class'}",
            ("word", "relation", "agreement", *(("change of sharpness",) if score else ())),
            [(w.word, w.relation, f"{w.agreement:.3f}", *((f"{w.change:+.5f}",) if score else ())) for w in words],
        )
        if (words[0].change or -1.0) >= 0:
            say("None of them lowers sharpness: leave the class as it is.")
            return 0
        fused = fuse(entry, [words[0].word])
        listed = ", ".join(fused.synonyms)
        say(f'In the vocabulary: {{name: {fused.name}, prompt: "{fused.prompt}", synonyms: [{listed}]}}')
        if self.apply:
            how = f"by sharpness ({words[0].change:+.5f})" if score else f"by agreement ({words[0].agreement:.3f})"
            remark = (
                f"'{words[0].word}' joined '{entry.name}' as WordNet's {chosen.key}, best {how} with {self.weights}."
            )
            write_vocabulary(with_entry(vocabulary, class_id, fused), self.apply, [remark])
            say(f"Vocabulary: {self.apply}")
        return 0

    def _pictures(self, encoder: Encoder, vocabulary: Vocabulary, class_id: int):
        """How sharpness follows from the words of the class, and what its pictures have that others have not."""
        dataset = self._dataset(vocabulary)
        if dataset is None:
            return None, None
        several = [dataset.records[i] for i in several_labels([record.class_ids for record in dataset.records])]
        if not any(class_id in record.class_ids for record in several):
            raise ConfigError(
                "no picture with several labels shows this class, so its words change nothing that can be measured",
                where=dataset.name,
                found=self.class_,
                next_step="Leave the pictures out to rank by agreement.",
            )
        features = pooled_features(several, FeatureCache(encoder, ImageConfig(), self.cache), track)
        labels = [record.class_ids for record in features.records]
        bank = build_bank(encoder, vocabulary, templates=[self.template] if self.template else None)
        classes, background = bank.vectors[: bank.class_count].cpu(), bank.background.cpu()

        def score(entry: ClassEntry) -> float:
            alone = replace(vocabulary, classes=(entry,), background=())
            mine = build_bank(encoder, alone, templates=[self.template] if self.template else None).vectors.cpu()
            changed = torch.cat([classes[:class_id], mine, classes[class_id + 1 :]])
            return sharpness(features.vectors, labels, changed, encoder.logit_scale, self.sharpness, background)

        shows = torch.tensor([class_id in ids for ids in labels])
        shown = features.vectors[shows].mean(0) - features.vectors.mean(0)
        return score, shown if bool((~shows).any()) else None

    def _dataset(self, vocabulary: Vocabulary) -> Dataset | None:
        if self.root:
            return records.voc(self.root, self.split, class_id=vocabulary.class_id)
        if self.images and self.labels:
            return records.folder(self.images, self.labels, class_id=vocabulary.class_id)
        if self.images or self.labels:
            raise ConfigError("pictures of your own need both", expected="--images and --labels", found="one of them")
        return None


@dataclass(frozen=True, kw_only=True)
class PromptsBackground:
    """Propose background words that go with the classes of a vocabulary and mean none of them."""

    vocabulary: VocabularyFlag
    weights: str | None = None
    """A CLIP that orders the words and decides what ambiguous classes mean: scenes, ViT-B/16, a file; None: neither."""
    most: int = 40
    """Words to keep."""
    wordnet: Path | None = None
    """Folder of WordNet's dict files; None: nltk's data, or where Debian's wordnet-base puts them."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    apply: Path | None = None
    """Write a copy of the vocabulary with these background words to this YAML file."""

    def run(self) -> int:
        """Print the words, and those left out with their reasons."""
        vocabulary = load_vocabulary(self.vocabulary)
        wordnet = load_wordnet(self.wordnet)
        encode = _cpu(load_encoder(self.weights, device=self.device)) if self.weights else None
        found = propose(vocabulary, wordnet, encode)
        kept = [row for row in found if not row.left_out][: self.most]
        show_table(
            f"Background words for {vocabulary.name}",
            ("word", "from", *(("goes with", "agreement") if encode else ())),
            [(r.word, r.origin, *((r.nearest, f"{r.agreement:.3f}") if encode else ())) for r in kept],
        )
        left_out = [(row.word, row.left_out or "") for row in found if row.left_out]
        if left_out:
            show_table("Left out", ("word", "why"), left_out)
        summarize({"background": [row.word for row in kept]})
        say(f"background: [{', '.join(row.word for row in kept)}]")
        if self.apply:
            chosen = replace(vocabulary, background=tuple(row.word for row in kept))
            remark = "background: the general list and WordNet's surroundings of the classes, less what means a class"
            write_vocabulary(chosen, self.apply, [f"{remark}{f'; ordered by {self.weights}' if encode else ''}."])
            say(f"Vocabulary: {self.apply}")
        return 0


@dataclass(frozen=True, kw_only=True)
class PromptsCheck:
    """Find leaks, duplicates, prompts too long and names CLIP reads badly; exit code 1 where something is serious."""

    vocabulary: tyro.conf.Positional[VocabularyFlag]
    wordnet: Path | None = None
    """Folder of WordNet's dict files; None: nltk's data, or where Debian's wordnet-base puts them."""

    def run(self) -> int:
        """Print every finding. Without WordNet only spellings are compared, and that is said."""
        known: WordNet | None = None
        try:
            known = load_wordnet(self.wordnet)
        except ConfigError as error:
            if self.wordnet:
                raise
            say(f"Meanings are not compared. {error}")
        findings = check_file(self.vocabulary, known)
        if findings:
            rows = [("wrong" if f.serious else "look", f.kind, f.what) for f in findings]
            show_table(f"{self.vocabulary}: {len(findings)} findings", ("", "kind", "what"), rows)
        serious = sum(finding.serious for finding in findings)
        summarize({"serious": serious, "findings": [asdict(finding) for finding in findings]})
        say(f"{self.vocabulary}: {serious} serious, {len(findings) - serious} worth a look")
        return 1 if serious else 0


def including(vocabulary: Vocabulary, name: str) -> tuple[Vocabulary, int]:
    """The vocabulary and the id of a class by name; a word that is no class is added, in the company of the others."""
    loose = {"".join(filter(str.isalnum, e.name.casefold())): k for k, e in enumerate(vocabulary.classes)}
    found = loose.get("".join(filter(str.isalnum, name.casefold())))
    if found is not None:
        return vocabulary, found
    background = tuple(word for word in vocabulary.background if word.casefold() != name.casefold())
    more = (*vocabulary.classes, ClassEntry(name))
    return replace(vocabulary, classes=more, background=background), len(vocabulary.classes)


def _cpu(encoder: Encoder) -> Callable:
    return lambda sentences: encoder.encode_text(sentences).cpu()
