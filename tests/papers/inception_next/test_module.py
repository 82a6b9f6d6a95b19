"""The Inception mixer by hand, and its classifier's training."""

from __future__ import annotations

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from modules.inception_next.module import InceptionDWConv, MetaNeXtClassifier
from tests.papers.inception_next.helpers import parameters, small, tensor


def test_identity_channels_pass_bit_for_bit() -> None:
    x = tensor(2, 96, 14, 14)
    mixer = InceptionDWConv(96)
    y = mixer(x)
    assert torch.equal(y[:, :60], x[:, :60])
    assert not (y[:, 60:] == x[:, 60:]).any()
    assert mixer.sizes == [60, 12, 12, 12]
    assert InceptionDWConv(100).sizes == [64, 12, 12, 12]  # floor, and the identity takes the rest


def test_impulse_responses() -> None:
    """3x3 channels answer on 9 pixels, 1x11 ones in one row, 11x1 ones in one column."""
    mixer = InceptionDWConv(96)
    for p in mixer.parameters():
        nn.init.constant_(p, float(p.ndim > 1))
    x = torch.zeros(1, 96, 15, 15)
    x[..., 7, 7] = 1
    y = mixer(x)[0]
    for channel, rows, columns in ((60, 3, 3), (72, 1, 11), (84, 11, 1), (0, 1, 1)):
        hit = y[channel] != 0
        assert int(hit.sum()) == rows * columns
        assert (int(hit.any(1).sum()), int(hit.any(0).sum())) == (rows, columns)
    assert y[72, 7].nonzero().flatten().tolist() == list(range(2, 13))


def test_a_branch_is_a_convolution_with_that_kernel() -> None:
    mixer = InceptionDWConv(24)
    x = tensor(2, 24, 9, 9)
    y = mixer(x)
    wide = mixer.dwconv["w"]
    padded = F.pad(x[:, 18:21], (5, 5))
    by_hand = sum(wide.weight[:, 0, 0, k].view(1, 3, 1, 1) * padded[..., k : k + 9] for k in range(11))
    assert torch.allclose(y[:, 18:21], by_hand + wide.bias.view(1, 3, 1, 1), atol=1e-5)


def test_transposing_the_image_swaps_the_bands() -> None:
    mixer, turned = InceptionDWConv(32), InceptionDWConv(32)
    pairs = {"hw": "hw", "w": "h", "h": "w"}
    for ours, theirs in pairs.items():
        turned.dwconv[ours].weight.data = mixer.dwconv[theirs].weight.data.transpose(2, 3)
        turned.dwconv[ours].bias.data = mixer.dwconv[theirs].bias.data
    x = tensor(1, 32, 9, 13)
    swap = [*range(24), *range(28, 32), *range(24, 28)]  # the groups of the two bands
    assert torch.allclose(turned(x[:, swap].transpose(2, 3)), mixer(x).transpose(2, 3)[:, swap], atol=1e-5)


def test_order_of_the_paper_is_that_of_the_code_with_channels_permuted() -> None:
    code, paper = InceptionDWConv(32), InceptionDWConv(32, identity_first=False)
    paper.load_state_dict(code.state_dict())
    x = tensor(1, 32, 9, 9)
    rolled = [*range(20, 32), *range(20)]  # hw, w, h, id
    assert torch.allclose(paper(x[:, rolled]), code(x)[:, rolled], atol=1e-6)
    assert not torch.allclose(paper(x), code(x), atol=1e-2)  # loading one as the other is a silent error


def test_limits_of_the_mixer() -> None:
    x = tensor(2, 24, 7, 7)
    assert torch.equal(InceptionDWConv(24, ratio=0.0)(x), x)
    ones = InceptionDWConv(24, 1, 1, ratio=1 / 3)
    for p in ones.parameters():
        nn.init.constant_(p, float(p.ndim > 1))
    assert ones.sizes[0] == 0
    assert torch.equal(ones(x), x)
    without = InceptionDWConv(24, branches=("hw", "h"))
    assert without.sizes == [18, 3, 3]
    sequence = InceptionDWConv(24, branches=("hw", "wh"))
    assert parameters(sequence) == parameters(InceptionDWConv(24))
    x = torch.zeros(1, 24, 15, 15)
    x[..., 7, 7] = 1
    reached = (sequence(x) - sequence(torch.zeros_like(x)))[0, 21] != 0
    assert int(reached.sum()) == 11 * 11  # two bands in sequence cover the square


