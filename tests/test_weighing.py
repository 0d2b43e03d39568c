"""The weighing of passages: its sum is what the files say, and its parts mean what their names say."""

from __future__ import annotations

import shutil

import pytest

from medassist.errors import VocabularyError
from medassist.safety import RED_FLAGS_DIR, RedFlags, decision, load_red_flags, weighing
from medassist.safety.flags import read_weights
from medassist.safety.reading import read_text

TEXTS = [
    "my dad has crushing chest pain and is sweating, what do I do?",
    "He had a stroke in 2015. He has no chest pain now. Is aspirin still needed?",
    "Meine Mutter atmet kaum noch und ist ganz blau",
    "lol this exam is killing me",
    "I took 40 tablets an hour ago",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["", "cardiac", "poisoning"])
def test_the_score_is_the_sum_over_the_features_that_are_learned_from(text: str, kind: str) -> None:
    flags = load_red_flags()
    path = RED_FLAGS_DIR / ("categories.txt" if kind else "weights.txt")
    listed = read_weights(path)[kind]
    weights = flags.categories[kind] if kind else flags.urgency
    names = {bit: name for name, bit in flags.bits.items()}
    own = read_text(text, flags)
    facts = decision.facts_of_text(own, text, decision.Frame.of(own, flags), history=False)
    for window in decision.windows_of(own, []):
        found = weighing.found_in(window)
        features = weighing.features(found, facts, names, flags.context)
        expected = listed["<bias>"] + sum(listed.get(name, 0.0) * value for name, value in features.items())
        assert weights.score(found, facts) == pytest.approx(expected)
        assert kind or sum(name in listed for name in features) > 3  # it rests on something


def test_what_is_negated_or_past_is_no_sign_of_now() -> None:
    flags = load_red_flags()
    (now,) = read_text("he has chest pain and he is sweating", flags)
    (never,) = read_text("he has no chest pain and no sweating", flags)
    chest = flags.bits["chest_pain"]
    assert now.bits & chest and not never.bits & chest


def test_a_window_holds_what_its_sentences_hold() -> None:
    flags = load_red_flags()
    sentences = read_text("My dad has chest pain since lunch. He is sweating and looks grey to me.", flags)
    bits, _, size, pieces = weighing.found_in(sentences)
    assert len(sentences) == 2 and bits == sentences[0].bits | sentences[1].bits
    assert {"lunch", "grey", "sweat*", "chest pain"} <= pieces and "lunch he" not in pieces
    assert size == len({word for s in sentences for word in s.heard})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.txt", "1.0 chest\n"),
        ("weights.txt", "0 <bias>\nmany {chest_pain}\n"),
        ("weights.txt", "0 <bias>\n1 {no_such}\n"),
        ("weights.txt", "[cardiac]\n0 <bias>\n"),
        ("categories.txt", "[no_such]\n0 <bias>\n"),
        ("categories.txt", "0 <bias>\n"),
    ],
)
def test_damaged_weights_fail_closed(tmp_path, name: str, content: str) -> None:
    folder = tmp_path / "red_flags"
    shutil.copytree(RED_FLAGS_DIR, folder)
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(VocabularyError, match=name):
        RedFlags(folder)
