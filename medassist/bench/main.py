"""`python -m medassist bench …`: one file for each thing measured; figures are ratios within one run."""

from __future__ import annotations

import argparse
import importlib

TOPICS = {"data": "rows a second and peak memory of preparing data", "gate": "share decided right and time per question", "start": "seconds until the page answers",
          "train": "ways of training a small model, as ratios", "chat": "tokens a second and first token"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A sub-command for each topic."""
    topics = parser.add_subparsers(dest="topic", required=True, metavar="TOPIC")
    for name, text in TOPICS.items():
        topic = topics.add_parser(name, help=text, description=text)
        importlib.import_module(f"medassist.bench.{name}").add_arguments(topic)


def main(args: argparse.Namespace) -> int:
    """Runs one topic."""
    return importlib.import_module(f"medassist.bench.{args.topic}").main(args)