def test_weight_decay_groups_are_timms() -> None:
    module = MetaNeXtClassifier(10, small())
    ours = module.trained()
    theirs = param_groups_weight_decay(module.network, 0.05)
    decayed = {id(p) for p in ours[0]["params"]}
    assert decayed == {id(p) for g in theirs if g["weight_decay"] for p in g["params"]}
    assert {id(p) for p in ours[1]["params"]} == {id(p) for g in theirs if not g["weight_decay"] for p in g["params"]}
    assert ours[1]["weight_decay"] == 0
    gammas = {id(b.gamma) for b in module.network.blocks()}
    assert gammas
    assert not gammas & decayed


def test_average_by_hand_and_what_is_tested() -> None:
    module = MetaNeXtClassifier(10, small(), ema=0.9)
    assert module.average is not None
    assert parameters(module) == parameters(module.network)  # the average is no parameter
    before = {k: v.clone() for k, v in module.average.values().items()}
    assert before.keys() == module.network.state_dict().keys()
    with torch.no_grad():
        for p in module.network.parameters():
            p.add_(1.0)
        module.network.stem[1].running_mean.add_(1.0)
    module.average.update(module.network)
    after = module.average.values()
    for key in ("stem.0.weight", "stem.1.running_mean", "stages.0.blocks.0.gamma"):
        assert torch.allclose(after[key], before[key] + 0.1, atol=1e-6), key
    x = tensor(2, 1, 8, 8)
    module.eval()
    averaged = small()
    averaged.load_state_dict(after)
    assert torch.allclose(module(x), averaged.eval()(x), atol=1e-6)
    assert torch.equal(module.final()(x), module(x))
    assert not torch.allclose(module(x), module.network(x))
    assert {k for k in module.state_dict() if k.startswith("average.")}  # it is in the checkpoint
    with torch.inference_mode():  # where pictures are drawn
        assert not any(p.is_inference() for p in module.final().parameters())


def test_average_follows_every_update() -> None:
    """Two batches through Lightning: a0 = w0, a <- d a + (1 - d) w after each update."""
    torch.manual_seed(0)
    module = MetaNeXtClassifier(10, small(), ema=0.5, optimizer=partial(torch.optim.SGD, lr=0.1))
    key = "head.fc2.weight"
    expected, seen = module.network.state_dict()[key].clone(), []
    step = module.network.register_forward_hook(lambda *_: seen.append(module.network.state_dict()[key].clone()))
    data = [(tensor(4, 1, 8, 8, seed=i), torch.arange(4)) for i in range(2)]
    pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    ).fit(module, DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    step.remove()
    for weights in (seen[1], module.network.state_dict()[key]):  # after the first update and after the second
        expected = 0.5 * expected + 0.5 * weights
    assert module.average is not None
    assert torch.allclose(module.average.values()[key], expected, atol=1e-6)
    assert not torch.allclose(expected, module.network.state_dict()[key], atol=1e-4)


def test_fine_tuning_starts_from_the_tested_weights_with_new_rates() -> None:
    first = MetaNeXtClassifier(10, small(), ema=0.5)
    with torch.no_grad():
        for p in first.network.parameters():
            p.add_(1.0)
    second = MetaNeXtClassifier(10, start=first, drop_path=0.7, head_dropout=0.5)
    assert second.network is not first.network
    assert first.average is not None
    assert all(torch.equal(v, first.average.values()[k]) for k, v in second.network.state_dict().items())
    assert second.network.blocks()[-1].drop_path.p == pytest.approx(0.7)
    assert second.network.head.drop.p == 0.5
    x = tensor(2, 1, 24, 24)  # another input size
    assert second(x).shape == (2, 10)
