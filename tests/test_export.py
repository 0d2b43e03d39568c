"""Exports come back as the same examples, with a card that says what was done; nothing half-written is left."""

from __future__ import annotations

import json

import pytest
import yaml
from hub_server import HubServer

from medassist import hub
from medassist.config import build_config
from medassist.data import export_data, prepare_data, shapes
from medassist.data.overlap import find_overlaps
from medassist.errors import DataError, HubError

CARDS = [{"question": f"What is the sign of {w}?", "answer": f"The sign of {w} is a pain in the {w}.", "topic": "ear"}
         for w in [a + b for a in ("bo", "da", "fu", "ki", "lo", "me") for b in ("na", "ri", "su", "to", "ve", "zo")]]
TALKS = [{"messages": [{"role": r, "content": t} for r, t in (
    ("user", f"Is {c['question'][20:-1]} bad?"), ("assistant", "Not much."), ("user", c["question"]), ("assistant", c["answer"]))],
    "topic": "ear"} for c in CARDS]


def prepare(place, rows=None, **data):
    if rows is not None:
        place.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return prepare_data(build_config({"datasets": [{"id": str(place)}], "data": data}))


@pytest.mark.parametrize("rows", [CARDS, TALKS], ids=["cards", "conversations"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "disk"])
def test_an_export_comes_back_the_same(tmp_path, rows, kind):
    prepared = prepare(tmp_path / "x.jsonl", rows)
    written = export_data(prepared, tmp_path / "out", [kind])
    assert written[-1].name == "data-report.json" and all(p.exists() for p in written)
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []
    place = tmp_path / "out" / "dataset" if kind == "disk" else tmp_path / "out"
    again = prepare(place)
    assert again.sha256 == prepared.sha256 and all(e.topic == "ear" for e in again.train)
    assert json.loads((tmp_path / "out" / "data-report.json").read_text())["sha256"] == prepared.sha256


def test_a_folder_with_several_formats_is_read_once(tmp_path):
    prepared = prepare(tmp_path / "x.jsonl", CARDS)
    export_data(prepared, tmp_path / "out")
    again = prepare(tmp_path / "out")
    assert again.sha256 == prepared.sha256 and again.report.sources[0].rows_read == len(CARDS)


def test_the_card_names_source_licence_counts_and_hash(tmp_path):
    prepared = prepare_data(build_config({}))
    export_data(prepared, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-4.0" and head["configs"][0]["data_files"][0] == {"split": "train", "path": "train.parquet"}
    assert prepared.sha256 in card and "| Near duplicates | 0 | 0 |" in card and f"{prepared.report.sources[0].rows_read:,}" in card


def test_an_unknown_format_or_place_is_one_sentence(tmp_path):
    prepared = prepare(tmp_path / "x.jsonl", CARDS)
    with pytest.raises(DataError, match="'xml' is not a format"):
        export_data(prepared, tmp_path, ["xml"])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        export_data(prepared, tmp_path / "file")
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    (tmp_path / "own" / "dataset" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not one that an export wrote"):
        export_data(prepared, tmp_path / "own", ["disk"])
    assert (tmp_path / "own" / "dataset" / "mine.txt").read_text() == "keep"


def test_an_export_goes_to_the_hub_as_a_dataset(tmp_path, monkeypatch):
    prepared = prepare(tmp_path / "x.jsonl", CARDS)
    export_data(prepared, tmp_path / "out")
    token = "hf_" + "x" * 20
    with HubServer(tmp_path / "hub", token) as server:
        for name, value in server.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        hub.push_data(tmp_path / "out", "ann/cards", token=token)
        files = server.files("datasets", "ann/cards")
        assert {"README.md", "train.parquet", "test.jsonl", "data-report.json"} <= set(files)
        assert files["train.csv"] == (tmp_path / "out" / "train.csv").read_bytes()
        with pytest.raises(HubError, match="not a folder that `data export` wrote"):
            hub.push_data(tmp_path, "ann/cards", token=token)


def test_data_with_personal_data_is_not_made_public(tmp_path, monkeypatch):
    prepared = prepare(tmp_path / "x.jsonl", [*CARDS, {"question": "Who helps?", "answer": "Write to ann@example.org at once."}])
    export_data(prepared, tmp_path / "out", ["jsonl"])
    with pytest.raises(HubError, match="flagged for likely personal data"):
        hub.push_data(tmp_path / "out", "ann/cards", token="hf_" + "x" * 20, private=False)
    dropped = prepare(tmp_path / "x.jsonl", clean=["default", "drop_personal_data"])
    export_data(dropped, tmp_path / "out", ["jsonl"])
    assert "ann@example.org" not in (tmp_path / "out" / "train.jsonl").read_text()
    monkeypatch.setattr(hub, "_upload", lambda folder, *rest: str(sorted(p.name for p in folder.iterdir())))
    assert "train.jsonl" in hub.push_data(tmp_path / "out", "ann/cards", token="hf_" + "x" * 20, private=False)


EXAM = "A 45-year-old man has had chest pain on climbing stairs for the last three months, " \
    "never at night, and his father had the same. His blood pressure is normal. Which drug is best?"


def test_exam_questions_in_the_training_data_are_found(tmp_path):
    exam = tmp_path / "exam.jsonl"
    rows = [{"question": EXAM, "options": {"A": "Aspirin", "B": "Iron"}, "answer_idx": "A"},
            {"question": "Which vitamin is missing in a sailor with bleeding gums?", "options": {"A": "C", "B": "D"},
             "answer_idx": "A"},
            {"question": "What is gout?", "options": {"A": "x", "B": "y"}, "answer_idx": "A"}]
    exam.write_text("".join(json.dumps(r) + "\n" for r in rows))
    part = {"question": "Why " + " ".join(EXAM.split()[:14]) + " and no pain at rest at all, he says?", "answer": "It is angina."}
    leak = {"question": "Case: " + EXAM.lower().replace("Which", "which"), "answer": "A nitrate or a beta blocker is used."}
    prepared = prepare(tmp_path / "x.jsonl", [*CARDS, part, leak, {"question": "What is gout?", "answer": "A disease of joints."}],
                       test_size=0, eval_size=0, benchmarks=[str(exam)])
    overlap = prepared.report.overlaps[0]
    assert (overlap.questions, overlap.found, overlap.train_rows) == (3, 1, 1) and overlap.examples[0].startswith("A 45-year-old")
    clean = prepare(tmp_path / "y.jsonl", CARDS, benchmarks=[str(exam)])
    assert clean.report.overlaps[0].found == 0
    assert find_overlaps(build_config({}), ()) == ()
    assert shapes.SPLITS == ("train", "eval", "test")
