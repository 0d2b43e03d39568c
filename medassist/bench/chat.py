"""Answering with one set of weights: tokens a second, first token, and two answers in one batch against two in turn.

    python -m medassist bench chat --adapter starter
"""

from __future__ import annotations

import argparse
import json
import time

from medassist import adapters, prompts
from medassist.generation import Ask, Engine, Sampling

QUESTION = "What does insulin do?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--adapter", default="starter")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)


def main(args: argparse.Namespace) -> int:
    """Prints seconds for base alone, adapter alone, both in turn and both in one batch, medians of the rounds."""
    engine = Engine(adapters.adapters_root())
    # Sampling at a high temperature, so that no answer ends early and all are of one length.
    sampling = Sampling(max_new_tokens=args.tokens, temperature=1.9, top_k=0, top_p=1.0)
    ways = {"base": [[None]], "adapter": [[args.adapter]], "in turn": [[None], [args.adapter]],
            "one batch": [[None, args.adapter]]}
    engine.warm_up(args.adapter)
    times: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, int] = {}
    first: list[float] = []
    for _ in range(max(1, args.rounds)):
        for name, calls in ways.items():
            started, made = time.perf_counter(), 0
            for names in calls:
                answers = engine.answer([Ask(prompts.build_messages(QUESTION), n) for n in names], sampling)
                made += sum(a.tokens for a in answers)
                first.append(answers[0].first_token_s or 0.0)
            times[name].append(time.perf_counter() - started)
            tokens[name] = made
    medians = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    for name, seconds in medians.items():
        row = {"way": name, "seconds": round(seconds, 3), "tokens_per_s": round(tokens[name] / seconds, 1),
               "ratio_to_base": round(seconds / medians["base"], 2)}
        print(json.dumps(row) if args.json else
              f"{name:<10} {seconds:6.2f} s  {row['tokens_per_s']:7.1f} tokens/s  {row['ratio_to_base']:.2f} × base alone")
    median_first = sorted(first)[len(first) // 2]
    print(json.dumps({"first_token_s": round(median_first, 4)}) if args.json else f"first token: {median_first * 1000:.0f} ms")
    return 0
