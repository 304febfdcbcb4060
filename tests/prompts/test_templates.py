"""Template lists: the packaged ones, and what a file must hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_es.errors import ConfigError
from clip_es.prompts.templates import PACKAGED, check_template, load_templates


@pytest.mark.parametrize(("name", "count"), [("imagenet80", 80), ("scene15", 15), ("drawn24", 24)])
def test_packaged_lists_have_the_numbers_in_their_names(name, count):
    assert name in PACKAGED
    assert len(load_templates(name)) == count


def test_imagenet80_begins_and_ends_as_published():
    templates = load_templates("imagenet80")
    assert (templates[0], templates[-1]) == ("a bad photo of a {}.", "a tattoo of the {}.")
    assert "a photo of a {}." in templates
    assert "a origami {}." in templates


def test_a_file_may_hold_remarks_blank_lines_and_a_mark(tmp_path: Path):
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeff# mine\n\n  a {} at night.  \r\n{}\n".encode())
    assert load_templates(file) == ("a {} at night.", "{}")


@pytest.mark.parametrize("template", ["a photo.", "a {} and a {}.", "a {0}.", "a {name}.", "{{}}", "{}}", ""])
def test_a_template_names_the_class_exactly_once(template):
    with pytest.raises(ConfigError, match="exactly once"):
        check_template(template, "here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one. Found none"),
        (b"# only a remark\n", "at least one. Found none"),
        (b"a {}.\na {}.\n", "'a {}.' twice"),
        (b"a {}.\nno class\n", "exactly once"),
        (b"\xff\xfe{\0}\0", "cannot be read"),
    ],
)
def test_bad_files_are_refused_with_their_name(tmp_path: Path, content, message):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_templates(file)
    assert error.value.where == str(file)


def test_a_mistyped_list_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="Nearest: 'imagenet80'"):
        load_templates("imagenet-80")
