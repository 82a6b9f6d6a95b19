"""The controller: its probabilities, torch's LSTM, replays side by side."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn

from modules.nasnet.controller import Controller
from modules.nasnet.space import Space


def test_a_uniform_controller_has_the_log_probability_of_the_space() -> None:
    controller = Controller(Space().sizes)
    for head in (*controller.heads, *controller.head_biases):
        nn.init.zeros_(head)
    log_p, entropy = controller(controller.sample(3))
    expected = -2 * (2 * math.log(720) + 5 * math.log(338))
    assert expected == pytest.approx(-84.55, abs=0.01)
    assert log_p.flatten().tolist() == pytest.approx([expected] * 3, abs=1e-3)
    assert entropy.flatten().tolist() == pytest.approx([-expected] * 3, abs=1e-3)


def test_the_controller_starts_uniform_within_a_tenth() -> None:
    torch.manual_seed(0)
    values = torch.cat([p.detach().flatten() for p in Controller(Space().sizes).parameters()])
    assert 0.0999 < float(values.abs().max()) <= 0.1
    assert float(values.mean()) == pytest.approx(0, abs=1e-3)
    assert float(values.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.01)


def test_the_controllers_cell_is_torchs_lstm() -> None:
    torch.manual_seed(0)
    controller = Controller([3, 4, 2], units=6, init=0.5)
    lstm = nn.LSTMCell(6, 6)
    lstm.load_state_dict(
        {
            "weight_ih": controller.weight[0, :6].T,
            "weight_hh": controller.weight[0, 6:].T,
            "bias_ih": controller.bias[0, 0],
            "bias_hh": torch.zeros(24),
        }
    )
    actions = torch.tensor([[[2, 1, 0], [0, 3, 1]]])
    x, state, total = controller.first[0].expand(2, -1), None, torch.zeros(2)
    for t in range(3):
        state = lstm(x, state)
        log_p = (state[0] @ controller.heads[t][0] + controller.head_biases[t][0]).log_softmax(-1)
        total = total + log_p[torch.arange(2), actions[0, :, t]]
        x = controller.embeddings[t][0][actions[0, :, t]] if t < 2 else x
    assert torch.allclose(controller(actions)[0][0], total, atol=1e-6)


def test_replays_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    controller = Controller([3, 4], units=5, replays=3)
    log_p, entropy = controller(controller.sample(7))
    (log_p[1].sum() + entropy[1].sum()).backward()
    for p in controller.parameters():
        assert p.grad is not None
        assert float(p.grad[[0, 2]].abs().max()) == 0
        assert float(p.grad[1].abs().max()) > 0


def test_samples_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    controller = Controller([3, 2], units=4, init=1.0)
    with torch.no_grad():
        p = [float(controller(torch.tensor([[list(pair)]]))[0].exp()) for pair in product(range(3), range(2))]
    drawn = controller.sample(20_000)[0]
    counts = (2 * drawn[:, 0] + drawn[:, 1]).bincount(minlength=6) / 20_000
    assert sum(p) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(counts, torch.tensor(p), atol=0.012)
