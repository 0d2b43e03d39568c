"""Ways of training a small model on this machine, as ratios within one run: useful tokens a second.

Each way trains the same rows for the same steps with the same seed. Useful tokens leave padding out. The
first is what notebooks do (padded to the longest allowed, fp32); the last is what medassist does.

    python -m medassist bench train --steps 20
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from medassist import models, prompts
from medassist.config import TrainConfig, build_config
from medassist.data import prepare_data
from medassist.prompts import EncodedExample


@dataclass(frozen=True)
class Way:
    """One way of making batches."""

    name: str
    dtype: str
    packed: bool
    pad_to: int | None = None
    checkpointing: bool = False


WAYS = (Way("padded to max_length, fp32", "float32", False, 256),
        Way("TRL's defaults (checkpointing, bf16 autocast)", "float32", False, None, True),
        Way("padded to the batch's longest, bf16", "bfloat16", False),
        Way("no padding, answer-only head, bf16 (medassist)", "bfloat16", True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of 8 rows for each way (default 20)")
    parser.add_argument("--base", default="mini")
    parser.add_argument("--dataset", default="starter")


def main(args: argparse.Namespace) -> int:
    """Prints each way's useful tokens a second and its ratio to the first."""
    config = build_config(dotted={"base.id": args.base, "datasets": [{"id": args.dataset}]})
    ref = models.resolve_base(args.base)
    tokenizer = models.load_tokenizer(ref)
    encoded = (row for e in prepare_data(config).train for row in prompts.encode_conversation(
        tokenizer, e.question, e.answer, history=e.history, max_length=256))
    rows = list(islice(encoded, 8 * args.steps))
    first = None
    for way in WAYS:
        rate, loss = measure(way, ref, rows, args.steps)
        first = first or rate
        row = {"way": way.name, "tokens_per_s": round(rate, 1), "ratio": round(rate / first, 2), "train_loss": round(loss, 4)}
        print(json.dumps(row) if args.json else f"{row['ratio']:5.2f} ×  {rate:8,.0f} tokens/s  loss {loss:.4f}  {way.name}",
              flush=True)
    return 0


def measure(way: Way, ref: models.BaseRef, rows: Sequence[EncodedExample], steps: int) -> tuple[float, float]:
    """Useful tokens a second over `steps` steps of 8 rows, after one step of warming up; and the mean loss."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, set_seed

    from medassist import sft

    device = models.plan_device(for_training=True).device
    plan = models.DevicePlan(device, way.dtype, "eager" if device == "cpu" else "sdpa", False, ())
    base = models.load_base(ref, plan)
    set_seed(1)
    model = get_peft_model(base.model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    data = Dataset.from_dict({"input_ids": [list(e.input_ids) for e in rows], "labels": [list(e.labels) for e in rows]})
    collate = sft.collate_packed if way.packed else partial(_pad, pad_id=base.tokenizer.pad_token_id, to=way.pad_to)
    rate = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, steps):
            args = sft.sft_config(Path(folder) / "out", epochs=100, max_steps=count, batch_size=8, accumulation=1,
                                  settings=TrainConfig(), device=plan.device,
                                  dtype="bfloat16" if way.checkpointing else way.dtype, checkpointing=way.checkpointing,
                                  total_steps=count, save_steps=0)
            trainer = sft.AnswerTrainer(model=model, processing_class=base.tokenizer, data_collator=collate, args=args,
                                        train_dataset=data, checkpoints_dir=Path(folder), on_event=lambda event: None)
            trainer.remove_callback(PrinterCallback)
            started = time.perf_counter()
            loss = trainer.train().training_loss
            rate = trainer.tokens_seen / (time.perf_counter() - started)
    return rate, loss


def _pad(rows: Sequence[dict[str, Any]], pad_id: int, to: int | None) -> dict[str, Any]:
    """A padded batch, to the longest row or to a fixed length."""
    import torch

    from medassist import sft

    batch = sft.collate_padded(rows, pad_id)
    extra = (to or 0) - batch["input_ids"].shape[1]
    if extra <= 0:
        return batch
    fill = {"input_ids": pad_id, "labels": -100, "attention_mask": 0}
    return {k: torch.nn.functional.pad(v, (0, extra), value=fill[k]) for k, v in batch.items()}
