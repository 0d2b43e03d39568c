"""What is offered by name: base models, datasets, and recipes (whole runs), from catalog/*.yaml.

It also decides which ids are let in (`check_base_id`, `check_dataset_id`). It fetches nothing, opens no
model and no dataset, and knows nothing of torch, transformers or the page.

    python -m medassist list models
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from medassist.config import HUB_ID
from medassist.errors import DataError, ModelError, UsageError

_PACKAGE = Path(__file__).resolve().parent
_FOLDER = _PACKAGE / "catalog"  # data only; this module wins over the folder of the same name on import
MINI_DIR: Path = _PACKAGE / "mini"
STARTER_FILE: Path = _PACKAGE / "starter" / "flashcards.jsonl"

DATA_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".xml")

# Memory of LoRA training is an estimate: the weights, a tenth more for activations and the optimiser's
# state, and 2.5 GB for the runtime and the logits. bf16 takes 2 bytes a weight. 4-bit takes 0.7 and not 0.5:
# embeddings and output layer stay in 16 bits, and each block of 64 weights has a scale. Long rows or large
# batches take more.
_GB_A_BILLION_BF16 = 2.0 * 1.1
_GB_A_BILLION_4BIT = 0.7 * 1.1
_RUNTIME_GB = 2.5


@dataclass(frozen=True)
class BaseModelEntry:
    """One base model. Memory figures are estimates for LoRA training, from the number of parameters."""

    name: str
    id: str  # Hub id, or "mini"
    title: str
    license: str
    parameters: int
    memory_bf16_gb: float
    memory_4bit_gb: float
    gated: bool
    note: str
    license_url: str | None = None
    prequantized: bool = False  # stored in 4-bit already: there is no bf16 form of these files
    space: bool = False  # small enough for a Space with 2 vCPU and 16 GB


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset. `mapping` is role → column in the rows as the Hub has them."""

    name: str
    id: str  # Hub id, or "starter"
    title: str
    license: str
    rows: int | None  # None: not known, or changing with the project
    kind: str  # "qa" or "multiple_choice"
    mapping: Mapping[str, str]
    splits: tuple[str, ...]
    note: str
    subset: str | None = None
    space: bool = False


@dataclass(frozen=True)
class Recipe:
    """A whole run; `settings` is a nested layer for `config.build_config`."""

    name: str
    title: str
    description: str
    replaces: str
    settings: dict[str, Any] = field(repr=False)


@cache
def _read(file: str) -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load((_FOLDER / file).read_text(encoding="utf-8")))


@cache
def list_base_models() -> tuple[BaseModelEntry, ...]:
    """All base models, in the order of the file."""
    return tuple(_base_model(row) for row in _read("base_models.yaml"))


def _base_model(row: Mapping[str, Any]) -> BaseModelEntry:
    billions = row["parameters"] / 1e9
    four_bit = round(billions * _GB_A_BILLION_4BIT + _RUNTIME_GB, 1)
    bf16 = round(billions * _GB_A_BILLION_BF16 + _RUNTIME_GB, 1)
    return BaseModelEntry(**row, memory_4bit_gb=four_bit,
                          memory_bf16_gb=four_bit if row.get("prequantized") else bf16)


@cache
def list_datasets() -> tuple[DatasetEntry, ...]:
    """All datasets, in the order of the file."""
    return tuple(DatasetEntry(**{**row, "splits": tuple(row["splits"])}) for row in _read("datasets.yaml"))


def list_recipes() -> tuple[Recipe, ...]:
    """All recipes, in the order of the file. Their settings are copies: change them freely."""
    rows = _read("recipes.yaml")
    return tuple(Recipe(**{**row, "settings": copy.deepcopy(row["settings"])}) for row in rows)


def find_base(name_or_id: str) -> BaseModelEntry | None:
    """The base model with this catalogue name or Hub id, in whatever case, or None."""
    return _find(list_base_models(), name_or_id)


def find_dataset(name_or_id: str) -> DatasetEntry | None:
    """The dataset with this catalogue name or Hub id, in whatever case, or None."""
    return _find(list_datasets(), name_or_id)


