"""Answers from one base model in memory, each with the adapter asked for, streamed and stoppable.

Rows of one call may carry different adapters (or none: the base itself) and are made in one batch;
PEFT sets the adapters by hooks on the shared model, so one lock stands around each call. Nobody's
choice changes somebody else's answer. This module knows nothing of gates, pages or datasets.

    python -m medassist compare --adapter starter --question "What does insulin do?"
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medassist import adapters, models, prompts
from medassist.errors import AdapterError, ModelError, UsageError
from medassist.prompts import Message, PromptFormat

if TYPE_CHECKING:
    import torch

MAX_ADAPTERS = 8  # kept in memory; the one not used for longest goes first
MAX_NEW_TOKENS = 1024


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy."""

    max_new_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 0.9
    top_k: int = 50
    repetition_penalty: float = 1.1
    seed: int = 42

    def checked(self) -> Sampling:
        """Itself. Raises UsageError naming every value that is out of range."""
        limits = {"max_new_tokens": (1, MAX_NEW_TOKENS), "temperature": (0, 2), "top_p": (0.01, 1), "top_k": (0, 1000),
                  "repetition_penalty": (0.5, 2), "seed": (0, 2**31 - 1)}
        wrong = [f"{name} is {getattr(self, name)}; it must lie between {low} and {high}"
                 for name, (low, high) in limits.items() if not low <= getattr(self, name) <= high]
        if wrong:
            raise UsageError(". ".join(wrong) + ".", "Change it and ask again.")
        return self


@dataclass(frozen=True)
class Ask:
    """One answer wanted: the conversation, and a run's name for its adapter (None: the base model)."""

    messages: Sequence[Message]
    adapter: str | None = None
    prompt_format: PromptFormat = "chat"


@dataclass
class Answer:
    """An answer as far as it has come."""

    text: str = ""
    tokens: int = 0
    ended: bool = False  # by an end-of-turn token
    elapsed_s: float = 0.0
    first_token_s: float | None = None


