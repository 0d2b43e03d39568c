"""`python -m medassist maintain …`: how the files that ship with medassist were made."""

from __future__ import annotations

import argparse
import importlib

TOPICS = {
    "mini": "the embedded base model, from text files",
    "measure": "the figures of a model of that kind",
    "vocab": "the gate's vocabulary, from labelled questions",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A sub-command for each kind of file."""
    topics = parser.add_subparsers(dest="topic", required=True, metavar="TOPIC")
    for name, text in TOPICS.items():
        topic = topics.add_parser(name, help=text, description=text)
        importlib.import_module(f"medassist.maintain.{name}").add_arguments(topic)


def main(args: argparse.Namespace) -> int:
    """Makes one kind of file."""
    return importlib.import_module(f"medassist.maintain.{args.topic}").main(args)
