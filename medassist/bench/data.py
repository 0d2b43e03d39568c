"""Preparing a dataset: rows a second and peak memory, at 1,000 to 1,000,000 rows.

    python -m medassist bench data --rows 1000 10000 100000

Rows are made up: questions and answers of 5 to 90 words, of which 2 % come again word for word and 1 % nearly so.
Each size is prepared in a process of its own, from a JSONL file, with the default cleaning and nothing kept from
before; the second preparation, from the cache, is timed too. Other data can be given by path.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from medassist.errors import MedAssistError
from medassist.paths import PROJECT

SIZES = (1_000, 10_000, 100_000, 1_000_000)
_ORGANS = ["heart", "liver", "kidney", "spleen", "lung", "brain", "stomach", "pancreas", "bladder", "skin", "colon", "eye", "ear", "nerve", "vein", "artery", "muscle", "bone", "joint", "tendon", "marrow", "thyroid", "ovary", "testis", "prostate", "uterus", "retina", "cornea", "lens", "tongue", "tonsil", "larynx"]
_WORDS = ["pain", "fever", "swelling", "loss", "growth", "infection", "tumour", "bleeding", "pressure", "stone", "failure", "injury", "weakness", "rash", "cough", "itch", "ulcer", "cyst", "clot", "spasm", "scar", "block", "leak", "burn", "shock", "tear", "stiffness", "numbness", "early", "late", "mild", "severe", "common", "rare", "chronic", "sudden", "usual", "treated", "seen", "found", "helped", "measured", "tested", "known", "called", "given", "taken", "used"]

# Runs in the measured process: prints rows, seconds, peak memory in bytes, and what the second time took. Own memory is
# what is resident without mapped files: pages of the cache come and go as the system likes.
_MEASURE = """
import json, sys, threading, time
import psutil
from medassist.config import build_config
from medassist.data import prepare_data
config = build_config({"datasets": [{"id": sys.argv[1]}]})
process, peak = psutil.Process(), {"own": 0, "whole": 0}
def watch():
    while True:
        info = process.memory_info()
        peak["own"] = max(peak["own"], info.rss - getattr(info, "shared", 0))
        peak["whole"] = max(peak["whole"], info.rss)
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
started = time.monotonic()
prepared = prepare_data(config)
first = time.monotonic() - started
report = prepared.report
started = time.monotonic()
prepare_data(config)
print(json.dumps({"rows": report.sources[0].rows_read, "used": sum(report.splits.values()), "seconds": round(first, 2),
                  "again_s": round(time.monotonic() - started, 2), "peak_bytes": peak["own"], "peak_resident_bytes": peak["whole"], "dropped": report.dropped}))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES), metavar="N", help="sizes of the made-up data")
    parser.add_argument("--dataset", action="append", default=[], metavar="PATH", help="measure these files instead")


def main(args: argparse.Namespace) -> int:
    """Prints a line for each size, and how memory and time grow from the smallest to the largest."""
    if any(n < 1 for n in args.rows):
        raise MedAssistError("--rows takes numbers from 1 on.", "Write for example --rows 1000 10000.")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="medassist-bench-") as work:
        places = args.dataset or [_made(Path(work), n) for n in args.rows]
        for place in places:
            row = measure(str(place), Path(work))
            found.append(row)
            print(json.dumps(row) if args.json else _line(row), flush=True)
    growth = _growth(found)
    if growth and not args.dataset:
        print(json.dumps(growth) if args.json else
              f"from {growth['from_rows']:,} to {growth['to_rows']:,} rows: {growth['bytes_a_row']:,.0f} bytes of memory a row "
              f"more, time a row × {growth['time_a_row_ratio']:.2f}")
    return 0


def measure(place: str, work: Path) -> dict[str, Any]:
    """Prepares one dataset in a new process with an empty cache.

    Raises:
        MedAssistError: it could not be prepared.
    """
    with tempfile.TemporaryDirectory(dir=work) as cache:
        done = subprocess.run([sys.executable, "-c", _MEASURE, str(Path(place).resolve())], cwd=PROJECT, capture_output=True,
                              text=True, check=False, env={**os.environ, "MEDASSIST_CACHE": cache,
                                                           "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"})
        if done.returncode:
            raise MedAssistError(f"{Path(place).name} could not be prepared: {done.stderr.strip().splitlines()[-1]:.300}")
        disk = sum(f.stat().st_size for f in Path(cache).rglob("*") if f.is_file())
    row = json.loads(done.stdout.splitlines()[-1])
    return {"dataset": Path(place).name, **row, "rows_a_second": round(row["rows"] / max(row["seconds"], 1e-3)),
            "disk_bytes": disk}


def _line(row: dict[str, Any]) -> str:
    return (f"{row['dataset']:<24} {row['rows']:>9,} rows {row['seconds']:>8.1f} s {row['rows_a_second']:>7,} rows/s  "
            f"peak {row['peak_bytes'] / 1e6:>6,.0f} MB ({row['peak_resident_bytes'] / 1e6:,.0f} with mapped files)  on disk {row['disk_bytes'] / 1e6:>6,.0f} MB  again {row['again_s']:.1f} s")


def _growth(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """From the last size but one to the last: below 20,000 rows the sample that is held grows with the data."""
    if len(rows) < 2 or rows[-1]["rows"] <= rows[-2]["rows"]:
        return None
    first, last = rows[-2], rows[-1]
    more = last["rows"] - first["rows"]
    return {"from_rows": first["rows"], "to_rows": last["rows"],
            "bytes_a_row": round((last["peak_bytes"] - first["peak_bytes"]) / more, 1),
            "time_a_row_ratio": round((last["seconds"] / last["rows"]) / (first["seconds"] / first["rows"]), 3)}


def _made(folder: Path, count: int) -> Path:
    """A JSONL file of `count` rows, the same every time."""
    rng = random.Random(count)
    path = folder / f"made-{count}.jsonl"
    last: list[tuple[str, str]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            luck = rng.random()
            if last and luck < 0.02:
                question, answer = rng.choice(last)
            elif last and luck < 0.03:
                question, answer = rng.choice(last)
                question, answer = question.replace("What is", "What is the"), answer + " as said"
            else:
                question = f"What is the {rng.choice(_WORDS)} {rng.choice(_WORDS)} of the {rng.choice(_ORGANS)} in case {number}?"
                answer = " ".join(rng.choice(_ORGANS if rng.random() < 0.2 else _WORDS)
                                  for _ in range(rng.randint(5, 90))).capitalize() + "."
                last = [*last[-99:], (question, answer)]
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")
    return path
