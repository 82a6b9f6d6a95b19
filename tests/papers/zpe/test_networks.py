"""The small image-text model: size of the published one, what its text encoder reads, its loss, and open_clip."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import timm
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from modules.zpe.networks import (
    END,
    PAD,
    DualEncoder,
    OpenClip,
    Projected,
    TextTransformer,
    Words,
    quick_gelu,
    small_dual_encoder,
    unit,
)
from modules.zpe.pretraining import contrastive_loss, embed_texts, gather_rows

needs_open_clip = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None,
    reason='open_clip is not installed: pip install "reprise-papers[clip]"',
)
WORDS = "a photo of the red fox"


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def vit_b16() -> DualEncoder:
    tower = timm.create_model("vit_base_patch16_clip_quickgelu_224", pretrained=False, num_classes=0)
    return small_dual_encoder(Projected(tower, 768, 512), WORDS, 512, 512, 12, 8, context=77, tokens=49408)


def test_at_full_size_it_is_clip_vit_b16() -> None:
    with torch.device("meta"):
        model = vit_b16()
    assert parameters(model.image_encoder) == 86_192_640
    assert parameters(model.text_encoder) == 63_428_096
    assert parameters(model) == 149_620_737


def test_words() -> None:
    words = Words("a Photo of t-shirt 7 a", 8)
    assert len(words) == 8  # pad, start, end and five words
    tokens = words(["A photo of a T-shirt.", "7"])
    assert tokens.tolist() == [[1, 3, 4, 5, 3, 6, 2], [1, 7, 2, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="'dog' is not in the vocabulary"):
        words(["a dog"])
    with pytest.raises(ValueError, match="context=8"):
        words(["a photo of a photo of a"])


def small_text_encoder() -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(20, 8, 12, 2, 3, 5).eval()


def test_padding_changes_nothing_and_order_does() -> None:
    encoder = small_text_encoder()
    tokens = torch.tensor([[1, 5, 6, END]])
    padded = F.pad(tokens, (0, 3), value=PAD)
    assert torch.allclose(encoder(tokens), encoder(padded), atol=1e-6)
    assert torch.allclose(encoder(tokens), encoder(F.pad(tokens, (0, 2), value=9)), atol=1e-6)  # it is causal
    assert not torch.allclose(encoder(tokens), encoder(torch.tensor([[1, 6, 5, END]])), atol=1e-3)
    assert not torch.allclose(encoder(tokens), encoder(torch.tensor([[1, 7, 6, END]])), atol=1e-3)


def test_quick_gelu() -> None:
    x = torch.tensor([0.0, 1.0, -1.0])
    assert quick_gelu(x).tolist() == pytest.approx([0.0, 0.8458, -0.1542], abs=1e-4)


def test_scale_starts_as_clips_and_is_at_most_a_hundred() -> None:
    model = DualEncoder(nn.Flatten(), small_text_encoder(), Words(WORDS, 8))
    assert float(model.scale.detach()) == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        model.log_scale.fill_(10.0)
    assert float(model.scale.detach()) == 100.0


def test_loss_by_hand_and_at_its_limits() -> None:
    v = torch.eye(2)
    expected = math.log(1 + math.exp(-3.0))  # logits 3 on the diagonal, 0 beside it
    assert float(contrastive_loss(v, v, torch.tensor(3.0))) == pytest.approx(expected, abs=1e-6)
    alike = torch.ones(4, 1)
    assert float(contrastive_loss(alike, alike, torch.tensor(9.0))) == pytest.approx(math.log(4), abs=1e-6)


def test_equal_captions_need_no_care() -> None:
    """Targets i = j and targets spread over the pairs with the same caption have the same gradient."""
    captions = torch.tensor([0, 1, 0, 2, 0])
    v = unit(torch.randn(5, 4)).double().requires_grad_()
    t = unit(torch.randn(3, 4)).double().requires_grad_()
    ours = torch.autograd.grad(contrastive_loss(v, t[captions], torch.tensor(7.0)), (v, t))

    same = (captions[:, None] == captions).double()
    target = same / same.sum(1, keepdim=True)
    logits = 7.0 * v @ t[captions].T
    spread = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    theirs = torch.autograd.grad(spread, (v, t))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def _pairs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    weight = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    return weight, torch.randn(5, 4, dtype=torch.double), torch.randn(5, 4, dtype=torch.double)


def _loss(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return contrastive_loss(
        gather_rows(F.normalize(x @ weight)), gather_rows(F.normalize(y @ weight)), torch.tensor(5.0)
    )


def _rank(rank: int, folder: str) -> None:
    """One of two processes with three or two of five pairs."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    weight, x, y = _pairs()
    loss = _loss(weight, x.tensor_split([3])[rank], y.tensor_split([3])[rank])
    loss.backward()
    assert weight.grad is not None
    torch.distributed.all_reduce(weight.grad)
    torch.save((loss.detach(), weight.grad / 2), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    weight, x, y = _pairs()
    loss = _loss(weight, x, y)
    (gradient,) = torch.autograd.grad(loss, weight)
    for rank in (0, 1):
        theirs, averaged = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(theirs, loss.detach(), atol=1e-12)
        assert torch.allclose(averaged, gradient, atol=1e-10)


def test_texts_in_parts_are_the_texts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = small_dual_encoder(nn.Flatten(), WORDS, 5, 12, 1, 3)
    texts = ["a photo", "the red fox", "fox", "a photo of the red fox"]
    whole = embed_texts(model, texts, torch.device("cpu"))
    monkeypatch.setattr("modules.zpe.pretraining.TEXTS", 2)
    assert torch.allclose(embed_texts(model, texts, torch.device("cpu")), whole, atol=1e-6)
    assert torch.allclose(whole.norm(dim=1), torch.ones(4))


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is not None, reason="open_clip is installed")
def test_without_open_clip_one_line_says_what_to_do() -> None:
    model = OpenClip("ViT-B-16-quickgelu", "openai")  # nothing is loaded yet
    with pytest.raises(ValueError, match=r'pip install "reprise-papers\[clip\]"'):
        model.encode_images(torch.zeros(1, 3, 224, 224))


