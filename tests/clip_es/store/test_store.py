"""A run's folder: whole files or none, continued where it stopped, refused where it does not fit."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from clip_es.config.run import DEFAULT
from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.masks import read_confidence, read_mask, write_mask
from clip_es.records import Problem
from clip_es.store import disk
from clip_es.store.disk import Lock, StoreError, names_in, write_atomic
from clip_es.store.failures import read_failures
from clip_es.store.opening import parse_shard, shard
from clip_es.store.run import RunStore
from clip_es.store.summary import update_summary
from clip_es.types import ImageRecord, PseudoMask

SETTINGS = {"config": DEFAULT.in_use(), "weights": "abc", "dataset": {"name": "test", "sha256": "def"}}


def records(count: int) -> list[ImageRecord]:
    return [ImageRecord(f"picture_{number:03}", Path(f"{number}.jpg"), (2, 0)) for number in range(count)]


def mask_of(record: ImageRecord) -> PseudoMask:
    noise = np.random.default_rng(int(record.image_id[-3:]))
    decided = noise.choice(np.array([0, 1, 3], dtype=np.uint8), size=(4, 5))
    confidence = noise.random((4, 5), dtype=np.float32)
    labels = np.where(confidence < 0.5, np.uint8(255), decided)
    return PseudoMask(labels=labels, confidence=confidence, class_ids=(2, 0), decided=decided)


def cams() -> dict[str, np.ndarray]:
    return {
        "class_ids": np.array([2, 0]),
        "scores": np.arange(5, dtype=np.float32),
        "cam": np.ones((2, 2, 3), dtype=np.float32),
        "refined": np.zeros((2, 2, 3), dtype=np.float32),
        "probabilities": np.full((3, 4, 5), 1 / 3, dtype=np.float32),
    }


def tree(folder: Path) -> dict[str, str]:
    """Every file and what is in it, summary and run.yaml's `about` aside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "summary.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def complete(folder: Path, items: list[ImageRecord], **options) -> None:
    with RunStore.open(folder, SETTINGS, **options) as store:
        for record in store.unfinished(items):
            store.save(record, mask_of(record))
        store.finish()


def test_a_run_leaves_what_the_contract_says(tmp_path):
    record = records(1)[0]
    with RunStore.open(tmp_path / "out", SETTINGS, about={"torch": "2"}) as store:
        store.save(record, mask_of(record), cams())
        store.finish({"encode": 1.5}, {"miou": 0.5})
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == [
        "confidence/picture_000.png",
        "failures.csv",
        "labels/picture_000.png",
        "masks/picture_000.png",
        "run.yaml",
        "summary.json",
    ]
    mask = mask_of(record)
    assert np.array_equal(read_mask(tmp_path / "out/masks/picture_000.png"), mask.labels)
    assert np.array_equal(read_mask(tmp_path / "out/labels/picture_000.png"), mask.decided)
    assert np.abs(read_confidence(tmp_path / "out/confidence/picture_000.png") - mask.confidence).max() <= 1 / 509
    settings = yaml.safe_load((tmp_path / "out/run.yaml").read_text())
    assert settings["config"]["affinity"]["layers"] == 8
    assert (settings["weights"], settings["keep_cams"], settings["about"]) == ("abc", "none", {"torch": "2"})
    assert (tmp_path / "out/failures.csv").read_text() == "image_id,stage,error,reason\n"
    assert json.loads((tmp_path / "out/summary.json").read_text()) == {
        "images": {"done": 1, "failed": 0, "skipped": 0},
        "seconds": {"encode": 1.5},
        "miou": 0.5,
    }


def test_a_second_call_continues(tmp_path):
    items = records(4)
    with RunStore.open(tmp_path / "out", SETTINGS) as store:
        store.save(items[2], mask_of(items[2]))
    with RunStore.open(tmp_path / "out", SETTINGS) as store:
        left = store.unfinished(items)
        assert left == [items[0], items[1], items[3]]
        for record in left:
            store.save(record, mask_of(record))
        assert store.unfinished(items) == []
        summary = store.finish()
    assert (summary.done, summary.failed) == (4, 0)


def test_seconds_add_up_over_calls_and_figures_replace(tmp_path):
    for _ in range(2):
        with RunStore.open(tmp_path / "out", SETTINGS) as store:
            store.finish({"encode": 1.0}, {"miou": 0.1})
    update_summary(tmp_path / "out", {"miou": 0.2})
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["seconds"], summary["miou"]) == ({"encode": 2.0}, 0.2)


