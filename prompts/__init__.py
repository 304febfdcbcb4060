"""Which words: vocabularies, and the text bank made from them."""

from clip_es.prompts.bank import Synonyms, build_bank
from clip_es.prompts.vocabulary import ClassEntry, Vocabulary
from clip_es.prompts.vocabulary_files import load_vocabulary

__all__ = ["ClassEntry", "Synonyms", "Vocabulary", "build_bank", "load_vocabulary"]
