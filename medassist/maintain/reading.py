"""Exercises in reading for the embedded base model: passages, a question, and an answer in the passages' words.

A fact is a sentence that answers a question, with the sentences around it. An exercise hides it among distractors
(another aspect of the same topic, a topic of a like name, any other), numbers the passages as
`prompts.render_grounded` does, and ends the answer with its passage's number; where only distractors are shown the
answer is `prompts.NOT_IN_SOURCES`. In a share of the exercises every topic gets an invented name, so that nothing but
reading helps. Knows nothing of tokens or models.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medassist.data import Example
from medassist.maintain.corpus import Prose, Term, is_plain_sentence, split_sentences
from medassist.prompts import NOT_IN_SOURCES

MOST_WORDS = 60  # of a passage
PASSAGES = (1, 2, 3, 3, 3, 3, 4)  # how many are shown, drawn from these
NO_ANSWER = 0.15  # share of exercises whose passages hold no answer
INVENTED = 0.3  # share with invented names

# Aspect → how it is asked, with {x} for the topic. The first wordings are MedQuAD's own.
ASKED = {
    "information": ("What is {x}?", "What is {x}?", "Tell me about {x}.", "Can you explain {x}?", "what does {x} mean",
                    "Describe {x}.", "what is meant by {x}", "Explain {x} in a sentence."),
    "symptoms": ("What are the symptoms of {x}?", "How does {x} show?", "What signs does {x} cause?", "symptoms of {x}",
                 "How would I know that I have {x}?", "What does a person with {x} notice?"),
    "treatment": ("What are the treatments for {x}?", "How is {x} treated?", "what helps against {x}", "treatment of {x}",
                  "What can be done about {x}?", "Which treatment is there for {x}?"),
    "inheritance": ("Is {x} inherited?", "Does {x} run in families?", "How is {x} inherited?", "is {x} genetic",
                    "Can {x} be passed on to children?"),
    "frequency": ("How many people are affected by {x}?", "How common is {x}?", "Is {x} rare?", "how often does {x} occur"),
    "genetic changes": ("What are the genetic changes related to {x}?", "Which gene is changed in {x}?",
                        "What mutation leads to {x}?", "genes involved in {x}"),
    "causes": ("What causes {x}?", "Why does {x} happen?", "What is the cause of {x}?", "where does {x} come from",
               "What leads to {x}?"),
    "exams and tests": ("How to diagnose {x}?", "How is {x} diagnosed?", "Which tests are done for {x}?",
                        "how do doctors find {x}", "How can {x} be recognised?"),
    "outlook": ("What is the outlook for {x}?", "What is the prognosis of {x}?", "How does {x} end?", "is {x} curable"),
    "susceptibility": ("Who is at risk for {x}?", "Who gets {x}?", "Which people are likely to get {x}?",
                       "risk factors for {x}"),
    "prevention": ("How to prevent {x}?", "How can {x} be prevented?", "what protects against {x}", "Can I avoid {x}?"),
    "complications": ("What are the complications of {x}?", "What can {x} lead to?", "complications of {x}"),
    "stages": ("What are the stages of {x}?", "Which stages does {x} have?"),
    "function": ("What does {x} do?", "What is the function of {x}?", "what is {x} good for", "What is the role of {x}?"),
    "place": ("Where is {x} found?", "Where is {x}?", "where does one find {x}"),
    "use": ("What is {x} used for?", "Why is {x} used?", "when would {x} be used"),
    "parts": ("What does {x} include?", "What belongs to {x}?", "What is {x} made up of?"),
    "time": ("When does {x} occur?", "When does {x} happen?", "how does {x} come about"),
}  # fmt: skip

_MEDQUAD = tuple(
    (re.compile(pattern, re.I), aspect)
    for pattern, aspect in (
        (r"^What is (?:\(are\) )?(.+?) ?\?", "information"),
        (r"^Do you have information about (.+?) ?\??$", "information"),
        (r"^What are the symptoms of (.+?) ?\?", "symptoms"),
        (r"^What are the treatments for (.+?) ?\?", "treatment"),
        (r"^Is (.+?) inherited ?\?", "inheritance"),
        (r"^How many people are affected by (.+?) ?\?", "frequency"),
        (r"^What are the genetic changes related to (.+?) ?\?", "genetic changes"),
        (r"^What causes (.+?) ?\?", "causes"),
        (r"^How to diagnose (.+?) ?\?", "exams and tests"),
        (r"^What is the outlook for (.+?) ?\?", "outlook"),
        (r"^Who is at risk for (.+?) ?\?", "susceptibility"),
        (r"^How to prevent (.+?) ?\?", "prevention"),
        (r"^What are the complications of (.+?) ?\?", "complications"),
        (r"^What are the stages of (.+?) ?\?", "stages"),
    )
)
_CUES = {
    "symptoms": r"symptom|sign|include|may (?:cause|have)|characteri[sz]ed|pain",
    "treatment": r"treat|therap|surg|medic|manage",
    "inheritance": r"inherit|autosomal|X-linked|gene|famil|recessive|dominant",
    "frequency": r"\d|rare|common|prevalence|incidence|estimated|affect",
    "genetic changes": r"gene|mutation|chromosom",
    "causes": r"caus|result|due to|because|mutation",
    "exams and tests": r"diagnos|test|exam|biops|scan",
    "outlook": r"outlook|prognos|surviv|expect|recover|life|most people|depend",
    "susceptibility": r"risk|likely|more common|people|women|men|children",
    "prevention": r"prevent|avoid|protect|vaccin|lower|reduce",
    "complications": r"complication|lead to|cause|damage|result",
    "stages": r"stage",
}

_NP = r"(?P<x>(?:The |A |An )?[A-Z]?[\w'’-]+(?: (?!(?:is|are|was|were|can|may|will|has|have|that|which|who|and|or|in|on|to|by|with|from|for|as|at)\b)[\w'’-]+){0,3}(?: of (?:the )?[\w-]+)?)"
_PROSE = tuple(
    (re.compile(f"^{pattern}"), aspect)
    for pattern, aspect in (
        (r"(?:The )?(?:[Ss]igns and symptoms|[Ss]ymptoms|[Ss]igns|[Cc]linical manifestations|[Mm]anifestations) of (?P<x>[\w' -]{3,50}?) (?:include|are|may include|can include)\b", "symptoms"),
        (r"(?:The )?(?:[Rr]isk factors) (?:of|for) (?P<x>[\w' -]{3,50}?) (?:include|are|may include)\b", "susceptibility"),
        (r"(?:The )?(?:[Cc]omplications) of (?P<x>[\w' -]{3,50}?) (?:include|are|may include)\b", "complications"),
        (r"(?:The )?(?:[Tt]reatment|[Tt]reatments|[Mm]anagement) (?:of|for) (?P<x>[\w' -]{3,50}?) (?:includes?|is|are|involves?|may include)\b", "treatment"),
        (r"(?:The )?(?:[Cc]auses?|most common causes?) of (?P<x>[\w' -]{3,50}?) (?:include|is|are)\b", "causes"),
        (_NP + r" (?:is|are) caused by\b", "causes"),
        (_NP + r" (?:is|are) (?:usually |often )?treated (?:with|by)\b", "treatment"),
        (_NP + r" (?:is|are) (?:usually |often )?diagnosed (?:with|by)\b", "exams and tests"),
        (_NP + r" (?:is|are) (?:located|found) (?:in|on|at|near|behind|between)\b", "place"),
        (_NP + r" (?:is|are) used (?:to|for|in)\b", "use"),
        (_NP + r" (?:is|are) (?:defined as|known as|called|an? |one of the )", "information"),
        (_NP + r" refers? to\b", "information"),
        (_NP + r" (?:occurs?|develops?|happens?) (?:when|if|during|after)\b", "time"),
        (_NP + r" (?:helps?|regulates?|controls?|produces?|secretes?|protects?|carries|carry|transports?|stores?|releases?|prevents?|inhibits?|stimulates?|filters?|absorbs?|breaks? down)\b", "function"),
        (_NP + r" (?:includes?|consists? of|contains?)\b", "parts"),
    )
)  # fmt: skip
_NOT_A_TOPIC = re.compile(
    r"^(?:there|it|this|that|these|those|they|he|she|we|you|i|who|what|nurses?|the nurses?|clients?|the client|patients?|"
    r"the patient|one|people|individuals|examples?|both|each|all|others?|another|if|when|while|because|since|after|"
    r"before|how|why|to|in|for|by|as|with|some|most|many|such|its?|their|his|her|our|your|not|also|other)\b",
    re.I,
)


@dataclass(frozen=True)
class Fact:
    """A sentence that answers one question about one topic, where it stands."""

    topic: str
    aspect: str
    sentence: str
    around: tuple[str, ...]  # the sentences of its passage, the answer's among them
    at: int


@dataclass(frozen=True)
class Exercise:
    """One question with its passages."""

    question: str
    passages: tuple[str, ...]
    answer: str  # what is to be said: the reference with its passage's number, or that the sources do not say
    reference: str  # the sentence alone; empty where no passage holds it
    right: int | None  # index of its passage


def find_facts(texts: Iterable[Example | Prose | Term]) -> list[Fact]:
    """The facts of one source."""
    found: list[Fact] = []
    for text in texts:
        if isinstance(text, Example):
            found += _facts_of_answer(text)
        elif isinstance(text, Term):
            found += _facts_of_term(text)
        else:
            for paragraph in text.paragraphs:
                found += _facts_of_paragraph(paragraph)
    return found


def _facts_of_answer(example: Example) -> list[Fact]:
    for pattern, aspect in _MEDQUAD:
        match = pattern.match(example.question)
        if match:
            break
    else:
        return []
    topic = match.group(1).strip()
    sentences = split_sentences(example.answer)[:10]
    names = {w.lower() for w in re.findall(r"\w{4,}", topic)}
    for at, sentence in enumerate(sentences[:5]):
        if not is_plain_sentence(sentence):
            continue
        own = set(re.findall(r"\w{4,}", sentence.lower()))
        if not names & own:
            continue
        if aspect == "information" or re.search(_CUES[aspect], sentence, re.I):
            return [Fact(topic, aspect, sentence, tuple(sentences), at)]
    return []


def _facts_of_term(term: Term) -> list[Fact]:
    lower = term.meaning[:1].lower() + term.meaning[1:]
    sentence = (
        f"{_capital(term.name)} is {lower}."
        if re.match(r"(?:an?|the|any|one)\b", lower)
        else f"The term {term.name} means {lower}."
    )
    return [Fact(term.name, "information", sentence, (sentence,), 0)]


def _facts_of_paragraph(paragraph: str) -> list[Fact]:
    sentences = split_sentences(paragraph)
    found = []
    for at, sentence in enumerate(sentences):
        sentence = re.sub(r"\s*\([^)]{0,120}\)", "", sentence)
        if not is_plain_sentence(sentence):
            continue
        for pattern, aspect in _PROSE:
            match = pattern.match(sentence)
            if match:
                topic = match.group("x")
                if not _NOT_A_TOPIC.match(topic) and len(topic) > 3:
                    around = tuple(re.sub(r"\s*\([^)]{0,120}\)", "", s) for s in sentences)
                    found.append(Fact(_lower_first(topic), aspect, sentence, around, at))
                break
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower_first(text: str) -> str:
    """`The liver` → `the liver`; `HIV` and `RNA` keep theirs, names such as Crohn do not."""
    first, _, rest = text.partition(" ")
    if first in ("The", "A", "An") or (first[:1].isupper() and first[1:].islower() and len(first) > 3):
        return first.lower() + (" " + rest if rest else "")
    return text


class Exercises:
    """Makes exercises from facts; a generator's state decides each.

    Args:
        sources: the facts of each source with how often it is drawn from.
    """

    def __init__(self, sources: Sequence[tuple[float, Sequence[Fact]]]) -> None:
        kept = [(weight, facts) for weight, facts in sources if facts]
        self._weights = [weight for weight, _ in kept]
        self._facts = [list(facts) for _, facts in kept]
        self._by_topic: dict[str, list[Fact]] = defaultdict(list)
        self._by_word: dict[str, list[Fact]] = defaultdict(list)
        for facts in self._facts:
            for fact in facts:
                self._by_topic[fact.topic.lower()].append(fact)
                for word in _words(fact.topic):
                    self._by_word[word].append(fact)
        self.count = sum(map(len, self._facts))

    def make(self, rng: random.Random) -> Exercise:
        """One exercise, of one passage at least."""
        while not (exercise := self._try(rng)).passages:
            pass
        return exercise

    def _try(self, rng: random.Random) -> Exercise:
        facts = rng.choices(self._facts, self._weights)[0]
        fact = rng.choice(facts)
        shown = rng.choice(PASSAGES)
        answered = rng.random() >= NO_ANSWER
        others = self._distractors(fact, shown - answered, rng)
        passages = [(_passage(f, rng), f.topic) for f in others]
        right = None
        if answered:
            right = rng.randint(0, len(passages))
            passages.insert(right, (_passage(fact, rng), fact.topic))
        question = rng.choice(ASKED[fact.aspect]).format(x=fact.topic)
        texts = [question, fact.sentence, *(p for p, _ in passages)]
        if rng.random() < INVENTED:
            texts = _rename(texts, [fact.topic, *(topic for _, topic in passages)], rng)
        question, sentence, *shown_texts = (_capital(t) if n else t for n, t in enumerate(texts))
        answer = f"{sentence} [{right + 1}]" if right is not None else NOT_IN_SOURCES
        return Exercise(question, tuple(shown_texts), answer, sentence if right is not None else "", right)

    def _distractors(self, fact: Fact, count: int, rng: random.Random) -> list[Fact]:
        found: list[Fact] = []
        taken = {(fact.topic.lower(), fact.aspect)}
        asked = _words(fact.topic)
        for _ in range(8 * count):
            if len(found) == count:
                break
            way = rng.random()
            if way < 0.35:
                pool = self._by_topic[fact.topic.lower()]
            elif way < 0.6:
                pool = self._by_word[rng.choice(sorted(asked))] if asked else []
            else:
                pool = rng.choices(self._facts, self._weights)[0]
            if not pool:
                continue
            other = rng.choice(pool)
            key = (other.topic.lower(), other.aspect)
            same = _words(other.topic) == asked
            if key in taken or fact.sentence in other.around or (same and "information" in (other.aspect, fact.aspect)):
                continue
            taken.add(key)
            found.append(other)
        return found


def _words(topic: str) -> frozenset[str]:
    return frozenset(w for w in re.findall(r"\w{4,}", topic.lower()) if w not in ("syndrome", "disease", "type"))


def _passage(fact: Fact, rng: random.Random) -> str:
    """Sentences in a row around the fact's own, of no more than MOST_WORDS words together."""
    start = end = fact.at
    words = len(fact.sentence.split())
    while True:
        ways = [w for w in (-1, 1) if 0 <= (start - 1 if w < 0 else end + 1) < len(fact.around)]
        if not ways or rng.random() < 0.15:
            break
        way = rng.choice(ways)
        new = fact.around[start - 1 if way < 0 else end + 1]
        words += len(new.split())
        if words > MOST_WORDS:
            break
        start, end = (start - 1, end) if way < 0 else (start, end + 1)
    return " ".join(fact.sentence if n == fact.at else fact.around[n] for n in range(start, end + 1))


