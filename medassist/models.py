"""Base models: where they are, how they are loaded on this machine and why so; one slot, one lock.

A plan (device, number format, attention, 4-bit) is made before anything is loaded and carries its
reasons. This module knows nothing about adapters or datasets.

    python -m medassist doctor
"""

from __future__ import annotations

import gc
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from medassist import catalog
from medassist.errors import ModelError
from medassist.paths import local_path, portable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROJECT = Path(__file__).resolve().parents[1]
IMPORTING = threading.RLock()
_SMALL_ENOUGH = 0.85  # share of the free memory that weights may take


@dataclass(frozen=True)
class BaseRef:
    """A base model by the name that files carry (`name`) and the place it is loaded from (`location`)."""

    name: str
    location: str
    revision: str | None = None
    is_local: bool = False


@dataclass(frozen=True)
class DevicePlan:
    """How a model is run here. `reasons` says why, one sentence each."""

    device: str  # cpu | cuda | xpu
    dtype: str  # float32 | bfloat16 | float16
    attention: str  # eager | sdpa
    load_in_4bit: bool
    reasons: tuple[str, ...]

    @property
    def label(self) -> str:
        short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.dtype]
        return f"{self.device} · {'4-bit, ' if self.load_in_4bit else ''}{short}"


@dataclass
class LoadedBase:
    """A base model in memory with its tokenizer."""

    ref: BaseRef
    plan: DevicePlan
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str


def resolve_base(base_id: str, revision: str | None = None, *, catalogue_only: bool = False) -> BaseRef:
    """Finds where a base model is loaded from: the catalogue, a local folder, or the Hub.

    Raises:
        ModelError: no such name, and neither a folder nor a Hub id.
    """
    entry = catalog.find_base(base_id)
    if entry is not None and entry.name == "mini":
        return BaseRef("mini", str(catalog.MINI_DIR), None, True)
    if entry is not None:
        return BaseRef(entry.id, entry.id, revision)
    folder = None if catalogue_only else local_path(base_id)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise ModelError(f"The folder '{folder.name}' holds no base model (there is no config.json in it).",
                             "Choose a folder that save_pretrained wrote.")
        return BaseRef(portable(str(folder)), str(folder), None, True)
    known = catalog.check_base_id(base_id, catalogue_only=catalogue_only)
    return BaseRef(known, known, revision)


def plan_device(wanted_precision: str = "auto", load_in_4bit: bool = False, *, for_training: bool,
                parameters: int | None = None) -> DevicePlan:
    """Chooses device, number format and attention for this machine.

    Args:
        wanted_precision: auto, fp32, bf16 or fp16.
        parameters: of the base model, where known; decides whether 4-bit is worth it on CPU.
    """
    import torch

    if torch.cuda.is_available():
        return _plan_cuda(wanted_precision, load_in_4bit)
    reasons = ["CPU, because no CUDA GPU was found."]
    if wanted_precision == "fp16":
        wanted_precision = "auto"
        reasons.append("fp16 was asked for, but it is for GPUs; the CPU's own choice is taken.")
    if wanted_precision == "auto":
        ratio = bf16_speedup()
        dtype = "bfloat16" if ratio >= 1.3 else "float32"
        reasons.append(f"{'bf16' if dtype == 'bfloat16' else 'fp32'}, because a matrix product in bf16 takes "
                       f"{1 / ratio:.2f} of the time that it takes in fp32 here.")
    else:
        dtype = {"fp32": "float32", "bf16": "bfloat16"}[wanted_precision]
        reasons.append(f"{wanted_precision}, as asked for.")
    four_bit = load_in_4bit and _worth_4bit_on_cpu(parameters, reasons)
    attention = "eager" if for_training else "sdpa"
    if for_training:
        reasons.append("Eager attention, which is the faster one for training short rows on CPU.")
    return DevicePlan("cpu", dtype, attention, four_bit, tuple(reasons))


def _worth_4bit_on_cpu(parameters: int | None, reasons: list[str]) -> bool:
    needed = 2 * (parameters or 0)
    if parameters is None or needed < _SMALL_ENOUGH * psutil.virtual_memory().available:
        reasons.append("Not 4-bit, although asked for: on CPU it is slower, and the base fits as it is.")
        return False
    if not has_bitsandbytes():
        reasons.append("Not 4-bit, although asked for: bitsandbytes is not installed.")
        return False
    reasons.append("4-bit, as asked for, because the base does not fit otherwise. It is slow on CPU.")
    return True


