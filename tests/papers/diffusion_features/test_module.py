"""Probes: what is frozen, fresh noise, and where cells read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from modules.common.diffusion import RowNoise
from modules.common.kid import kernel_distance
from modules.diffusion_features.heads import mlp
from modules.diffusion_features.module import Cell, Probe
from modules.diffusion_features.sources import Diffusion, share_near
from modules.diffusion_features.sweep import Sweep

Build = Callable[..., Diffusion]


def digest(module: nn.Module) -> str:
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()


def cells(**places: tuple[int, int]) -> dict[str, Cell]:
    return {name: Cell(partial(mlp, pool=2), block, step) for name, (block, step) in places.items()}


def test_gradients_reach_the_heads_alone(model: Build, batch: Any) -> None:
    source = model()
    before = digest(source.network)
    probe = Probe(source, 3, cells(a=(9, 90), b=(7, 10)), optimizer=partial(torch.optim.SGD, lr=0.1))
    optimizer = probe.configure_optimizers()
    start = digest(probe.heads)
    probe.training_step(batch, 0).backward()
    optimizer.step()  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in source.network.parameters())
    assert digest(source.network) == before
    assert digest(probe.heads) != start
    assert not any(name.startswith("read") for name, _ in probe.named_parameters())


def test_a_tuned_source_trains_below_the_block_alone(model: Build, batch: Any) -> None:
    source = model()
    probe = Probe(source, 3, cells(a=(7, 0)), tuned=True, source_rate=1e-3, optimizer=partial(torch.optim.SGD, lr=0.1))
    optimizer: Any = probe.configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1e-3]
    probe.training_step(batch, 0).backward()
    network = source.network
    assert all(parameter.grad is not None for parameter in probe.parameters())
    assert network.input_blocks[0][0].weight.grad is not None
    assert all(parameter.grad is None for parameter in network.output_blocks.parameters())
    assert sum(p.numel() for p in probe.read.parameters()) < sum(p.numel() for p in network.parameters())


def test_noise_is_fresh_in_training_and_follows_from_the_row_in_testing(model: Build, batch: Any) -> None:
    probe = Probe(model(), 3, cells(a=(9, 300)))
    first, second = probe.features(batch)["a"], probe.features(batch)["a"]
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    once = probe.features(batch)["a"]
    torch.manual_seed(5)
    assert torch.equal(probe.features(batch)["a"], once)

    probe.eval()
    probe.row_noise = RowNoise(3)
    whole = probe.features(batch)["a"]
    probe.row_noise = RowNoise(3)
    parts = [probe.features(batch._replace(x=x))["a"] for x in batch.x.split(25)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_almost_no_noise_at_the_first_step(model: Build, batch: Any) -> None:
    source = model().source()
    t, nothing = torch.zeros(60, dtype=torch.long), torch.zeros_like(batch.x)
    clean = source.network.features(batch.x, t, [7])[7]
    assert torch.allclose(source(batch.x, t, nothing, ["7"])["7"], clean, atol=1e-3)


def test_training_mode_changes_no_feature(model: Build, batch: Any) -> None:
    source = model().source()
    t, eps = torch.full((60,), 90), torch.randn_like(batch.x)
    training = source.train()(batch.x, t, eps, ["9"])["9"]
    assert torch.equal(source.eval()(batch.x, t, eps, ["9"])["9"], training)


def test_one_pass_for_each_time_step(model: Build, batch: Any) -> None:
    probe = Probe(model(), 3, cells(a=(9, 90), b=(7, 90), c=(9, 10)))
    source = probe.frozen.networks[0]  # type: ignore[union-attr]
    passes: list[int] = []
    forward = source.network.features
    source.network.features = lambda x, t, blocks: passes.append(int(t[0])) or forward(x, t, blocks)
    eps = torch.randn_like(batch.x)
    maps = probe.maps(batch.x, eps)
    assert sorted(passes) == [10, 90]
    t = torch.full((60,), 90)
    assert torch.equal(maps["b"], source(batch.x, t, eps, ["7"])["7"])
    assert len(source.network.output_blocks) == 2  # nothing above block 9 is kept


def test_what_a_cell_leaves_open_is_the_sweeps(model: Build, batch: Any) -> None:
    source = model()
    sweep = Sweep(source, 3, [10, 300], [1, 2], held_out=20)
    sweep.solve(batch.x, batch.y)
    chosen = sweep.chosen
    probe = Probe(source, 3, {"a": Cell(mlp, pool=0), "b": Cell(mlp, block=7, pool=4)}, sweep)
    assert probe.places == {"a": (chosen.block, chosen.step), "b": ("7", chosen.step)}
    assert probe.heads["a"][0].output_size == chosen.pool  # type: ignore[index]
    assert probe.heads["b"][0].output_size == 2  # type: ignore[index] # at most the map's own side


def test_a_head_starts_alike_whatever_is_beside_it(model: Build) -> None:
    torch.manual_seed(0)
    alone = Probe(model(), 3, cells(a=(9, 90)))
    torch.manual_seed(0)
    beside = Probe(model(), 3, cells(b=(7, 90), a=(9, 90)))
    assert digest(alone.heads["a"]) == digest(beside.heads["a"])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell(mlp, 9), "cells.a.step: expected a value, or a sweep"),
        (Cell(mlp, 9, 90, 0), "cells.a.pool: expected a value, or a sweep"),
        (Cell(mlp, 14, 90), "cells.a.block='14': expected one of 1, 2"),
        (Cell(mlp, 9, 1000), "cells.a.step=1000: expected 0 to 999"),
    ],
)
def test_wrong_cells(cell: Cell, message: str, model: Build) -> None:
    with pytest.raises(ValueError, match=message):
        Probe(model(), 3, {"a": cell})


def test_several_heads_cannot_tune(model: Build) -> None:
    with pytest.raises(ValueError, match="cells has 2 entries"):
        Probe(model(), 3, cells(a=(7, 0), b=(6, 0)), tuned=True)


def test_noise_is_not_near_real_images_and_they_are() -> None:
    """Images along a line, a unit apart and the last two apart by 3: 95% of them have another one within 1."""
    places = torch.cat([torch.arange(39.0), torch.tensor([41.0])])
    real = torch.zeros(40, 1, 2, 2)
    real[:, 0, 0, 0] = places
    assert float(share_near(real, real)) == 100.0
    samples = torch.zeros(4, 1, 2, 2)
    samples[:, 0, 0, 0] = torch.tensor([3.0, 3.5, 3.0, -2.0])
    samples[2, 0, 1, 1] = 1.5
    assert float(share_near(samples, real)) == 50.0


def test_what_the_model_generates_is_judged_by_all_test_images(model: Build, batch: Any, logged: Any) -> None:
    source = model()
    judging = Diffusion(source.network, source.noise, judged=6, decay=0.9)
    halves = [type(batch)(batch.x[half], batch.y[half]) for half in (slice(0, 30), slice(30, 60))]
    judging.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=1, strategy=SimpleNamespace(reduce=lambda value, reduce_op: value)
    )
    judging.on_test_epoch_start()
    values = logged(judging, *halves)
    assert values["test/near_real"] == float(share_near(judging.generated(6, (1, 8, 8)), batch.x))
    distance = kernel_distance(judging.generated(6, (1, 8, 8)).flatten(1), batch.x.flatten(1))
    assert values["test/kid_pixels"] == pytest.approx(float(distance), rel=1e-5)
    assert values["test/n"] == 60


def test_pictures_of_what_was_trained_here_alone(model: Build) -> None:
    source = model()
    data = SimpleNamespace(spec=SimpleNamespace(shape=(1, 8, 8)), shown=lambda x: (x + 1) / 2)
    assert source.pictures(data) == {}
    trained = Diffusion(source.network, source.noise, decay=0.9)
    assert set(trained.pictures(data)) == {"generated images"}