_STARTS = ["b", "br", "c", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "k", "l", "m", "n", "p", "pl", "qu", "r", "s", "st", "t", "tr", "v", "w", "x", "z", "bl", "ch", "th", "sp"]
_MIDDLES = ["a", "e", "i", "o", "u", "y", "ae", "ia", "io", "au", "ou", "ei"]
_ENDS = ["itis", "osis", "emia", "oma", "ine", "ol", "ase", "in", "ium", "opathy", "an", "ide", "ax", "or", "us", "is"]


def invent_name(rng: random.Random) -> str:
    """A word that names nothing: two or three syllables and an ending as medicine has them."""
    body = "".join(rng.choice(_STARTS) + rng.choice(_MIDDLES) for _ in range(rng.choice((1, 2, 2, 3))))
    return body + rng.choice(_STARTS)[0] + rng.choice(_ENDS)


def _rename(texts: list[str], topics: Iterable[str], rng: random.Random) -> list[str]:
    """The texts with one invented name for each topic."""
    for topic in sorted({t.lower() for t in topics}, key=len, reverse=True):
        bare = re.sub(r"^(?:the|an?) ", "", topic)
        if len(bare) < 4:
            continue
        name = invent_name(rng)
        pattern = re.compile(rf"\b{re.escape(bare)}\b", re.I)
        if not pattern.search(texts[0]):
            continue
        texts = [pattern.sub(lambda m, n=name: _capital(n) if m.group()[:1].isupper() else n, t) for t in texts]
    return texts


def key_term(exercise: Exercise, often: Counter[str]) -> str:
    """The rarest word of the reference that the question does not hold: what an answer must bring.

    Args:
        often: in how many texts a word occurs.
    """
    asked = set(re.findall(r"\w+", exercise.question.lower()))
    words = [w for w in re.findall(r"[a-z][\w-]{3,}", exercise.reference.lower()) if w not in asked]
    return min(words, key=lambda w: (often[w], w), default="")
