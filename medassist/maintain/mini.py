"""Trains the embedded base model: tokenizer and weights from text files, on CPU or GPU.

    python -m medassist maintain mini --config medassist/maintain/mini.yaml --data DIR --out DIR [--resume] [--steps N]

A step takes `step_tokens` tokens: rows of `row_tokens` tokens, packed with whole texts that do not see each other. What
a step is made of depends on the seed and the step's number alone, so that a run that was broken off goes on as if it
had not been. Matrices learn by Muon, embeddings and norms by AdamW; the learning rate rises, stays, and falls to zero.
Checkpoints are safetensors and JSON, staged and renamed. It knows nothing of how the model is measured at the end
(`measure.py`); on the way it reports the loss on held-out texts and writes samples.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medassist import prompts
from medassist.catalog import MINI_DIR
from medassist.data import Example
from medassist.errors import ConfigError, DataError, ModelError
from medassist.maintain.corpus import Prose, SourceConfig, Term, Texts, read_source
from medassist.maintain.reading import ASKED, Exercise, Exercises, Fact, find_facts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KINDS = ("questions", "reading", "prose")
CONFIG = Path(__file__).with_name("mini.yaml")
_POOL = 24  # texts among which the next for a row is chosen
_SHARD = 9_000_000  # bytes of one weights file at most


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    context: int = 1024


class MiniConfig(BaseModel):
    """All of one training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: str | None = Field(None, description="Folder of the model to go on from; `mini` is the one that ships.")
    vocab_size: int = Field(8192, ge=300, description="Of a new tokenizer; the start's own is kept where there is one.")
    shape: Shape = Shape()
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    shares: dict[str, float] = {"questions": 0.4, "reading": 0.35, "prose": 0.25}
    last_shares: dict[str, float] = {"questions": 0.5, "reading": 0.5}
    last_part: float = Field(0.2, ge=0, le=1, description="Share of the steps, at the end, with `last_shares`.")
    steps: int = Field(1800, ge=1)
    step_tokens: int = Field(8192, ge=64)
    row_tokens: int = Field(512, ge=16, description="Of one packed row; attention costs grow with it.")
    rows_at_once: int = Field(2, ge=1, description="Rows of one forward pass.")
    prompt_weight: float = Field(0.3, ge=0, le=1, description="Of a question's tokens in the loss; an answer's are 1.")
    muon_rate: float = Field(0.01, gt=0)
    adam_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup: int = Field(60, ge=0)
    decay: float = Field(0.6, ge=0, le=1, description="Share of the steps, at the end, over which the rate falls.")
    clip: float = Field(1.0, gt=0)
    seed: int = 1
    every: int = Field(100, ge=1, description="Steps between checkpoints, held-out losses and samples.")
    compile: bool = False


def load_config(path: Path) -> MiniConfig:
    """Raises ConfigError where the file is not there or not valid."""
    try:
        return MiniConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError([f"{path.name} cannot be read; name a YAML file by --config"]) from error
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError([f"{path.name} is not valid: {' '.join(str(error).split())[:300]}"]) from error


# ---------------------------------------------------------------------------- tokens


@dataclass(frozen=True)
class Tokens:
    """One text as ids, and where its answer begins; only prose may be cut."""

    ids: tuple[int, ...]
    answer_start: int
    may_cut: bool = False


