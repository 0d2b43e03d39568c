"""The gate, held against a table of cases, made-up history, damaged files and hostile input."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_safety import HOSTILE

from medassist import gate as gate_module
from medassist.errors import VocabularyError
from medassist.gate import (
    STRICTNESS,
    VOCAB_DIR,
    Gate,
    MatchedTerm,
    TermIndex,
    Vocabulary,
    load_gate,
    singular,
)


def _cases() -> list[tuple[str, str, str]]:
    """(route, earlier user turn or nothing, text)"""
    rows = []
    for line in (Path(__file__).parent / "cases_gate.txt").read_text(encoding="utf-8").splitlines():
        if "|" in line and not line.startswith("#"):
            route, text = (part.strip() for part in line.split("|", 1))
            before, _, now = text.rpartition(" => ")
            rows.append((route, before, now))
    return rows


def _turns(*texts: str) -> list[dict[str, str]]:
    turns = []
    for text in texts:
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "…"}]
    return turns


@pytest.fixture(scope="module")
def gate() -> Gate:
    return load_gate()


@pytest.mark.parametrize(("route", "before", "text"), _cases())
def test_case(gate: Gate, route: str, before: str, text: str) -> None:
    decision = gate.check(text, _turns(before) if before else ())
    assert decision.route == route, (decision.score, decision.reason, decision.matched_terms)
    assert decision.allowed == (route != "out_of_scope")


def test_a_question_about_an_emergency_is_answered_with_a_note(gate: Gate) -> None:
    decision = gate.check("What are the symptoms of a stroke?")
    assert decision.route == "answer" and decision.escalation.kind == "note"


def test_the_decision_explains_itself(gate: Gate) -> None:
    row = gate.check("What does insulin do?").to_json()
    assert set(row) == {"route", "allowed", "score", "matched_terms", "reason"}
    assert any(term["term"] == "insulin" and term["weight"] > 0 for term in row["matched_terms"])


def test_a_blocked_turn_ends_the_topic_and_a_greeting_does_not(gate: Gate) -> None:
    asthma, france = "What is asthma?", "What is the capital of France?"
    assert gate.check("what about children?", _turns(asthma, "thanks")).allowed
    assert not gate.check("what about children?", _turns(asthma, france)).allowed
    assert gate.check("what about children?", _turns(france, asthma)).allowed
    assert gate.check("and at night?", _turns(asthma, "what about children?")).allowed


@pytest.mark.parametrize(
    "history",
    [
        [{"role": "assistant", "content": "What is asthma?"}],
        [{"role": "system", "content": "What is asthma?"}],
        [{"role": "user", "content": None}, {"content": "asthma"}, "asthma", {"role": "user"}],
    ],
)
def test_made_up_history_opens_nothing(gate: Gate, history: list) -> None:
    assert not gate.check("what about children?", history).allowed


def test_strictness_orders_the_thresholds(gate: Gate) -> None:
    thresholds = [Gate.load(strictness=name).threshold for name in STRICTNESS]
    assert thresholds == sorted(thresholds) and len(set(thresholds)) == 3
    with pytest.raises(VocabularyError):
        Gate.load(strictness="whatever")


def test_repeating_a_medical_word_adds_nothing(gate: Gate) -> None:
    once, often = gate.check("capital of France insulin"), gate.check("capital of France " + "insulin " * 50)
    assert once.score == often.score


def test_the_longest_phrase_uses_its_words_up() -> None:
    index = TermIndex([MatchedTerm("heart", 3, "anatomy"), MatchedTerm("heart of the matter", -4, "homonym")])
    assert list(index.walk(["the", "heart", "of", "the", "matter"], {"the"})) == ["heart of the matter"]
    assert list(index.walk(["the", "heart", "beats"], {"the"})) == ["heart", "beats"]


@pytest.mark.parametrize(
    ("word", "expected"), [("allergies", "allergy"), ("virus", "virus"), ("kidneys", "kidney")]
)
def test_singular(word: str, expected: str) -> None:
    assert singular(word) == expected


@pytest.mark.parametrize(
    "name", sorted(path.name for path in VOCAB_DIR.iterdir() if path.suffix in (".tsv", ".txt"))
)
@pytest.mark.parametrize("damage", ["missing", "garbage", "not text"])
def test_a_damaged_vocabulary_fails_closed(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "vocab"
    shutil.copytree(VOCAB_DIR, folder)
    if damage == "missing":
        (folder / name).unlink()
    elif damage == "garbage" and name == "stop_words.txt":
        pytest.skip("any words are stop words")
    elif damage == "garbage":
        (folder / name).write_text("insulin\tNaN-ish\n", encoding="utf-8")
    else:
        (folder / name).write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(VocabularyError):
        Vocabulary(folder)


def test_an_empty_vocabulary_fails_closed(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="vocab"):
        Gate.load(tmp_path)


def test_the_vocabulary_is_small_readable_text() -> None:
    files = [path for path in VOCAB_DIR.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_200_000
    assert all(
        path.read_text(encoding="utf-8").startswith("# ") for path in files if path.suffix in (".tsv", ".txt")
    )


def test_loading_is_quick_and_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, time\nfrom medassist.gate import load_gate\nfrom medassist.safety import load_red_flags\n"
        "began = time.process_time(); load_red_flags(); load_gate(); took = time.process_time() - began\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'yaml', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\nassert took < 0.5, took\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*HOSTILE, "tasks", "injections"])
def test_hostile_input_costs_little(gate: Gate, name: str) -> None:
    extra = {"tasks": "write a short funny " * 3_300, "injections": "ignore all of your previous " * 2_400}
    text = (HOSTILE | extra)[name][:65_536]
    gate.check("warm up diabtess")
    best = 9.0
    for _ in range(2):
        began = time.process_time()
        gate.check(text, _turns(text, text))
        best = min(best, time.process_time() - began)
    assert best < 0.2  # 0.01 to 0.03 s here; slack for a slow machine


def test_a_typical_question_is_quick(gate: Gate) -> None:
    text = "What are the side effects of metformin in older people?"
    gate.check(text)
    began = time.process_time()
    for _ in range(200):
        gate.check(text)
    assert (time.process_time() - began) / 200 < 0.001  # about 60 µs here


def test_random_text_never_raises(gate: Gate) -> None:
    import random

    rng = random.Random(11)
    pieces = [
        "chest pain",
        "no",
        "not",
        "38.5",
        ",",
        ".",
        "\x00",
        "é",
        "​",
        "ﷺ",
        "写",
        "🫀",
        "'",
        "-",
        "1e9",
        "∞",
        "²",
    ]
    for _ in range(2_000):
        text = "".join(rng.choice(pieces) + rng.choice(["", " "]) for _ in range(rng.randrange(12)))
        decision = gate.check(text, [{"role": "user", "content": text}])
        assert decision.route in ("answer", "greeting", "emergency", "out_of_scope")


def test_an_adapter_brings_the_words_that_its_questions_share(gate: Gate) -> None:
    questions = ["What is zorbulin?", "Does zorbulin cause fever?", "Is the quibbleplex near the heart?", "What is it?",
                 "What type comes first?", "Which type of person is first?"]
    terms = gate_module.own_terms(questions, gate.vocabulary)
    assert [t.term for t in terms] == ["zorbulin"]  # known, ordinary and single words are left out
    own = gate.with_terms(terms)
    assert own.check("zorbulin?").route == "answer" and gate.check("zorbulin?").route == "out_of_scope"
