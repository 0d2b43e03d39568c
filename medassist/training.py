"""One training: prepared data in, a checked LoRA adapter in the run folder out.

`train` tells what it does through events and returns how it ended as a value. It runs in a process
of its own (see `jobs`); it knows nothing about pages, gates or chat.

    python -m medassist train --recipe quick
"""

from __future__ import annotations

import csv
import gc
import heapq
import json
import logging
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from medassist import adapters, catalog, checkpoints, models, prompts
from medassist.chat_formats import check_template
from medassist.config import ATTENTION_AND_MLP, RunConfig, TrainConfig, load_config, to_yaml
from medassist.data import Example, PreparedData, prepare_data
from medassist.errors import DataError, MedAssistError, TrainingError
from medassist.progress import Data, Eval, Event, Notice, Phase, Plan
from medassist.prompts import EncodedExample
from medassist.scoring import mean_nll, perplexity, score_answers

if TYPE_CHECKING:
    from peft import PeftModel

    from medassist.sft import TokenRows

log = logging.getLogger(__name__)

EVAL_EXAMPLES = 64  # of the eval split, scored before, after each epoch, and at the end
_PACKED_TOKENS = 4096  # longest row that packed batches may make on CPU; eager attention is quadratic in it
OnEvent = Callable[[Event], None]


@dataclass
class _Run:
    """What a training gathers as it goes; so that a failure still reports it."""

    config: RunConfig
    folder: Path
    on_event: OnEvent
    should_stop: Callable[[], bool]
    is_main: bool
    started: float = field(default_factory=time.monotonic)
    metrics: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    device: str = ""
    base: str = ""
    base_sha256: str = ""
    dataset_sha256: str = ""

    @property
    def rows_folder(self) -> Path:
        """Where this process keeps its encoded rows while it trains."""
        return self.folder / f".rows-{os.environ.get('RANK', '0')}"

    def say(self, event: Event) -> None:
        if self.is_main:
            self.on_event(event)

    def result(self, outcome: str, reason: str = "", next_step: str = "", adapter_sha256: str = "") -> adapters.Result:
        return adapters.Result(outcome, reason, next_step, self.steps, self.metrics,
                               round(time.monotonic() - self.started, 2), self.device, versions(),
                               self.base or self.config.base.id, self.base_sha256, adapter_sha256, self.dataset_sha256)


@dataclass
class _Read:
    """How many examples were rendered, and how many of them left no room for an answer."""

    examples: int = 0
    without_room: int = 0


class _StoppedError(Exception):
    """A stop was asked for before training began."""


def train(config: RunConfig, run_dir: Path, on_event: OnEvent, *, resume: bool = False,
          should_stop: Callable[[], bool] = lambda: False, catalogue_only: bool = False) -> adapters.Result:
    """Fine-tunes the base model on the datasets and leaves a checked adapter in `run_dir`.

    Args:
        run_dir: an existing folder; checkpoints go to `checkpoints/` in it.
        on_event: told what happens; see `progress`.
        resume: go on from the newest checkpoint that verifies, or from the start if there is none.
        should_stop: asked after each step; when true the run saves a checkpoint and ends as stopped.

    Returns:
        The outcome. What users can cause ends as failed with a reason and a next step; only bugs raise.
    """
    is_main = int(os.environ.get("RANK", "0")) == 0
    run = _Run(config, run_dir, on_event, should_stop, is_main)
    try:
        return _train(run, resume, catalogue_only)
    except _StoppedError:
        return run.result("stopped", "Stopped before the first step.", "Resume it to go on.")
    except MedAssistError as error:
        return run.result("failed", error.message, error.next_step)
    except OSError as error:
        log.exception("training")
        return run.result("failed", f"A file could not be written or read: {error.strerror or 'unknown reason'}.",
                          "Free some disk space, then resume the run.")
    finally:
        shutil.rmtree(run.rows_folder, ignore_errors=True)


