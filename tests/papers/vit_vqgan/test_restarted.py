"""Restarts of unused codes: which move, where to, and when."""

from __future__ import annotations

import pytest
import torch

from modules.vit_vqgan.quantizer import Quantizer
from modules.vit_vqgan.restarted import RestartedQuantizer


def restarted(decay: float = 0.5) -> RestartedQuantizer:
    """Four codes in one dimension at 0, 1, 2 and 9, looked up as they are."""
    ours = RestartedQuantizer(1, 1, 4, 1, decay=decay, normalise=False)
    ours.down = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        ours.codebook.copy_(torch.tensor([[0.0], [1.0], [2.0], [9.0]]))
    return ours


TOKENS = torch.tensor([[[0.1], [0.2], [1.1], [3.0]]])  # look up codes 0, 0, 1 and 2


def test_use_is_a_running_mean_of_tokens_in_a_batch() -> None:
    ours = restarted()
    ours(TOKENS)
    assert ours.usage.tolist() == [1.5, 1.0, 1.0, 0.5]  # halfway from 1 to the counts 2, 1, 1, 0


def test_an_unused_code_moves_to_an_output_of_the_encoder_before_the_next_lookup() -> None:
    ours = restarted()
    ours(TOKENS)
    assert ours.codebook.flatten().tolist() == [0.0, 1.0, 2.0, 9.0]  # the first batch found all at the threshold
    _, codes, _ = ours(TOKENS)
    *kept, moved = ours.codebook.flatten().tolist()
    assert kept == [0.0, 1.0, 2.0]
    assert moved in TOKENS.flatten().tolist()
    at = TOKENS.flatten().tolist().index(moved)
    assert int(codes.flatten()[at]) == 3  # it is nearest to the token that it lies on


def test_outside_of_training_nothing_moves_and_nothing_is_counted() -> None:
    ours = restarted().eval()
    ours.usage.zero_()
    plain = Quantizer(1, 1, 4, 1, normalise=False)
    plain.load_state_dict({name: value for name, value in ours.state_dict().items() if name != "usage"}, strict=False)
    plain.down = torch.nn.Identity()  # type: ignore[assignment]
    for mine, theirs in zip(ours(TOKENS), plain(TOKENS), strict=True):
        assert torch.equal(mine, theirs)
    assert float(ours.usage.sum()) == 0
    assert ours.codebook.flatten().tolist() == [0.0, 1.0, 2.0, 9.0]


def test_restarts_go_on_from_what_was_counted() -> None:
    """Use is part of the weights: a run that went on restarts the codes that it would have restarted."""
    ours = restarted()
    ours(TOKENS)
    again = restarted()
    again.load_state_dict(ours.state_dict())
    assert again.usage.tolist() == ours.usage.tolist()


def test_a_collapsed_codebook_comes_into_use() -> None:
    """One code lies among the tokens and fifteen far away: without restarts it alone is ever looked up."""
    torch.manual_seed(0)
    used = {}
    for kind in (Quantizer, RestartedQuantizer):
        ours = kind(8, 8, 16, 8, normalise=False)
        ours.down = torch.nn.Identity()  # type: ignore[assignment]
        with torch.no_grad():
            ours.codebook.fill_(-100.0)[0] = 0.0
        for _ in range(150):
            _, codes, _ = ours(torch.randn(1, 64, 8))
        used[kind] = len(codes.unique())
    assert used[Quantizer] == 1
    assert used[RestartedQuantizer] >= 12


@pytest.mark.parametrize("normalise", [True, False])
def test_codes_get_the_gradient_of_the_loss_after_they_moved(normalise: bool) -> None:
    torch.manual_seed(0)
    ours = RestartedQuantizer(6, 6, 40, 4, normalise=normalise)
    ours.usage.zero_()
    _, codes, loss = ours(torch.randn(2, 9, 6))
    loss.backward()
    assert ours.codebook.grad is not None
    moved = ours.codebook.grad.abs().sum(-1) > 0
    assert set(moved.nonzero().flatten().tolist()) <= set(codes.flatten().tolist())
