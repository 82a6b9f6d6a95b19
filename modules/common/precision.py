"""Where lower precision ends."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_single(x: Tensor) -> Tensor:
    """Half precision as fp32; anything finer as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
