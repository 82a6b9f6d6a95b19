"""Stage 2: sizes, causality, sampling, and what its test measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.vit_vqgan.autoencoder import Size
from modules.vit_vqgan.vim import Vim
from tests.schedules import half


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "count"), [(Size(1536, 24, 16, 6144, 96), 706_657_280), (Size(2048, 36, 32, 8192), 1_848_422_400)]
)
def test_vim_sizes(size: Size, count: int, extractor: nn.Module) -> None:
    """About 705 M and 1.85 B with standard blocks; the paper reports 650 M and 1697 M."""
    with torch.device("meta"):
        module = Vim(SimpleNamespace(side=32, codebook_size=8192, eval=nn.Identity), extractor, size, 1000)  # type: ignore[arg-type]
    assert parameters(module) == count


def test_vim_is_causal_and_starts_from_the_class(vim: Callable[..., Vim]) -> None:
    module, codes = vim().eval(), torch.randint(32, (2, 16))
    labels = torch.tensor([0, 2])
    logits = module(codes, labels)
    changed = codes.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 32
    again = module(changed, labels)
    assert torch.allclose(logits[:, :6], again[:, :6], atol=1e-6)
    assert not torch.allclose(logits[:, 6], again[:, 6], atol=1e-6)
    assert not torch.allclose(logits[:, 0], module(codes, labels - labels)[:, 0][[1, 0]], atol=1e-6)
    unconditional = vim(classes=None).eval()
    assert torch.equal(unconditional(codes, labels), unconditional(codes, labels.flip(0)))


def test_an_untrained_vim_knows_nothing(extractor: nn.Module) -> None:
    torch.manual_seed(0)
    tokenizer: Any = SimpleNamespace(side=4, codebook_size=8192, eval=nn.Identity)
    wide = Vim(tokenizer, extractor, Size(256, 1, 4, 256), None).eval()
    codes = torch.randint(8192, (8, 16))
    loss = F.cross_entropy(wide(codes, torch.zeros(8, dtype=torch.long)).transpose(1, 2), codes)
    assert float(loss.detach()) == pytest.approx(math.log(8192), abs=0.25)


def test_sampling_with_a_cache_is_sampling_from_the_whole_forward(vim: Callable[..., Vim]) -> None:
    module = vim(temperature=0.7).eval()
    labels, noise = torch.tensor([0, 1, 2, 1]), torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    codes = module.sample(labels, noise).clone()
    for j in range(16):
        below = (module(codes[:, : j + 1], labels)[:, -1] / 0.7).softmax(-1).cumsum(-1)
        assert torch.equal((below <= noise[:, j : j + 1]).sum(-1).clamp(max=31), codes[:, j])


def test_samples_follow_the_model(vim: Callable[..., Vim]) -> None:
    """20,000 draws of the first token against its probabilities."""
    module, n = vim(classes=None).eval(), 20_000
    noise = torch.rand(n, 1, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(module.sample(torch.zeros(n, dtype=torch.long), noise)[:, 0], minlength=32) / n
    expected = module(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long))[0, 0].softmax(-1)
    assert float((drawn - expected).abs().max()) < 4 * math.sqrt(0.25 / n)


def test_an_images_sample_depends_on_its_index_alone(vim: Callable[..., Vim]) -> None:
    module = vim().eval()
    labels = torch.tensor([0, 1, 2])
    jointly = module.generate(labels, torch.tensor([4, 9, 11]))
    assert jointly.shape == (3, 1, 8, 8)
    assert torch.allclose(jointly[1:2], module.generate(labels[1:2], torch.tensor([9])), atol=1e-6)


def test_a_test_of_vim_averages_over_tokens_and_samples_each_images_class(
    vim: Callable[..., Vim], evaluate: Callable[..., dict[str, float]]
) -> None:
    module, x = vim().eval(), torch.rand(7, 1, 8, 8)
    labels = torch.tensor([2, 2, 1, 2, 2, 1, 1])
    asked: list[tuple[int, int]] = []
    draw = module.generate

    def watch(classes: Tensor, indices: Tensor) -> Tensor:
        asked.extend(zip(classes.tolist(), indices.tolist(), strict=True))
        return draw(classes, indices)

    module.generate = watch  # type: ignore[method-assign]
    logged = evaluate(module, (x[:5], labels[:5]), (x[5:], labels[5:]))
    assert asked == [(int(label), number) for number, label in enumerate(labels)]
    assert logged["test/nll"] == pytest.approx(float(module.token_losses((x, labels)).detach().mean()), rel=1e-5)
    assert logged["test/n"] == 7
    assert {label: len(kept) for label, kept in module._gallery.items()} == {0: 0, 1: 3, 2: 4}
    names = SimpleNamespace(spec=SimpleNamespace(classes=("a", "b", "c")))
    (axes,) = module.pictures(names)["generated images"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c"]


def test_vim_trains_its_own_weights_alone(vim: Callable[..., Vim]) -> None:
    module = vim()
    loss = module.training_step((torch.rand(2, 1, 8, 8), torch.tensor([0, 1])), 0)
    loss.backward()
    assert all(p.grad is not None for p in module.parameters())
    assert not any("tokenizer" in name for name in module.state_dict())
    assert all(p.grad is None for p in module.tokenizer.networks[0].parameters())


def test_vim_keeps_its_optimiser_and_schedule(vim: Callable[..., Vim]) -> None:
    adam = partial(torch.optim.Adam, lr=0.1)
    module = vim(optimizer=adam, schedule=half)
    assert (module.optimizer_factory, module.schedule) == (adam, half)


def test_fewer_tokens_cut_training_and_samples(vim: Callable[..., Vim]) -> None:
    module = vim(tokens=6).eval()
    assert module.tokenize(torch.rand(2, 1, 8, 8)).shape == (2, 6)
    assert module.generate(torch.tensor([0]), torch.tensor([0])).shape == (1, 1, 8, 8)
    assert module(*module.example((1, 8, 8))).shape == (1, 6, 32)