class Engine:
    """Generates with any base and any usable run; one per process.

    Args:
        root: the adapters folder.
        slot: the base model's place; its precision is that of all answers.
    """

    def __init__(self, root: Path, slot: models.ModelSlot | None = None) -> None:
        self.root = root
        self.slot = slot or models.ModelSlot()
        self._keys: OrderedDict[str, str] = OrderedDict()  # run name and hash → PEFT's name for it
        self._made = 0
        self._generation = -1

    def stream(self, asks: Sequence[Ask], sampling: Sampling = Sampling(), *, base: str | None = None,
               cancel: threading.Event | None = None, catalogue_only: bool = False) -> Iterator[list[Answer]]:
        """Yields the answers of all asks, growing, until each has ended.

        Args:
            base: the base model, where no ask names an adapter (default mini).
            cancel: when set, generation ends within a token. Closing the iterator does the same.

        Raises:
            AdapterError, ModelError, UsageError: before anything is generated.
        """
        sampling = sampling.checked()
        ref, four_bit = self._base_of(asks, base, catalogue_only)
        stop = threading.Event()
        feed: queue.Queue[Any] = queue.Queue()
        worker = threading.Thread(target=self._work, args=(ref, four_bit, list(asks), sampling, feed,
                                                           (stop, cancel or stop)), daemon=True)
        worker.start()
        try:
            while True:
                item = feed.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                while True:  # only the newest state matters to whoever reads slowly
                    try:
                        newer = feed.get_nowait()
                    except queue.Empty:
                        break
                    if newer is None or isinstance(newer, BaseException):
                        yield item
                        if newer is not None:
                            raise newer
                        return
                    item = newer
                yield item
        finally:
            stop.set()

    def answer(self, asks: Sequence[Ask], sampling: Sampling = Sampling(), **kwargs: Any) -> list[Answer]:
        """The finished answers of `stream`."""
        last: list[Answer] = [Answer() for _ in asks]
        for last in self.stream(asks, sampling, **kwargs):
            pass
        return last

    def warm_up(self, adapter: str | None = None) -> None:
        """Loads the base (and an adapter) ahead of the first question."""
        asks = [Ask(prompts.build_messages("Hello"), adapter)]
        self.answer(asks, Sampling(max_new_tokens=1))

    def _base_of(self, asks: Sequence[Ask], base: str | None, catalogue_only: bool) -> tuple[models.BaseRef, bool]:
        """The one base that all asks share."""
        runs = [adapters.load_run(self.root, name) for name in dict.fromkeys(a.adapter for a in asks) if name]
        for run in runs:
            adapters.verify_run(run)
        wanted = base or (runs[0].base if runs else "mini")
        revision = next((r.config.base.revision for r in runs if r.config), None)
        four_bit = any(r.config.base.load_in_4bit for r in runs if r.config)
        ref = models.resolve_base(wanted, revision, catalogue_only=catalogue_only)
        for run in runs:
            if models.resolve_base(run.base, run.config.base.revision if run.config else None).name != ref.name:
                raise AdapterError(f"The adapter '{run.name}' belongs to the base model {run.base}, not to {ref.name}.",
                                   f"Choose the base {run.base}, or another adapter.")
        return ref, four_bit

    def _work(self, ref: models.BaseRef, four_bit: bool, asks: list[Ask], sampling: Sampling, feed: queue.Queue,
              stops: tuple[threading.Event, threading.Event]) -> None:
        """In a thread of its own: generates under the slot's lock and puts growing answers into `feed`."""
        try:
            with self.slot.use(ref, four_bit) as loaded:
                if not any(s.is_set() for s in stops):
                    self._generate(loaded, asks, sampling, feed, stops)
            feed.put(None)
        except BaseException as error:  # handed to the reader, who raises it
            if "out of memory" in str(error).lower():
                error = ModelError("The memory ran out while answering.", "Ask for fewer tokens, or a shorter question.")
            feed.put(error)

    def _generate(self, loaded: models.LoadedBase, asks: list[Ask], sampling: Sampling, feed: queue.Queue,
                  stops: tuple[threading.Event, threading.Event]) -> None:
        import torch

        names_of = ("GenerationConfig", "StoppingCriteria", "StoppingCriteriaList", "set_seed")
        GenerationConfig, StoppingCriteria, StoppingCriteriaList, set_seed = map(models.from_transformers, names_of)

        class Stop(StoppingCriteria):
            def __call__(self, input_ids, scores, **kwargs):
                asked = any(s.is_set() for s in stops)
                return torch.full((input_ids.shape[0],), asked, dtype=torch.bool, device=input_ids.device)

        model, names = self._with_adapters(loaded, [a.adapter for a in asks])
        tokenizer = loaded.tokenizer
        rows = [prompts.encode_prompt(tokenizer, a.messages, a.prompt_format) for a in asks]
        limit = models.context_length(loaded.model)
        room = min(sampling.max_new_tokens, limit - max(len(r) for r in rows))
        if room < 1:
            raise UsageError(f"The conversation is longer than the model's {limit} tokens.",
                             "Clear the conversation, or ask something shorter.")
        ids, mask = pad_left(rows, tokenizer.pad_token_id or 0, loaded.model.device)
        stop_ids = prompts.stop_token_ids(tokenizer, loaded.model.generation_config, asks[0].prompt_format)
        settings = GenerationConfig(
            max_new_tokens=room, do_sample=sampling.temperature > 0, repetition_penalty=sampling.repetition_penalty,
            eos_token_id=stop_ids, pad_token_id=tokenizer.pad_token_id,
            **({"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
               if sampling.temperature > 0 else {}))
        set_seed(sampling.seed)
        streamer = _BatchStreamer(tokenizer, len(rows), set(stop_ids), feed)
        extra = {"adapter_names": names} if names is not None else {}
        with torch.inference_mode():
            model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, streamer=streamer,
                           stopping_criteria=StoppingCriteriaList([Stop()]), **extra)

    def _with_adapters(self, loaded: models.LoadedBase, wanted: list[str | None]) -> tuple[Any, list[str] | None]:
        """The model with all adapters wanted in it, and PEFT's name for each row's (`__base__` for none)."""
        if self._generation != self.slot.generation:
            self._keys.clear()
            self._generation = self.slot.generation
        keys = [self._load_adapter(loaded, name) if name else "__base__" for name in wanted]
        if not hasattr(loaded.model, "get_base_model"):
            return loaded.model, None
        return loaded.model, keys

    def _load_adapter(self, loaded: models.LoadedBase, name: str) -> str:
        with models.IMPORTING:
            from peft import PeftModel

        run = adapters.load_run(self.root, name)
        adapters.verify_run(run)
        assert run.result is not None  # verify_run has looked
        tie = f"{name}:{run.result.adapter_sha256}"
        if tie in self._keys:
            self._keys.move_to_end(tie)
            return self._keys[tie]
        if run.result.base_sha256 and loaded.sha256 and run.result.base_sha256 != loaded.sha256:
            raise AdapterError(f"The adapter '{name}' was trained on other weights of {run.base} than the ones here.",
                               "Train it again on this base model.")
        _check_fit(loaded, run)
        self._made += 1
        key = f"adapter{self._made}"  # PEFT's names must hold no dot
        try:
            if isinstance(loaded.model, PeftModel):
                loaded.model.load_adapter(str(run.path), adapter_name=key, is_trainable=False)
            else:
                loaded.model = PeftModel.from_pretrained(loaded.model, str(run.path), adapter_name=key)
        except Exception:
            self.slot.forget()  # PEFT changes the model in place, so half an adapter may be in it
            raise
        loaded.model.eval()
        self._keys[tie] = key
        while len(self._keys) > MAX_ADAPTERS:
            _, old = self._keys.popitem(last=False)
            loaded.model.delete_adapter(old)
        return key

    @contextmanager
    def scoring_model(self, adapter: str) -> Iterator[tuple[models.LoadedBase, Any]]:
        """Alone with a model and a switch: (loaded, use) where `with use(True)` is tuned and `use(False)` the base."""
        ref, four_bit = self._base_of([Ask((), adapter)], None, False)
        with self.slot.use(ref, four_bit) as loaded:
            model, (key,) = self._with_adapters(loaded, [adapter])

            @contextmanager
            def use(tuned: bool) -> Iterator[Any]:
                model.set_adapter(key)
                if tuned:
                    yield model
                else:
                    with model.disable_adapter():
                        yield model

            yield loaded, use


