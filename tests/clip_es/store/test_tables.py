"""CSV tables and JSON files as they are written and read, torn ones too."""

from __future__ import annotations

import pytest

from clip_es.errors import DataError
from clip_es.store.tables import append_rows, json_text, read_csv, read_json, write_csv, write_json


def test_a_table_is_read_back_with_quotes_commas_and_line_breaks(tmp_path):
    rows = [("a,b", 'say "x"'), ("two\nlines", "")]
    write_csv(tmp_path / "new" / "t.csv", ("one", "two"), rows)
    assert [tuple(row.values()) for row in read_csv(tmp_path / "new" / "t.csv")] == rows
    assert (tmp_path / "new" / "t.csv").read_bytes().startswith(b'one,two\n"a,b","say ""x"""\n')


def test_a_table_that_grows_has_one_header(tmp_path):
    for number in range(3):
        append_rows(tmp_path / "t.csv", ("n",), [(number,)])
    assert (tmp_path / "t.csv").read_text() == "n\n0\n1\n2\n"


def test_half_a_line_and_rows_without_a_wanted_column_are_not_read(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2\n3\n5,6")
    assert read_csv(tmp_path / "t.csv", ("a", "b")) == [{"a": "1", "b": "2"}]
    assert read_csv(tmp_path / "none.csv") == []


def test_names_that_no_file_can_hold_do_not_stop_a_table(tmp_path):
    write_csv(tmp_path / "t.csv", ("name",), [("\udcff.jpg",)])
    assert read_csv(tmp_path / "t.csv") == [{"name": "?.jpg"}]


def test_json_is_for_people(tmp_path):
    write_json(tmp_path / "t.json", {"name": "käse", "value": [1]})
    assert read_json(tmp_path / "t.json") == {"name": "käse", "value": [1]}
    assert json_text({"name": "käse"}) == '{\n  "name": "käse"\n}\n'


@pytest.mark.parametrize(
    ("content", "says"), [(None, "does not exist"), (b"{", "cannot be read as JSON"), (b"[1]", "holds no mapping")]
)
def test_what_is_no_mapping_in_json_is_refused(tmp_path, content, says):
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_json(tmp_path / "t.json")
