"""The optimiser of stage 2 against AdamW, its memory and its checkpoints."""

from __future__ import annotations

import io
from typing import Any

import torch

from modules.vit_vqgan.factored_adam import FactoredAdam


def test_factored_adam_is_adam_where_nothing_is_lost() -> None:
    """Vectors, and matrices whose squared gradient is an outer product; bfloat16 keeps the powers of two used here."""
    torch.manual_seed(0)
    vector, matrix = torch.randn(6), torch.randn(4, 3)
    pairs = [(p.clone().requires_grad_(), p.clone().requires_grad_()) for p in (vector, matrix)]
    options: dict[str, Any] = {"lr": 0.1, "betas": (0.5, 0.96), "weight_decay": 0.05}
    ours, theirs = FactoredAdam([a for a, _ in pairs], **options), torch.optim.AdamW([b for _, b in pairs], **options)
    for sign in (1.0, 1.0, -1.0, 1.0):
        for a, b in pairs:
            rank_one = torch.outer(torch.tensor([1.0, 2, 4, 8]), torch.tensor([1.0, -2, 4]))
            b.grad = sign * (rank_one if a.ndim > 1 else torch.tensor([1.0, 2, 0.5, 4, -1, 8]))
            a.grad = b.grad.clone()
        ours.step()
        theirs.step()
    for a, b in pairs:
        assert torch.allclose(a, b, atol=1e-5)


def test_factored_adam_keeps_rows_and_columns_and_repeats_after_a_reload() -> None:
    torch.manual_seed(0)
    p = torch.randn(50, 40, requires_grad=True)
    gradients = torch.randn(6, 50, 40)
    first = FactoredAdam([p], lr=0.01)
    kept: dict[str, Any] = {}
    for number, gradient in enumerate(gradients):
        if number == 3:
            kept = {"p": p.detach().clone(), "state": first.state_dict()}
            state = first.state[p]
            assert sum(v.numel() for k, v in state.items() if k in ("rows", "columns")) == 90
            assert state["momentum"].dtype is torch.bfloat16
            kept["state"] = torch.load(_stored(kept["state"]), weights_only=True)
        p.grad = gradient
        first.step()
    again = kept["p"].requires_grad_()
    second = FactoredAdam([again], lr=0.01)
    second.load_state_dict(kept["state"])
    for gradient in gradients[3:]:
        again.grad = gradient
        second.step()
    assert torch.equal(again, p)


def _stored(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
