"""TRL's SFTTrainer as it is run here: answer-only loss without padding, sealed checkpoints, no silent NaN.

On CPU the rows of a batch stand behind one another in a single row with positions that start over,
and logits are computed for answer tokens alone; `python -m medassist bench train` measures what that
gains over padded rows and over TRL's defaults. Elsewhere rows are padded and TRL's own fused head
computes the loss. Rows wait on disk until their batch is made. Knows nothing of run folders but the
checkpoints' place.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from medassist import checkpoints
from medassist.errors import TrainingError
from medassist.progress import Checkpoint, Event, Notice, Step
from medassist.prompts import EncodedExample

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1000  # encoded rows in memory before they are written


class NotFiniteError(TrainingError):
    """A loss or gradient was NaN or infinite at `step`."""

    def __init__(self, what: str, step: int) -> None:
        self.step = step
        super().__init__(f"The {what} was not a finite number at step {step}, so the run was ended there.",
                         "Lower the learning rate, or use train.precision=fp32, and start again.")


class TokenRows:
    """Encoded rows in an Arrow file that is mapped, not read: 8 bytes a token on disk, 4 bytes a row in memory.

    Args:
        rows: encoded one by one; no more than a thousand are held.
        path: the file, in an existing folder. It must stay while the rows are used.
    """

    def __init__(self, rows: Iterable[EncodedExample], path: Path) -> None:
        import pyarrow as pa
        from datasets import Dataset

        self.lengths = array("i")  # tokens of each row
        self.trained = self.cut = 0  # tokens; rows
        kind = pa.list_(pa.int32())
        schema = pa.schema({"input_ids": kind, "labels": kind})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for some in _batched(rows, _ROWS_AT_ONCE):
                self.lengths.extend(len(r.input_ids) for r in some)
                self.trained += sum(r.trained_tokens for r in some)
                self.cut += sum(r.cut for r in some)
                stream.write_batch(pa.record_batch([[r.input_ids for r in some], [r.labels for r in some]], schema))
        self.dataset: Dataset | None = Dataset.from_file(str(path)) if self.lengths else None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        """A row as batches take it: input_ids and labels."""
        return self.dataset[place]


def _batched(rows: Iterable[EncodedExample], count: int) -> Iterable[list[EncodedExample]]:
    some = iter(rows)
    return iter(lambda: list(islice(some, count)), [])


def collate_packed(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Examples behind one another in one row: input_ids, labels, position_ids, each (1, sum of lengths)."""
    return {
        "input_ids": torch.tensor([[i for r in rows for i in r["input_ids"]]]),
        "labels": torch.tensor([[i for r in rows for i in r["labels"]]]),
        "position_ids": torch.tensor([[p for r in rows for p in range(len(r["input_ids"]))]]),
    }


