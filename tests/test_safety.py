"""The red flags, held against a table of cases and against hostile input. No model, no network."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from medassist import safety
from medassist.errors import VocabularyError
from medassist.safety import check_red_flags, professional_line, render_escalation
from medassist.safety.patterns import GrowingTree, expand, lines
from medassist.spelling import fold


def _cases() -> list[tuple[str, str]]:
    lines = (Path(__file__).parent / "cases_red_flags.txt").read_text(encoding="utf-8").splitlines()
    return [tuple(part.strip() for part in line.split("|", 1)) for line in lines if "|" in line and line[0] != "#"]


@pytest.mark.parametrize(("expected", "text"), _cases())
def test_case(expected: str, text: str) -> None:
    found = check_red_flags(text)
    kind = found.kind if found else "none"
    wanted, _, category = expected.partition(" ")
    if wanted == "quiet":
        assert kind != "emergency", found
    else:
        assert kind == wanted, found
    if category:
        assert found is not None and found.category == category


def test_the_table_is_large_enough_to_mean_something() -> None:
    kinds = [expected.split()[0] for expected, _ in _cases()]
    assert kinds.count("emergency") >= 80 and kinds.count("quiet") >= 20 and kinds.count("note") >= 10


CORE = (
    "my dad has crushing chest pain and is sweating",
    "her face is drooping and her speech is slurred",
    "he is not breathing",
    "I want to kill myself",
    "my toddler drank bleach",
)


@pytest.mark.parametrize("text", CORE)
def test_an_emergency_is_found_at_the_end_of_a_long_text(text: str) -> None:
    found = check_red_flags("We went for a walk and it was a nice day. " * 3000 + text)
    assert found is not None and found.kind == "emergency"


@pytest.mark.parametrize("text", CORE)
@pytest.mark.parametrize(
    "write", [str.upper, lambda t: t.replace(" ", "  "), lambda t: "​".join(t), lambda t: t + "!!!"]
)
def test_an_emergency_is_found_however_it_is_written(text: str, write) -> None:
    found = check_red_flags(write(text))
    assert found is not None and found.kind == "emergency"


def test_history_completes_the_picture() -> None:
    history = [
        {"role": "user", "content": "my dad has pain in his left arm"},
        {"role": "assistant", "content": "…"},
    ]
    assert check_red_flags("now he is sweating") is None or check_red_flags("now he is sweating").kind != "emergency"
    found = check_red_flags("now he is sweating", history)
    assert found is not None and (found.kind, found.category) == ("emergency", "cardiac")


def test_history_alone_does_not_escalate_again() -> None:
    history = [{"role": "user", "content": "my dad has crushing chest pain and is sweating"}]
    found = check_red_flags("what does insulin do?", history)
    assert found is None or found.kind == "note"


def test_what_the_assistant_or_a_made_up_role_says_does_not_count() -> None:
    history = [
        {"role": "assistant", "content": "pain in the left arm"},
        {"role": "system", "content": "crushing chest pain"},
        {"content": 5},
    ]
    found = check_red_flags("he is sweating", history)
    assert found is None or found.kind != "emergency"


def test_the_reply_says_what_to_do_and_whom_to_call() -> None:
    found = check_red_flags(CORE[0])
    text = render_escalation(found)
    for piece in ("heart attack", "112", "911", "999", "CPR"):
        assert piece in text
    assert found.answer_may_follow is False and found.note == ""
    assert text.index("1.") < text.index("2.")


def test_the_reply_to_suicidal_thoughts_names_the_crisis_lines() -> None:
    text = render_escalation(check_red_flags("I want to kill myself"))
    assert "988" in text and "findahelpline.com" in text and "112" in text


def test_the_reply_to_poisoning_names_the_poison_line_and_the_crisis_lines() -> None:
    text = render_escalation(check_red_flags("I took 40 paracetamol"))
    assert "poison" in text.lower() and "988" in text


def test_a_note_is_one_line_and_lets_the_answer_follow() -> None:
    found = check_red_flags("What are the symptoms of a stroke?")
    assert found.answer_may_follow and found.note
    assert "\n" not in render_escalation(found)


def test_every_category_has_a_rule_a_reply_and_a_case() -> None:
    flags = safety.load_red_flags()
    ruled = {rule.category for rule in flags.rules}
    assert ruled == set(flags.replies)
    shown = {found.category for _, text in _cases() if (found := check_red_flags(text))}
    assert ruled - shown == set()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("How much ibuprofen can I take?", "dose"),
        ("max daily dose of paracetamol", "dose"),
        ("should I stop taking my lisinopril", "stop"),
        ("do I have diabetes?", "examination"),
        ("is it cancer?", "examination"),
        ("¿Puedo tomar ibuprofeno?", "dose"),
        ("Darf ich nehmen Aspirin und Ibuprofen?", "dose"),
    ],
)
def test_professional_line(text: str, word: str) -> None:
    assert word in (professional_line(text) or "").lower()


def test_no_professional_line_for_a_plain_question() -> None:
    assert professional_line("What does insulin do?") is None
    assert professional_line("") is None


@pytest.mark.parametrize(
    ("typed", "folded"),
    [
        ("Ｃｈｅｓｔ", "chest"),
        ("d​i­abetes", "diabetes"),
        ("саncer", "cancer"),  # Cyrillic с and а
        ("Übelkeit", "ubelkeit"),
        ("can't", "cant"),
        ("l'insuline", "l insuline"),
        ("x-ray", "x ray"),
    ],
)
def test_fold(typed: str, folded: str) -> None:
    assert fold(typed) == folded


@pytest.mark.parametrize("name", sorted(path.name for path in safety.RED_FLAGS_DIR.glob("*.txt")))
def test_a_missing_file_fails_closed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "flags"
    shutil.copytree(safety.RED_FLAGS_DIR, folder)
    (folder / name).unlink()
    with pytest.raises(VocabularyError):
        safety.RedFlags(folder)


@pytest.mark.parametrize("damage", ["missing", "empty", "unknown concept", "not text"])
def test_a_damaged_folder_fails_closed(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "flags"
    shutil.copytree(safety.RED_FLAGS_DIR, folder)
    if damage == "missing":
        (folder / "rules.txt").unlink()
    elif damage == "empty":
        (folder / "lexicon.txt").write_text("", encoding="utf-8")
    elif damage == "unknown concept":
        (folder / "rules.txt").write_text("! cardiac: no_such_concept\n", encoding="utf-8")
    else:
        (folder / "lexicon.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VocabularyError):
        safety.RedFlags(folder)


HOSTILE = {
    "one letter": "x" * 65_536,
    "words": "i " * 32_768,
    "red flags": "chest pain. " * 5_461,
    "beginnings": "cant breath no " * 4_369,
    "expanding": "ﷺ" * 65_536,
    "marks": "a" + "̖́" * 32_767,
    "zero width": "​" * 65_536,
    "elisions": "l'a" * 21_845,
    "dots": "." * 65_536,
    "numbers": "1.5 " * 16_384,
    "controls": "\x00\x1b" * 32_768,
    "right to left": "‮" + "abc " * 16_000,
    "emoji": "🫀" * 65_536,
    "new words": " ".join(f"chesq{chr(97 + at % 26)}{chr(97 + at // 26 % 26)}" for at in range(8_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_costs_little(name: str) -> None:
    check_red_flags("warm up")
    best = 9.0
    for _ in range(2):
        began = time.process_time()
        check_red_flags(HOSTILE[name][:65_536])
        best = min(best, time.process_time() - began)
    assert best < 0.15  # 0.01 to 0.02 s here; slack for a slow machine


def test_cost_does_not_grow_faster_than_length() -> None:
    def cost(text: str) -> float:
        best = 9.0
        for _ in range(3):
            began = time.process_time()
            check_red_flags(text)
            best = min(best, time.process_time() - began)
        return best

    unit = "no chest pain or fever, but my left arm is fine. "
    small, large = cost(unit * 50), cost(unit * 200)
    assert large < 12 * small + 0.01


# ---------------------------------------------------------------------------- the files


def _trees() -> list[GrowingTree]:
    flags = safety.RedFlags(safety.RED_FLAGS_DIR)
    return [flags.signs, flags.context_tree]


def test_every_pattern_can_be_expanded_and_stays_small() -> None:
    for tree in _trees():
        patterns = {pattern for waiting in tree._waiting.values() for pattern, _ in waiting}
        sizes = {pattern: len(expand(pattern, tree.parts)) for pattern in patterns}
        assert max(sizes.values()) <= 1_500, max(sizes, key=sizes.get)
        assert sum(sizes.values()) <= 80_000


def test_a_pattern_waits_under_each_word_that_it_can_begin_with() -> None:
    for tree in _trees():
        for word, waiting in tree._waiting.items():
            for pattern, _ in waiting[:2]:
                assert any(wording.split()[0] == word for wording in expand(pattern, tree.parts)), pattern


def test_files_are_written_in_the_folded_form() -> None:
    for path in safety.RED_FLAGS_DIR.glob("*.txt"):
        if path.name == "replies.txt":
            continue
        for line in lines(path):
            assert line == line.lower() and line.isascii() and "'" not in line, (path.name, line[:80])


def test_the_files_are_loaded_quickly() -> None:
    best = 9.0
    for _ in range(3):
        began = time.process_time()
        safety.RedFlags(safety.RED_FLAGS_DIR)
        best = min(best, time.process_time() - began)
    assert best < 0.15  # 0.03 s here; slack for a slow machine


# ---------------------------------------------------------------------------- strings that nobody would type


def _strange_strings(count: int, seed: int = 20261125) -> list[str]:
    """Random characters, random words of the lexicon, and real sentences with parts cut, swapped or repeated."""
    dice = random.Random(seed)
    texts = [text for _, text in _cases()] + list(CORE)
    words = sorted(word for tree in _trees() for word in tree.known)
    marks = [
        " ",
        "  ",
        "\n",
        ".",
        ",",
        "!?",
        "'",
        "-",
        "\u200b",
        "\u0301",
        "é",
        "ß",
        "Ж",
        "💊",
        "\x00",
        "38.5",
        "()",
        "|",
    ]
    strings = []
    for at in range(count):
        kind = at % 4
        if kind == 0:
            made = "".join(chr(dice.choice((dice.randrange(1, 0x250), dice.randrange(0x110000)))) for _ in range(40))
        elif kind == 1:
            made = " ".join(dice.choices(words, k=dice.randrange(1, 60)))
        else:
            made = dice.choice(texts)
            for _ in range(dice.randrange(1, 8)):
                place = dice.randrange(len(made) + 1)
                end = min(len(made), place + dice.randrange(8))
                part = dice.choice((dice.choice(marks), made[place:end] * dice.randrange(3), dice.choice(words)))
                made = made[:place] + part + made[end if dice.random() < 0.5 else place :]
            made *= 1 + (dice.random() < 0.01) * dice.randrange(200)
        strings.append(made)
    return strings


@pytest.mark.slow
def test_no_string_breaks_the_red_flags_or_the_gate() -> None:
    try:
        from medassist.gate import load_gate
    except ImportError:  # the gate is another module; the red flags stand without it
        checks = [check_red_flags]
    else:
        checks = [check_red_flags, load_gate().check]
    strings = _strange_strings(20_000)
    for check in checks:
        check("warm up")
        slowest, length = 0.0, 0
        for text in strings:
            began = time.process_time()
            check(text)
            spent = time.process_time() - began
            if spent > slowest:
                slowest, length = spent, len(text)
        print(f"{check.__qualname__}: slowest {1000 * slowest:.1f} ms, {length} characters")
        assert slowest < 0.5
