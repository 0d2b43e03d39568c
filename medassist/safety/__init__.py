"""Red flags: finds the words of a medical emergency in what a person typed, with no model involved.

`check_red_flags` answers with an `Escalation` (act now, or a short note for a question about an emergency) or
with None. What it knows stands in `red_flags/`: the wordings, the rules that combine them, and the replies.
It knows nothing about the gate, about models or about the page, and it is no diagnosis: it reads words.

    python -c "from medassist.safety import *; print(render_escalation(check_red_flags('my dad has crushing chest pain')))"

How a text is read: it is folded (small letters, no accents, no invisible characters), cut into sentences, and
each sentence is walked twice along a tree of wordings: for signs (what happens) and for context (who, when, why).
Signs set the bits of their concepts, unless they are negated or lie in the past; a rule matches where its slots
are all filled within a few neighbouring sentences. The context decides what a match is: an emergency, a question
about one, or nothing (an exam case, a novel, a pet, something long over). Beside the rules each passage is weighed as a
whole (`weights.txt`, learned from cases written for this project): enough weight makes an emergency without any rule,
too little overrules one, and `categories.txt` says which kind of emergency it is.

`patterns` reads the files of wordings, `flags` holds all of `red_flags/`, `reading` makes sentences of a text,
`weighing` weighs them, `decision` judges, `replies` says what is shown.
"""

from __future__ import annotations

from medassist.safety.decision import Escalation, check_red_flags
from medassist.safety.flags import RED_FLAGS_DIR, RedFlags, load_red_flags
from medassist.safety.replies import STANDING_NOTICE, professional_line, render_escalation

__all__ = [
    "RED_FLAGS_DIR",
    "STANDING_NOTICE",
    "Escalation",
    "RedFlags",
    "check_red_flags",
    "load_red_flags",
    "professional_line",
    "render_escalation",
]