def _plan_cuda(wanted: str, load_in_4bit: bool) -> DevicePlan:
    import torch

    name = torch.cuda.get_device_name()
    reasons = [f"GPU ({name}), because there is one."]
    # is_bf16_supported() counts emulation by default, which is slow on cards such as the T4.
    real_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto" or (wanted == "bf16" and not real_bf16):
        dtype = "bfloat16" if real_bf16 else "float16"
        reasons.append("bf16, which this card computes in." if real_bf16 else
                       "fp16 with loss scaling, because this card has no bf16 of its own.")
    else:
        dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[wanted]
        reasons.append(f"{wanted}, as asked for.")
    four_bit = load_in_4bit and has_bitsandbytes()
    if load_in_4bit:
        reasons.append("4-bit (NF4) base, as asked for." if four_bit else
                       "Not 4-bit, although asked for: bitsandbytes is not installed.")
    return DevicePlan("cuda", dtype, "sdpa", four_bit, tuple(reasons))


@lru_cache(maxsize=1)
def has_bitsandbytes() -> bool:
    """Whether bitsandbytes can be imported here."""
    import importlib.util

    return importlib.util.find_spec("bitsandbytes") is not None


@lru_cache(maxsize=1)
def bf16_speedup() -> float:
    """How many times faster a 768 × 768 × 768 matrix product is in bf16 than in fp32, best of several, on this CPU."""
    import torch

    def best(dtype: torch.dtype) -> float:
        a, b = torch.randn(768, 768).to(dtype), torch.randn(768, 768).to(dtype)
        times = []
        for _ in range(6):
            start = time.perf_counter()
            for _ in range(2):
                a @ b
            times.append(time.perf_counter() - start)
        return min(times)

    return best(torch.float32) / best(torch.bfloat16)


def from_transformers(name: str) -> Any:
    """A class of transformers. Its lazy imports are not safe from two threads at once, so they wait here."""
    with IMPORTING:
        import transformers

        return getattr(transformers, name)


def load_tokenizer(ref: BaseRef) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, padding on the left, with a pad token.

    Raises:
        ModelError: it cannot be found, fetched or read.
    """
    AutoTokenizer = from_transformers("AutoTokenizer")
    _ask_hub(ref)
    with _plain_errors(ref):
        tokenizer = AutoTokenizer.from_pretrained(ref.location, revision=ref.revision, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_base(ref: BaseRef, plan: DevicePlan) -> LoadedBase:
    """Loads the base model, frozen and in evaluation mode, from safetensors.

    Raises:
        ModelError: it cannot be found, fetched, read, or does not fit into memory.
    """
    import torch

    _check_memory(ref, plan)
    tokenizer = load_tokenizer(ref)
    AutoModelForCausalLM = from_transformers("AutoModelForCausalLM")
    dtype = getattr(torch, plan.dtype)
    extra: dict[str, Any] = {}
    if plan.load_in_4bit and not is_prequantized(ref):
        extra["quantization_config"] = from_transformers("BitsAndBytesConfig")(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    if plan.device == "cuda":
        extra["device_map"] = {"": torch.cuda.current_device()}
    with _plain_errors(ref):
        model = AutoModelForCausalLM.from_pretrained(
            ref.location, revision=ref.revision, dtype=dtype, attn_implementation=plan.attention,
            use_safetensors=True, trust_remote_code=False, **extra)
    model.requires_grad_(False)
    model.eval()
    return LoadedBase(ref, plan, model, tokenizer, base_sha256(ref))


def context_length(model: PreTrainedModel) -> int:
    """The most tokens that a model takes in, prompt and answer together."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096


def _check_memory(ref: BaseRef, plan: DevicePlan) -> None:
    """Refuses a base that cannot fit, before gigabytes are fetched."""
    entry = catalog.find_base(ref.name)
    if entry is None or plan.device != "cpu":
        return
    width = 0.6 if plan.load_in_4bit else {"float32": 4, "bfloat16": 2, "float16": 2}[plan.dtype]
    needed, free = entry.parameters * width, psutil.virtual_memory().available
    if needed > _SMALL_ENOUGH * free:
        raise ModelError(f"{ref.name} needs about {needed / 1e9:.1f} GB of memory here and {free / 1e9:.1f} GB are free.",
                         "Choose a smaller base model, or a machine with a GPU.")


