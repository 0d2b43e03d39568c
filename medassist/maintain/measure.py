"""Measures a model of the embedded kind: what its card says of it.

    python -m medassist maintain measure --model DIR --data DIR [--config FILE] [--flashcards FILE] [--json]

Perplexity on answers that it has not seen; whether what it writes of itself ends, loops, and stays with medicine; whether
it reads: answers from given passages (`prompts.render_grounded`), with and without them; and its speed. Held-out texts
are those of the training configuration. It knows nothing of how the model was trained.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medassist import models, prompts
from medassist.catalog import MINI_DIR
from medassist.config import DatasetConfig, RunConfig
from medassist.data import Example, prepare_data
from medassist.gate import Gate
from medassist.generation import pad_left
from medassist.maintain.corpus import Prose, Term, read_source
from medassist.maintain.mini import CONFIG, load_config
from medassist.maintain.reading import Exercise, Exercises, find_facts, key_term
from medassist.scoring import perplexity, score_answers

QUESTIONS, EXERCISES = 200, 200
MOST_TOKENS = 160
LOOP, LOOPS = 4, 3  # an answer loops where one run of 4 words stands in it three times
DRAWN = 0.5  # share of an answer's own words that must stand in a passage for it to be drawn from there
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1}


def loops(text: str) -> bool:
    """Whether some run of four words stands in a text three times or more."""
    words = re.findall(r"\w+", text.lower())
    runs = Counter(zip(*(words[n:] for n in range(LOOP)), strict=False))
    return max(runs.values(), default=0) >= LOOPS


def own_words(text: str, question: str = "") -> set[str]:
    """The words of four letters and more that the question does not hold."""
    return set(re.findall(r"[^\W\d_]{4,}", text.lower())) - set(re.findall(r"[^\W\d_]{4,}", question.lower()))


def drawn_from(answer: str, exercise: Exercise) -> int | None:
    """The passage that an answer draws on most: of its own words at least half stand there; None for none."""
    words = own_words(re.sub(r"\[\d+\]", "", answer), exercise.question)
    if not words:
        return None
    shares = [len(words & own_words(p)) / len(words) for p in exercise.passages]
    best = max(range(len(shares)), key=shares.__getitem__, default=None)
    return best if best is not None and shares[best] >= DRAWN else None


def refuses(answer: str) -> bool:
    """Whether an answer says that the passages do not hold it."""
    return answer.lower().startswith(prompts.NOT_IN_SOURCES.lower().rstrip("."))


class Model:
    """A loaded model with the few things asked of it."""

    def __init__(self, folder: Path) -> None:
        ref = models.BaseRef(folder.name, str(folder), None, True)
        self.loaded = models.load_base(ref, models.plan_device("auto", for_training=False))
        self.tokenizer, self.model = self.loaded.tokenizer, self.loaded.model

    def answer_all(self, questions: Sequence[str], *, greedy: bool, together: int = 16) -> list[tuple[str, bool]]:
        """Each answer and whether it ended by itself."""
        import torch

        stops = prompts.stop_token_ids(self.tokenizer, self.model.generation_config)
        found: list[tuple[str, bool]] = [("", False)] * len(questions)
        order = sorted(range(len(questions)), key=lambda n: len(questions[n]))
        torch.manual_seed(42)
        for at in range(0, len(order), together):
            part = order[at : at + together]
            rows = [prompts.encode_prompt(self.tokenizer, prompts.build_messages(questions[n])) for n in part]
            ids, mask = pad_left(rows, self.tokenizer.pad_token_id, self.model.device)
            with torch.inference_mode():
                made = self.model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=MOST_TOKENS,
                    eos_token_id=stops,
                    pad_token_id=self.tokenizer.pad_token_id,
                    **({"do_sample": False} if greedy else SAMPLING),
                )
            for n, row in zip(part, made[:, ids.shape[1] :].tolist(), strict=True):
                ended = any(token in stops for token in row)
                found[n] = (self.tokenizer.decode(row, skip_special_tokens=True).strip(), ended)
        return found

    def perplexity_of(self, examples: Sequence[Example], max_length: int = 512) -> dict[str, float]:
        """Perplexity of the answers (in nats: exp of the mean over tokens), and how many tokens that are."""
        encoded = [
            e for x in examples if (e := prompts.encode_example(self.tokenizer, x.question, x.answer, max_length=max_length))
        ]
        scores = score_answers(self.model, encoded)
        return {"perplexity": round(perplexity(scores), 2), "answers": len(scores), "tokens": sum(s.tokens for s in scores)}

    def tokens_per_s(self) -> float:
        """Greedy tokens a second of one answer of 128 tokens, the best of three."""
        import torch

        ids = torch.tensor([prompts.encode_prompt(self.tokenizer, prompts.build_messages("What is asthma?"))])
        best = 0.0
        for _ in range(3):
            started = time.perf_counter()
            with torch.inference_mode():
                self.model.generate(ids.to(self.model.device), min_new_tokens=128, max_new_tokens=128, do_sample=False,
                                    pad_token_id=self.tokenizer.pad_token_id)  # fmt: skip
            best = max(best, 128 / (time.perf_counter() - started))
        return round(best, 1)


def measure_writing(model: Model, questions: Sequence[str]) -> dict[str, Any]:
    """Sampled answers: the share that ends, does not loop, and is medical by the gate's score."""
    gate = Gate.load()
    answers = model.answer_all(questions, greedy=False)
    words = [len(text.split()) for text, _ in answers]
    return {
        "questions": len(answers),
        "ends": share(ended for _, ended in answers),
        "no_loop": share(not loops(text) for text, _ in answers),
        "on_topic": share(gate.check(text[:1000]).score >= gate.threshold for text, _ in answers),
        "words": round(sum(words) / max(1, len(words)), 1),
    }