def collate_padded(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Examples padded on the right: input_ids, labels, attention_mask, each (rows, longest)."""
    longest = max(len(r["input_ids"]) for r in rows)

    def fill(values: list[int], by: int) -> list[int]:
        return list(values) + [by] * (longest - len(values))

    return {
        "input_ids": torch.tensor([fill(r["input_ids"], pad_id) for r in rows]),
        "labels": torch.tensor([fill(r["labels"], -100) for r in rows]),
        "attention_mask": torch.tensor([fill([1] * len(r["input_ids"]), 0) for r in rows]),
    }


def packed_rows_stay_apart(model: torch.nn.Module, first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two rows (input_ids, labels) in one give the answers' log-probabilities that each gives alone.

    Not every architecture masks packed rows by their positions. A leak moves the mean by 0.1 nats and
    more (measured with the cache on); number formats alone stay under 0.03.
    """
    import inspect

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(base.forward).parameters
    if "logits_to_keep" not in accepted or "position_ids" not in accepted:
        return False
    rows = [first, second]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            together = _answer_losses(model, collate_packed(rows))
            apart = torch.cat([_answer_losses(model, collate_packed([r])) for r in rows])
    finally:
        model.train(was_training)
    return bool((together - apart).abs().mean() < 0.05)


def _answer_losses(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Loss of each answer token of a packed batch, in fp32; shape (answer tokens,)."""
    targets = batch["labels"][0, 1:]
    keep = (targets != -100).nonzero().squeeze(1)
    device = next(model.parameters()).device
    logits = model(input_ids=batch["input_ids"].to(device), position_ids=batch["position_ids"].to(device),
                   use_cache=False, logits_to_keep=keep.to(device)).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), targets[keep].to(device), reduction="none")


class AnswerTrainer(SFTTrainer):
    """SFTTrainer on pre-tokenised rows, with checkpoints sealed under `checkpoints_dir`.

    Args:
        on_event: told of checkpoints and of what could not be saved.
    """

    def __init__(self, *args: Any, checkpoints_dir: Path, on_event: Callable[[Event], None], **kwargs: Any) -> None:
        self._checkpoints_dir = checkpoints_dir
        self._on_event = on_event
        self.tokens_seen = 0  # without padding
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if "attention_mask" in inputs:
            self.tokens_seen += int(inputs["attention_mask"].sum())
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            self.tokens_seen += inputs["input_ids"].numel()
            losses = _answer_losses(model, inputs)
            count = num_items_in_batch if num_items_in_batch is not None else losses.numel()
            loss = losses.sum() / torch.as_tensor(count).clamp(min=1)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes
        value = loss[0] if return_outputs and isinstance(loss, tuple) else loss
        if not torch.isfinite(value):
            raise NotFiniteError("loss", self.state.global_step + 1)
        return loss

    def _save_checkpoint(self, model, trial):
        step = self.state.global_step
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its own random state
            if self.accelerator.is_main_process:
                checkpoints.seal(Path(self.args.output_dir) / f"checkpoint-{step}", self._checkpoints_dir, step)
                self._on_event(Checkpoint(step))
        except (OSError, RuntimeError) as error:
            # RuntimeError: how torch.save and safetensors report a full disk. Training itself is fine.
            log.exception("checkpoint %d", step)
            shutil.rmtree(Path(self.args.output_dir) / f"checkpoint-{step}", ignore_errors=True)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "the file could not be written"
            self._on_event(Notice(f"The checkpoint at step {step} could not be saved ({reason}); the run goes on."))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Left out: the run's own card is written when its figures are known."""


class RunCallback(TrainerCallback):
    """Reports steps, listens for a stop, and refuses gradients that are not finite.

    Args:
        evaluate: called at the end of each epoch but the last, with the step.
        expect_overflow: fp16 scaling meets infinite gradients as a matter of course and skips them.
    """

    def __init__(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool],
                 evaluate: Callable[[int], None], expect_overflow: bool) -> None:
        self._on_event, self._should_stop, self._evaluate = on_event, should_stop, evaluate
        self._expect_overflow = expect_overflow
        self.trainer: AnswerTrainer | None = None
        self.stopped = False
        self.rate = 0.0  # tokens a second, without padding
        self._started = self._first_step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self._expect_overflow:
            return
        for parameter in model.parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise NotFiniteError("gradient", state.global_step + 1)

    def on_step_end(self, args, state, control, **kwargs):
        if self._all_agree(self._should_stop()):
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def _all_agree(self, stop: bool) -> bool:
        """Whether any process was asked to stop: all must leave at the same step."""
        if self.trainer is None or self.trainer.accelerator.num_processes == 1:
            return stop
        accelerator = self.trainer.accelerator
        return bool(accelerator.gather(torch.tensor([int(stop)], device=accelerator.device)).max())

    def on_epoch_end(self, args, state, control, **kwargs):
        if state.global_step < state.max_steps and not self.stopped:
            self._evaluate(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        elapsed = max(time.monotonic() - self._started, 1e-6)
        done = max(state.global_step - self._first_step, 1)
        if self.trainer is not None:  # the other processes have seen about as many
            self.rate = self.trainer.tokens_seen * self.trainer.accelerator.num_processes / elapsed
        grad_norm = logs.get("grad_norm")
        self._on_event(Step(
            step=state.global_step, total_steps=state.max_steps, epoch=round(state.epoch or 0.0, 3),
            loss=float(logs["loss"]), learning_rate=float(logs.get("learning_rate", math.nan)),
            grad_norm=float(grad_norm) if grad_norm is not None else None, tokens_per_s=round(self.rate, 1),
            elapsed_s=round(elapsed, 2), left_s=round(elapsed / done * (state.max_steps - state.global_step), 1)))


def sft_config(output_dir: Path, *, epochs: float, max_steps: int | None, batch_size: int, accumulation: int,
               settings: Any, device: str, dtype: str, checkpointing: bool, total_steps: int,
               save_steps: int) -> SFTConfig:
    """TRL's arguments for a run; `settings` is the TrainConfig. Everything that phones home is off."""
    return SFTConfig(
        output_dir=str(output_dir), num_train_epochs=epochs, max_steps=max_steps or -1,
        per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate, lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_ratio, weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm, seed=settings.seed, data_seed=settings.seed,
        bf16=dtype == "bfloat16", fp16=dtype == "float16", use_cpu=device == "cpu",
        gradient_checkpointing=checkpointing, logging_steps=max(1, total_steps // 300), logging_first_step=True,
        logging_nan_inf_filter=False, save_strategy="steps" if save_steps else "no", save_steps=save_steps or 500,
        report_to="none", push_to_hub=False, disable_tqdm=True, remove_unused_columns=False, max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True}, completion_only_loss=True,
        dataloader_pin_memory=device != "cpu", ddp_find_unused_parameters=False, optim="adamw_torch")