@pytest.mark.parametrize("part", ["masks", "confidence", "labels", "cams"])
def test_a_picture_is_finished_only_with_all_its_files(tmp_path, part):
    record = records(1)[0]
    with RunStore.open(tmp_path / "out", SETTINGS, keep="maps") as store:
        store.save(record, mask_of(record), cams())
    (next((tmp_path / "out" / part).iterdir())).unlink()
    with RunStore.open(tmp_path / "out", SETTINGS, keep="maps") as store:
        assert store.unfinished([record]) == [record]


def test_the_mask_is_written_last(tmp_path, monkeypatch):
    record, names = records(1)[0], []
    with RunStore.open(tmp_path / "out", SETTINGS, keep="full") as store:
        monkeypatch.setattr("clip_es.store.run.write_atomic", lambda path, data: names.append(path.parent.name))
        store.save(record, mask_of(record), cams())
        monkeypatch.undo()
    assert sorted(names[:-1]) == ["cams", "confidence", "labels"]
    assert names[-1] == "masks"


def test_other_settings_are_refused_by_name(tmp_path):
    with RunStore.open(tmp_path / "out", SETTINGS):
        pass
    other = {**SETTINGS, "config": replace(DEFAULT, refine=("affinity",)).in_use(), "weights": "xyz"}
    with pytest.raises(ConfigError) as caught:
        RunStore.open(tmp_path / "out", other, keep="maps")
    message = str(caught.value)
    for part in ('--weights "abc"', '--weights "xyz"', '--refine ["affinity", "crf"]', "--keep-cams", "--out"):
        assert part in message
    assert "localize" not in message
    assert not list((tmp_path / "out").glob(".*"))


def test_what_is_only_told_about_a_run_may_differ(tmp_path):
    for version in ("1", "2"):
        with RunStore.open(tmp_path / "out", SETTINGS, about={"version": version}):
            pass
    assert yaml.safe_load((tmp_path / "out/run.yaml").read_text())["about"] == {"version": "1"}


def test_settings_survive_the_file_exactly(tmp_path):
    odd = {
        "a": 1e-5,
        "b": float("nan"),
        "c": float("inf"),
        "d": "1e-5",
        "e": None,
        "f": (),
        "g": {},
        "h": "no",
        "i": 1.0,
    }
    odd["j"] = np.float32(0.1)
    for _ in range(2):
        with RunStore.open(tmp_path / "out", odd):
            pass
    with pytest.raises(ConfigError, match=r"--i 1\.0.*--i 1\."):
        RunStore.open(tmp_path / "out", {**odd, "i": 1})


def test_a_setting_without_words_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"settings\.a\.b"):
        RunStore.open(tmp_path / "out", {"a": {"b": object()}})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.tex.*--out"):
        RunStore.open(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="Found a file"):
        RunStore.open(tmp_path / "thesis.tex", SETTINGS)


def test_a_damaged_run_yaml_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("!!python/object/apply:os.system ['touch pwned']")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunStore.open(tmp_path, SETTINGS)
    (tmp_path / "run.yaml").write_text("just words")
    with pytest.raises(ConfigError, match="not a table of settings"):
        RunStore.open(tmp_path, SETTINGS)


def test_a_second_run_on_the_same_shard_is_refused_politely(tmp_path):
    with RunStore.open(tmp_path, SETTINGS) as store:
        with pytest.raises(ConfigError, match=rf"shard 1/1.*process {os.getpid()}"):
            RunStore.open(tmp_path, SETTINGS)
        store.save(records(1)[0], mask_of(records(1)[0]))
    RunStore.open(tmp_path, SETTINGS).close()


def test_a_mask_of_another_picture_is_refused(tmp_path):
    with RunStore.open(tmp_path, SETTINGS) as store, pytest.raises(ShapeError, match="other labels"):
        store.save(ImageRecord("a", Path("a"), (2,)), mask_of(records(1)[0]))