def _train(run: _Run, resume: bool, catalogue_only: bool) -> adapters.Result:
    config = run.config
    run.say(Phase("data", "Reading and splitting the dataset"))
    prepared = prepare_data(config, catalogue_only=catalogue_only)
    run.dataset_sha256 = prepared.sha256
    if resume:
        _check_same_data(run)
    _stop_point(run)
    run.say(Phase("model", f"Loading the base model {config.base.id}"))
    base = _load(run, catalogue_only)
    encoded, evals = _encode(run, base, prepared)
    _stop_point(run)
    shape = _choose_shape(run, base, encoded)
    run.say(Phase("training", ""))
    _check_disk(run, base)
    model = _fit(run, base, shape, encoded, evals, resume)
    if model is None:
        return run.result("stopped", "Stopped on request; a checkpoint was saved.", "Resume it to go on.")
    run.say(Phase("checking", "Loading the adapter again and checking it"))
    sha256 = _publish(run, base, model, encoded[0])
    return run.result("finished", adapter_sha256=sha256)


def _stop_point(run: _Run) -> None:
    if run.should_stop():
        raise _StoppedError


def _check_same_data(run: _Run) -> None:
    """A resumed run must meet the data it began with: it skips rows by their place."""
    noted = adapters.read_json(run.folder / "dataset.json")
    if noted is not None and noted.get("sha256") not in (None, run.dataset_sha256):
        raise DataError("The dataset has changed since this run began, so it cannot be resumed.",
                        "Start a new run, or put the old data back.")


def _load(run: _Run, catalogue_only: bool) -> models.LoadedBase:
    """Loads the base for training, and says so where its chat template is not the published one."""
    config = run.config
    ref = models.resolve_base(config.base.id, config.base.revision, catalogue_only=catalogue_only)
    run.base = ref.name
    entry = catalog.find_base(ref.name)
    plan = models.plan_device(config.train.precision, config.base.load_in_4bit, for_training=True,
                              parameters=entry.parameters if entry else None)
    run.device = plan.label
    base = models.load_base(ref, plan)
    run.base_sha256 = base.sha256
    problem = check_template(ref.name, base.tokenizer) if config.data.prompt_format == "chat" else None
    if problem:
        run.say(Notice(problem))
    return base


def _encode(run: _Run, base: models.LoadedBase, prepared: PreparedData) -> tuple[TokenRows, list[EncodedExample]]:
    """Renders the train split, and as much of the eval split as is scored, into tokens; reports what became of them."""
    from medassist.sft import TokenRows

    config, read = run.config, _Read()
    run.rows_folder.mkdir(exist_ok=True)
    rows = TokenRows(_encoded(run, base, prepared.train, read), run.rows_folder / "train.arrow")
    evals = list(_encoded(run, base, islice(prepared.eval, EVAL_EXAMPLES), _Read()))
    if not rows:
        raise DataError(f"No row leaves room for an answer within data.max_length={config.data.max_length} tokens.",
                        "Raise data.max_length.")
    too_long = read.without_room
    if too_long:
        run.say(Notice(f"{too_long} of {read.examples} training questions leave no room for an answer within "
                       f"{config.data.max_length} tokens and are left out."))
    used, tokens = read.examples - too_long, sum(rows.lengths)
    splits = {"train": used, "eval": len(prepared.eval), "test": len(prepared.test)}
    dropped = {**prepared.report.dropped, **({"question too long": too_long} if too_long else {})}
    run.say(Data(splits, dropped, prepared.sha256, tokens, rows.trained, rows.cut))
    run.metrics |= {"train_examples": used, "train_tokens": tokens, "answer_tokens": rows.trained, "cut": rows.cut}
    if len(rows) != used:  # a template that does not let a conversation stand in one sequence
        run.metrics["train_sequences"] = len(rows)
    if run.is_main:
        adapters.write_json(run.folder / "dataset.json", {"sha256": prepared.sha256, **prepared.report.to_json()})
        _keep_mappings(run, prepared)
    return rows, evals


def _keep_mappings(run: _Run, prepared: PreparedData) -> None:
    """Writes into run.yaml which column held what, so that the run is repeated with the same reading of its data."""
    path = run.folder / "run.yaml"
    if not path.is_file():
        return
    config = load_config(path)
    datasets = [d.model_copy(update={"mapping": m}) for d, m in zip(config.datasets, prepared.mappings)]
    if datasets != config.datasets:
        path.write_text(to_yaml(config.model_copy(update={"datasets": datasets})), encoding="utf-8")


