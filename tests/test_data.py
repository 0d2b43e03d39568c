"""Data: every shape mapped, every lost row counted, no question in two splits, no hostile file let in."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

import pytest
from data_files import cards, write_rows

from medassist import catalog
from medassist.config import DatasetConfig, build_config
from medassist.data import prepare_data, preview_rows, shapes
from medassist.data.clean import answer_letter, clean_explanation, question_key, tidy
from medassist.errors import DataError


def prepare(path, data=None, **dataset):
    return prepare_data(build_config({"datasets": [{"id": str(path), **dataset}], "data": data or {}}))


ALL_TRAIN = {"test_size": 0, "eval_size": 0}


def read(tmp_path, rows, data=None, **dataset):
    """All rows prepared as training examples."""
    return prepare(write_rows(tmp_path / "rows.jsonl", rows), {**ALL_TRAIN, **(data or {})}, **dataset)


def questions(examples):
    return [e.question for e in examples]


# Shapes

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Q1?"},
    {"role": "assistant", "content": "A1."},
    {"role": "user", "content": "More?"},
    {"role": "assistant", "content": "A2."},
]
SHAPES = {
    "question/answer": ({"question": "Q1?", "answer": "A1."}, "question_answer"),
    "Question/Answer with others": ({"qtype": "x", "Question": "Q1?", "Answer": "A1."}, "question_answer"),
    "prompt/completion": ({"prompt": "Q1?", "completion": "A1."}, "question_answer"),
    "prompt/response": ({"Prompt": "Q1?", "Response": "A1."}, "question_answer"),
    "input/output": ({"input": "Q1?", "output": "A1."}, "question_answer"),
    "a name with the word": ({"id": 1, "medical_question": "Q1?", "expert answer": "A1."}, "question_answer"),
    "instruction/output": ({"instruction": "Q1?", "output": "A1."}, "instruction"),
    "instruction with empty input": ({"instruction": "Q1?", "input": "", "output": "A1."}, "instruction"),
    "instruct set with rendered prompt": (
        {
            "instruction": "Answer.",
            "input": "Q1?",
            "output": "A1.",
            "prompt": "<s>[INST] Q1? [/INST] A1.</s>",
        },
        "instruction",
    ),
    "Description/Patient/Doctor": (
        {"Description": "Short", "Patient": "Q1?", "Doctor": "A1."},
        "question_answer",
    ),
    "Question/Patient/Answer": (
        {"Question": "Q. Short", "Patient": "Q1?", "Answer": "A1."},
        "question_answer",
    ),
    "patient without text": ({"Description": "Q1?", "Patient": "", "Doctor": "A1."}, "question_answer"),
    "messages": ({"messages": TURNS}, "messages"),
    "messages as JSON text": ({"messages": json.dumps(TURNS)}, "messages"),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Q1?"}, {"from": "gpt", "value": "A1."}]},
        "messages",
    ),
    "answers as a list": ({"question": "Q1?", "answers": ["A1."]}, "question_answer"),
    "SQuAD answers": (
        {"question": "Q1?", "answers": {"text": ["A1."], "answer_start": [3]}},
        "question_answer",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape_is_found(tmp_path, name):
    row, kind = SHAPES[name]
    prepared = read(tmp_path, [row, row], data={"clean": "none"})  # two: a standing instruction must show
    example = prepared.train[0]
    assert (example.history or ((example.question, example.answer),))[0] == ("Q1?", "A1.")
    assert prepared.report.sources[0].mapping_kind == kind


def test_instruction_is_joined_to_the_input_where_both_say_something(tmp_path):
    rows = [{"instruction": f"Task {i}", "input": f"Text {i}", "output": "Done."} for i in range(5)]
    assert read(tmp_path, rows).train[3].question == "Task 3\n\nText 3"


def test_a_few_standing_instructions_are_left_out_and_said(tmp_path):
    rows = [{"instruction": f"Order {i % 2}", "input": f"Text {i}?", "output": "Done."} for i in range(200)]
    rows.append({"instruction": "What is gout?", "input": "", "output": "Arthritis."})
    prepared = read(tmp_path, rows)
    assert prepared.train[0].question == "Text 0?" and prepared.train[-1].question == "What is gout?"
    assert any("2 standing instructions were left out" in n for n in prepared.report.notes)


def test_conversations_keep_their_earlier_exchanges(tmp_path):
    example = read(tmp_path, [{"messages": TURNS}]).train[0]
    assert (example.question, example.answer, example.history) == ("More?", "A2.", (("Q1?", "A1."),))


def test_conversations_that_begin_alike_are_not_torn_apart(tmp_path):
    talk = [[{"role": "user", "content": f"Is cyst {i} bad?"}, {"role": "assistant", "content": f"No {k}."},
             {"role": "user", "content": f"Sure {i} {k}?"}, {"role": "assistant", "content": f"Quite {i} {k}."}]
            for i in range(20) for k in range(3)]
    prepared = prepare(write_rows(tmp_path / "x.jsonl", [{"messages": t} for t in talk]), {"test_size": 12, "eval_size": 0})
    first = [{e.history[0][0] for e in part} for part in (prepared.train, prepared.test)]
    assert len(prepared.test) == 12 and not first[0] & first[1]


def test_topic_is_kept_and_the_source_names_no_folder(tmp_path):
    example = read(tmp_path, cards(1, focus="Liver")).train[0]
    assert (example.topic, example.source) == ("Liver", "rows.jsonl")


def test_columns_named_by_the_user_win(tmp_path):
    rows = [{"question": "no", "answer": "no", "front": "Q1?", "back": "A1."}]
    prepared = read(tmp_path, rows, mapping={"question": "front", "answer": "back"})
    assert prepared.train[0].question == "Q1?"
    assert prepared.report.sources[0].columns == {"question": "front", "answer": "back"}


# Multiple choice

MCQ = {
    "question": "Which vitamin?",
    "opa": "A",
    "opb": "B12",
    "opc": "C",
    "opd": "D",
    "cop": 2,
    "exp": "Ans. is 'b' i.e., B12. Pernicious anaemia lacks intrinsic factor. (Ref: Harrison 17/e p 234)",
    "choice_type": "single",
    "subject_name": "Medicine",
}
OPTIONS = "Which vitamin?\n\nA. A\nB. B12\nC. C\nD. D"
LABELS = {
    "index from 1, shown by its range": [{**MCQ}, {**MCQ, "question": "Other?", "cop": 4}],
    "index from 0, shown by its range": [{**MCQ, "cop": 1}, {**MCQ, "question": "Other?", "cop": 0}],
    "index from 1, shown by explanations": [{**MCQ}],
    "index from 0, shown by explanations": [{**MCQ, "cop": 1}],
    "letter": [
        {
            "question": "Which vitamin?",
            "options": {"A": "A", "B": "B12", "C": "C", "D": "D"},
            "answer_idx": "B",
            "answer": "B12",
        }
    ],
    "letter in parentheses": [
        {"question": "Which vitamin?", "choices": ["A", "B12", "C", "D"], "answer": "(b)"}
    ],
    "the option's text": [{"question": "Which vitamin?", "options": ["A", "B12", "C", "D"], "answer": "b12"}],
    "options as JSON text": [
        {"question": "Which vitamin?", "options": '["A", "B12", "C", "D"]', "answer": "B"}
    ],
    "options as Python text": [
        {"question": "Which vitamin?", "options": "{'A': 'A', 'B': 'B12', 'C': 'C', 'D': 'D'}", "answer": "B"}
    ],
    "options as key and value": [
        {
            "question": "Which vitamin?",
            "answer_idx": "B",
            "options": [{"key": k, "value": v} for k, v in zip("ABCD", ["A", "B12", "C", "D"], strict=True)],
        }
    ],
    "option columns by letter": [
        {"question": "Which vitamin?", "A": "A", "B": "B12", "C": "C", "D": "D", "correct_answer": "B"}
    ],
}


@pytest.mark.parametrize("name", LABELS)
def test_the_right_option_is_found(tmp_path, name):
    prepared = read(tmp_path, LABELS[name])
    assert prepared.train[0].question == OPTIONS
    assert prepared.train[0].answer.split("\n")[0] == "B. B12"
    assert prepared.report.sources[0].mapping_kind == "multiple_choice"


@pytest.mark.parametrize(("cops", "base"), [((1, 2, 4), 1), ((0, 1, 3), 0)])
def test_the_index_base_is_reported_with_its_evidence(tmp_path, cops, base):
    prepared = read(tmp_path, [{**MCQ, "question": f"Q{c}?", "cop": c} for c in cops])
    assert any(
        f"counts from {base} (its numbers run from {cops[0]} to {cops[-1]})" in n
        for n in prepared.report.notes
    )
    assert [e.answer[0] for e in prepared.train] == ["ABCDE"[c - base] for c in cops]


def test_options_can_be_left_out_of_the_prompt(tmp_path):
    example = read(tmp_path, [MCQ], options_in_prompt=False).train[0]
    assert example.question == "Which vitamin?"
    assert example.answer == "B12\n\nPernicious anaemia lacks intrinsic factor."


def test_single_answer_rows_only(tmp_path):
    rows = [
        MCQ,
        {**MCQ, "question": "Second?", "choice_type": "multi"},
        {**MCQ, "question": "Third?", "cop": 4},
    ]
    prepared = read(tmp_path, rows, single_answer_only=True)
    assert len(prepared.train) == 2
    assert prepared.report.dropped == {shapes.NOT_SINGLE: 1}


def test_rows_without_a_right_option_are_counted(tmp_path):
    rows = [{**MCQ, "cop": c, "question": f"Q{i}?"} for i, c in enumerate((1, 4, -1, None, 7))]
    rows.append({**MCQ, "question": "Alone?", "opb": "", "opc": "", "opd": None})
    report = read(tmp_path, rows, data={"test_size": 0}).report
    assert report.dropped == {shapes.NO_RIGHT_OPTION: 3, shapes.NO_OPTIONS: 1}


def test_the_same_options_in_another_order_are_the_same_question(tmp_path):
    rows = [{**MCQ, "question": f"Which {i}?", "cop": 1 + i % 4} for i in range(40)]
    rows += [{**r, "opa": r["opb"], "opb": r["opa"]} for r in rows]
    prepared = prepare(write_rows(tmp_path / "x.jsonl", rows), {"test_size": 20, "eval_size": 0})
    stems = [{q.split("\n")[0] for q in questions(part)} for part in (prepared.train, prepared.test)]
    assert len(prepared.test) == 20 and not stems[0] & stems[1]


EXPLANATIONS = [
    ("Ans. is 'b' i.e., Ketamine. It raises pressure.", "B", "Ketamine", "It raises pressure."),
    ("Ans: B. Ketamine(Ref: KDT 7/e p653).It raises pressure.", "B", "Ketamine", "It raises pressure."),
    ("Answer- B (Ketamine) It raises pressure.", "B", "Ketamine", "It raises pressure."),
    ("Ans. BKetamine raises pressure.", "B", "Other", "Ketamine raises pressure."),
    ("Ans. Ketamine", "B", "Ketamine", ""),
    ("(B) Ketamine is used.", "B", "Thiopentone", "Ketamine is used."),
    ("(A) is wrong, (B) is right.", "B", "Ketamine", "(A) is wrong, (B) is right."),
    ("Ketamines are many.\nRef: Miller 7/e p884", "B", "Ketamine", "Ketamines are many."),
    ("Ans: B. Ketamines are many.", "B", "Ketamine", "Ketamines are many."),
    ("It rises. Ref: Harrison's 17/e p 234", "A", "x", "It rises."),
    ("A 60-year-old man has gout.", "A", "Gout", "A 60-year-old man has gout."),
    (
        "Answers vary with the reference range. See it.",
        "A",
        "x",
        "Answers vary with the reference range. See it.",
    ),
]


@pytest.mark.parametrize(("text", "letter", "option", "cleaned"), EXPLANATIONS)
def test_explanations_lose_their_set_phrases_and_nothing_else(text, letter, option, cleaned):
    assert clean_explanation(text, letter, option) == cleaned


def test_answer_letter_is_read_only_from_an_answer_phrase():
    assert answer_letter("Ans. is 'c' i.e., x") == "C"
    assert answer_letter("A 60-year-old man") is None


# Cleaning


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  What is\t\tgout ?\r\n", "What is gout?"),
        ("a\xa0b\u200bc\u00add\ufeff", "a bcd"),
        ("Fever &amp; chills&nbsp;now", "Fever & chills now"),
        ("one<br/>two</p><b>three</b>", "one\ntwo\nthree"),
        ("H<sub>2</sub>O in <a href='x'>water</a>", "H2O in water"),
        ("BP < 90 and > 60", "BP < 90 and > 60"),
        ("bell\x07 nul\x00 c1\x85", "bell nul c1…"),  # \x85 is an ellipsis read as Latin-1
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("who ? ? ?", "who?"),
        ("می‌شود", "می‌شود"),  # the joiner is part of this word
        ("cafe\u0301", "café"),
        ("half \ud83d pair", "half pair"),
        ("pH 7 .4 , or ratio 1 :2", "pH 7 .4, or ratio 1 :2"),
    ],
)
def test_tidy(raw, clean):
    assert tidy(raw) == clean


@pytest.mark.parametrize(
    "evil",
    [
        "<" * 200_000,
        "<a " * 60_000,
        "&" * 200_000,
        " ?" * 100_000,
        "(ref " * 40_000,
        "ans" * 60_000,
        "\n" * 200_000,
        "Ref:" * 50_000,
        "(" * 200_000,
    ],
)
def test_cleaning_is_linear(evil):
    started = time.process_time()
    clean_explanation(tidy(evil), "A", "x")
    assert time.process_time() - started < 1.0


def test_question_key_ignores_spelling_apart_from_words():
    assert question_key("What is  GOUT?") == question_key("what is gout")
    assert question_key("What is gout?") != question_key("What is goutweed?")
    assert question_key("???") == "???"


def test_every_row_is_accounted_for(tmp_path):
    rows = [
        *cards(20),
        *cards(3),
        {"question": " \u200b ", "answer": "x"},
        {"question": "Why?", "answer": "&nbsp;"},
        {"question": None, "answer": "x"},
        {"answer": "x"},
        {"question": "What IS finding 1", "answer": "Other."},
        {"question": {"a": 1}, "answer": "x"},
        {"question": float("nan"), "answer": "x"},
    ]
    prepared = prepare(write_rows(tmp_path / "x.jsonl", rows), {"test_size": 4, "eval_size": 2})
    report = prepared.report
    assert report.dropped == {
        shapes.REPEATED: 3,
        shapes.NO_QUESTION: 4,
        shapes.NO_ANSWER: 1,
        shapes.NOT_TEXT: 1,
    }
    assert (
        sum(report.dropped.values()) + sum(report.splits.values()) == report.sources[0].rows_read == len(rows)
    )
    assert report.sources[0].rows_used == sum(report.splits.values()) == 21
    assert json.loads(json.dumps(report.to_json()))["splits"] == {"train": 15, "eval": 2, "test": 4}


def test_without_cleaning_repeats_and_white_space_stay(tmp_path):
    rows = [{"question": "Why  so?", "answer": "x"}] * 2
    prepared = read(tmp_path, rows, data={"clean": "none"})
    assert questions(prepared.train) == ["Why  so?", "Why  so?"]


def test_numbers_are_text_and_nan_is_nothing(tmp_path):
    rows = [{"question": "Normal pH?", "answer": 7.4}, {"question": "Why?", "answer": float("nan")}]
    prepared = prepare(write_rows(tmp_path / "x.parquet", rows), ALL_TRAIN)
    assert prepared.train[0].answer == "7.4"
    assert prepared.report.dropped == {shapes.NO_ANSWER: 1}


# Choosing rows


def test_repeats_do_not_fill_the_limit(tmp_path):
    rows = [*cards(1) * 10, *cards(9, 1)]
    assert len(set(questions(read(tmp_path, rows, max_rows=5).train))) == 5


def test_first_random_and_longest(tmp_path):
    rows = [{"question": f"Q{i}?", "answer": "x" * (1 + (i * 7) % 50)} for i in range(50)]
    first = read(tmp_path, rows, max_rows=5).train
    assert questions(first) == ["Q0?", "Q1?", "Q2?", "Q3?", "Q4?"]
    longest = read(tmp_path, rows, max_rows=5, select="longest_answer").train
    assert sorted(len(e.answer) for e in longest) == [46, 47, 48, 49, 50]
    one = questions(read(tmp_path, rows, max_rows=5, select="random").train)
    again = questions(read(tmp_path, rows, max_rows=5, select="random").train)
    other = questions(read(tmp_path, rows, data={"seed": 1}, max_rows=5, select="random").train)
    assert one == again != other and len(one) == 5
    assert read(tmp_path, rows, max_rows=5).report.dropped == {shapes.OVER_LIMIT: 45}


def test_longest_looks_at_explanations_after_cleaning(tmp_path):
    padded = {**MCQ, "question": "Padded?", "exp": "Ans. is 'b' i.e., B12. (Ref: " + "Harrison " * 30 + ")"}
    prepared = read(tmp_path, [padded, {**MCQ, "cop": 4}], max_rows=1, select="longest_answer")
    assert prepared.train[0].question.startswith("Which vitamin?")


def test_a_limit_is_shared_out_over_the_datas_own_splits(tmp_path):
    rows = [*cards(90, split="train"), *cards(10, 90, split="test")]
    prepared = prepare(write_rows(tmp_path / "x.csv", rows), {"eval_size": 0}, max_rows=20)
    assert prepared.report.splits == {"train": 18, "eval": 0, "test": 2}


# Splits


def test_split_is_by_question_not_by_row(tmp_path):
    rows = [
        {"question": q, "answer": f"Answer {k}."}
        for i in range(60)
        for k, q in enumerate((f"Is cyst {i} bad?", f"is cyst {i}  bad ?", f"Is cyst {i} BAD"))
    ]
    prepared = prepare(write_rows(tmp_path / "x.jsonl", rows), {"test_size": 30, "eval_size": 15})
    parts = [{question_key(q) for q in questions(p)} for p in (prepared.train, prepared.eval, prepared.test)]
    assert [len(p) for p in parts] == [45, 5, 10]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_split_sizes_are_kept_with_questions_of_several_rows(tmp_path):
    rows = [
        {"question": f"Is cyst {i} bad?", "answer": f"Answer {k}."}
        for i in range(40)
        for k in range(1 + i % 3)
    ]
    for size in (10, 11, 12, 13):
        report = prepare(write_rows(tmp_path / "x.csv", rows), {"test_size": size, "eval_size": 0}).report
        assert report.splits["test"] == size


@pytest.mark.parametrize(
    ("data", "splits"),
    [
        ({}, {"train": 81, "eval": 9, "test": 10}),
        ({"test_size": 0}, {"train": 90, "eval": 10, "test": 0}),
        ({"test_size": 40, "eval_size": 0}, {"train": 60, "eval": 0, "test": 40}),
        ({"test_size": 3, "eval_size": 7}, {"train": 90, "eval": 7, "test": 3}),
    ],
)
def test_split_sizes(tmp_path, data, splits):
    assert prepare(write_rows(tmp_path / "x.csv", cards(100)), data).report.splits == splits


def test_2400_flashcards_hold_out_the_400(tmp_path):
    rows = [*cards(2000, split="train_subset"), *cards(400, 2000, split="eval_subset")]
    config = build_config(
        catalog.replace_datasets(
            catalog.get_recipe("tinyllama-flashcards").settings, [str(write_rows(tmp_path / "x.jsonl", rows))]
        )
    )
    prepared = prepare_data(config)
    assert prepared.report.splits == {"train": 2000, "eval": 0, "test": 400}
    assert set(questions(prepared.test)) == {r["question"] for r in rows[2000:]}
    unsplit = write_rows(tmp_path / "x.jsonl", cards(2400))
    assert prepare_data(config).report.splits == {"train": 2000, "eval": 0, "test": 400}, unsplit


def test_own_eval_becomes_the_test_split_and_eval_is_cut_from_train(tmp_path):
    rows = [*cards(80, set="Train"), *cards(20, 80, set="validation")]
    prepared = prepare(write_rows(tmp_path / "x.csv", rows))
    assert prepared.report.splits == {"train": 72, "eval": 8, "test": 20}
    assert set(questions(prepared.test)) == {r["question"] for r in rows[80:]}
    assert any("own evaluation split is the test split" in n for n in prepared.report.notes)


def test_three_own_splits_are_kept_as_they_are(tmp_path):
    rows = [*cards(70, split="train"), *cards(20, 70, split="dev"), *cards(10, 90, split="test")]
    prepared = prepare(write_rows(tmp_path / "x.csv", rows))
    assert prepared.report.splits == {"train": 70, "eval": 20, "test": 10}
    assert questions(prepared.eval) == [r["question"] for r in rows[70:90]]


def test_a_smaller_test_size_drops_the_others_instead_of_training_on_them(tmp_path):
    rows = [*cards(50, split="train"), *cards(30, 50, split="test")]
    prepared = prepare(write_rows(tmp_path / "x.csv", rows), {"test_size": 10, "eval_size": 0})
    assert prepared.report.splits == {"train": 50, "eval": 0, "test": 10}
    assert prepared.report.dropped == {shapes.OVER_TEST: 20}


def test_a_question_in_two_splits_is_taken_out_of_training_and_counted(tmp_path):
    rows = [
        *cards(30, split="train"),
        *cards(10, 30, split="eval"),
        *cards(10, 40, split="test"),
        {"question": "what is finding 41", "answer": "Other.", "split": "train"},
        {"question": "What is finding 31?", "answer": "Other.", "split": "train"},
        {"question": "What is finding 42?", "answer": "Other.", "split": "eval"},
    ]
    report = prepare(write_rows(tmp_path / "x.csv", rows)).report
    assert report.dropped == {shapes.ALSO_IN_TEST: 2, shapes.ALSO_IN_EVAL: 1}
    assert report.splits == {"train": 30, "eval": 10, "test": 10}


def test_two_sources_share_no_question_across_splits(tmp_path):
    one = write_rows(tmp_path / "one.csv", [*cards(40, split="train"), *cards(10, 40, split="test")])
    two = write_rows(tmp_path / "two.jsonl", cards(30, 30))
    prepared = prepare_data(build_config({"datasets": [{"id": str(one)}, {"id": str(two)}]}))
    train, test = set(questions(prepared.train)), set(questions(prepared.test))
    assert not train & test and {r["question"] for r in cards(10, 40)} <= test
    assert prepared.report.dropped == {shapes.REPEATED: 10, shapes.ALSO_IN_TEST: 10}
    assert [s.rows_read for s in prepared.report.sources] == [50, 30]
    assert sum(s.rows_used for s in prepared.report.sources) == sum(prepared.report.splits.values()) == 60


def test_held_out_rows_are_cut_only_from_sources_without_a_test_split(tmp_path):
    one = write_rows(tmp_path / "one.csv", [*cards(40, split="train"), *cards(10, 40, split="test")])
    two = write_rows(tmp_path / "two.csv", cards(10, 50))
    datasets = [{"id": str(one)}, {"id": str(two)}]
    prepared = prepare_data(build_config({"datasets": datasets, "data": {"test_size": 18, "eval_size": 0}}))
    assert Counter(e.source for e in prepared.test) == {"one.csv": 10, "two.csv": 8}


def test_a_column_called_split_that_names_no_splits_is_left_alone(tmp_path):
    prepared = prepare(write_rows(tmp_path / "x.csv", cards(20, split="left atrium")))
    assert prepared.report.splits["train"] == 16
    assert any("was not taken as the split" in n for n in prepared.report.notes)


def test_the_seed_decides_the_split_and_the_hash_tells_data_apart(tmp_path):
    path = write_rows(tmp_path / "x.csv", cards(100))
    one, again, other = prepare(path), prepare(path), prepare(path, {"seed": 7})
    assert list(one.test) == list(again.test) and set(one.test) != set(other.test)
    assert one.sha256 == again.sha256 != other.sha256
    (tmp_path / "elsewhere").mkdir()
    moved = prepare(write_rows(tmp_path / "elsewhere" / "y.csv", cards(100)))
    assert moved.sha256 == one.sha256  # the place of the file is not in it
    assert prepare(write_rows(path, cards(100)[::-1])).sha256 != one.sha256


# Preview, the starter set and export


def test_preview_shows_rows_with_what_they_become(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [*cards(2), {"question": "Why?", "answer": ""}])
    shown = preview_rows(DatasetConfig(id=str(path)), 10)
    assert [s[2] for s in shown] == ["", "", shapes.NO_ANSWER]
    assert shown[0][0]["question"] == shown[0][1].question and shown[2][1] is None
    assert len(preview_rows(DatasetConfig(id=str(path)), 1)) == 1


def test_the_starter_set_is_taken_whole_with_its_own_splits():
    rows = [json.loads(line) for line in catalog.STARTER_FILE.read_text(encoding="utf-8").splitlines()]
    prepared = prepare_data(build_config({}))
    assert prepared.report.splits == Counter(r["split"] for r in rows) and prepared.report.dropped == {}
    assert set(questions(prepared.test)) == {r["question"] for r in rows if r["split"] == "test"}
    assert prepared.report.sources[0].licence == "CC BY 4.0" and all(e.topic for e in prepared.train)


# What cannot be used


NOT_USABLE = {
    "no usable column": ("x.csv", b"name,age\nAnn,7\n", {}, "it has: name, age"),
    "question without answer": (
        "x.csv",
        b"question,source\nWhy?,x\n",
        {},
        "('question') but none for the answer",
    ),
    "unknown column": (
        "x.csv",
        b"q,a\nx,y\n",
        {"mapping": {"question": "Q", "answer": "a"}},
        "has no column 'Q'",
    ),
    "unknown role": ("x.csv", b"q,a\nx,y\n", {"mapping": {"questions": "q"}}, "Did you mean 'question'?"),
    "mapping without answer": (
        "x.csv",
        b"q,a\nx,y\n",
        {"mapping": {"question": "q"}},
        "no column for the answer",
    ),
    "mapping without options": (
        "x.csv",
        b"q,a\nx,y\n",
        {"mapping": {"question": "q", "correct": "a"}},
        "no column for the answer",
    ),
    "all rows dropped": ("x.csv", b"question,answer\nx,\ny,\n", {}, "2 rows with no answer"),
    "one row": (
        "x.csv",
        b"question,answer\nWhat is gout?,A disease of joints.\n",
        {"data": {"test_size": 1}},
        "Nothing is left to train on",
    ),
}


@pytest.mark.parametrize("name", NOT_USABLE)
def test_unusable_data_gives_one_sentence_and_a_next_step(tmp_path, name):
    file, content, settings, said = NOT_USABLE[name]
    path = tmp_path / file
    if content is not None:
        (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            path.write_bytes(content)
    target = path.parent if "/" in file and not file.endswith("/") else path
    with pytest.raises(DataError) as caught:
        prepare(
            target,
            settings.pop("data", None) if "data" in settings else None,
            **{k: v for k, v in settings.items() if k != "data"},
        )
    assert said in str(caught.value), str(caught.value)
    assert caught.value.next_step


# Recipes and the catalogue's own columns


@pytest.mark.parametrize("entry", catalog.list_datasets(), ids=lambda e: e.name)
def test_the_catalogues_columns_agree_with_what_is_found_by_looking(tmp_path, entry):
    row = {column: f"{role} text" for role, column in entry.mapping.items()}
    if entry.kind == "multiple_choice":
        row |= {"cop": 0, "choice_type": "single"}
    elif entry.mapping["question"] == "input":
        row |= {"instruction": "Answer this question truthfully", "prompt": "<s>all of it</s>"}
    path = write_rows(tmp_path / "rows.jsonl", [row, {**row, entry.mapping["question"]: "second text"}])
    found = prepare(path, {**ALL_TRAIN, "clean": "none"}).train
    said = prepare(path, {**ALL_TRAIN, "clean": "none"}, mapping=dict(entry.mapping)).train
    assert [(e.question, e.answer) for e in found] == [(e.question, e.answer) for e in said]
    assert found[0].question.startswith("question text") and found[1].question.startswith("second text")


@pytest.mark.parametrize("recipe", catalog.list_recipes(), ids=lambda r: r.name)
def test_each_recipe_runs_on_local_files_in_place_of_its_datasets(tmp_path, recipe):
    files = [
        str(write_rows(tmp_path / f"{i}.csv", cards(1500, i * 1500)))
        for i in range(len(recipe.settings["datasets"]))
    ]
    config = build_config(catalog.replace_datasets(recipe.settings, files))
    prepared = prepare_data(config)
    limits = [d.max_rows or 1500 for d in config.datasets]
    assert sum(prepared.report.splits.values()) == sum(min(m, 1500) for m in limits)
    assert len(prepared.test) > 0 and len(prepared.train) > len(prepared.test)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, medassist.data; print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', "
        "'pandas', 'huggingface_hub', 'gradio') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
