"""Prepared rows on disk: made once, made anew when anything they come from changes, and never half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medassist.config import build_config
from medassist.data import Example, prepare_data, stages, store
from medassist.errors import DataError

WORDS = [a + b for a in ("bo", "da", "fu", "ki", "lo", "me") for b in ("na", "ri", "su", "to", "ve", "zo")]


@pytest.fixture
def cards(tmp_path) -> Path:
    path = tmp_path / "cards.jsonl"
    path.write_text("".join(json.dumps({"question": f"What is the sign of {w}?", "answer": f"A pain in the {w}, now & then."}) + "\n"
                            for w in WORDS))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDASSIST_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "data"


@pytest.fixture
def passes(monkeypatch):
    """How often each pass over the rows was really made."""
    made = {"read": 0, "clean": 0}
    for name, function in (("read", "_read_rows"), ("clean", "_clean_rows")):
        def counted(*args, _name=name, _real=getattr(stages, function)):
            made[_name] += 1
            return _real(*args)
        monkeypatch.setattr(stages, function, counted)
    return made


def prepare(path, clean="default", **data):
    return prepare_data(build_config({"datasets": [{"id": str(path)}], "data": {"clean": clean, **data}}))


def test_rows_are_read_and_cleaned_once(cards, cache, passes):
    once, again = prepare(cards), prepare(cards, seed=7, test_size=5)
    assert passes == {"read": 1, "clean": 1} and once.sha256 != again.sha256
    assert once.report.steps == prepare(cards).report.steps  # counts and examples are kept with the rows


def test_only_what_changed_is_made_anew(cards, cache, passes):
    prepare(cards)
    prepare(cards, clean=["-near_duplicates"])
    assert passes == {"read": 1, "clean": 2}
    prepare(cards, clean=["-html"])
    assert passes == {"read": 2, "clean": 3}
    with cards.open("a") as file:
        file.write(json.dumps({"question": "What is new?", "answer": "This row is new."}) + "\n")
    assert len(prepare(cards, test_size=0, eval_size=0).train) == len(WORDS) + 1
    assert passes == {"read": 3, "clean": 4}


def test_other_code_makes_rows_anew(cards, cache, passes, monkeypatch):
    prepare(cards)
    monkeypatch.setattr(store, "code_fingerprint", lambda: "another version")
    prepare(cards)
    assert passes == {"read": 2, "clean": 2}


def test_what_a_killed_process_left_is_made_again(cards, cache, passes):
    prepare(cards)
    for notes in cache.glob("*.json"):
        notes.unlink()  # rows without their notes are not taken
    assert len(prepare(cards).train) and passes == {"read": 2, "clean": 2}
    assert not list(cache.glob("*.part"))


def test_what_nobody_used_for_long_goes(cards, cache):
    prepare(cards)
    old = time.time() - 40 * 24 * 3600
    before = set(cache.glob("*.arrow"))
    for notes in cache.glob("*.json"):
        os.utime(notes, (old, old))
    prepare(cards, clean="none")
    assert before.isdisjoint(cache.glob("*.arrow")) and list(cache.glob("*.arrow"))


def test_a_broken_row_leaves_nothing_behind(cards, cache):
    with cards.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match="is not valid JSON"):
        prepare(cards)
    assert [p.suffix for p in cache.glob("*") if p.suffix != ".lock"] == []


def test_a_place_that_cannot_be_written_is_one_sentence(cards, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDASSIST_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written.*MEDASSIST_CACHE"):
        prepare(cards)


def test_a_full_disk_is_one_sentence(cards, cache, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stages, "_read_rows", full)
    with pytest.raises(DataError, match="No space left on device.*MEDASSIST_CACHE"):
        prepare(cards)


def test_two_processes_prepare_the_same_rows(cards, cache):
    code = ("import sys\nfrom medassist.config import build_config\nfrom medassist.data import prepare_data\n"
            "print(prepare_data(build_config({'datasets': [{'id': sys.argv[1]}]})).sha256)")
    running = [subprocess.Popen([sys.executable, "-c", code, str(cards)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                text=True, cwd=Path(__file__).resolve().parents[1]) for _ in range(2)]
    found = {p.communicate(timeout=60)[0].split()[-1] for p in running}
    assert found == {prepare(cards).sha256}


def test_examples_are_a_sequence(cards, cache):
    rows = prepare(cards, test_size=0, eval_size=0).train
    listed = list(rows)
    assert len(rows) == len(listed) == len(WORDS) and isinstance(rows[0], Example)
    assert rows[0] == listed[0] and rows[-1] == listed[-1] and rows[2:5] == listed[2:5]
    assert rows[::7] == listed[::7] and rows[::-1] == listed[::-1] and rows[5:2] == []
    with pytest.raises(IndexError):
        rows[len(WORDS)]
