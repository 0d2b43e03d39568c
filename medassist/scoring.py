"""Log-likelihood of answers under a model: nats over the answers' tokens, their ends of turn included.

Rows are sorted by length and padded on the right to their batch's longest; logits are computed only
where some row of the batch has an answer token. Knows nothing about adapters: who calls it has chosen
what the model is, or hands over the switch of `generation.Engine.scoring_model`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medassist.prompts import EncodedExample

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

RESAMPLES = 2000  # of a bootstrap


@dataclass(frozen=True)
class Score:
    """One example's negative log-likelihood over its answers (sum, nats) and their number of tokens."""

    nll: float
    tokens: int


def perplexity(scores: Sequence[Score]) -> float:
    """exp of the mean nats a token over all answers together; infinite where it overflows, nan for none."""
    tokens = sum(s.tokens for s in scores)
    if not tokens:
        return math.nan
    mean = sum(s.nll for s in scores) / tokens
    return math.exp(mean) if mean < 700 else math.inf


def mean_nll(scores: Sequence[Score]) -> float:
    """Mean nats a token over all answers together."""
    tokens = sum(s.tokens for s in scores)
    return sum(s.nll for s in scores) / tokens if tokens else math.nan


def bootstrap_draws(items: int) -> np.ndarray:
    """Which items each resample of a bootstrap holds: indices, (RESAMPLES, items), with replacement, fixed seed."""
    import numpy as np

    return np.random.default_rng(42).integers(0, items, size=(RESAMPLES, items))


def score_both(use: Callable[[bool], AbstractContextManager[Any]], examples: Sequence[EncodedExample], *,
               on_progress: Callable[[int], None], should_stop: Callable[[], bool]) -> tuple[list[Score], list[Score]]:
    """Scores the same answers under the base and under the fine-tuned model.

    Args:
        use: the switch of `generation.Engine.scoring_model`: `with use(tuned) as model`.
        on_progress: told the number of scores made, of twice as many as there are examples.

    Returns:
        The base's scores and the fine-tuned model's, in the order given; two empty lists where it was stopped.
    """
    results = []
    for tuned in (False, True):
        with use(tuned) as model:
            results.append(score_answers(model, examples, should_stop=should_stop,
                                         on_progress=lambda n, t=tuned: on_progress(n + t * len(examples))))
    base, fine_tuned = results
    if not len(base) == len(fine_tuned) == len(examples):  # stopped half-way: no figure
        return [], []
    return base, fine_tuned


def score_answers(model: PreTrainedModel, examples: Sequence[EncodedExample], *, tokens_per_batch: int = 2048,
                  on_progress: Callable[[int], None] | None = None,
                  should_stop: Callable[[], bool] | None = None) -> list[Score]:
    """Scores each example's answer (or answers, together) given what stands before, in the order given.

    Args:
        tokens_per_batch: rows × longest row, at most; one row may exceed it.
        on_progress: told the number of examples done, after each batch.
        should_stop: asked before each batch; the rest is then left out of the result.
    """
    import torch

    scores: list[Score | None] = [None] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    done = 0
    with torch.inference_mode():
        for batch in _batches(order, examples, tokens_per_batch):
            if should_stop is not None and should_stop():
                break
            for index, score in zip(batch, _score_batch(model, [examples[i] for i in batch])):
                scores[index] = score
            done += len(batch)
            if on_progress is not None:
                on_progress(done)
    return [s for s in scores if s is not None]


def _batches(order: list[int], examples: Sequence[EncodedExample], limit: int) -> list[list[int]]:
    batches: list[list[int]] = []
    for index in order:  # lengths rise, so the newest is the longest of its batch
        length = len(examples[index].input_ids)
        if batches and (len(batches[-1]) + 1) * length <= limit:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _score_batch(model: PreTrainedModel, rows: Sequence[EncodedExample]) -> list[Score]:
    import torch

    longest = max(len(r.input_ids) for r in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row.input_ids)
        ids[i, :n] = torch.tensor(row.input_ids)
        labels[i, :n] = torch.tensor(row.labels)
        mask[i, :n] = 1
    targets = labels[:, 1:]  # what position t has to predict
    keep = (targets != -100).any(dim=0).nonzero().squeeze(1)
    device = model.device
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False,
                   logits_to_keep=keep.to(device)).logits.float()  # rows × kept × vocabulary
    targets = targets[:, keep].to(device)
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none")
    counts = (targets != -100).sum(dim=1)
    return [Score(float(n), int(c)) for n, c in zip(losses.double().sum(dim=1), counts)]