def _find(entries: Sequence[Any], name_or_id: str) -> Any:
    wanted = name_or_id.strip().lower()
    return next((e for e in entries if wanted in (e.name.lower(), e.id.lower())), None)


def get_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none; the message names near matches.
    """
    recipes = list_recipes()
    for recipe in recipes:
        if recipe.name == name.strip().lower():
            return recipe
    raise UsageError(f"Unknown recipe '{name:.80}'.{_did_you_mean(name, [r.name for r in recipes])}",
                     "`python -m medassist list recipes` shows all.")


def replace_datasets(settings: Mapping[str, Any], ids: Sequence[str]) -> dict[str, Any]:
    """`settings` with other datasets in the places of its own.

    Row limits, selection and multiple-choice flags of each place stay (those of the last for any beyond it); subset,
    revision and columns, which belong to the dataset that goes, do not.
    """
    kept = ("max_rows", "select", "single_answer_only", "options_in_prompt")
    places = list(settings.get("datasets", ()))
    datasets = []
    for i, dataset_id in enumerate(ids):
        place = places[min(i, len(places) - 1)] if places else {}
        datasets.append({"id": dataset_id, **{k: place[k] for k in kept if k in place}})
    return {**settings, "datasets": datasets}


def check_base_id(text: str, *, catalogue_only: bool = False) -> str:
    """The catalogue name, Hub id or local folder that `text` names; with `catalogue_only` a catalogue name.

    Raises:
        ModelError: it names none of these.
    """
    entry = find_base(text)
    if entry:
        return entry.name
    return _check_id(text, "base model", [e.name for e in list_base_models()], ModelError, catalogue_only)


def check_dataset_id(text: str, *, catalogue_only: bool = False) -> str:
    """The catalogue name, Hub id, or local file or folder that `text` names.

    Raises:
        DataError: it names none of these.
    """
    entry = find_dataset(text)
    if entry:
        return entry.name
    return _check_id(text, "dataset", [e.name for e in list_datasets()], DataError, catalogue_only)


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form owner/name; `./x`, `../x` and hidden names are paths."""
    return bool(HUB_ID.match(text)) and not any(part.startswith(".") for part in text.split("/"))


def plain(text: str, most: int = 80) -> str:
    """`text` for a sentence: cut to `most` characters, and nothing in it that moves the cursor or turns the line."""
    text = str(text)
    shown = text if len(text) <= most else text[:most - 3] + "..."
    return "".join(c if c.isprintable() else "\ufffd" for c in shown)


def _check_id(text: str, kind: str, names: list[str], error: type[Exception], catalogue_only: bool) -> str:
    text = text.strip()
    shown = plain(text)
    near = _did_you_mean(text, names)
    listing = "models" if kind == "base model" else "datasets"
    next_step = f"`python -m medassist list {listing}` shows what there is."
    if catalogue_only:
        raise error(f"The {kind} '{shown}' is not in the catalogue, and nothing else is taken here.{near}",
                    "Choose one from the list, or duplicate the Space.")
    if "\0" not in text and len(text) <= 1024 and _exists(text):
        return text
    looks_like_path = text.startswith((".", "/", "~", "\\")) or text.count("/") > 1 or "\\" in text
    if looks_like_path or text.lower().endswith(DATA_SUFFIXES):
        raise error(f"There is no file or folder '{shown}' for the {kind}.", "Check the path.")
    if is_hub_id(text):
        return text
    raise error(f"Unknown {kind} '{shown}'.{near}",
                f"Give a catalogue name, a Hub id (owner/name) or a local path; {next_step}")


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # a name too long, or a home folder that nobody has
        return False


def _did_you_mean(text: str, names: Sequence[str]) -> str:
    wanted = text.strip().lower()[:100].rsplit("/", 1)[-1]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    near = near or ([n for n in names if wanted in n][:3] if len(wanted) > 2 else [])
    return " Did you mean " + " or ".join(f"'{n}'" for n in near) + "?" if near else ""
