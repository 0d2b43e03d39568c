"""The run folder `adapters/<run>/`: where it is, what state it is in, whether its adapter can be trusted.

The folder is the border between training and everything else (see `result.json`, written last).
This module reads and writes such folders; it knows nothing about how they came to be.

    python -m medassist list adapters
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from medassist.config import RunConfig, is_run_name, load_config
from medassist.errors import AdapterError, ConfigError, JobError
from medassist.lock import read_owner

WEIGHTS = "adapter_model.safetensors"
VOCABULARY = "vocabulary.tsv"  # words of the training questions that the gate lets in for this adapter
OUTCOMES = ("finished", "stopped", "failed")
_MAX_JSON_BYTES = 64_000_000


def adapters_root() -> Path:
    """The folder of all runs: `MEDASSIST_ADAPTERS`, else `adapters/` beside the package."""
    chosen = os.environ.get("MEDASSIST_ADAPTERS")
    return Path(chosen).resolve() if chosen else Path(__file__).resolve().parents[1] / "adapters"


def run_path(root: Path, name: str) -> Path:
    """The folder of a run, which need not exist; never outside `root`.

    Raises:
        AdapterError: the name is not a run name.
    """
    if not is_run_name(name):
        raise AdapterError(f"{name!r:.100} is not a run name.",
                           "Use small letters, digits, '-', '_' or '.', as `list adapters` shows them.")
    path = (root / name).resolve()
    if path.parent != root.resolve():
        raise AdapterError(f"{name!r:.100} does not lie in the adapters folder.")
    return path


def new_run_name(root: Path, config: RunConfig) -> str:
    """A free name made of dataset and date, such as `starter-2026-11-20-1405`."""
    stem = re.sub(r"[^a-z0-9]+", "-", Path(config.datasets[0].id).stem.lower()).strip("-")[:32] or "run"
    base = f"{stem}-{time.strftime('%Y-%m-%d-%H%M')}"
    name, number = base, 2
    while (root / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


@dataclass(frozen=True)
class Result:
    """`result.json`: how a run ended and what was measured until then."""

    outcome: str  # finished | stopped | failed
    reason: str = ""
    next_step: str = ""
    steps: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    elapsed_s: float = 0.0
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    base: str = ""
    base_sha256: str = ""
    adapter_sha256: str = ""
    dataset_sha256: str = ""


@dataclass(frozen=True)
class RunInfo:
    """A run as it stands on disk. `state` is running, finished, stopped, failed or interrupted."""

    name: str
    path: Path
    state: str
    config: RunConfig | None
    result: Result | None
    evaluation: dict[str, Any] | None
    created_at: float

    @property
    def base(self) -> str:
        if self.result is not None and self.result.base:
            return self.result.base
        return self.config.base.id if self.config is not None else ""

    @property
    def verdict(self) -> str:
        return str((self.evaluation or {}).get("verdict", ""))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON beside its place and renames it there, so that it is whole or absent."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or None where it is missing, damaged or unreasonably large."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_result(path: Path, result: Result) -> None:
    """Writes `result.json`, the file that says a run has ended."""
    if result.outcome not in OUTCOMES:
        raise ValueError(f"outcome {result.outcome!r} is none of {OUTCOMES}")
    write_json(path / "result.json", asdict(result))


def read_result(path: Path) -> Result | None:
    """The result of a run folder, or None while it runs or after it was killed."""
    row = read_json(path / "result.json")
    if row is None or row.get("outcome") not in OUTCOMES:
        return None
    known = Result.__dataclass_fields__
    return Result(**{k: v for k, v in row.items() if k in known})


def is_running(path: Path) -> bool:
    """Whether the process that owns the folder is alive."""
    owner = read_owner(path / "owner.json")
    return owner is not None and owner.is_alive()


def load_run(root: Path, name: str) -> RunInfo:
    """One run.

    Raises:
        AdapterError: there is no such run.
    """
    path = run_path(root, name)
    if not path.is_dir():
        names = ", ".join(r.name for r in list_runs(root)[:8]) or "none yet"
        raise AdapterError(f"There is no run '{name}'.", f"Choose one of: {names}.")
    return _info(path)


def _info(path: Path) -> RunInfo:
    try:
        config = load_config(path / "run.yaml")
    except ConfigError:
        config = None
    result = read_result(path)
    running = is_running(path)
    # A result is final, but evaluation may still be writing: the run is usable from then on.
    state = result.outcome if result is not None else "running" if running else "interrupted"
    created = min((f.stat().st_mtime for f in (path / "run.yaml", path) if f.exists()), default=0.0)
    return RunInfo(path.name, path, state, config, result, read_json(path / "evaluation.json"), created)


def list_runs(root: Path) -> list[RunInfo]:
    """All runs, newest first. Folders whose names are not run names, or that hold no run, are left out."""
    if not root.is_dir():
        return []
    found = [_info(p) for p in root.iterdir()
             if p.is_dir() and is_run_name(p.name)
             and any((p / f).exists() for f in ("run.yaml", "result.json", "owner.json"))]
    return sorted(found, key=lambda r: (-r.created_at, r.name))


def list_usable(root: Path) -> list[RunInfo]:
    """The runs that Chat and Compare offer: finished, with an adapter that verifies."""
    usable = []
    for run in list_runs(root):
        if run.state != "finished":
            continue
        try:
            verify_run(run)
        except AdapterError:
            continue
        usable.append(run)
    return usable


def verify_run(run: RunInfo) -> None:
    """Checks that a finished run's adapter is the one that the run wrote.

    Raises:
        AdapterError: the run is not finished, or its adapter is missing, damaged or of another kind.
    """
    if run.state != "finished" or run.result is None:
        raise AdapterError(f"The run '{run.name}' is {run.state}: it has no finished adapter.",
                           "Choose a finished run, or resume this one.")
    check_adapter_folder(run.path)
    if run.result.adapter_sha256 != file_sha256(run.path / WEIGHTS):
        raise AdapterError(f"The adapter of '{run.name}' is not the one that the run wrote (its hash differs).",
                           "Train it again, or restore the folder from a copy.")


def check_adapter_folder(path: Path) -> dict[str, Any]:
    """Checks that a folder holds a plain LoRA adapter in safetensors; returns its `adapter_config.json`.

    What is refused: other PEFT methods, DoRA, trained biases, whole saved modules, pickled weights.

    Raises:
        AdapterError: with what is wrong.
    """
    name = path.name
    config = read_json(path / "adapter_config.json")
    if config is None:
        raise AdapterError(f"'{name}' has no readable adapter_config.json.", "Choose a folder with a LoRA adapter.")
    if str(config.get("peft_type", "")).upper() != "LORA" or config.get("use_dora"):
        raise AdapterError(f"'{name}' is not a plain LoRA adapter.", "Only LoRA adapters can be used here.")
    if config.get("modules_to_save") or config.get("bias", "none") != "none" or config.get("trainable_token_indices"):
        raise AdapterError(f"'{name}' also replaces parts of its base model.", "Only plain LoRA adapters can be used.")
    if not isinstance(config.get("base_model_name_or_path"), str):
        raise AdapterError(f"'{name}' does not name its base model.")
    pairs = lora_shapes(path / WEIGHTS)
    for module, (a, b) in pairs.items():
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise AdapterError(f"The shapes in '{name}' do not fit together ({module}).")
    return config


def lora_shapes(path: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Shapes of the A (r × in) and B (out × r) matrices by module, from the safetensors header alone.

    Raises:
        AdapterError: not a safetensors file, or one with anything but LoRA matrices.
    """
    header = _safetensors_header(path)
    shapes: dict[str, dict[str, list[int]]] = {}
    for key, info in header.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight", key)
        if match is None or not isinstance(info, dict) or not isinstance(info.get("shape"), list):
            raise AdapterError(f"{path.parent.name}/{path.name} holds something that is not a LoRA matrix ({key:.80}).")
        shapes.setdefault(match[1], {})[match[2]] = info["shape"]
    if not shapes or any(set(pair) != {"A", "B"} for pair in shapes.values()):
        raise AdapterError(f"{path.parent.name}/{path.name} does not hold whole LoRA pairs.")
    return {module: (pair["A"], pair["B"]) for module, pair in shapes.items()}


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file (8 bytes length, little endian, then the header)."""
    problem = AdapterError(f"{path.parent.name}/{path.name} is missing or not a safetensors file.",
                           "Weights must be in safetensors format.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, 50_000_000):
                raise problem
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        raise problem from None
    if not isinstance(header, dict):
        raise problem
    header.pop("__metadata__", None)
    ends = [info["data_offsets"][1] for info in header.values()
            if isinstance(info, dict) and isinstance(info.get("data_offsets"), list) and len(info["data_offsets"]) == 2]
    if len(ends) != len(header) or not all(isinstance(e, int) for e in ends) or max(ends, default=0) != size - 8 - length:
        raise problem
    return header


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, remembered for as long as its size and time of change stay."""
    try:
        stat = path.stat()
    except OSError:
        raise AdapterError(f"{path.parent.name}/{path.name} is missing.") from None
    return _file_sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_sha256(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def delete_run(root: Path, name: str) -> None:
    """Deletes a run that is not running, whole: it leaves the list at once, then the disk.

    Raises:
        AdapterError: there is no such run. JobError: it is running, or ships with the project.
    """
    run = load_run(root, name)
    if is_running(run.path):
        raise JobError(f"'{name}' is running.", "Stop it first.")
    if name == "starter":
        raise JobError("'starter' ships with medassist and is not deleted.")
    gone = run.path.with_name(f".deleted-{name}-{os.getpid()}")
    os.replace(run.path, gone)
    shutil.rmtree(gone, ignore_errors=True)