@needs_open_clip
def test_open_clip_has_our_size_and_its_texts_are_ours() -> None:
    """With its weights in our text transformer, both give the same text embeddings."""
    theirs = OpenClip("ViT-B-16-quickgelu")
    model, _ = theirs.load()
    assert parameters(model) == 149_620_737

    ours = TextTransformer(49408, 77, 512, 12, 8, 512).eval()
    state = {"token_embedding.weight": model.token_embedding.weight, "positions": model.positional_embedding}
    state |= {f"norm.{kind}": getattr(model.ln_final, kind) for kind in ("weight", "bias")}
    state["projection.weight"] = model.text_projection.T
    names = {
        "attn.": "self_attn.",
        "mlp.c_fc.": "linear1.",
        "mlp.c_proj.": "linear2.",
        "ln_1.": "norm1.",
        "ln_2.": "norm2.",
    }
    for key, value in model.transformer.resblocks.state_dict().items():
        number, _, rest = key.partition(".")
        old = next(name for name in names if rest.startswith(name))
        state[f"blocks.{number}.{rest.replace(old, names[old], 1)}"] = value
    ours.load_state_dict(state)

    tokens = theirs.tokenize(["a photo of a dog.", "a drawing of the red fox"])
    cut = tokens[:, :10].clone()
    cut[cut == 49407] = END  # ours reads where END is; with that token's embedding the same
    with torch.no_grad():
        ours.token_embedding.weight[END] = model.token_embedding.weight[49407]
        assert torch.allclose(ours(cut), theirs.encode_texts(tokens), atol=1e-4)
    assert float(theirs.scale.detach()) == pytest.approx(1 / 0.07, rel=1e-3)


@needs_open_clip
def test_open_clip_refuses_a_model_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="ViT-B-17"):
        OpenClip("ViT-B-17").load()


@pytest.mark.parametrize(
    ("model_name", "pretrained"),
    [
        ("hf-hub:somebody/network", None),
        ("local-dir:/tmp/network", None),
        ("ViT-B-16", "/tmp/weights.pt"),
        ("ViT-B-16", "hf-hub:somebody/network"),
        ("ViT-B-16", "weights.bin"),
    ],
)
def test_open_clip_takes_only_what_it_lists_itself(model_name: str, pretrained: str | None) -> None:
    with pytest.raises(ValueError, match="expected one of open_clip's own"):
        OpenClip(model_name, pretrained)
