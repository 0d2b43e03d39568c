"""About how long a training will take on this machine, before it is started.

The rate of earlier runs of the same base here counts first. Without one it is reckoned from the
model's size and a timed matrix product; the two constants fit LoRA training of an 8 M and a 135 M
model on two CPU cores (2,000 and 305 tokens/s) within a tenth. It is a guess, shown with "about".
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

from medassist import adapters, catalog, models
from medassist.config import RunConfig

_EFFICIENCY = 0.39  # of the timed product's rate, reached by the matrices of a large model
_OVERHEAD_S = 0.00035  # a token, whatever the size, on CPU
_START_S = 12.0  # imports, loading, checking
_COMPARE_S = 15.0  # quick comparison


def estimate_seconds(config: RunConfig, train_tokens: int, root: Path) -> float:
    """Seconds from Start to the verdict, about.

    Args:
        train_tokens: of the training split, prompt and answer, once through.
    """
    rate = tokens_per_second(config.base.id, root)
    tokens = train_tokens * config.train.num_train_epochs
    if config.train.max_steps is not None:
        batch = config.train.per_device_train_batch_size
        tokens = min(tokens, config.train.max_steps * config.train.gradient_accumulation_steps * config.data.max_length
                     * (8 if batch == "auto" else batch))
    compare = {"none": 0.0, "quick": _COMPARE_S, "full": 6 * _COMPARE_S}[config.evaluate.budget]
    return _START_S + tokens / rate + compare


def tokens_per_second(base_id: str, root: Path) -> float:
    """Tokens a second in training, padding not counted: measured by an earlier run here, or reckoned.

    Kept for ten seconds: a form asks for several presets at once.
    """
    return _rate(base_id, root, int(time.monotonic() // 10))


@lru_cache(maxsize=16)
def _rate(base_id: str, root: Path, _moment: int) -> float:
    measured = measured_rate(base_id, root)
    if measured is not None:
        return measured
    entry = catalog.find_base(base_id)
    parameters = entry.parameters if entry else 1_000_000_000
    return 1.0 / (4 * parameters / (_EFFICIENCY * matrix_rate()) + (_OVERHEAD_S if not _has_gpu() else 0.00002))


def measured_rate(base_id: str, root: Path) -> float | None:
    """Tokens a second of the newest run of this base here; None where none was timed."""
    entry = catalog.find_base(base_id)
    names = {base_id} | ({entry.name, entry.id} if entry else set())
    for run in adapters.list_runs(root):
        # The adapter that ships was trained on another machine.
        if run.result and run.name != "starter" and run.base in names and run.result.metrics.get("tokens_per_s"):
            return float(run.result.metrics["tokens_per_s"])
    return None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@lru_cache(maxsize=1)
def matrix_rate() -> float:
    """Floating-point operations a second of a 1,024³ product in the number format that training takes here."""
    import torch

    plan = models.plan_device(for_training=True)
    a = torch.randn(1024, 1024, device=plan.device).to(getattr(torch, plan.dtype))
    best = 1e9
    for _ in range(6):
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best
