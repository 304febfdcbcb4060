"""`clip-es masks --form webdataset` and `clip-es shards`: what a user sees."""

from __future__ import annotations

import json

import pytest
from made_up_shards import make_shards, records_in

from clip_es.pipelines.cli import main
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.storage import place_of
from clip_es.store.shards import manifest
from clip_es.store.shards.upkeep import read_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # of the server's own code


def rows_of(out) -> dict[str, dict[str, bytes]]:
    place = place_of(out)
    found = [one for one in manifest.entries(place) if isinstance(one, manifest.Entry)]
    return {row.image_id: dict(row.files) for entry in found for row in read_rows(place, entry)}


@pytest.mark.slow
def test_shards_on_object_storage_hold_the_bytes_of_a_folder(bucket, tmp_path, capsys):
    root = make(tmp_path / "scenes", ScenesConfig(train=0, val=5, side=(64, 80)))
    call = ["masks", "scenes", "--root", str(root), "--refine", "affinity", "--device", "cpu", "--workers", "0"]
    assert main([*call, "--out", str(tmp_path / "run")]) == 0
    address = f"{bucket}/run"
    assert main([*call, "--out", address, "--rows-per-shard", "2"]) == 0
    told = capsys.readouterr().out
    assert "5 pictures, 0 done before, 5 to do" in told.replace("\n", " ")
    rows = rows_of(address)
    assert len(rows) == 5
    here = json.loads((tmp_path / "run" / "summary.json").read_text())
    there = json.loads(place_of(address).read("summary.json"))
    assert (there["miou"], there["evaluated"]) == (here["miou"], 5)
    page = place_of(address).read("report.html").decode()
    assert all(record_id in page for record_id in rows)
    assert f"{here['miou']:.1f}" in page
    for image_id, files in rows.items():
        for part in ("masks", "labels", "confidence"):
            name = {"masks": "mask"}.get(part, part)
            assert files[f"{name}.png"] == (tmp_path / "run" / part / f"{image_id}.png").read_bytes()
    assert main([*call, "--out", address, "--rows-per-shard", "2"]) == 0
    assert "5 done before, 0 to do" in capsys.readouterr().out.replace("\n", " ")
    assert main(["shards", "ls", address]) == 0
    assert "3 shards, 5 pictures" in capsys.readouterr().out
    assert main(["shards", "verify", address]) == 0
    assert main(["shards", "merge", address]) == 0
    assert rows_of(address) == rows
    assert main([*call, "--out", address, "--form", "folder"]) == 2
    assert "object storage takes shards" in capsys.readouterr().err


def test_damage_is_named_and_mended(tmp_path, capsys):
    records, out = records_in(tmp_path / "in", 8), tmp_path / "out"
    make_shards(out, records)
    before = rows_of(out)
    first, second = sorted((out / "shards").iterdir())
    second.write_bytes(second.read_bytes()[:-1])
    entry = sorted((out / "manifest").iterdir())[0]
    entry.write_text("{")
    assert main(["shards", "ls", str(out)]) == 1
    assert main(["shards", "verify", str(out)]) == 1
    told = capsys.readouterr().out
    assert "2 problems" in told
    assert entry.name in told.replace("\n", "")
    assert main(["shards", "verify", str(out), "--repair"]) == 0
    assert "listed again, 4 pictures" in capsys.readouterr().out.replace("\n", " ")
    assert first.exists()
    assert not second.exists()
    assert make_shards(out, records) == 1
    assert rows_of(out) == before
    assert main(["shards", "verify", str(out)]) == 0


def test_what_is_no_run_in_shards_is_refused(tmp_path, capsys, made_up_run):
    assert main(["shards", "ls", str(tmp_path)]) == 2
    assert "run.yaml" in capsys.readouterr().err
    made = made_up_run(tmp_path / "folder", 1)
    assert main(["shards", "verify", str(made.run)]) == 2
    assert "--form webdataset" in capsys.readouterr().err.replace("\n", " ")