def is_prequantized(ref: BaseRef) -> bool:
    """Whether the base comes quantised already (`*-bnb-4bit`)."""
    entry = catalog.find_base(ref.name)
    if entry is not None and entry.prequantized:
        return True
    if not ref.is_local:
        return ref.name.lower().endswith(("-bnb-4bit", "-4bit"))
    try:
        return "quantization_config" in json.loads((Path(ref.location) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _ask_hub(ref: BaseRef) -> None:
    """Finds out within seconds whether the Hub answers; the client itself would try again for most of a minute.

    Raises:
        ModelError: the base is not on this machine, and the Hub cannot be reached or cannot serve now.
    """
    import httpx
    from huggingface_hub import constants

    if ref.is_local or constants.HF_HUB_OFFLINE or _snapshot(ref) is not None:
        return
    try:
        status = httpx.head(f"{constants.ENDPOINT}/api/models/{ref.location}", timeout=10, follow_redirects=True).status_code
    except httpx.HTTPError:
        status = 0
    if status == 429:
        raise ModelError("The Hub refuses further requests for now (too many of them).", "Try again in a few minutes.")
    if status == 0 or status >= 500:
        raise _unreachable(ref)


def _unreachable(ref: BaseRef) -> ModelError:
    return ModelError(f"{ref.name} is not on this machine and the Hub could not be reached.",
                      "Check the network, or choose 'mini', which needs none.")


@contextmanager
def _plain_errors(ref: BaseRef) -> Iterator[None]:
    """Turns what transformers and the Hub client raise into one sentence and a next step."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        yield
    except Exception as error:
        chain: list[BaseException] = []
        link: BaseException | None = error
        while link is not None and link not in chain:
            chain.append(link)
            link = link.__cause__ or link.__context__

        def met(*kinds: type[BaseException]) -> bool:
            return any(isinstance(e, kinds) for e in chain)

        text = " ".join(str(e) for e in chain).lower()
        if met(GatedRepoError):
            raise ModelError(f"{ref.name} is gated: its licence must be accepted on its Hub page first.",
                             "Accept it there, then log in with `hf auth login` or set HF_TOKEN.") from error
        if met(RepositoryNotFoundError):
            raise ModelError(f"There is no base model {ref.name} on the Hub, or it is private.",
                             "Check the spelling, or set HF_TOKEN.") from error
        if "safetensors" in text and ("no file named" in text or "does not appear to have" in text):
            raise ModelError(f"{ref.name} has no weights in safetensors format.",
                             "Choose another base model; pickled weights are not loaded.") from error
        if met(LocalEntryNotFoundError, HfHubHTTPError, ConnectionError, TimeoutError) or "offline" in text \
                or "connect" in text or "couldn't" in text:
            raise _unreachable(ref) from error
        if isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text:
            raise ModelError(f"{ref.name} does not fit into the memory that is free here.",
                             "Choose a smaller base model, or 4-bit on a GPU.") from error
        if isinstance(error, (OSError, ValueError, KeyError, RuntimeError, ImportError)) or "safetensor" in text:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{ref.name} cannot be loaded: {_without_paths(first)[:200]}.",
                             "Choose another base model, or download it again.") from error
        raise


def _without_paths(text: str) -> str:
    return text.replace(str(_PROJECT), "").replace(str(Path.home()), "~")


def base_sha256(ref: BaseRef) -> str:
    """One hash over the base's weight files (names and SHA-256), which an adapter is tied to.

    For a Hub model the cached files are named after their SHA-256, so nothing is read again. Empty
    where no file is at hand.
    """
    folder = Path(ref.location) if ref.is_local else _snapshot(ref)
    if folder is None:
        return ""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        blob = path.resolve().name
        digest = blob if len(blob) == 64 and not ref.is_local else _sha256(str(path), path.stat().st_mtime_ns)
        total.update(f"{path.name}:{digest}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=64)
def _sha256(path: str, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _snapshot(ref: BaseRef) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(ref.location, "config.json", revision=ref.revision)
    return Path(found).parent if isinstance(found, str) else None


class ModelSlot:
    """The one base model in memory. Whoever uses it holds its lock; another base takes its place.

    Args:
        precision: auto, fp32, bf16 or fp16; for generation.
    """

    def __init__(self, precision: str = "auto") -> None:
        self._precision = precision
        self._lock = threading.Lock()
        self._loaded: LoadedBase | None = None
        self.generation = 0  # counts the loads, so that what is tied to an earlier one can be dropped

    @property
    def name(self) -> str | None:
        """The base in memory, if any."""
        loaded = self._loaded
        return loaded.ref.name if loaded else None

    def forget(self) -> None:
        """Lets the base go, so that the next use loads it anew. For whoever holds the lock and has damaged it."""
        self._loaded = None

    @contextmanager
    def use(self, ref: BaseRef, load_in_4bit: bool = False) -> Iterator[LoadedBase]:
        """The loaded base, alone for as long as the block lasts."""
        with self._lock:
            if self._loaded is None or self._loaded.ref != ref:
                self._loaded = None
                gc.collect()
                entry = catalog.find_base(ref.name)
                plan = plan_device(self._precision, load_in_4bit, for_training=False,
                                   parameters=entry.parameters if entry else None)
                self._loaded = load_base(ref, plan)
                self.generation += 1
            yield self._loaded
