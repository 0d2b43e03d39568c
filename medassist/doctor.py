"""What this machine can do, what medassist would pick here, and why.

    python -m medassist doctor
"""

from __future__ import annotations

import os
import platform
import shutil
from typing import Any

import psutil

from medassist import access, adapters, models
from medassist.lock import current_owner


def diagnose() -> dict[str, Any]:
    """Facts and choices, in the order in which they are read aloud."""
    from medassist.training import versions

    root = adapters.adapters_root()
    memory = psutil.virtual_memory()
    train = models.plan_device(for_training=True)
    chat = models.plan_device(for_training=False)
    owner = current_owner(root)
    free = shutil.disk_usage(root if root.is_dir() else root.parent).free
    return {
        "versions": ", ".join(f"{k} {v}" for k, v in versions().items()),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
                  f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB memory free",
        "disk": f"{free / 1e9:.1f} GB free",
        "4-bit": "bitsandbytes is installed" if models.has_bitsandbytes() else "bitsandbytes is not installed",
        "training": train.label, "training because": list(train.reasons),
        "chat": chat.label, "chat because": list(chat.reasons),
        "runs": len(adapters.list_runs(root)), "usable adapters": [r.name for r in adapters.list_usable(root)],
        "training now": owner.run if owner else "nothing",
        "public Space": "yes: training is closed" if access.is_public() else "no",
    }
