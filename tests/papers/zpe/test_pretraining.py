"""Training and test of the image-text model, and what is asked of open_clip."""

from __future__ import annotations

import sys
from collections import namedtuple
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.zpe.networks import NEEDS, OpenClip, Projected, TextTransformer, small_dual_encoder, unit
from modules.zpe.pretraining import Embeddings, ImageTextModel, embed_texts

Captioned = namedtuple("Captioned", ["x", "caption"])
CAPTIONS = ["a photo", "the red fox", "a fox"]


def model() -> ImageTextModel:
    torch.manual_seed(0)
    encoder = Projected(nn.Flatten(), 16, 5)
    module = ImageTextModel(small_dual_encoder(encoder, "a photo the red fox", 5, 12, 1, 3))
    data = SimpleNamespace(captions=CAPTIONS)
    module._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    return module


def batch() -> Captioned:
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return Captioned(x, torch.tensor([0, 1, 2, 0, 1, 1]))


def test_a_step_is_the_symmetric_loss_of_images_and_their_captions() -> None:
    module, given = model(), batch()
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    module.on_fit_start()
    assert torch.equal(module.tokens, module.network.tokenize(CAPTIONS))
    assert "tokens" in dict(module.named_buffers())  # moves with the module
    assert "tokens" not in module.state_dict()
    loss = module.training_step(given, 0)

    network: Any = module.network
    v = unit(network.image_encoder(given.x))
    t = unit(network.text_encoder(network.tokenize([CAPTIONS[c] for c in given.caption])))
    cosines = [[float(a.detach() @ b.detach()) for b in t] for a in v]
    logits = torch.tensor(cosines) / 0.07
    pairs = range(6)
    by_image = -logits.log_softmax(1)[pairs, pairs].mean()
    by_text = -logits.log_softmax(0)[pairs, pairs].mean()
    assert float(loss.detach()) == pytest.approx(float(by_image + by_text) / 2, rel=1e-4)
    assert float(tracked["loss"].detach()) == float(loss.detach())
    assert float(tracked["scale"].detach()) == pytest.approx(1 / 0.07, rel=1e-5)
    assert tracked["count"] == 6


def test_each_image_is_compared_with_every_caption() -> None:
    """Captions that an image is nearest to are right, three others wrong; a second test starts anew."""
    module, given = model(), batch()
    logged: list[dict[str, float]] = []
    module.log_dict = lambda values, **_: logged.append({k: float(v) for k, v in values.items()})  # type: ignore[method-assign, assignment]
    module.on_test_start()
    assert torch.allclose(module.texts.norm(dim=1), torch.ones(3))
    with torch.no_grad():
        nearest = torch.cdist(module(given.x), module.texts).argmin(1)
        caption = nearest.clone()
        caption[:3] = (caption[:3] + 1) % 3
        for rows in (slice(0, 4), slice(4, 6)):
            module.test_step(Captioned(given.x[rows], caption[rows]), 0)
        module.on_test_epoch_end()
        module.test_step(Captioned(given.x[3:], caption[3:]), 0)
        module.on_test_epoch_end()
    assert logged == [{"test/caption_top1": 50.0, "test/n": 6.0}, {"test/caption_top1": 100.0, "test/n": 3.0}]


def test_the_average_image_and_their_number_are_told() -> None:
    """Without prompts images alone are kept; a second test starts anew."""
    module, given = model(), batch()
    stage = Embeddings(module)
    stage._trainer = SimpleNamespace(datamodule=SimpleNamespace(prompts=lambda: None))  # type: ignore[assignment]
    logged: list[dict[str, float]] = []
    stage.log_dict = lambda values, **_: logged.append({k: float(v) for k, v in values.items()})  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        v = module(given.x)
    for parts in ((slice(0, 4), slice(4, 6)), (slice(2, 5),)):
        for rows in parts:
            stage.test_step(Captioned(given.x[rows], given.caption[rows]), 0)
        stage.on_test_epoch_end()
    cones = [float(rows.mean(0).norm()) for rows in (v, v[2:5])]
    assert logged == [
        {"test/cone": pytest.approx(cones[0], abs=1e-6), "test/n": 6.0},
        {"test/cone": pytest.approx(cones[1], abs=1e-6), "test/n": 3.0},
    ]
    assert set(stage.artifacts()) == {"images"}
    assert torch.allclose(torch.tensor(stage.artifacts()["images"]), v[2:5], atol=1e-6)


