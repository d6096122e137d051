"""Reports from inside a training run: a plain loop, a Lightning trainer, a trainer of transformers.

What may live here: when to watch, where reports go, and the hooks of trainers. What may not: numbers (engine),
thresholds (rules). Importing it loads torch; the trainers' libraries are loaded when their callback is made.
"""

from __future__ import annotations

from gradinspect.training.lightning_callback import lightning_callback
from gradinspect.training.transformers_callback import transformers_callback
from gradinspect.training.watch import RunStopped, Watch, watch

__all__ = ["RunStopped", "Watch", "lightning_callback", "transformers_callback", "watch"]
