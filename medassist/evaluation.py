"""Did training help? Base and fine-tuned on the same held-out questions, with an interval and a verdict.

Loss falls on the known answers' tokens, of a conversation on those of its last answer; ROUGE-L compares
answers that both models write. The verdict rests on the paired difference in nats a token and says no
where its 95 % interval holds zero.
Knows nothing of pages or processes.

    python -m medassist evaluate --adapter starter
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from medassist import adapters, models, prompts
from medassist.data import Example, PreparedData
from medassist.errors import DataError
from medassist.generation import Answer, Ask, Engine, Sampling
from medassist.progress import Evaluating, Event
from medassist.scoring import RESAMPLES, Score, bootstrap_draws, mean_nll, perplexity, score_both

MIN_ITEMS = 20  # below this nothing is claimed
TIE_NATS = 0.01  # per-token difference under which an item counts as tied
_GENERATE_TOGETHER = 4  # questions a batch, twice the rows


@dataclass(frozen=True)
class Budget:
    """How many held-out questions are scored, and on how many both models write an answer."""

    scored: int
    answered: int


BUDGETS = {"quick": Budget(64, 16), "full": Budget(2000, 200)}
GREEDY = Sampling(max_new_tokens=128, temperature=0.0)


@dataclass(frozen=True)
class Item:
    """One held-out question under both models; nll in nats a token of the reference answer."""

    question: str
    reference: str
    tokens: int
    base_nll: float
    tuned_nll: float
    base_answer: str | None = None
    tuned_answer: str | None = None
    base_rouge_l: float | None = None
    tuned_rouge_l: float | None = None


def held_out(prepared: PreparedData, split: str = "test") -> tuple[Sequence[Example], str]:
    """The held-out examples and the name of the split they are from: test, or eval where there is no test.

    Raises:
        DataError: the split is empty.
    """
    rows, used = getattr(prepared, split), split
    if not rows and split == "test":
        rows, used = prepared.eval, "eval"
    if not rows:
        raise DataError(f"The dataset has no {split} split to measure on.", "Set data.test_size to 50 or more.")
    return rows, used


def evaluate_run(engine: Engine, run: adapters.RunInfo, prepared: PreparedData, *, budget: Budget,
                 split: str = "test", on_event: Callable[[Event], None] = lambda event: None,
                 should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Measures base and fine-tuned on a held-out split.

    Returns:
        What `evaluation.json` holds: verdict, metrics with intervals, settings, and a row per item.
    """
    if run.config is None:
        raise DataError(f"The run '{run.name}' has no readable run.yaml.", "Train it again.")
    started = time.monotonic()
    all_rows, used = held_out(prepared, split)
    rows = list(islice(all_rows, budget.scored))
    kept, base, tuned = _score_both(engine, run, rows, on_event, should_stop)
    count = min(budget.answered, len(kept))
    answers = _answer_both(engine, run, kept[:count], on_event, should_stop)
    items = [_item(e, b, t, answers[i] if i < len(answers) else None)
             for i, (e, b, t) in enumerate(zip(kept, base, tuned))]
    metrics = summarise(base, tuned) | _rouge_summary(items)
    return {
        "verdict": verdict(metrics), "better": metrics["items"] >= MIN_ITEMS and metrics["difference_high"] < 0,
        "metrics": metrics, "split": used, "dataset_sha256": prepared.sha256, "left_out": len(rows) - len(kept),
        "settings": {"generation": asdict(GREEDY), "max_length": run.config.data.max_length, "resamples": RESAMPLES},
        "elapsed_s": round(time.monotonic() - started, 2), "items": [asdict(i) for i in items],
    }


def _score_both(engine: Engine, run: adapters.RunInfo, rows: Sequence[Example], on_event: Callable[[Event], None],
                should_stop: Callable[[], bool]) -> tuple[list[Example], list[Score], list[Score]]:
    data = run.config.data
    with engine.scoring_model(run.name) as (loaded, use):
        longest = min(data.max_length, models.context_length(loaded.model))
        encoded = [prompts.encode_example(
            loaded.tokenizer, e.question, e.answer, history=e.history, max_length=longest,
            system_prompt=data.system_prompt, prompt_format=data.prompt_format) for e in rows]
        kept = [(e, x) for e, x in zip(rows, encoded) if x is not None]
        base, tuned = score_both(
            use, [x for _, x in kept], should_stop=should_stop,
            on_progress=lambda n: on_event(Evaluating(n, 2 * len(kept), "known answers")))
    return [e for e, _ in kept[:len(base)]], base, tuned


