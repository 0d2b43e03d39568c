"""Near duplicates: found where rows say the same, kept apart where one word of substance differs."""

from __future__ import annotations

import time

import numpy as np
import pytest

from medassist.data import duplicates
from medassist.data.clean import question_key

LONG = ("Colpocephaly is a disorder in which the back of the brain is larger than usual. There is no definitive treatment; "
        "medicines are often given to prevent seizures, and doctors try to prevent contractures of the joints.")
SAME = [
    (("What is colpocephaly?", LONG), ("What is the colpocephaly ?", LONG)),
    (("What is colpocephaly?", LONG), ("What is colpocephaly?", "In short: " + LONG)),
    (("What is colpocephaly?", LONG), ("What is colpocephaly?", LONG[:-60])),
    (("Is generalised anxiety treatable?", LONG), ("Is generalized anxiety treatable?", LONG)),
    (("What are the signs of psittacosis?", "Cough. Fever. Aches."), ("What is the sign of psittacosis?", "Cough fever aches")),
]
APART = [
    (("What is type 1 diabetes?", LONG), ("What is type 2 diabetes?", LONG)),
    (("How is hypertension treated?", LONG), ("How is hypotension treated?", LONG + " Also salt and water are given to them.")),
    (("Is it caused by a virus?", "Yes, it is caused by a virus in most cases."),
     ("Is it caused by a virus?", "No, it is not caused by a virus in most cases.")),
    (("What is the dose of drug X?", "The dose is 50 mg once a day with food."),
     ("What is the dose of drug X?", "The dose is 500 mg once a day with food.")),
    (("What is the treatment of gout?", LONG), ("What is the treatment of lupus?", LONG)),
    (("Which nerve is hurt on the left side?", LONG), ("Which nerve is hurt on the right side?", LONG)),
    (("What is anaemia?", "A lack of red cells."), ("What is anaemia?", "Too little haemoglobin to carry oxygen.")),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_rows_that_say_the_same(one, other):
    assert duplicates.is_near(one, other) and duplicates.is_near(other, one)


@pytest.mark.parametrize(("one", "other"), APART)
def test_rows_that_differ_in_substance(one, other):
    assert not duplicates.is_near(one, other) and not duplicates.is_near(other, one)


def find(rows):
    bands = np.array([duplicates.signature(*r) for r in rows])
    order = np.array([duplicates.hash64(" ".join(duplicates.substance(question_key(q)))) for q, _ in rows])
    return duplicates.find_near((bands[:, i] for i in range(bands.shape[1])), order, lambda i: rows[i])


def test_pairs_are_found_among_many_rows():
    rows = [(f"What is condition {w}{v}?", f"Condition {w}{v} is an illness of the {w} that {v} people have, and rest helps.")
            for w in ("liver", "heart", "kidney", "skin", "ear", "eye") for v in ("few", "many", "old", "young", "some")]
    planted = [one for one, _ in SAME] + [other for _, other in SAME]
    found = {tuple(sorted((a - len(rows), b - len(rows)))) for a, b in find([*rows, *planted])}
    assert found >= {(3, 8), (4, 9)} and all(a >= 0 for a, _ in found)
    # Rows 0 to 2 and 5 to 7 ask the same with the same text: one of them stays, but for the one cut short perhaps.
    assert {b for a, b in found} >= {1, 2, 5, 6}


def test_time_stays_linear_where_all_rows_look_alike():
    def spent(count):
        names = ["q" + f"{i:x}".translate(str.maketrans("0123456789", "ghijklmnop")) for i in range(count)]
        rows = [(f"What is the sign called {n}?", f"The sign called {n} is harmless and needs no treatment at all.") for n in names]
        started = time.process_time()
        found = find(rows)
        assert not found
        return time.process_time() - started

    spent(200)
    assert spent(4000) < 4 * 4 * max(spent(1000), 0.1)


def test_groups_join_through_any_relation():
    keys = np.array([1, 2, 2, 3, 4, 5])
    answers = np.array([9, 9, 0, 0, 7, 7])
    groups = duplicates.same_groups(6, [keys, answers], [(3, 5)])
    assert groups[0] == groups[1] == groups[2] and groups[3] == groups[4] == groups[5] and groups[0] != groups[3]
    assert len(set(duplicates.same_groups(3, [np.zeros(3, dtype=np.int64)]))) == 3  # 0 relates to nothing


def test_hashes_are_the_same_in_every_process():
    assert duplicates.hash64("insulin") == duplicates.hash64("insulin") != duplicates.hash64("Insulin")
    assert duplicates.hash64("insulin") == -2735328897093707945
