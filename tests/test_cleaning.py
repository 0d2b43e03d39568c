"""Cleaning: each step does its work, can be switched off, is counted, and shows what went without personal data."""

from __future__ import annotations

import json
import time

import pytest

from medassist.config import CLEANING_STEPS, build_config
from medassist.data import prepare_data, shapes
from medassist.data.boilerplate import find_repeated_sentences, is_site_help, strip_boilerplate
from medassist.data.clean import cut_at_sentence, says_nothing
from medassist.data.personal import MASK, find_personal, mask_personal
from medassist.errors import ConfigError, DataError

FILL = [{"question": f"What is sign {w}?", "answer": f"Sign {w} points to an illness of the {w} organ."}
        for w in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")]


def prepare(tmp_path, rows, clean="default", **data):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*FILL, *rows]), encoding="utf-8")
    return prepare_data(build_config({"datasets": [{"id": str(path)}],
                                      "data": {"test_size": 0, "eval_size": 0, "clean": clean, **data}}))


def step(prepared, name):
    return next(s for s in prepared.report.steps if s.name == name)


def last(prepared):
    return list(prepared.train)[-1]


def row(question, answer):
    return {"question": question, "answer": answer}


CHANGES = {
    "html": (row("Is fever bad?", "Not <b>always</b> &amp; it passes."), "Not always & it passes."),
    "mojibake": (row("Is fever bad?", "It\u00e2\u20ac\u2122s a sign of illness."), "It’s a sign of illness."),
    "control_characters": (row("Is fever bad?", "No,\u200b it\x07passes."), "No, it passes."),
    "white_space": (row("Is fever bad?", "No,   it\tpasses ."), "No, it passes."),
    "boilerplate": (row("Is fever bad?", "No, it passes. For further information consult a doctor online --> <link>"),
                    "No, it passes."),
    "too_long": (row("Is fever bad?", "One sentence of it. " * 20), ("One sentence of it. " * 5).strip()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_step_changes_what_it_is_for_and_is_counted(tmp_path, name):
    dirty, clean = CHANGES[name]
    prepared = prepare(tmp_path, [dirty], max_answer_chars=110)
    assert last(prepared).answer == clean
    found = step(prepared, name)
    assert found.on and found.changed == 1 and found.dropped == 0
    assert found.examples[0].row == len(FILL) + 1 and found.examples[0].after is not None
    assert prepared.report.dropped == {}


@pytest.mark.parametrize("name", CHANGES)
def test_a_step_that_is_off_changes_nothing(tmp_path, name):
    dirty, clean = CHANGES[name]
    prepared = prepare(tmp_path, [dirty], clean=[f"-{name}"], max_answer_chars=110)
    assert last(prepared).answer != clean
    assert not step(prepared, name).on and step(prepared, name).changed == 0


REPEATED = "This condition is passed on in a pattern that needs two changed copies of one gene."
DROPS = {
    "boilerplate": ([row("Is gout bad?", "Hi. For further doubts consult a urologist online -->")], 1),
    "repeated_answers": ([row(f"Is syndrome {chr(97 + i) * 3} inherited?", REPEATED) for i in range(20)], 20),
    "site_help": ([row("How do I edit the left sidebar?", "Type mediawiki:sidebar in the search box of the wiki.")], 1),
    "too_short": ([row("Is gout bad?", "Yes."), row("???", "A disease of the joints."),
                   row("Where is more?", "https://example.org/page")], 3),
    "exact_duplicates": ([FILL[0], row("what is SIGN alpha", FILL[0]["answer"])], 2),
    "near_duplicates": ([row("What is the sign alpha?", FILL[0]["answer"]),
                         row("What are signs beta?", "Sign beta points to an illness of the beta organ")], 2),
}


@pytest.mark.parametrize("name", DROPS)
def test_a_step_drops_what_it_is_for_and_is_counted(tmp_path, name):
    rows, gone = DROPS[name]
    prepared = prepare(tmp_path, rows)
    assert len(prepared.train) == len(FILL) + len(rows) - gone
    assert step(prepared, name).dropped == gone == sum(prepared.report.dropped.values())
    reason = next(iter(prepared.report.dropped))
    assert prepared.report.drop_examples[reason][0].after is None


@pytest.mark.parametrize("name", DROPS)
def test_without_the_step_the_rows_stay(tmp_path, name):
    rows, gone = DROPS[name]
    off = [f"-{name}", *(["-near_duplicates"] if name == "exact_duplicates" else [])]  # exact ones are near, too
    assert len(prepare(tmp_path, rows, clean=off).train) == len(FILL) + len(rows)


def test_off_topic_rows_go_only_when_asked(tmp_path):
    rows = [row("What is the capital of France?", "It is Paris."), row("What does insulin do?", "It lowers blood glucose.")]
    assert len(prepare(tmp_path, rows).train) == len(FILL) + 2
    prepared = prepare(tmp_path, rows, clean=["default", "off_topic"])
    assert prepared.report.dropped[shapes.OFF_TOPIC] >= 1
    assert {"What does insulin do?"} <= {e.question for e in prepared.train}
    assert "What is the capital of France?" not in {e.question for e in prepared.train}


def test_sets_of_yes_and_no_keep_their_answers(tmp_path):
    rows = [row(f"Is food {w} good for the liver?", a) for w, a in zip("abcdefghij", ["Yes.", "No."] * 5)]
    assert prepare(tmp_path, rows).report.dropped == {}


PRIVATE = ("Write to ann.lee@example.org or call +44 20 7946 0958 now. My name is Ann Lee, born on 3 May 1981.")


def test_personal_data_is_flagged_and_never_shown(tmp_path):
    prepared = prepare(tmp_path, [row("Who can help with gout &amp; pain?", PRIVATE)])
    assert prepared.report.personal == {"e-mail address": 1, "phone number": 1, "date of birth": 1}
    assert len(prepared.train) == len(FILL) + 1 and step(prepared, "personal_data").flagged == 1
    gone = prepare(tmp_path, [row("Who can help?", PRIVATE)], clean=["default", "drop_personal_data"])
    assert gone.report.dropped == {shapes.PERSONAL: 1}
    for report in (prepared.report, gone.report):
        said = json.dumps(report.to_json())
        assert not [p for p in ("ann.lee", "7946", "1981", "Ann Lee") if p in said]


@pytest.mark.parametrize(("text", "kinds"), [
    ("ann@example.org", {"e-mail address"}), ("(020) 7946 0958", {"phone number"}), ("+4915112345678", {"phone number"}),
    ("DOB: 03/05/1981", {"date of birth"}), ("born on May 3, 1981", {"date of birth"}),
    ("Call 1-800-222-1222", set()), ("take 500 mg every 12 hours", set()), ("BP 120/80, pulse 100 1000", set()),
    ("chromosome 22q11.2 and 5-10-15", set()), ("born in 1981", set()), ("@home", set()), ("2010-2020", set()),
    ("sodium 135-145 mmol/L", set())])
def test_what_counts_as_personal(text, kinds):
    assert find_personal(text) == kinds
    assert (MASK in mask_personal(text)) == bool(kinds)


SITE = [
    ("How do I edit the left sidebar?", "In the search box type: mediawiki:sidebar", True),
    ("What is a user page?", "Every user account on WikiDoc has an identity page.", True),
    ("Who is the editor in chief?", "Dr. X is the editor of the WikiDoc site.", True),
    ("How do I insert an image?", "To learn how to insert an image, click here.", True),
    ("What is CRISPR and how is it used for genome editing?", "A tool for genome editing from bacteria.", False),
    ("What are the treatments for osteosarcoma?", "See this page for links to trials on the NCI web site.", False),
    ("How is a category III fetal tracing managed?", "A category III tracing needs quick delivery.", False),
    ("Is lupus inherited?", "The Lupus Foundation has a page called Is Lupus Hereditary; follow the link.", False),
]


@pytest.mark.parametrize(("question", "answer", "site"), SITE)
def test_site_help_is_told_from_medicine(question, answer, site):
    assert is_site_help(question, answer) == site


@pytest.mark.parametrize(("text", "rest"), [
    ("Rest well. For further information consult a cardiologist online -->", "Rest well."),
    ("rest well and revert back after a month to a fitness expert online --> <link>", "rest well and"),
    ("Start folic acid. Hope it helps. Consult an obstetrician online.", "Start folic acid. Hope it helps."),
    ("Such advice is online", "Such advice is online"),
    ("ATP --> ADP + energy", "ATP --> ADP + energy"),
    ("Exposure -> oedema, seen online", "Exposure -> oedema, seen online"),
    ("Hello. Consult a dentist online -->", ""),
    ("It heals.\nTemplate:WH Template:WS", "It heals."),
    ("See {{#ev:youtube|abc}} it heals.", "See it heals."),
])
def test_referrals_and_wiki_leavings(text, rest):
    assert strip_boilerplate(text) == rest


def test_sentences_of_many_answers_are_found_and_others_kept():
    answers = [f"Sign {i} is seen. You can use the dictionary to look up these terms." for i in range(40)]
    answers += [f"Treatment of case {i} is rest." for i in range(200)]
    repeated = find_repeated_sentences(answers)
    assert repeated == {"you can use the dictionary to look up these terms"}
    assert strip_boilerplate(answers[0], repeated) == "Sign 0 is seen."
    assert find_repeated_sentences(["I understand your concern."] * 100) == frozenset()


@pytest.mark.parametrize(("text", "longest", "cut"), [
    ("One two. Three four. Five six.", 22, "One two. Three four."), ("One two three four", 10, "One two"),
    ("short", 10, "short"), ("x" * 30, 10, "x" * 10), ("It is 7.4 or so. More to come here.", 20, "It is 7.4 or so.")])
def test_cut_at_a_sentence(text, longest, cut):
    assert cut_at_sentence(text, longest) == cut


@pytest.mark.parametrize(("answer", "nothing"), [
    ("Yes.", True), ("None", True), ("Either:", True), ("www.example.org/x", True), ("Click here", True), ("…", True),
    ("Amylase.", False), ("Kawasaki disease.", False), ("7.4", False), ("No, it is not.", False)])
def test_answers_that_say_nothing(answer, nothing):
    assert says_nothing(answer) == nothing


def test_steps_are_switched_by_name():
    def steps(value):
        return build_config({"data": {"clean": value}}).data.cleaning()

    default = {n for n, s in CLEANING_STEPS.items() if s.default}
    assert steps("default") == default and steps("none") == frozenset()
    assert steps(["html"]) == {"html"} and steps(["default", "off_topic"]) == default | {"off_topic"}
    assert steps(["-html"]) == default - {"html"} and steps([]) == frozenset()
    with pytest.raises(ConfigError, match="did you mean 'mojibake'"):
        build_config({"data": {"clean": ["mojibak"]}})


def test_nothing_left_after_cleaning_is_said(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row(f"Is syndrome {chr(97 + i) * 3} bad?", REPEATED)) + "\n" for i in range(25)))
    with pytest.raises(DataError, match="No row of x.jsonl can be used after cleaning: 25 rows: one answer to 20"):
        prepare_data(build_config({"datasets": [{"id": str(path)}]}))


EVIL = ["-->" * 20_000, "online -->" * 6_000, "a@" * 30_000, "(11) 111-1" * 6_000, "<link>" * 10_000, "Template:" * 6_000,
        "{{" * 30_000, "a. " * 20_000, "born on " * 8_000, "wiki page " * 6_000, "hi " * 20_000, ": " * 30_000]


@pytest.mark.parametrize("evil", EVIL, ids=lambda e: e[:10])
def test_cleaning_of_hostile_text_grows_with_its_length(evil):
    def spent(text):
        started = time.process_time()
        strip_boilerplate(text, {"x"})
        is_site_help(text[:1000], text)
        mask_personal(text)
        return time.process_time() - started

    spent(evil)
    assert spent(evil) < 1.0