def messages_of(example: Example, system_prompt: str | None = None) -> list[dict[str, str]]:
    """What chat would be asked: the example's question behind what went before it."""
    return prompts.build_messages(example.question, system_prompt, prompts.history_messages(example.history))


def _answer_both(engine: Engine, run: adapters.RunInfo, rows: Sequence[Example], on_event: Callable[[Event], None],
                 should_stop: Callable[[], bool]) -> list[tuple[Answer, Answer]]:
    """Greedy answers of base and fine-tuned, several questions a batch."""
    data = run.config.data
    pairs: list[tuple[Answer, Answer]] = []
    for start in range(0, len(rows), _GENERATE_TOGETHER):
        if should_stop():
            break
        asks = [Ask(messages_of(e, data.system_prompt), adapter, data.prompt_format)
                for e in rows[start:start + _GENERATE_TOGETHER] for adapter in (None, run.name)]
        answers = engine.answer(asks, GREEDY)
        pairs += list(zip(answers[::2], answers[1::2]))
        on_event(Evaluating(len(pairs), len(rows), "written answers"))
    return pairs


def _item(example: Example, base: Score, tuned: Score, answers: tuple[Answer, Answer] | None) -> Item:
    values: dict[str, Any] = {}
    if answers is not None:
        values = {"base_answer": answers[0].text, "tuned_answer": answers[1].text,
                  "base_rouge_l": rouge_l(example.answer, answers[0].text),
                  "tuned_rouge_l": rouge_l(example.answer, answers[1].text)}
    return Item(example.question, example.answer, base.tokens, round(base.nll / base.tokens, 5),
                round(tuned.nll / tuned.tokens, 5), **values)


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L F1 of the `rouge-score` library, without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    return round(RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure, 4)


def summarise(base: Sequence[Score], tuned: Sequence[Score]) -> dict[str, Any]:
    """Perplexities, the paired difference in nats a token with a bootstrap interval, and items won.

    The bootstrap draws items with replacement (percentile interval, fixed seed); each draw's means
    weigh tokens alike, as perplexity does.
    """
    import numpy as np

    n = len(base)
    if not n:
        return {"items": 0, "tokens": 0, "won": 0, "tied": 0, "lost": 0}  # figures of nothing would not be JSON
    b, t = np.array([s.nll for s in base]), np.array([s.nll for s in tuned])
    tokens = np.array([s.tokens for s in base], dtype=float)
    draws = bootstrap_draws(n)
    weights = tokens[draws].sum(axis=1)
    gaps = (t - b)[draws].sum(axis=1) / weights
    tuned_ppl = np.exp(t[draws].sum(axis=1) / weights)
    each = (t - b) / tokens
    low, high = np.percentile(gaps, [2.5, 97.5])
    return {
        "items": n, "tokens": int(tokens.sum()),
        "base_perplexity": round(perplexity(base), 3), "tuned_perplexity": round(perplexity(tuned), 3),
        "tuned_perplexity_low": round(float(np.percentile(tuned_ppl, 2.5)), 3),
        "tuned_perplexity_high": round(float(np.percentile(tuned_ppl, 97.5)), 3),
        "difference": round(mean_nll(tuned) - mean_nll(base), 5),
        "difference_low": round(float(low), 5), "difference_high": round(float(high), 5),
        "won": int((each < -TIE_NATS).sum()), "tied": int((abs(each) <= TIE_NATS).sum()),
        "lost": int((each > TIE_NATS).sum()),
    }


def _rouge_summary(items: Sequence[Item]) -> dict[str, Any]:
    written = [i for i in items if i.base_rouge_l is not None and i.tuned_rouge_l is not None]
    if not written:
        return {"answered": 0}
    return {"answered": len(written),
            "base_rouge_l": round(sum(i.base_rouge_l or 0 for i in written) / len(written), 4),
            "tuned_rouge_l": round(sum(i.tuned_rouge_l or 0 for i in written) / len(written), 4)}


def verdict(metrics: dict[str, Any]) -> str:
    """One sentence that says what can be said, and no more."""
    n = metrics["items"]
    if n < MIN_ITEMS:
        return f"Too few held-out questions for a claim: {n}, at least {MIN_ITEMS} are needed."
    figures = (f"perplexity {metrics['base_perplexity']:.1f} → {metrics['tuned_perplexity']:.1f} "
               f"(95 % interval {metrics['tuned_perplexity_low']:.1f} to {metrics['tuned_perplexity_high']:.1f})")
    if metrics["difference_high"] < 0:
        return f"Better than the base on {n} held-out questions: {figures}."
    if metrics["difference_low"] > 0:
        return f"Worse than the base on {n} held-out questions: {figures}."
    return f"No measurable difference on {n} held-out questions: {figures}."