def _encoded(run: _Run, base: models.LoadedBase, examples: Iterable[Example], read: _Read
             ) -> Iterator[EncodedExample]:
    """Each example's sequences, one after another."""
    data = run.config.data
    longest = min(data.max_length, models.context_length(base.model))
    for example in examples:
        found = prompts.encode_conversation(
            base.tokenizer, example.question, example.answer, history=example.history, max_length=longest,
            system_prompt=data.system_prompt, prompt_format=data.prompt_format)
        read.examples += 1
        read.without_room += not found
        if read.examples % 1000 == 0:
            _stop_point(run)
        yield from found


def choose_batch_size(settings: TrainConfig, device: str) -> int:
    """The batch size set, or what `auto` means on a device."""
    batch = settings.per_device_train_batch_size
    if batch != "auto":
        return batch
    return 8 if device == "cpu" else 16


def steps_per_epoch(sequences: int, batch_size: int, accumulation: int, processes: int = 1) -> int:
    """Optimiser steps of one pass over the data."""
    return math.ceil(math.ceil(sequences / (batch_size * processes)) / accumulation)


def count_steps(settings: TrainConfig, per_epoch: int) -> int:
    """Optimiser steps of a whole run."""
    return settings.max_steps or max(1, math.ceil(per_epoch * settings.num_train_epochs))