def test_matrices_alone_have_weight_decay() -> None:
    module = model()
    module.optimizer_factory = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.3)
    optimizer: Any = module.configure_optimizers()
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in others["params"]} == {0, 1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(module.parameters()))


def test_first_weights_have_clips_spread() -> None:
    torch.manual_seed(0)
    encoder = TextTransformer(4000, 40, 100, 1, 4, 200)
    assert float(encoder.token_embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(encoder.positions.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert float(encoder.projection.weight.detach().std()) == pytest.approx(0.1, rel=0.03)
    projected = Projected(nn.Identity(), 400, 100)
    assert float(projected.projection.weight.detach().std()) == pytest.approx(0.05, rel=0.03)
    for layer in (encoder.projection, projected.projection):
        assert layer.bias is None
    (block,) = encoder.blocks
    assert block.linear1.out_features == 400  # type: ignore[union-attr]
    assert block.norm_first
    assert (block.dropout.p, block.self_attn.dropout) == (0.0, 0.0)  # type: ignore[union-attr]


class Clip(nn.Module):
    """What is used of a model of open_clip."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, x: Tensor) -> Tensor:
        return 2 * x.flatten(1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return 3.0 * tokens


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a stand-in of open_clip is asked for."""
    asked: list[Any] = []

    def create_model(name: str, pretrained: str | None = None) -> Clip:
        asked.append((name, pretrained))
        if name == "unknown":
            raise RuntimeError("no such model\nand many more lines")
        return Clip()

    def get_tokenizer(name: str) -> Any:
        asked.append(name)
        return lambda texts: torch.tensor([[len(text)] for text in texts]) if isinstance(texts, list) else None

    monkeypatch.setitem(
        sys.modules, "open_clip", SimpleNamespace(create_model=create_model, get_tokenizer=get_tokenizer)
    )  # type: ignore[arg-type]
    return asked


def test_a_model_of_open_clip_is_loaded_once_frozen_with_its_own_tokenizer(asked: list[Any]) -> None:
    model = OpenClip("ViT-B-16", "openai")
    x = torch.randn(2, 3, 4, 4)
    assert not asked
    assert torch.equal(model.encode_images(x), 2 * x.flatten(1))
    tokens = model.tokenize(("fox", "a fox"))
    assert tokens.tolist() == [[3], [5]]
    assert torch.equal(model.encode_texts(tokens), 3.0 * tokens)
    assert float(model.scale) == pytest.approx(7.389, abs=1e-3)
    assert asked == [("ViT-B-16", "openai"), "ViT-B-16"]
    loaded, _ = model.load()
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not model.state_dict()
    assert torch.allclose(embed_texts(model, ["fox", "a fox"], torch.device("cpu")), torch.ones(2, 1))


def test_what_open_clip_needs_follows_the_weights_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package alone for random weights; of a tag its file on the hub or at an address, else a file of one's own."""
    configs = {"laion2b": {"hf_hub": "laion/CLIP-ViT-B-16/"}, "openai": {"url": "https://models.example/ViT-B-16.pt"}}
    stand_in = ModuleType("open_clip")
    stand_in.__spec__ = ModuleSpec("open_clip", None)
    stand_in.get_pretrained_cfg = lambda name, tag: configs.get(tag, {}) if name == "ViT-B-16" else {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "open_clip", stand_in)

    def weights(**options: Any) -> list[str]:
        package, *others = NEEDS["OpenClip"]({"model_name": "ViT-B-16", **options})
        assert (package.name, package.look()) == ("open_clip", "")
        return [f"{need.name}: {need.source or need.files}" for need in others]

    assert weights() == weights(pretrained=None) == []
    (hub,) = weights(pretrained="laion2b")
    assert "ViT-B-16, laion2b" in hub
    assert "laion/CLIP-ViT-B-16" in hub
    assert weights(pretrained="openai") == ["ViT-B-16.pt: https://models.example/ViT-B-16.pt"]
    assert weights(pretrained="mine.pt") == ["mine.pt: open_clip knows no weights 'mine.pt' of ViT-B-16"]


@pytest.mark.parametrize("nothing", [None, False, ""])
def test_no_tag_gives_random_weights(nothing: Any, asked: list[Any]) -> None:
    OpenClip("ViT-B-16", nothing).load()
    assert asked[0] == ("ViT-B-16", None)


def test_what_open_clip_says_of_a_model_that_it_does_not_know_is_one_line(asked: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"^unknown, openai: no such model$"):
        OpenClip("unknown", "openai").load()
