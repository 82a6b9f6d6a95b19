"""Ensembles of prompts on embedded sets: what is classified, what is logged, which inputs count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.common.base import DataError, Fed
from datamodules.zpe.embedded import EmbeddedSets
from modules.zpe.module import PromptEnsemble
from modules.zpe.networks import unit
from modules.zpe.scoring import Score, Weighting, rank_correlation

SCALE = 10.0
TEMPLATES = ["a {}", "the {}", "{} sale", "a sketch of a {}"]
Run = Callable[..., tuple[dict[str, float], PromptEnsemble]]


def a_set(seed: int, n: int = 30, classes: int = 3, d: int = 8) -> dict[str, np.ndarray]:
    source = torch.Generator().manual_seed(seed)
    texts = unit(torch.randn(len(TEMPLATES), classes, d, generator=source))
    labels = torch.randint(classes, (n,), generator=source)
    images = unit(texts[0, labels] + texts[3, labels] + 0.8 * torch.randn(n, d, generator=source))
    return {
        "images": images.numpy(),
        "labels": labels.numpy(),
        "texts": texts.numpy(),
        "scale": np.float32(SCALE),
        "templates": np.array(TEMPLATES),
        "classes": np.array([f"class {c}" for c in range(classes)]),
        "own": np.array([True, False, False, True]),
        "planted": np.array([False, False, True, False]),
    }


PRETRAINING = {"images": unit(torch.randn(20, 8, generator=torch.Generator().manual_seed(9))).numpy()}
SETS = {"one": a_set(1), "two": a_set(2, n=45, classes=7)}


def data(names: tuple[str, ...] = ("one", "two"), batch_size: int = 8) -> EmbeddedSets:
    sets = [Fed(nn.Identity(), SETS[name]) for name in names]
    return EmbeddedSets(batch_size, sets, Fed(nn.Identity(), PRETRAINING), names)


@pytest.fixture(scope="module")
def run() -> Run:
    def go(module: PromptEnsemble, this: EmbeddedSets | None = None) -> tuple[dict[str, float], PromptEnsemble]:
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **quiet)
        logged: dict[str, float] = {}
        for actual in trainer.test(module, datamodule=this or data(), verbose=False):
            logged |= {name.removeprefix("test/"): float(value) for name, value in actual.items()}
        return logged, module

    return go


def tensors(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    arrays = SETS[name]
    return torch.tensor(arrays["images"]), torch.tensor(arrays["labels"]), SCALE * torch.tensor(arrays["texts"])


def test_sets_are_served_in_order_and_say_what_they_are() -> None:
    """Images, labels and numbers of each set as they were embedded; generated ones are called so."""
    this = data()
    this.setup()
    for name, loader in zip(("one", "two"), this.test_dataloader(), strict=True):
        x, y, row = (torch.cat(columns) for columns in zip(*loader, strict=True))
        assert torch.equal(x, torch.tensor(SETS[name]["images"]))
        assert torch.equal(y, torch.tensor(SETS[name]["labels"]))
        assert row.tolist() == list(range(len(y)))
    assert (this.spec.source, this.spec.sizes["test"]) == ("real", 75)
    dry = EmbeddedSets(8, Fed(nn.Identity(), SETS["one"]), Fed(nn.Identity(), PRETRAINING), ["one"], generated=True)
    assert dry.spec.source == "generated"


def test_zpe_from_embeddings_to_accuracy(run: Run) -> None:
    logged, module = run(PromptEnsemble(Score()))
    top1 = []
    for name in ("one", "two"):
        v, y, t = tensors(name)
        logits = torch.einsum("nd,pcd->npc", v, t)
        before = torch.einsum("nd,pcd->npc", torch.tensor(PRETRAINING["images"]), t)
        s = (logits - 0.5 * (logits.mean(0) + before.mean(0))).amax(2).mean(0)
        w = s.softmax(0)
        prediction = (w[None, :, None] * logits).mean(1).argmax(1)
        top1.append(100 * float((prediction == y).float().mean()))
        assert logged[f"{name}_top1"] == pytest.approx(top1[-1], abs=1e-4)
        assert logged[f"{name}_planted"] == pytest.approx(100 * float(w[2]), abs=1e-3)
        alone = 100 * (logits.argmax(2) == y[:, None]).float().mean(0)
        assert torch.allclose(module.accuracies[name], alone, atol=1e-4)
        outcomes = module.artifacts()[f"test-{name}_top1"]
        assert outcomes.tolist() == (100.0 * (prediction == y)).tolist()
    assert logged["top1"] == pytest.approx(np.mean(top1), abs=1e-4)
    assert logged["n"] == 75
    assert "two_top5" in logged
    assert "one_top5" not in logged  # three classes
    assert "top5" not in logged  # a mean over all sets, or none
    expected = np.mean([rank_correlation(module.scores[n], module.accuracies[n]) for n in ("one", "two")])
    assert logged["rank_correlation"] == pytest.approx(expected, abs=1e-6)


def test_equal_weights_are_the_mean_of_the_logits(run: Run) -> None:
    logged, module = run(PromptEnsemble(), data(("one",)))
    v, y, t = tensors("one")
    logits = torch.einsum("nd,pcd->npc", v, t).mean(1)
    assert logged["top1"] == pytest.approx(100 * float((logits.argmax(1) == y).float().mean()), abs=1e-4)
    assert torch.allclose(module(v), logits, atol=1e-5)
    assert logged["kept"] == 4
    assert logged["effective"] == pytest.approx(4)
    assert logged["planted"] == pytest.approx(25)
    assert "rank_correlation" not in logged


def test_labels_are_for_metrics_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels give the same weights, except to the oracle."""
    weights = []
    for labels in (SETS["one"]["labels"], np.zeros(30, dtype=np.int64)):
        monkeypatch.setitem(SETS["one"], "labels", labels)
        weights.append(
            [run(m, data(("one",)))[1].weights["one"] for m in (PromptEnsemble(Score()), PromptEnsemble(oracle=True))]
        )
    assert torch.equal(weights[0][0], weights[1][0])
    assert not torch.equal(weights[0][1], weights[1][1])


