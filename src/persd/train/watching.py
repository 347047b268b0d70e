"""What a training tells while it goes on: one record an optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, or a look at the held-out rows after it."""

    step: int
    """From 1 on."""
    steps: int
    """Of the whole training."""
    loss: float
    """Nats per label token, mean over the step's rows."""
    lr: float
    """Rate of the step."""
    grad_norm: float | None = None
    """Norm of the gradient before it was clipped; None: not told."""
    tokens: int = 0
    """Read so far, without padding, over all processes."""
    seconds: float = 0.0
    """Since this process began to train."""
    held_out: float | None = None
    """Nats per label token on the held-out rows, after this step; None: not looked at."""


OnStep = Callable[[Step], None]