def test_cams_are_arrays_without_pickles_and_equal_bytes(tmp_path):
    record = records(1)[0]
    for keep in ("maps", "full"):
        with RunStore.open(tmp_path / keep, SETTINGS, keep=keep) as store:
            store.save(record, mask_of(record), cams())
            first = (tmp_path / keep / "cams/picture_000.npz").read_bytes()
            store.save(record, mask_of(record), {name: a.astype(np.float64) for name, a in reversed(cams().items())})
        assert (tmp_path / keep / "cams/picture_000.npz").read_bytes() == first
    with np.load(tmp_path / "full/cams/picture_000.npz", allow_pickle=False) as arrays:
        assert {name: (str(a.dtype), a.shape) for name, a in arrays.items()} == {
            "class_ids": ("int64", (2,)),
            "scores": ("float32", (5,)),
            "cam": ("float32", (2, 2, 3)),
            "refined": ("float32", (2, 2, 3)),
            "probabilities": ("float32", (3, 4, 5)),
        }
    with np.load(tmp_path / "maps/cams/picture_000.npz") as arrays:
        assert sorted(arrays) == ["cam", "class_ids", "refined", "scores"]


def test_cams_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    record = records(1)[0]
    with RunStore.open(tmp_path, SETTINGS, keep="full") as store:
        with pytest.raises(ShapeError, match="no cam, class_ids, probabilities, refined, scores"):
            store.save(record, mask_of(record))
        with pytest.raises(ShapeError, match="no probabilities"):
            store.save(record, mask_of(record), {k: v for k, v in cams().items() if k != "probabilities"})
        with pytest.raises(ShapeError, match="do not fit"):
            store.save(record, mask_of(record), {**cams(), "cam": np.zeros((1, 2, 3))})
        assert store.unfinished([record]) == [record]


def test_a_failure_is_a_row_and_goes_when_the_picture_succeeds(tmp_path):
    items = records(2)
    with RunStore.open(tmp_path, SETTINGS) as store:
        store.fail(items[0], "encode", DataError('is truncated, "so"\nbad', where="0.jpg"))
        store.fail("picture_001", "crf", MemoryError())
        assert (store.finish().failed, store.failed_here) == (2, 2)
    assert [(r.image_id, r.stage, r.error) for r in read_failures(tmp_path / "failures.csv")] == [
        ("picture_000", "encode", "DataError"),
        ("picture_001", "crf", "MemoryError"),
    ]
    with RunStore.open(tmp_path, SETTINGS) as store:
        assert store.unfinished(items) == items
        store.save(items[0], mask_of(items[0]))
        store.fail(items[1], "decide", DataError("again"))
        assert store.finish().failed == 1
    with (tmp_path / "failures.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"image_id": "picture_001", "stage": "decide", "error": "DataError", "reason": "again."}
        ]


def test_rows_of_readers_are_those_of_the_last_call(tmp_path):
    item = records(1)[0]
    with RunStore.open(tmp_path, SETTINGS) as store:
        store.note([Problem("gone", "DataError", "no xml"), Problem("picture_000", "DataError", "listed twice")])
        store.save(item, mask_of(item))
        store.finish()
    assert [row.image_id for row in read_failures(tmp_path / "failures.csv")] == ["gone", "picture_000"]
    with RunStore.open(tmp_path, SETTINGS) as store:
        store.note([Problem("picture_000", "DataError", "listed twice")])
        store.finish()
    assert [row.image_id for row in read_failures(tmp_path / "failures.csv")] == ["picture_000"]