def measure_reading(model: Model, exercises: Sequence[Exercise], often: Counter[str]) -> dict[str, Any]:
    """Greedy answers to exercises: drawn from the right passage, with the key term, with the right number; or refused."""
    asked = [prompts.render_grounded(x.question, x.passages) for x in exercises]
    answers = [text for text, _ in model.answer_all(asked, greedy=True)]
    bare = [text for text, _ in model.answer_all([x.question for x in exercises], greedy=True)]
    held = [(x, a, b) for x, a, b in zip(exercises, answers, bare, strict=True) if x.right is not None]
    none = [a for x, a in zip(exercises, answers, strict=True) if x.right is None]

    def has_key(text: str, x: Exercise) -> bool:
        return key_term(x, often) in re.findall(r"[a-z][\w-]{3,}", text.lower())

    return {
        "answerable": len(held),
        "right_passage": share(drawn_from(a, x) == x.right for x, a, _ in held),
        "a_distractor": share(drawn_from(a, x) not in (x.right, None) for x, a, _ in held),
        "right_number": share(a.endswith(f"[{x.right + 1}]") for x, a, _ in held),
        "key_term": share(has_key(a, x) for x, a, _ in held),
        "key_term_without_passages": share(has_key(b, x) for x, _, b in held),
        "refused_wrongly": share(refuses(a) for _, a, _ in held),
        "unanswerable": len(none),
        "refused_rightly": share(map(refuses, none)),
    }


def share(values: Any) -> float:
    """The mean of truth values, to three digits; nan for none."""
    listed = list(values)
    return round(sum(listed) / len(listed), 3) if listed else float("nan")


def measure(model_dir: Path, data: Path, config_file: Path, flashcards: str) -> dict[str, Any]:
    """All figures of one model."""
    config = load_config(config_file)
    texts = [read_source(data, s, config.seed) for s in config.sources if s.held_out]
    rng = random.Random(7)
    examples = [e for t in texts for e in t.held_out if isinstance(e, Example)]
    maker = Exercises([(t.source.weight, find_facts(t.held_out)) for t in texts if t.source.reading])
    exercises = [e for _ in range(20 * EXERCISES) if len((e := maker.make(rng)).passages) == 3][:EXERCISES]
    often = Counter(w for t in texts for x in t.train for w in set(re.findall(r"[a-z][\w-]{3,}", _text_of(x).lower())))
    model = Model(model_dir)
    starter = prepare_data(RunConfig())
    cards = _flashcards(data, flashcards) if flashcards else []
    asked = [e.question for e in rng.sample(examples, min(QUESTIONS // 2, len(examples)))]
    asked += [e.question for e in rng.sample(cards or examples, min(QUESTIONS // 2, len(cards or examples)))]
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "held_out_topics": model.perplexity_of(examples),
        "starter_test": model.perplexity_of(list(starter.test), 256),
    }
    if cards:
        found["flashcards_eval"] = model.perplexity_of(cards, 256)
    found["writing"] = measure_writing(model, asked)
    found["reading"] = measure_reading(model, exercises, often)
    found["tokens_per_s"] = model.tokens_per_s()
    return found


def _flashcards(data: Path, path: str) -> list[Example]:
    prepared = prepare_data(RunConfig(datasets=(DatasetConfig(id=str(data / path)),)))
    return list(prepared.test) or list(prepared.eval)


def _text_of(text: Example | Prose | Term) -> str:
    if isinstance(text, Example):
        return text.answer
    return text.meaning if isinstance(text, Term) else " ".join(text.paragraphs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and where the texts lie."""
    parser.add_argument("--model", type=Path, default=MINI_DIR, metavar="DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the texts")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the training's, for what is held out")
    parser.add_argument("--flashcards", default="qa/medical_flashcards_2400.parquet", help="below --data; empty for none")
    parser.add_argument("--json", action="store_true")


def main(args: argparse.Namespace) -> int:
    """Prints the figures."""
    found = measure(args.model, args.data, args.config, args.flashcards)
    print(json.dumps(found) if args.json else json.dumps(found, indent=1))
    return 0