@dataclass(frozen=True)
class _Shape:
    """How batches are made."""

    batch_size: int
    accumulation: int
    packed: bool
    checkpointing: bool
    reasons: tuple[str, ...]

    def halved(self) -> _Shape:
        return _Shape(self.batch_size // 2, self.accumulation * 2, self.packed, self.checkpointing, self.reasons)


def _choose_shape(run: _Run, base: models.LoadedBase, encoded: TokenRows) -> _Shape:
    """Batch size, packing and gradient checkpointing, each with its reason."""
    settings, plan = run.config.train, base.plan
    reasons = list(plan.reasons)
    batch = choose_batch_size(settings, plan.device)
    if settings.per_device_train_batch_size == "auto":
        reasons.append(f"Batch of {batch}: {'enough to keep the cores busy' if plan.device == 'cpu' else 'halved by itself if memory runs out'}.")
    batch = min(batch, len(encoded))
    longest = heapq.nlargest(batch, encoded.lengths)
    packed = plan.device == "cpu" and sum(longest) <= _PACKED_TOKENS
    if packed:
        from medassist.sft import packed_rows_stay_apart

        packed = packed_rows_stay_apart(base.model, encoded[0], encoded[-1])
        reasons.append("No padding: the rows of a batch stand in one row, checked to stay apart." if packed else
                       "Padded rows: this architecture does not keep rows in one row apart.")
    return _Shape(batch, settings.gradient_accumulation_steps, packed,
                  _needs_checkpointing(run, base, batch * longest[0], reasons), tuple(reasons))


def _needs_checkpointing(run: _Run, base: models.LoadedBase, tokens: int, reasons: list[str]) -> bool:
    """Whether the activations of a batch of `tokens` would take more than half of the free memory.

    34 bytes a token, layer and unit of the hidden size in 16 bits, attention maps left out (Korthikanti et al.
    2022, "Reducing Activation Recomputation in Large Transformer Models", section 4.1).
    """
    wanted = run.config.train.gradient_checkpointing
    if wanted != "auto":
        return wanted == "on"
    config = base.model.config.get_text_config()
    needed = 34 * tokens * config.hidden_size * config.num_hidden_layers
    if base.plan.device == "cuda":
        import torch

        free = torch.cuda.mem_get_info()[0]
    else:
        free = psutil.virtual_memory().available
    if needed <= free / 2:
        return False
    reasons.append(f"Gradient checkpointing, because activations of about {needed / 1e9:.1f} GB would not fit well "
                   f"into {free / 1e9:.1f} GB.")
    return True


def _check_disk(run: _Run, base: models.LoadedBase) -> None:
    """Three checkpoints must fit: two kept and one staged. A checkpoint is the adapter and AdamW's two moments, fp32."""
    per_checkpoint = 3 * 4 * _lora_parameters(run.config, base) + 2_000_000
    free = shutil.disk_usage(run.folder).free
    if free < 3 * per_checkpoint:
        raise TrainingError(f"The disk has {free / 1e6:.0f} MB free; this run needs about {3 * per_checkpoint / 1e6:.0f} MB.",
                            "Free some space, or lower lora.r.")


def _lora_parameters(config: RunConfig, base: models.LoadedBase) -> int:
    wanted = config.lora.target_modules
    names = set(ATTENTION_AND_MLP) if wanted == "all-linear" else set(wanted)
    return sum(config.lora.r * (m.in_features + m.out_features) for n, m in base.model.named_modules()
               if hasattr(m, "in_features") and n.rpartition(".")[2] in names)


def _fit(run: _Run, base: models.LoadedBase, shape: _Shape, encoded: TokenRows,
         evals: list[EncodedExample], resume: bool) -> PeftModel | None:
    """Trains; on running out of memory once more with half the batch, down to one. None when stopped."""
    while True:
        try:
            return _fit_once(run, base, shape, encoded, evals, resume)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            log.exception("out of memory")
            if shape.batch_size <= 1:
                raise TrainingError("The memory ran out even with a batch of one.",
                                    "Choose a smaller base model, 4-bit, or a smaller data.max_length.") from error
        # Outside of the handler, so that its traceback holds no tensors any more.
        shape, resume = shape.halved(), True
        base.model = _plain_base(base.model)
        _free_memory()
        run.say(Notice(f"Memory ran out; going on with batches of {shape.batch_size} "
                       f"and {shape.accumulation} of them a step."))


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text \
        or "not enough memory" in text


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _plain_base(model: Any) -> Any:
    """The base without adapters, whatever state an interrupted run left it in."""
    return model.unload() if hasattr(model, "peft_config") and hasattr(model, "unload") else model


def _fit_once(run: _Run, base: models.LoadedBase, shape: _Shape, encoded: TokenRows,
              evals: list[EncodedExample], resume: bool) -> PeftModel | None:
    from transformers import PrinterCallback

    from medassist import sft

    settings, plan = run.config.train, base.plan
    place = run.folder / "checkpoints"
    checkpoints.clear_staging(place)
    start = checkpoints.newest_valid(place) if resume else None
    model = _add_adapter(run.config, base)
    per_epoch = steps_per_epoch(len(encoded), shape.batch_size, shape.accumulation, _processes())
    total = count_steps(settings, per_epoch)
    save_steps = max(1, per_epoch // settings.checkpoints_per_epoch) if settings.checkpoints_per_epoch else 0
    run.say(Plan(plan.device, plan.dtype, plan.attention, shape.batch_size, shape.accumulation, shape.checkpointing,
                 total, list(shape.reasons)))
    evaluate = partial(_evaluate, run, base, model, evals)
    if start is None:
        evaluate(0, "before")
    elif run.is_main:
        run.say(Notice(f"Going on from the checkpoint at step {start[1]}."))
    callback = sft.RunCallback(run.say, run.should_stop, partial(evaluate, when="during"), plan.dtype == "float16")
    collate = sft.collate_packed if shape.packed else partial(sft.collate_padded, pad_id=base.tokenizer.pad_token_id)
    trainer = sft.AnswerTrainer(
        model=model, processing_class=base.tokenizer, data_collator=collate, callbacks=[callback],
        train_dataset=encoded.dataset,
        args=sft.sft_config(place / checkpoints.STAGING, epochs=settings.num_train_epochs,
                            max_steps=settings.max_steps, batch_size=shape.batch_size, accumulation=shape.accumulation,
                            settings=settings, device=plan.device, dtype=plan.dtype,
                            checkpointing=shape.checkpointing, total_steps=total, save_steps=save_steps),
        checkpoints_dir=place, on_event=run.say)
    trainer.remove_callback(PrinterCallback)  # its lines would mix with results on standard output
    callback.trainer = trainer
    if plan.dtype == "float16":  # loss scaling needs fp32 weights; TRL casts those of 4-bit bases to bf16
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.data = parameter.data.float()
    began = time.monotonic()
    try:
        output = trainer.train(resume_from_checkpoint=str(start[0]) if start else None)
    finally:
        run.steps = trainer.state.global_step
        run.metrics |= {"steps_planned": total, "tokens_per_s": round(callback.rate, 1),
                        "training_s": round(time.monotonic() - began, 2), "batch_size": shape.batch_size,
                        "gradient_accumulation_steps": shape.accumulation, "dtype": plan.dtype,
                        "epochs": round(trainer.state.epoch or 0.0, 3)}
        _write_curve(run, trainer.state.log_history)
    shutil.rmtree(place / checkpoints.STAGING, ignore_errors=True)
    if callback.stopped and run.steps < total:
        return None
    run.metrics |= {"train_loss": round(output.training_loss, 4), "trainer": {
        k: round(v, 4) for k, v in output.metrics.items() if isinstance(v, (int, float))}}
    evaluate(run.steps, "after")
    if settings.keep == "best":
        _restore_best(run, model)
    return model


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _add_adapter(config: RunConfig, base: models.LoadedBase) -> PeftModel:
    """A fresh LoRA adapter, fp32, on the frozen base.

    Raises:
        TrainingError: the base has none of the layers named.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import set_seed

    set_seed(config.train.seed)
    lora = config.lora
    if getattr(base.model, "is_quantized", False):
        base.model = prepare_model_for_kbit_training(base.model, use_gradient_checkpointing=False)
    settings = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none",
                          target_modules=lora.target_modules, task_type="CAUSAL_LM")
    try:
        return get_peft_model(base.model, settings)
    except ValueError as error:
        raise TrainingError(f"{base.ref.name} has none of the layers in lora.target_modules: {lora.target_modules}.",
                            "Use lora.target_modules=all-linear.") from error


def _evaluate(run: _Run, base: models.LoadedBase, model: PeftModel, evals: list[EncodedExample], step: int,
              when: str) -> None:
    """Loss on the eval split; `before` is the base itself (the fresh adapter adds nothing)."""
    if not evals or not run.is_main:
        return
    was_training = model.training
    model.eval()
    scores = score_answers(model, evals)
    model.train(was_training)
    loss, tokens = mean_nll(scores), sum(s.tokens for s in scores)
    run.say(Eval(step, when, loss, perplexity(scores), len(scores), tokens))
    run.metrics.setdefault("eval_examples", len(scores))
    if when != "before" and run.config.train.keep == "best":
        _keep_if_best(run, model, step, loss)
    if when in ("before", "after"):
        run.metrics |= {f"eval_loss_{when}": round(loss, 4), f"eval_perplexity_{when}": round(perplexity(scores), 3)}


def _keep_if_best(run: _Run, model: PeftModel, step: int, loss: float) -> None:
    """Puts the adapter's weights aside when no earlier evaluation of this run was better."""
    from safetensors.torch import save_file

    place = run.folder / "checkpoints"
    noted = adapters.read_json(place / "best.json")
    if not math.isfinite(loss) or (noted is not None and noted["loss"] <= loss and noted["step"] < step):
        return
    place.mkdir(exist_ok=True)
    staged = place / ".best.safetensors"
    try:
        save_file({n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad},
                  str(staged))
        os.replace(staged, place / "best.safetensors")
        adapters.write_json(place / "best.json", {"step": step, "loss": loss})
    except (OSError, RuntimeError) as error:  # RuntimeError: how safetensors reports a full disk
        log.exception("keeping the best adapter")
        staged.unlink(missing_ok=True)
        run.say(Notice(f"The best adapter so far could not be put aside ({type(error).__name__}); the run goes on."))


def _restore_best(run: _Run, model: PeftModel) -> None:
    """Takes the best evaluation's weights back where training went past them."""
    import torch
    from safetensors.torch import load_file

    place = run.folder / "checkpoints"
    noted = adapters.read_json(place / "best.json")
    if noted is None or noted["step"] == run.steps or not (place / "best.safetensors").is_file():
        return
    weights = load_file(str(place / "best.safetensors"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name].to(parameter.device))
    run.metrics |= {"kept_step": noted["step"], "eval_loss_kept": round(noted["loss"], 4),
                    "eval_perplexity_kept": round(math.exp(min(noted["loss"], 700)), 3)}
    run.say(Notice(f"The adapter of step {noted['step']} is kept: its eval loss of {noted['loss']:.3f} is lower than "
                   f"{run.metrics.get('eval_loss_after', math.nan):.3f} at the end."))


def _write_curve(run: _Run, history: Sequence[dict[str, Any]]) -> None:
    """`loss.csv` and `loss.png` from every step and evaluation of the run, earlier parts included."""
    from medassist.progress import load_view

    if not run.is_main:
        return
    view = load_view(run.folder / "progress.jsonl")
    losses = view.losses or [(r["step"], r["loss"]) for r in history if "loss" in r]
    with (run.folder / "loss.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "split", "loss_nats_per_token"])
        rows.writerows([s, "train", f"{v:.5f}"] for s, v in losses)
        rows.writerows([s, "eval", f"{v:.5f}"] for s, _, v in view.evals)
    plot_curve(losses, [(s, v) for s, _, v in view.evals], run.folder / "loss.png", run.folder.name)


def plot_curve(losses: Sequence[tuple[int, float]], evals: Sequence[tuple[int, float]], path: Path, title: str) -> None:
    """Draws training loss by step and eval loss into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    if losses:
        axes.plot(*zip(*losses), color="#0f766e", linewidth=1.2, label="train")
    if evals:
        axes.plot(*zip(*evals), color="#b45309", marker="o", markersize=4, linewidth=1.2, label="eval")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)


def _publish(run: _Run, base: models.LoadedBase, model: PeftModel, probe: dict[str, Any]) -> str:
    """Writes the adapter, loads it again from disk, and lets it stand only if it is finite and does something.

    Returns:
        The SHA-256 of the adapter's weights; empty in all but the main process.
    """
    staged = run.folder / ".adapter"
    if not run.is_main:
        return ""
    shutil.rmtree(staged, ignore_errors=True)
    model.save_pretrained(str(staged), safe_serialization=True)
    clean_adapter_config(staged / "adapter_config.json", base.ref.name, base.ref.revision)
    _check_finite(staged / adapters.WEIGHTS)
    base.model = _plain_base(model)
    change = _output_change(base, staged, probe)
    run.metrics["logit_change"] = round(change, 6)
    if not change > 0:
        raise TrainingError("The adapter does not change the model's output, so training had no effect.",
                            "Raise the learning rate or the number of epochs.")
    for name in ("adapter_config.json", adapters.WEIGHTS):
        os.replace(staged / name, run.folder / name)
    shutil.rmtree(staged, ignore_errors=True)
    return adapters.file_sha256(run.folder / adapters.WEIGHTS)


def clean_adapter_config(path: Path, base_name: str, revision: str | None) -> None:
    """Names the base as the catalogue does: PEFT writes the path it was loaded from."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base_name
    settings["revision"] = revision
    settings["auto_mapping"] = None
    settings["target_modules"] = sorted(settings["target_modules"]) \
        if isinstance(settings.get("target_modules"), list) else settings.get("target_modules")
    adapters.write_json(path, settings)


def _check_finite(weights: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for name, tensor in load_file(str(weights)).items():
        if not torch.isfinite(tensor).all():
            raise TrainingError(f"The trained adapter holds values that are not finite ({name}).",
                                "Lower the learning rate and start again.")


def _output_change(base: models.LoadedBase, folder: Path, probe: dict[str, Any]) -> float:
    """Largest change that the adapter on disk makes to the logits of a training row."""
    import torch
    from peft import PeftModel

    ids = torch.tensor([probe["input_ids"]], device=base.model.device)
    with torch.inference_mode():
        before = base.model(input_ids=ids, use_cache=False).logits.float()
        tuned = PeftModel.from_pretrained(base.model, str(folder)).eval()
        after = tuned(input_ids=ids, use_cache=False).logits.float()
    base.model = tuned.unload()
    return float((after - before).abs().max())


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "medassist"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    from medassist import __version__

    return {**found, "medassist": __version__}