def test_the_oracle_takes_the_best_prompt(run: Run) -> None:
    logged, module = run(PromptEnsemble(oracle=True), data(("one",)))
    assert logged["top1"] == pytest.approx(float(module.accuracies["one"].max()), abs=1e-3)


def test_subsets_of_prompts(run: Run) -> None:
    v, _, t = tensors("one")
    for prompts, rows in (("own", [0, 3]), ("unplanted", [0, 1, 3]), (["the {}"], [1])):
        _, module = run(PromptEnsemble(prompts=prompts), data(("one",)))
        assert torch.allclose(module(v), torch.einsum("nd,pcd->npc", v, t[rows]).mean(1), atol=1e-5)
        assert module.templates["one"] == [TEMPLATES[row] for row in rows]
    with pytest.raises(ValueError, match=r"'my \{\}' is not in the pool of one"):
        run(PromptEnsemble(prompts=["my {}"]), data(("one",)))


def test_a_renormalised_classifier_has_rows_of_one_length(run: Run) -> None:
    _, module = run(PromptEnsemble(renormalised=True), data(("one",)))
    v, _, t = tensors("one")
    assert torch.allclose(module.classifiers["one"].norm(dim=1), torch.full((3,), SCALE), atol=1e-3)
    assert torch.allclose(module(v) / SCALE, v @ unit(t.mean(0)).T, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batches_change_nothing_and_weights_per_example_are_the_images_own(run: Run, batch_size: int) -> None:
    logged, module = run(PromptEnsemble(Score(per_example=True)), data(("one",), batch_size))
    v, y, t = tensors("one")
    w = Weighting()(Score(per_example=True)(v, t, torch.tensor(PRETRAINING["images"])))
    logits = torch.einsum("np,nd,pcd->nc", w, v, t)
    assert logged["top1"] == pytest.approx(100 * float((logits.argmax(1) == y).float().mean()), abs=1e-4)
    module.draws = True
    assert not module.pictures(None)


def test_pretrain_star_averages_over_the_class_names_of_all_sets(run: Run) -> None:
    _, module = run(PromptEnsemble(Score("pretrain_star")))
    by_class: dict[str, torch.Tensor] = {}
    for name in ("one", "two"):
        _, _, t = tensors(name)
        by_class |= dict(zip(SETS[name]["classes"].tolist(), t.unbind(1), strict=True))
    assert len(by_class) == 7
    every = torch.stack(list(by_class.values())).mean(0)
    v, _, t = tensors("one")
    pretraining = torch.tensor(PRETRAINING["images"])
    expected = Score("none")(v, t, pretraining) - every @ pretraining.mean(0)
    assert torch.allclose(module.scores["one"], expected, atol=1e-4)


def test_dealt_weights_follow_the_seed(run: Run) -> None:
    dealt = [
        run(PromptEnsemble(Score(), Weighting(dealt=True), seed=seed), data(("two",)))[1].weights["two"]
        for seed in (1, 1, 2, 3, 4)
    ]
    assert torch.equal(dealt[0], dealt[1])
    assert len({tuple(w.tolist()) for w in dealt}) > 1
    assert all(torch.allclose(w.sort().values, dealt[0].sort().values) for w in dealt)


def test_pictures_show_what_was_scored(run: Run) -> None:
    _, module = run(PromptEnsemble(Score(), draws=True))
    assert len(module.pictures(None)) == 2
    assert not run(PromptEnsemble(draws=True))[1].pictures(None)  # no scores


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ValueError, match="expected one of pool, own, unplanted"):
        PromptEnsemble(prompts="best")
    with pytest.raises(ValueError, match="labels, not at a score"):
        PromptEnsemble(Score(), oracle=True)
    with pytest.raises(DataError, match="2 sets, but names"):
        EmbeddedSets(8, [Fed(nn.Identity(), SETS["one"])] * 2, Fed(nn.Identity(), PRETRAINING), ["one"])


def test_tenth_powers_leave_a_softmax_without_ties(run: Run) -> None:
    """Top-5 is read off a softmax: logits of scores ** 10 would drown all but the first class."""
    v, y, t = tensors("two")
    logged, module = run(PromptEnsemble(Score("none"), Weighting("tenth_power")), data(("two",)))
    w = module.weights["two"].double()
    logits = torch.einsum("p,nd,pcd->nc", w / w.sum(), v.double(), t.double())
    five = (logits.topk(5).indices == y[:, None]).any(1)
    assert logged["top5"] == pytest.approx(100 * float(five.float().mean()), abs=1e-3)