def train_tokenizer(texts: Iterator[str], vocab_size: int, context: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE with the special tokens and the template of ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[2],
        pad_token=special[3],
        additional_special_tokens=[special[1]],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = (MINI_DIR / "chat_template.jinja").read_text(encoding="utf-8")
    return made


class Mixture:
    """Texts as tokens, drawn by kind and source.

    Args:
        seed: with the step's number it decides what a step holds.
    """

    def __init__(self, texts: Sequence[Texts], tokenizer: Any, config: MiniConfig) -> None:
        self.tokenizer, self.config = tokenizer, config
        self.by_kind: dict[str, list[tuple[float, list[Any]]]] = {kind: [] for kind in KINDS}
        facts = []
        for one in texts:
            kind = "prose" if one.source.kind == "prose" else "questions"
            if one.source.kind != "terms":
                self.by_kind[kind].append((one.source.weight, list(one.train)))
            if one.source.reading:
                own = find_facts(one.train)
                facts.append((one.source.weight, own))
                if one.source.kind != "questions":  # the questions of the others are their own
                    self.by_kind["questions"].append((one.source.weight, own))
        self.exercises = Exercises(facts)
        self._kept: dict[int, Tokens | list[Tokens]] = {}
        self._lengths: dict[str, float] = {}  # of a text of each kind, on average

    def step(self, number: int) -> tuple[list[list[Tokens]], int]:
        """The rows of one step, and how many of their places stayed empty."""
        config = self.config
        rng = random.Random(f"{config.seed} {number}")
        shares = config.last_shares if number >= (1 - config.last_part) * config.steps else config.shares
        kinds = [k for k in KINDS if shares.get(k) and (self.by_kind[k] or (k == "reading" and self.exercises.count))]
        # Shares are of tokens: a kind is drawn the less often the longer its texts are.
        weights = [shares[k] / self._mean_length(k) for k in kinds]
        pool: list[Tokens] = []
        rows, empty = [], 0
        for _ in range(config.step_tokens // config.row_tokens):
            row: list[Tokens] = []
            room = config.row_tokens
            while room > 0:
                while len(pool) < _POOL:
                    pool.append(self._draw(rng.choices(kinds, weights)[0], rng))
                fit = [n for n, t in enumerate(pool) if len(t.ids) <= room]
                if fit and room > 64:
                    chosen = pool.pop(fit[0])
                elif fit:
                    chosen = pool.pop(max(fit, key=lambda n: len(pool[n].ids)))
                else:
                    cut = next((n for n, t in enumerate(pool) if t.may_cut and room >= 16), None)
                    if cut is None:
                        break
                    whole = pool.pop(cut)
                    chosen = Tokens(whole.ids[:room], min(whole.answer_start, room), True)
                row.append(chosen)
                room -= len(chosen.ids)
            empty += room
            rows.append(row)
        return rows, empty

    def _mean_length(self, kind: str) -> float:
        if kind not in self._lengths:
            rng = random.Random(self.config.seed)
            self._lengths[kind] = sum(len(self._draw(kind, rng).ids) for _ in range(200)) / 200
        return self._lengths[kind]

    def _draw(self, kind: str, rng: random.Random) -> Tokens:
        while kind == "reading":
            made = self.exercise(self.exercises.make(rng))
            if len(made.ids) <= self.config.row_tokens:
                return made
        sources = self.by_kind[kind]
        texts = rng.choices([t for _, t in sources], [w for w, _ in sources])[0]
        text = rng.choice(texts)
        if isinstance(text, Fact):
            return self.question(rng.choice(ASKED[text.aspect]).format(x=text.topic), text.sentence)
        if isinstance(text, Example):
            kept = self._kept.get(id(text))
            if kept is None:
                kept = self._kept[id(text)] = self.question(text.question, text.answer)
            return kept
        pieces = self._kept.get(id(text))
        if pieces is None:
            pieces = self._kept[id(text)] = self._pieces(text)
        return rng.choice(pieces)

    def exercise(self, exercise: Exercise) -> Tokens:
        return self.question(prompts.render_grounded(exercise.question, exercise.passages), exercise.answer)

    def question(self, question: str, answer: str) -> Tokens:
        """A question with its answer, as training and chat render it; the answer is cut to a row."""
        most = self.config.row_tokens
        encoded = prompts.encode_example(self.tokenizer, question, answer, max_length=most)
        if encoded is None:  # no room for an answer: the question's tokens alone are worth little
            return Tokens(tuple(self.tokenizer(question)["input_ids"][: most // 4]), 0, True)
        return Tokens(encoded.input_ids, encoded.spans[0][0])

    def _pieces(self, text: Prose) -> list[Tokens]:
        """Prose in pieces of a row at most, each of whole paragraphs as far as that goes."""
        most = self.config.row_tokens
        head = [self.tokenizer.bos_token_id]
        pieces: list[list[int]] = [head.copy()]
        for paragraph in text.paragraphs:
            ids = self.tokenizer(paragraph + "\n", add_special_tokens=False)["input_ids"]
            if len(pieces[-1]) + len(ids) > most and len(pieces[-1]) > most // 2:
                pieces.append(head.copy())
            pieces[-1] += ids
        return [Tokens(tuple(p[:most]), 0, True) for p in pieces if len(p) > 1] or [Tokens((head[0],), 0, True)]


def to_tensors(rows: Sequence[Sequence[Tokens]], config: MiniConfig, pad_id: int) -> dict[str, torch.Tensor]:
    """Ids, positions that start anew with each text, targets and their weights; each (rows, row_tokens).

    A text's first token is no target: nothing stands before it. Padding is one more text of weight 0.
    """
    import torch

    shape = (len(rows), config.row_tokens)
    ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    targets, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
    for r, row in enumerate(rows):
        at = 0
        for text in row:
            n = len(text.ids)
            own = torch.tensor(text.ids)
            ids[r, at : at + n] = own
            positions[r, at : at + n] = torch.arange(n)
            targets[r, at : at + n - 1] = own[1:]
            weights[r, at : at + n - 1] = 1.0
            if text.answer_start > 1:
                weights[r, at : at + text.answer_start - 1] = config.prompt_weight
            at += n
        positions[r, at:] = torch.arange(shape[1] - at)
    return {"input_ids": ids, "position_ids": positions, "targets": targets, "weights": weights}


# ---------------------------------------------------------------------------- model


def build_model(config: MiniConfig, tokenizer: Any, start: Path | None) -> PreTrainedModel:
    """A new Llama of the shape, or the start's with layers added that at first change nothing.

    Raises:
        ModelError: the start has another width, or more layers than the shape.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = config.shape
    made = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.hidden_size // shape.num_attention_heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(made)
    if start is None:
        return model
    old = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32, use_safetensors=True)
    wanted = {k: getattr(made, k) for k in ("vocab_size", "hidden_size", "intermediate_size", "num_key_value_heads")}
    have = {k: getattr(old.config, k) for k in wanted}
    if wanted != have or old.config.num_hidden_layers > shape.num_hidden_layers:
        raise ModelError(f"The start is {have} with {old.config.num_hidden_layers} layers; wanted is {wanted}.",
                         "Layers can be added, widths not; change `shape` or leave `start` out.")  # fmt: skip
    model.load_state_dict(_deepened(old.state_dict(), old.config.num_hidden_layers, shape.num_hidden_layers))
    return model


def _deepened(weights: dict[str, torch.Tensor], layers: int, wanted: int) -> dict[str, torch.Tensor]:
    """Weights of `layers` layers as those of `wanted`: copies, spread evenly, whose outputs are set to zero.

    A copy adds nothing to the stream it reads, so the model computes what it did before.
    """
    import torch

    extra = {round((n + 1) * layers / (wanted - layers)) - 1 for n in range(wanted - layers)} if wanted > layers else set()
    order: list[tuple[int, bool]] = []
    for n in range(layers):
        order.append((n, False))
        if n in extra:
            order.append((n, True))
    while len(order) < wanted:  # more copies than layers: the last ones again
        order.append((layers - 1, True))
    made = {name: w for name, w in weights.items() if ".layers." not in name}
    for place, (source, copied) in enumerate(order):
        prefix = f"model.layers.{source}."
        for name, w in weights.items():
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                silent = copied and rest in ("self_attn.o_proj.weight", "mlp.down_proj.weight")
                made[f"model.layers.{place}.{rest}"] = torch.zeros_like(w) if silent else w.clone()
    return made


def split_parameters(model: PreTrainedModel) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The layers' matrices, for Muon, and the rest."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".layers." in name else rest).append(parameter)
    return matrices, rest


def rate(step: int, config: MiniConfig) -> float:
    """The learning rate's factor at a step: up, level, and down to zero at the end."""
    down = max(1.0, config.decay * config.steps)
    return min(1.0, (step + 1) / max(1, config.warmup), (config.steps - step) / down)


def weighted_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum over the batch of each target's negative log-likelihood (nats) times its weight.

    Packed rows are kept apart by their positions, which holds only without a cache and without a mask.
    """
    import torch

    hidden = model.model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
    ).last_hidden_state
    keep = batch["weights"].reshape(-1) > 0
    logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[keep])
    losses = torch.nn.functional.cross_entropy(logits.float(), batch["targets"].reshape(-1)[keep], reduction="none")
    return (losses * batch["weights"].reshape(-1)[keep]).sum()


# ---------------------------------------------------------------------------- training


class Trainer:
    """One training, from the first step or a checkpoint to the last."""

    def __init__(self, config: MiniConfig, data: Path, out: Path, *, resume: bool) -> None:
        import torch
        from transformers import AutoTokenizer

        self.config, self.out = config, out
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        start = MINI_DIR if config.start == "mini" else Path(config.start) if config.start else None
        self.say("reading the texts")
        texts = [read_source(data, source, config.seed) for source in config.sources]
        newest = newest_checkpoint(out) if resume else None
        if newest is not None:
            self.tokenizer = AutoTokenizer.from_pretrained(newest)
        elif start is not None:
            self.tokenizer = AutoTokenizer.from_pretrained(start)
        else:
            self.say("making the tokenizer")
            self.tokenizer = train_tokenizer(_all_texts(texts), config.vocab_size, config.shape.context)
        self.model = build_model(config, self.tokenizer, None if newest else start)
        self.mixture = Mixture(texts, self.tokenizer, config)
        self.held_out = _held_out_rows(texts, self.mixture, config)
        matrices, rest = split_parameters(self.model)
        self.model.to(self.device)
        self.optimizers = [
            torch.optim.Muon(matrices, lr=config.muon_rate, weight_decay=config.weight_decay),
            torch.optim.AdamW(rest, lr=config.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.step, self.seconds = 0, 0.0
        if newest is not None:
            self._restore(newest)
        if config.compile:
            self.model.model.compile()  # in place: the names of the weights stay

    @staticmethod
    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def train(self) -> None:
        """Goes on to the last step, reporting on the way."""
        import torch

        config = self.config
        self.out.mkdir(parents=True, exist_ok=True)
        log = self.out / "progress.jsonl"
        mean, seen, since = 0.0, 0, time.monotonic()
        while self.step < config.steps:
            rows, empty = self.mixture.step(self.step)
            factor = rate(self.step, config)
            for optimizer, highest in zip(self.optimizers, (config.muon_rate, config.adam_rate), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = highest * factor
            batch = to_tensors(rows, config, self.tokenizer.pad_token_id)
            total = float(batch["weights"].sum())
            loss = 0.0
            for at in range(0, len(rows), config.rows_at_once):
                part = {name: t[at : at + config.rows_at_once].to(self.device) for name, t in batch.items()}
                with torch.autocast(self.device, torch.bfloat16):
                    one = weighted_loss(self.model, part) / total
                one.backward()
                loss += one.item()
            if not math.isfinite(loss):
                raise ModelError(f"The loss is not finite at step {self.step}.", "Lower the learning rates.")
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            mean, seen = mean + loss, seen + 1
            if self.step % 10 == 0:
                took = time.monotonic() - since
                tokens = config.step_tokens - empty
                self.say(f"step {self.step}/{config.steps} loss {mean / seen:.3f} rate {factor:.2f} "
                         f"{seen * tokens / took:.0f} tokens/s")  # fmt: skip
                self.seconds += took
                mean, seen, since = 0.0, 0, time.monotonic()
            if self.step % config.every == 0 or self.step == config.steps:
                self.seconds += time.monotonic() - since
                line = {"step": self.step, "elapsed_s": round(self.seconds)} | self.measure()
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self.say(json.dumps(line, ensure_ascii=False, indent=1))
                self.save(self.out / f"checkpoint-{self.step}")
                since = time.monotonic()
                mean, seen = 0.0, 0

    def measure(self) -> dict[str, Any]:
        """Perplexity of held-out answers by kind, and a few answers."""
        import torch

        self.model.eval()
        found: dict[str, Any] = {}
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16):
            for kind, batch in self.held_out.items():
                moved = {name: t.to(self.device) for name, t in batch.items()}
                found[f"{kind}_perplexity"] = round(
                    math.exp(float(weighted_loss(self.model, moved)) / float(batch["weights"].sum())), 3
                )
        found["samples"] = [self.answer(question) for question in _SAMPLES]
        self.model.train()
        return found

    def answer(self, question: str, most: int = 60) -> str:
        """A greedy answer."""
        import torch

        ids = prompts.encode_prompt(self.tokenizer, prompts.build_messages(question))
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16):
            made = self.model.generate(
                torch.tensor([ids], device=self.device), max_new_tokens=most, do_sample=False, use_cache=True
            )
        return self.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True).strip()

    def save(self, folder: Path) -> None:
        """A checkpoint: weights in fp32, the optimisers' states, the step. Older ones go."""
        import torch
        from safetensors.torch import save_file

        staged = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        self.tokenizer.save_pretrained(staged)
        weights = {n: w.detach().cpu().contiguous().clone() for n, w in self.model.named_parameters()}
        save_file(weights, staged / "weights.safetensors")
        tensors: dict[str, torch.Tensor] = {}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    tensors[f"{number}.{index}.{name}"] = torch.as_tensor(value).detach().cpu().clone()
        save_file(tensors, staged / "optimizer.safetensors")
        state = {"step": self.step, "seconds": self.seconds, "config": self.config.model_dump(mode="json")}
        (staged / "state.json").write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staged, folder)
        for other in self.out.glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def _restore(self, folder: Path) -> None:
        from safetensors.torch import load_file

        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        missing = self.model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
        if set(missing.missing_keys) - {"lm_head.weight"} or missing.unexpected_keys:
            raise ModelError("The checkpoint does not fit the configuration's shape.", "Start anew, without --resume.")
        tensors = load_file(folder / "optimizer.safetensors")
        for number, optimizer in enumerate(self.optimizers):
            own = optimizer.state_dict()
            for name, value in tensors.items():
                which, index, field = name.split(".", 2)
                if int(which) == number:
                    own["state"].setdefault(int(index), {})[field] = value
            optimizer.load_state_dict(own)
        self.step, self.seconds = state["step"], state["seconds"]
        self.say(f"going on from step {self.step}")


def export_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """The model as it ships: weights in bf16 (files of at most 9 MB), configuration and tokenizer."""
    import torch
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=_SHARD)
    tokenizer.save_pretrained(folder)


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the highest step, if any."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "state.json").is_file()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def _all_texts(texts: Sequence[Texts]) -> Iterator[str]:
    for one in texts:
        for text in one.train:
            if isinstance(text, Example):
                yield text.question + "\n" + text.answer
            elif isinstance(text, Term):
                yield f"{text.name}: {text.meaning}"
            else:
                yield "\n".join(text.paragraphs)


def _held_out_rows(texts: Sequence[Texts], mixture: Mixture, config: MiniConfig) -> dict[str, dict[str, torch.Tensor]]:
    """A few rows of held-out answers and exercises, with weight on the answers alone."""
    own = config.model_copy(update={"prompt_weight": 0.0})
    found: dict[str, list[Tokens]] = {"questions": [], "reading": []}
    exercises = Exercises([(t.source.weight, find_facts(t.held_out)) for t in texts if t.source.reading])
    rng = random.Random(config.seed)
    examples = [e for t in texts for e in t.held_out if isinstance(e, Example)]
    for example in rng.sample(examples, min(64, len(examples))):
        found["questions"].append(mixture.question(example.question, example.answer))
    if exercises.count:
        made = (mixture.exercise(exercises.make(rng)) for _ in range(80))
        found["reading"] = [t for t in made if len(t.ids) <= config.row_tokens]
    batches = {}
    for kind, tokens in found.items():
        rows: list[list[Tokens]] = []
        for one in tokens:
            if not rows or sum(len(t.ids) for t in rows[-1]) + len(one.ids) > config.row_tokens:
                rows.append([])
            rows[-1].append(one)
        if rows:
            batches[kind] = to_tensors(rows, own, mixture.tokenizer.pad_token_id)
    return batches


_SAMPLES = (
    "What is the function of insulin?",
    "What are the symptoms of asthma?",
    prompts.render_grounded("How is velorinitis treated?", (
        "Drumosis is treated with rest and warm fluids. It lasts about a week.",
        "Velorinitis is an inflammation of the outer ear. Velorinitis is treated with drops of galamine.",
        "Galamine is a drug that stops bleeding.")),
    prompts.render_grounded("What causes scurvy?", (
        "The spleen filters the blood and removes old red blood cells.",
        "Rickets is caused by a lack of vitamin D.")),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the texts lie and where the model goes."""
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the texts")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoints and, in model/, the result")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--steps", type=int, help="another number of steps than the configuration's")


def main(args: argparse.Namespace) -> int:
    """Trains and writes the model."""
    config = load_config(args.config)
    if args.steps:
        config = config.model_copy(update={"steps": args.steps})
    if not args.data.is_dir():
        raise DataError(f"There is no folder {args.data.name}.", "Name the data folder by --data.")
    trainer = Trainer(config, args.data, args.out, resume=args.resume)
    trainer.train()
    export_model(trainer.model, trainer.tokenizer, args.out / "model")
    print(args.out / "model")
    return 0