def test_an_error_in_the_caller_still_leaves_its_failures(tmp_path):
    def interrupted() -> None:
        with RunStore.open(tmp_path, SETTINGS) as store:
            store.fail("a", "encode", DataError("bad"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [row.image_id for row in read_failures(tmp_path / "failures.csv")] == ["a"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["confidence", "failures.csv", "labels", "masks", "run.yaml"]


def test_shards_part_the_list_without_loss():
    items = list(range(10))
    parts = [shard(items, index, 3) for index in (1, 2, 3)]
    assert parts == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert shard(items, 1, 1) == items
    assert shard(items[:1], 2, 2) == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "", "1/0", "-1/2", "1/2/3", "1.0/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"--shard 2/8"):
        parse_shard(text)


def test_a_shard_is_counted_from_one():
    assert parse_shard("2/8") == (2, 8)


def test_any_number_of_shards_in_any_order_leaves_the_same_bytes(tmp_path):
    items = records(9)
    bad = items[4]
    trees = []
    for count in (1, 2, 4, 8):
        folder = tmp_path / str(count)
        stores = [RunStore.open(folder, SETTINGS, shard=(index, count)) for index in range(1, count + 1)]
        for index in reversed(range(count)):
            for record in reversed(stores[index].unfinished(shard(items, index + 1, count))):
                if record == bad:
                    stores[index].fail(record, "encode", DataError("bad"))
                else:
                    stores[index].save(record, mask_of(record))
        for store in stores:
            store.finish()
        trees.append(tree(folder))
        assert json.loads((folder / "summary.json").read_text())["images"]["done"] == 8
    assert trees[0] == trees[1] == trees[2] == trees[3]
    assert len(trees[0]) == 2 + 3 * 8


def test_a_living_shard_keeps_its_failures_to_itself(tmp_path):
    first = RunStore.open(tmp_path, SETTINGS, shard=(1, 2))
    second = RunStore.open(tmp_path, SETTINGS, shard=(2, 2))
    first.fail("a", "encode", DataError("bad"))
    second.fail("b", "encode", DataError("bad"))
    second.finish()
    assert [row.image_id for row in read_failures(tmp_path / "failures.csv")] == ["b"]
    first.fail("c", "encode", DataError("bad"))
    first.finish()
    assert [row.image_id for row in read_failures(tmp_path / "failures.csv")] == ["a", "b", "c"]


def test_a_row_that_a_kill_cut_off_is_dropped(tmp_path):
    with RunStore.open(tmp_path, SETTINGS):
        pass
    (tmp_path / "failures-1of1.csv").write_bytes(b'image_id,stage,error,reason\na,encode,DataError,bad\nb,crf,"half')
    with RunStore.open(tmp_path, SETTINGS) as store:
        store.fail("c", "encode", DataError("bad"))
        store.finish()
    assert [row.image_id for row in read_failures(tmp_path / "failures.csv")] == ["a", "c"]


def test_a_million_finished_pictures_are_looked_at_in_two_minutes(tmp_path):
    count = 10_000  # Time grows in proportion; a million is a hundred times this.
    write_mask(tmp_path.parent / "one.png", np.zeros((2, 2), np.uint8))
    whole = (tmp_path.parent / "one.png").read_bytes()
    with RunStore.open(tmp_path, SETTINGS):
        pass
    for part in ("masks", "confidence", "labels"):
        for number in range(count):
            (tmp_path / part / f"{number:06}.png").write_bytes(whole)
    items = [ImageRecord(f"{number:06}", Path("x"), (0,)) for number in range(count)]
    start = time.process_time()
    with RunStore.open(tmp_path, SETTINGS) as store:
        assert store.unfinished(items) == []
        assert time.process_time() - start < 1.2


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_store import SETTINGS, RunStore, mask_of, records, cams
from clip_es.errors import DataError
part = (1, int(sys.argv[4]))
with RunStore.open(Path(sys.argv[1]), SETTINGS, keep="maps", shard=part) as store:
    for record in store.unfinished(records(int(sys.argv[2]))):
        if record.image_id.endswith("7"):
            store.fail(record, "encode", DataError("is one of the bad ones"))
        else:
            store.save(record, mask_of(record), cams())
        print(flush=True)
    store.finish()
"""


def writer(folder: Path, count: int, shards: int = 1) -> subprocess.Popen:
    """A process that writes all pictures, as shard 1 of so many."""
    command = [sys.executable, "-c", WRITER, str(folder), str(count), str(Path(__file__).parent), str(shards)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_if_undisturbed(tmp_path):
    count = 200
    undisturbed = writer(tmp_path / "whole", count)
    undisturbed.communicate()
    assert undisturbed.returncode == 0
    chance = random.Random(0)
    killed = 0
    for _ in range(3):
        process = writer(tmp_path / "killed", count)
        assert process.stdout
        for _ in range(chance.randrange(1, 15)):
            process.stdout.readline()
        time.sleep(chance.random() * 0.003)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.communicate()
    assert killed == 3
    process = writer(tmp_path / "killed", count)
    _, complaint = process.communicate()
    assert process.returncode == 0, complaint.decode()
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".*"))


@pytest.mark.slow
def test_two_runs_at_once_on_the_same_pictures_do_no_harm(tmp_path):
    processes = [writer(tmp_path / "both", 60, shards) for shards in (1, 2)]
    for process in processes:
        _, complaint = process.communicate()
        assert process.returncode == 0, complaint.decode()
    process = writer(tmp_path / "one", 60)
    process.communicate()
    assert tree(tmp_path / "both") == tree(tmp_path / "one")
    assert not list((tmp_path / "both").rglob(".*"))


def test_a_new_folder_takes_the_settings_of_one_run_alone(tmp_path):
    def enter(number: int) -> tuple[int, RunStore | None]:
        try:
            return number % 2, RunStore.open(tmp_path / "out", {"number": number % 2}, shard=(number + 1, 8))
        except ConfigError as error:
            assert "other settings" in str(error)  # noqa: PT017
            return number % 2, None

    with ThreadPoolExecutor(8) as pool:
        entered = [(kind, store) for kind, store in pool.map(enter, range(8)) if store]
    assert len(entered) == 4
    assert len({kind for kind, _ in entered}) == 1
    for _, store in entered:
        store.close()


def test_what_dead_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    with RunStore.open(tmp_path, SETTINGS):
        pass
    dead = tmp_path / "masks/.tmp-1-dead"
    dead.write_bytes(b"half")
    script = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR);"
        "fcntl.flock(fd, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    living = tmp_path / "masks/.tmp-2-living"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(living)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.readline()
    RunStore.open(tmp_path, SETTINGS).close()
    assert not dead.exists()
    assert living.exists()
    process.kill()
    process.communicate()
    RunStore.open(tmp_path, SETTINGS).close()
    assert not living.exists()


def test_a_file_swept_too_early_is_written_again(tmp_path, monkeypatch):
    swept = []

    def sweep_first(temporary: Path, path: Path, replace: bool) -> bool:
        if not swept:
            swept.append(temporary)
            temporary.unlink()
        return publish(temporary, path, replace)

    publish = disk._publish
    monkeypatch.setattr(disk, "_publish", sweep_first)
    assert write_atomic(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert len(swept) == 1


def test_a_lock_ends_with_its_process_even_if_a_child_lives_on(tmp_path):
    script = """
import os, sys, time
from pathlib import Path
from clip_es.store.disk import Lock
lock = Lock.take(Path(sys.argv[1]), "x")
if not os.fork():
    print(os.getpid(), flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout
    child = int(process.stdout.readline())
    try:
        assert Lock.take(tmp_path, "x") is None
        process.kill()
        process.wait()
        os.kill(child, 0)
        lock = Lock.take(tmp_path, "x")
        assert lock is not None
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that knows no locks, such as some network folders."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(disk, "_lock_support", {})


def test_where_the_file_system_knows_no_locks_a_second_process_is_refused_by_name(tmp_path, no_locks):
    lock = Lock.take(tmp_path, "x")
    assert lock is not None
    assert Lock.take(tmp_path, "x") is None
    assert Lock.holder(tmp_path, "x").startswith(f"process {os.getpid()} on {socket.gethostname()}; if it has ended")
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_lock_of_another_machine_is_named_and_never_shared(tmp_path, no_locks):
    (tmp_path / ".lock-1of1").write_text("4711\nelsewhere\n")
    with pytest.raises(ConfigError, match=r"process 4711 on elsewhere; if it has ended, remove .*\.lock-1of1"):
        RunStore.open(tmp_path, SETTINGS)


def test_a_dead_process_of_this_machine_is_not_waited_for(tmp_path, no_locks):
    script = """
import sys, os, errno, fcntl
from pathlib import Path
def refuse(*_): raise OSError(errno.ENOLCK, "no locks")
fcntl.flock = refuse
from clip_es.store.disk import Lock
lock = Lock.take(Path(sys.argv[1]), "x")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert (tmp_path / ".lock-x").exists()
    for file in tmp_path.iterdir():
        os.utime(file, (1e9, 1e9))
    lock = Lock.take(tmp_path, "x")
    assert lock is not None
    lock.release()


def test_a_lock_that_another_machine_did_not_give_back_is_taken_over_and_named(tmp_path):
    """The kernel gives it, so nobody holds it as far as the file system tells."""
    (tmp_path / ".lock-x").write_text("process 4711 on elsewhere")
    with pytest.warns(UserWarning, match="the lock that process 4711 on elsewhere did not give back"):
        lock = Lock.take(tmp_path, "x")
    assert lock is not None
    lock.release()


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "The disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Permission is denied"),
        (errno.EIO, "call again; a run with the same --out continues"),
    ],
)
@pytest.mark.parametrize("call", ["open", "write", "close", "replace"])
def test_trouble_with_the_disk_stops_the_run_and_leaves_no_part(tmp_path, monkeypatch, number, says, call):
    item = records(1)[0]
    store = RunStore.open(tmp_path, SETTINGS)
    real_close = os.close

    def fail(*arguments, **_):
        if call == "close":
            real_close(arguments[0])
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreError, match=says):
            store.save(item, mask_of(item))
    assert store.unfinished([item]) == [item]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name[:6] != ".lock-"] == ["run.yaml"]
    store.close()


def mounted(folder: Path, options: str):
    """A small file system of its own; needs the right to mount."""
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting is not permitted here")


@pytest.fixture
def small_disk(tmp_path):
    mounted(tmp_path / "disk", "size=160k")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_full_disk_keeps_everything_before_it_and_the_run_continues(tmp_path, small_disk):
    items = records(30)
    with pytest.raises(StoreError, match=r"The disk is full.*--out"):
        complete(small_disk, items)
    done = list((small_disk / "masks").iterdir())
    assert 3 < len(done) < 30
    for path in small_disk.rglob("*.png"):
        read_mask(path)
    assert not list(small_disk.rglob(".*"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    complete(small_disk, items)
    complete(tmp_path / "whole", items)
    assert tree(small_disk) == tree(tmp_path / "whole")


def test_a_disk_that_is_already_full_is_named_at_once(small_disk):
    (small_disk / "out").mkdir()
    with (small_disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(StoreError, match="The disk is full"):
        RunStore.open(small_disk / "out", SETTINGS)


def test_a_read_only_disk_is_named(small_disk):
    complete(small_disk / "out", records(2))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for folder in (small_disk / "out", small_disk / "new"):
        with pytest.raises(StoreError, match=r"read-only.*--out"):
            RunStore.open(folder, SETTINGS)


def test_a_folder_without_permission_is_named():
    with tempfile.TemporaryDirectory() as name:
        complete(Path(name) / "out", records(2))
        Path(name).chmod(0o555)
        (Path(name) / "out").chmod(0o555)
        superuser = os.geteuid() == 0  # Permissions do not bind it, so it looks through another's eyes for a moment.
        try:
            if superuser:
                os.seteuid(65534)
            for folder in (Path(name) / "out", Path(name) / "new"):
                with pytest.raises(StoreError, match="Permission is denied"):
                    RunStore.open(folder, SETTINGS)
        finally:
            if superuser:
                os.seteuid(0)
            Path(name).chmod(0o755)
            (Path(name) / "out").chmod(0o755)


def test_a_file_larger_than_the_system_allows_is_named_and_not_left_half(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StoreError, match="larger than the system allows"):
            write_atomic(tmp_path / "a", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_failure_row_is_whole_or_absent_on_a_full_disk(small_disk):
    store = RunStore.open(small_disk, SETTINGS)
    store.fail("first", "encode", DataError("bad"))

    def fail_on() -> None:
        for number in range(10_000):
            store.fail(f"{number}", "encode", DataError("x" * 1000))

    with pytest.raises(StoreError, match="The disk is full"):
        fail_on()
    rows = read_failures(small_disk / "failures-1of1.csv")
    assert rows[0].image_id == "first"
    assert all(len(row.reason) == 1001 for row in rows[1:])
    with pytest.raises(StoreError, match="The disk is full"):
        store.close()


def test_a_name_of_the_longest_id_still_fits(tmp_path):
    record = ImageRecord("x" * 197 + "000", Path("x"), (2, 0))
    with RunStore.open(tmp_path, SETTINGS, keep="maps") as store:
        store.save(record, mask_of(record), cams())
        assert store.unfinished([record]) == []


def test_a_file_that_exists_can_be_left_alone(tmp_path):
    assert write_atomic(tmp_path / "a", b"one", replace=False)
    assert not write_atomic(tmp_path / "a", b"two", replace=False)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names_in(tmp_path) == ["a"]
    assert names_in(tmp_path / "none") == []


def test_without_hard_links_a_file_is_still_not_replaced(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert write_atomic(tmp_path / "a", b"one", replace=False)
    assert not write_atomic(tmp_path / "a", b"two", replace=False)
    assert (tmp_path / "a").read_bytes() == b"one"


def test_a_folder_that_vanishes_is_an_error_and_not_a_loop(tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        write_atomic(tmp_path / "none/a", b"one")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that exists and takes no files")
def test_a_folder_that_takes_no_files_is_an_error_and_no_endless_trial():
    with pytest.raises(StoreError, match="cannot be written"):
        write_atomic(Path("/proc/mask.png"), b"")
