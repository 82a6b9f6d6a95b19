"""Logistic regression against scikit-learn, and the choice of a place."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from modules.diffusion_features.logistic import fit_logistic
from modules.diffusion_features.sources import Diffusion, Pixels
from modules.diffusion_features.sweep import Hits, Place, Sweep

Build = Callable[..., Diffusion]


@pytest.fixture
def sweep(model: Build) -> Callable[..., Sweep]:
    def build(**options: Any) -> Sweep:
        defaults: dict[str, Any] = {"steps": [10, 300], "pools": [1, 2], "held_out": 20, "batch": 16}
        return Sweep(**{"source": model(), "classes": 3, **defaults, **options})

    return build


def test_logistic_regression_against_scikit_learn() -> None:
    torch.manual_seed(0)
    y = torch.randint(4, (600,))
    x = 3 + 5 * (torch.randn(4, 30)[y] * 0.6 + torch.randn(600, 30))
    weight, bias = fit_logistic(x[:400], y[:400], 4, 0.01, 200)
    scaler = StandardScaler().fit(x[:400].numpy())
    reference = LogisticRegression(C=1 / (400 * 0.01), max_iter=1000).fit(scaler.transform(x[:400].numpy()), y[:400])
    probabilities = reference.predict_proba(scaler.transform(x[400:].numpy()))
    ours = F.linear(x[400:], weight, bias).softmax(1).numpy()
    assert np.abs(ours - probabilities).max() < 0.01
    right = [float((p.argmax(1) == y[400:].numpy()).mean()) for p in (ours, probabilities)]
    assert abs(right[0] - right[1]) < 0.01
    assert right[0] > 0.6


def test_places(sweep: Callable[..., Sweep]) -> None:
    made = sweep(pools=[1, 2, 4])
    sides = {name: shape[1] for name, shape in made.frozen.networks[0].shapes.items()}
    assert len(set(made.places)) == len(made.places) == 2 * sum(3 if side >= 4 else 2 for side in sides.values())
    assert made.groups == {"stem": ["1"], "near": ["5", "6", "7", "8", "9", "10"], "last": ["13"]}
    assert made.sizes[made.places.index(Place("7", 10, 2))] == 16 * 4


def test_what_is_near_the_published_bottleneck() -> None:
    from modules.common.unet import UNet
    from modules.diffusion_features.sources import UNetSource

    with torch.device("meta"):
        network = UNet(256, 3, 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8))
    near = UNetSource(network, None).groups()["near"]  # type: ignore[arg-type]
    assert near == [str(n) for n in range(16, 25)]


def test_the_choice_is_made_without_test_images(sweep: Callable[..., Sweep], batch: Any) -> None:
    made = sweep()
    torch.manual_seed(0)
    made.solve(batch.x, batch.y)
    assert len(made.held_out_top1) == len(made.places)
    torch.manual_seed(0)
    eps = torch.randn_like(batch.x)[:20]  # the noise that the held-out images were read with
    held_out = [(logits.argmax(1) == batch.y[:20]).float().mean() for logits in made.answer(batch.x[:20], eps)]
    assert torch.allclose(made.held_out_top1, 100 * torch.stack(held_out))
    best = made.best()
    assert float(made.held_out_top1[best]) == float(made.held_out_top1.max())
    assert made.chosen == made.places[best]
    kept = made.parts()["block_7"]
    assert {made.places[row].block for row in kept} == {"7"}
    assert made.best(kept) in kept
    right = torch.stack([logits.argmax(1) == batch.y for logits in made.answer(batch.x, torch.randn_like(batch.x))])
    assert float(right[best].float().mean()) > 0.8


def test_a_test_reports_the_place_that_held_out_images_chose(
    sweep: Callable[..., Sweep], batch: Any, logged: Callable[..., dict[str, float]]
) -> None:
    """Also where another place is better on the test images: its number is shown nowhere but at that place."""
    made = sweep()
    torch.manual_seed(0)
    made.solve(batch.x, batch.y)
    worst = made.places.index(Place("1", 300, 1))
    made.held_out_top1[:] = torch.linspace(1, 10, len(made.places))
    made.held_out_top1[worst] = 90.0
    made._trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]

    torch.manual_seed(1)
    made.on_test_epoch_start()
    metrics = logged(made, batch)
    at_places = made.test_top1.tolist()
    assert max(at_places) > at_places[worst] + 10  # the choice matters
    assert metrics["test/top1"] == pytest.approx(at_places[worst])
    assert (metrics["test/block"], metrics["test/step"], metrics["test/pool"]) == (1, 300, 1)
    assert metrics["test/held_out_top1"] == 90

    for name, rows in made.parts().items():
        chosen = max(rows, key=made.held_out_top1.tolist().__getitem__)
        assert metrics[f"test/{name}_top1"] == pytest.approx(at_places[chosen]), name
    assert any(metrics[f"test/{n}_top1"] < max(at_places[r] for r in rows) for n, rows in made.parts().items())


def test_held_out_images_are_not_trained_on(sweep: Callable[..., Sweep], batch: Any) -> None:
    torch.manual_seed(0)
    made = sweep()
    made.solve(batch.x, batch.y)
    torch.manual_seed(0)
    other = sweep()
    torch.manual_seed(0)
    flipped = torch.cat([(batch.y[:20] + 1) % 3, batch.y[20:]])
    state = torch.get_rng_state()
    other.solve(batch.x, flipped)
    torch.set_rng_state(state)
    made.solve(batch.x, batch.y)
    assert torch.equal(made.weights, other.weights)
    assert not torch.equal(made.held_out_top1, other.held_out_top1)


def test_shuffled_labels_give_chance(sweep: Callable[..., Sweep]) -> None:
    made = sweep(held_out=500, steps=[10], pools=[1])
    torch.manual_seed(3)
    x, y = torch.randn(900, 1, 8, 8), torch.randint(3, (900,))
    made.solve(x, y)
    assert float(made.held_out_top1.mean()) == pytest.approx(100 / 3, abs=5)


def test_solution_survives_a_checkpoint(sweep: Callable[..., Sweep], batch: Any) -> None:
    made, other = sweep(), sweep()
    made.solve(batch.x, batch.y)
    other.load_state_dict(made.state_dict())
    eps = torch.randn_like(batch.x)
    assert all(torch.equal(a, b) for a, b in zip(made.answer(batch.x, eps), other.answer(batch.x, eps), strict=True))
    assert other.chosen == made.chosen


def test_pixels_have_one_place_a_pool(batch: Any) -> None:
    made = Sweep(Pixels([1, 8, 8]), 3, [10, 300], [1, 8, 16], held_out=20)
    assert made.places == [Place("pixels", 0, 1), Place("pixels", 0, 8)]
    read = made.read(batch.x, torch.randn_like(batch.x), 0)
    assert torch.equal(read[Place("pixels", 0, 8)], batch.x.flatten(1))


def test_pixels_report_their_mean(batch: Any, logged: Callable[..., dict[str, float]]) -> None:
    parts = [batch._replace(x=batch.x[rows]) for rows in (slice(0, 45), slice(45, 60))]
    values = logged(Pixels([1, 8, 8]), *parts)
    assert values == pytest.approx({"test/mean": float(batch.x.mean()), "test/n": 60}, abs=1e-6)


def test_hits_of_shares_add_up() -> None:
    right = torch.rand(4, 10) > 0.4
    whole, parts = Hits(4), Hits(4)
    whole.update(right)
    parts.update(right[:, :3])
    parts.update(right[:, 3:])
    assert set(whole._reductions.values()) == {torchmetrics.utilities.dim_zero_sum}  # over processes
    assert torch.equal(whole.compute(), parts.compute())
    assert torch.allclose(whole.compute().float(), 100 * right.float().mean(1))


def test_wrong_arguments(sweep: Callable[..., Sweep], batch: Any) -> None:
    with pytest.raises(ValueError, match="expected one of each or more"):
        sweep(steps=[])
    with pytest.raises(ValueError, match="held_out=60: there are only 60"):
        sweep(held_out=60).solve(batch.x, batch.y)