def _check_fit(loaded: models.LoadedBase, run: adapters.RunInfo) -> None:
    """Compares an adapter's shapes with the base's layers, before anything is changed.

    Raises:
        AdapterError: a layer is not there or has another size.
    """
    base = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
    layers = dict(base.named_modules())
    for module, (a, b) in adapters.lora_shapes(run.path / adapters.WEIGHTS).items():
        layer = layers.get(module.removeprefix("base_model.model."))
        if layer is None or (getattr(layer, "in_features", None), getattr(layer, "out_features", None)) != (a[1], b[0]):
            raise AdapterError(f"The adapter '{run.name}' does not fit the base model {loaded.ref.name}.",
                               f"It names {run.base}; choose an adapter of this base.")


def pad_left(rows: list[list[int]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, each (rows, longest)."""
    import torch

    longest = max(len(r) for r in rows)
    ids = torch.tensor([[pad_id] * (longest - len(r)) + r for r in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


@dataclass
class _BatchStreamer:
    """Takes each step's tokens of all rows (transformers' own streamers refuse batches) and puts states into a queue.

    Duck-typed after transformers' BaseStreamer: `put` and `end`.
    """

    tokenizer: Any
    rows: int
    stop_ids: set[int]
    feed: queue.Queue
    _started: float = field(default_factory=time.monotonic)
    _ids: list[list[int]] = field(default_factory=list)
    _answers: list[Answer] = field(default_factory=list)
    _prompt_seen: bool = False

    def put(self, value: torch.Tensor) -> None:
        """First the prompt (rows, length), which is skipped; then one token a row."""
        if not self._prompt_seen:
            self._prompt_seen = True
            self._ids = [[] for _ in range(self.rows)]
            self._answers = [Answer() for _ in range(self.rows)]
            return
        now = time.monotonic() - self._started
        for index, token in enumerate(value.reshape(-1).tolist()):
            answer = self._answers[index]
            if answer.ended:
                continue
            answer.elapsed_s = round(now, 3)
            if answer.first_token_s is None:
                answer.first_token_s = round(now, 3)
            if token in self.stop_ids:
                answer.ended = True
                continue
            self._ids[index].append(token)
            answer.tokens += 1
            text = self.tokenizer.decode(self._ids[index], skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # half of a character that takes several tokens
                answer.text = text.lstrip()
        self.feed.put([Answer(**a.__dict__) for a in self._answers])

    def end(self) -> None:
        for answer, ids in zip(self._answers, self._ids):
            answer.text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        self.feed.put([Answer(**a.__dict__) for a in self._answers])
