"""The independent checks of the prototype network: hand-computed values, symmetries, gradient facts, sizes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from sklearn.metrics.pairwise import euclidean_distances
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.torchvision_sets import FashionMNIST
from experiments import training
from experiments.plan import Plan
from modules.case_based_prototypes import (
    CaseBased,
    CaseBasedNetwork,
    code_error,
    contrast,
    nearest_of,
    prototype_error,
    reconstruction_error,
)
from modules.common.classifier import Classifier
from modules.common.distances import squared_distances

CODES = torch.tensor([[0.0, 0], [3, 0], [1, 1]])
PROTOTYPES = torch.tensor([[1.0, 0], [0, 2]])


def network(seed: int = 0, **options: Any) -> CaseBasedNetwork:
    published: dict[str, Any] = {"channels": 1, "size": 28, "classes": 10, "widths": [32, 32, 32, 10], "units": 15}
    return CaseBasedNetwork(**{**published, "act": "relu", "seed": seed, **options})


def lively(**options: Any) -> CaseBasedNetwork:
    """With weights as large as after training: with the published 0.01 all codes are nearly 0."""
    made = network(**options)
    torch.manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(7)
    return torch.rand(n, 1, 28, 28, generator=source), torch.randint(10, (n,), generator=source)


def parameters(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def reached(loss: Tensor, net: CaseBasedNetwork) -> set[str]:
    """Which parts of a network a loss has a gradient for that is not 0."""
    parts = {"encoder": net.encoder, "decoder": net.decoder, "prototypes": net.units, "W": net.weight}
    net.zero_grad()
    loss.backward()
    found = set()
    for name, part in parts.items():
        owned = [part] if isinstance(part, Tensor) else list(part.parameters()) if part is not None else []
        if any(p.grad is not None and bool(p.grad.any()) for p in owned):
            found.add(name)
    return found


def test_published_sizes() -> None:
    net = network()
    assert parameters(net.encoder) == 320 + 9_248 + 9_248 + 2_890 == 21_706
    assert parameters(net.decoder) == 2_912 + 9_248 + 9_248 + 289 == 21_697
    assert parameters(net.units) == 600
    assert net.weight.numel() == 150
    assert parameters(net) == 44_153
    dense = network(layer="dense")
    assert parameters(dense.units) == 40 * 15 + 15
    assert parameters(network(layer="dense", decode=False)) == parameters(dense) - 21_697


@pytest.mark.parametrize("act", ["relu", "sigmoid"])
def test_shapes(act: str) -> None:
    net, (x, _) = network(act=act), batch()
    sides = [x.shape[-1]]
    maps = x
    for layer in list(net.encoder)[:-1]:
        maps = layer(maps)
        if isinstance(layer, nn.Conv2d):
            sides.append(maps.shape[-1])
    assert sides == [28, 14, 7, 4, 2]
    codes = net.encoder(x)
    outputs, logits = net.classify(codes)
    assert net.decoder is not None
    decoded = net.decoder(codes)
    assert [tuple(t.shape) for t in (codes, outputs, logits, decoded)] == [(6, 40), (6, 15), (6, 10), (6, 1, 28, 28)]
    assert bool(((decoded > 0) & (decoded < 1)).all())
    kinds = [type(layer) for layer in (*net.encoder, *net.decoder) if not list(layer.parameters())]
    assert kinds.count(nn.Sigmoid) == (1 if act == "relu" else 8)


@pytest.mark.parametrize("size", [8, 27, 28, 30, 33])
def test_the_decoder_gives_back_every_size(size: int) -> None:
    net = network(size=size)
    assert net.decoder is not None
    assert net.decoder(net.encoder(torch.zeros(2, 1, size, size))).shape == (2, 1, size, size)


def test_initial_weights_as_released() -> None:
    net = network(seed=3)
    kernels = torch.cat([p.flatten() for n, p in net.named_parameters() if n.endswith("weight") and p.ndim == 4])
    assert float(kernels.detach().std()) == pytest.approx(0.01, rel=0.03)
    assert not any(p.any() for n, p in net.named_parameters() if n.endswith("bias"))
    assert net.prototypes is not None
    for drawn in (net.prototypes, net.weight):
        assert 0 <= float(drawn.min()) < 0.1
        assert 0.9 < float(drawn.max()) < 1


def test_arms_start_alike_where_they_are_alike() -> None:
    full, dense, plain = network(), network(layer="dense"), network(layer="dense", decode=False)
    assert full.decoder is not None
    assert dense.decoder is not None
    assert torch.equal(full.weight, dense.weight)
    for first, second in (
        (full.encoder, dense.encoder),
        (full.encoder, plain.encoder),
        (full.decoder, dense.decoder),
        (dense.units, plain.units),
    ):
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(full.weight, network(seed=1).weight)


def test_padding_is_tensorflows_on_the_image_turned_by_180_degrees() -> None:
    """SAME with stride 2 pads an even side with 0 before and 1 after, an odd one with 1 on both sides."""
    x, kernel = torch.rand(2, 3, 28, 28), torch.rand(5, 3, 3, 3)
    turned = F.conv2d(F.pad(x.flip(2, 3), (0, 1, 0, 1)), kernel.flip(2, 3), stride=2)
    assert torch.allclose(F.conv2d(x, kernel, stride=2, padding=1), turned.flip(2, 3), atol=1e-5)


def test_error_values_by_hand() -> None:
    distances = squared_distances(CODES, PROTOTYPES)
    assert distances.tolist() == [[1, 4], [4, 13], [1, 2]]
    assert float(prototype_error(distances)) == 1.5  # of 1 and 2
    assert float(code_error(distances)) == 2.0  # of 1, 4 and 1
    x = torch.zeros(2, 1, 2, 2)
    assert float(reconstruction_error(torch.full_like(x, 0.5), x)) == 1.0  # four times a quarter, not a mean


def test_distances_are_those_of_scikit_learn() -> None:
    a, b = torch.randn(50, 40), torch.randn(15, 40)
    assert torch.allclose(squared_distances(a, b), torch.tensor(euclidean_distances(a, b, squared=True)), atol=1e-4)


def test_nearest_of_looks_through_all_chunks() -> None:
    queries, items = torch.randn(7, 5), torch.randn(2_345, 5)
    distance, which = nearest_of(queries, items)
    expected = squared_distances(queries, items).min(1)
    assert torch.equal(which, expected.indices)
    assert torch.allclose(distance, expected.values)
    unit = torch.rand(2_345) + 0.1
    distance, which = nearest_of(queries, items, unit)
    expected = (squared_distances(queries, items) / unit).min(1)
    assert torch.equal(which, expected.indices)
    assert torch.allclose(distance, expected.values)


def test_a_picture_without_shape_does_not_pass_for_a_real_one() -> None:
    assert contrast(torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])).tolist() == [1, 0]
    data = FashionMNIST(100, val_size=200, train_size=4000, test_size=100)
    data.setup()
    real, others = (data.splits[name][0].flatten(1) / 255.0 for name in ("val", "train"))
    plain = torch.linspace(0, 1, 11)[:, None].expand(-1, 784)  # from black to white
    assert float(nearest_of(plain, others, contrast(others))[0].min()) >= 1 - 1e-5
    assert float(nearest_of(real, others, contrast(others))[0].mean()) < 0.5
    without_unit = nearest_of(plain[:1], others)[0]
    assert float(without_unit) < 0.7 * float(nearest_of(real, others)[0].mean())  # why there is a unit


def test_loss_is_the_weighted_sum_of_four_terms() -> None:
    net, (x, y) = lively(), batch()
    module = CaseBased(net, 10, lambda_class=20.0, lambda_ae=2.0, lambda_1=3.0, lambda_2=5.0)
    codes = net.encoder(x)
    assert net.prototypes is not None
    assert net.decoder is not None
    distances = torch.cdist(codes, net.prototypes).square()
    expected = (
        20 * F.cross_entropy(distances @ net.weight, y)
        + 2 * F.mse_loss(net.decoder(codes), x) * 784
        + 3 * distances.min(0).values.mean()
        + 5 * distances.min(1).values.mean()
    )
    assert float(module.training_step((x, y), 0)) == pytest.approx(float(expected), rel=1e-5)
    assert float(CaseBased(net, 10, 20, 0, 0, 0).training_step((x, y), 0)) == pytest.approx(
        20 * float(F.cross_entropy(net(x), y)), rel=1e-6
    )


def test_which_parameters_each_term_reaches() -> None:
    net, (x, y) = lively(), batch(20)
    assert net.decoder is not None

    def outputs() -> Tensor:
        return net.classify(net.encoder(x))[0]

    assert reached(reconstruction_error(net.decoder(net.encoder(x)), x), net) == {"encoder", "decoder"}
    assert reached(prototype_error(outputs()), net) == {"encoder", "prototypes"}
    assert reached(code_error(outputs()), net) == {"encoder", "prototypes"}
    assert reached(F.cross_entropy(net(x), y), net) == {"encoder", "prototypes", "W"}
    module = CaseBased(net, 10, lambda_1=0.0, lambda_2=0.0)
    assert reached(module.training_step((x, y), 0), net) == {"encoder", "decoder", "prototypes", "W"}


def test_a_prototype_on_a_code_has_no_error_and_no_gradient() -> None:
    codes = torch.randn(9, 4)
    prototypes = torch.randn(3, 4)
    prototypes[1] = codes[5]
    prototypes.requires_grad_()
    distances = squared_distances(codes, prototypes)
    assert float(distances[:, 1].min().detach()) == 0
    prototype_error(distances).backward()
    assert prototypes.grad is not None
    assert not prototypes.grad[1].any()
    assert prototypes.grad[0].any()


def test_with_one_prototype_a_class_it_is_the_nearest_prototype_rule() -> None:
    net, (x, _) = lively(units=10), batch(30)
    owner = torch.randperm(10, generator=torch.Generator().manual_seed(1))  # the class of each prototype
    for sharpness in (1.0, 1e5):
        with torch.no_grad():
            net.weight.copy_(-sharpness * F.one_hot(owner, 10))
            distances, logits = net.classify(net.encoder(x))
        assert torch.equal(logits.argmax(-1), owner[distances.argmin(-1)])
    assert torch.allclose(logits.softmax(-1).amax(-1), torch.ones(30))  # certain in the limit
    assert torch.equal(CaseBased(net, 10).spoken_for(), owner)


def test_a_constant_on_a_prototypes_row_changes_no_probability() -> None:
    net, (x, _) = lively(), batch()
    before = net(x).softmax(-1)
    with torch.no_grad():
        net.weight[4] += 0.7
    assert torch.allclose(net(x).softmax(-1), before, atol=1e-5)


def test_order_of_prototypes_does_not_matter() -> None:
    net, data = lively(), batch()
    loss, logits = CaseBased(net, 10).training_step(data, 0), net(data[0])
    order = torch.randperm(15)
    assert net.prototypes is not None
    with torch.no_grad():
        net.prototypes.copy_(net.prototypes[order])
        net.weight.copy_(net.weight[order])
    assert torch.allclose(net(data[0]), logits, atol=1e-5)
    assert float(CaseBased(net, 10).training_step(data, 0)) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("option", ["layer", "act"])
def test_a_switch_names_its_values(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}='wrong': expected one of"):
        network(**{option: "wrong"})


def rows(rank: int, world: int, n: int) -> slice:
    return slice(n * rank // world, n * (rank + 1) // world)


def in_one_of_two(rank: int, address: str, codes: Tensor, prototypes: Tensor, found: Any) -> None:
    """What one of two processes computes of R1, with the gradients averaged as DistributedDataParallel does."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    own, centres = codes[rows(rank, 2, len(codes))].clone().requires_grad_(), prototypes.clone().requires_grad_()
    loss = prototype_error(squared_distances(own, centres))
    loss.backward()
    assert own.grad is not None
    assert centres.grad is not None
    torch.distributed.all_reduce(centres.grad)
    found[rank] = (float(loss.detach()), own.grad / 2, centres.grad / 2)
    torch.distributed.destroy_process_group()


def test_r1_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """Shares of 5 and 6 images: value, and gradients of codes and prototypes."""
    torch.manual_seed(0)
    codes, prototypes = torch.randn(11, 4), torch.randn(6, 4)
    context = mp.get_context("fork")
    with context.Manager() as manager:
        found = manager.dict()
        arguments = (f"file://{tmp_path / 'meet'}", codes, prototypes, found)
        workers = [context.Process(target=in_one_of_two, args=(rank, *arguments)) for rank in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        first, second = found[0], found[1]
    codes.requires_grad_()
    prototypes.requires_grad_()
    loss = prototype_error(squared_distances(codes, prototypes))
    loss.backward()
    assert first[0] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert second[0] == first[0]
    assert codes.grad is not None
    assert prototypes.grad is not None
    assert torch.allclose(torch.cat([first[1], second[1]]), codes.grad, atol=1e-6)
    assert torch.allclose(first[2], prototypes.grad, atol=1e-6)


def measured(module: CaseBased, data: FashionMNIST) -> dict[str, float]:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, use_distributed_sampler=False, **quiet)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    return dict(metrics)


def test_measures_against_the_training_images() -> None:
    """Prototypes laid on codes of known training images."""
    net = lively()
    judge = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), 10)
    data = FashionMNIST(100, val_size=100, train_size=1500, test_size=200)
    data.setup()
    images, labels = data.splits["train"]
    assert net.prototypes is not None
    assert net.decoder is not None
    chosen = torch.arange(15) * 97
    with torch.no_grad():
        net.prototypes.copy_(net.encoder(images[chosen] / 255.0))
        seen = judge((net.decoder(net.prototypes) - data.spec.mean[0]) / data.spec.std[0]).argmax(-1)
        net.weight.copy_(-F.one_hot(torch.where(torch.arange(15) < 6, seen, (seen + 1) % 10), 10))
    module = CaseBased(net, 10, judge=judge)
    metrics = measured(module, data)
    assert metrics["test/latent_realism"] == pytest.approx(0, abs=1e-6)
    assert metrics["test/classes_covered"] == len(labels[chosen].unique())
    with torch.no_grad():
        x, decoded = images / 255.0, net.decoder(net.prototypes)
        distances = torch.cdist(decoded.flatten(1).double(), x.flatten(1).double()).square()
        closest = (distances / (784 * x.flatten(1).double().var(1, correction=0))).min(1).values
        right = (net(data.normalised(images)).argmax(-1) == labels).float().mean()
        test = data.splits["test"][0] / 255.0
        error = reconstruction_error(net.decoder(net.encoder(test)), test)
    assert metrics["test/pixel_realism"] == pytest.approx(float(closest.mean()), rel=1e-4)
    assert metrics["test/train_top1"] == pytest.approx(100 * float(right), abs=0.1)
    assert metrics["test/agreement"] == pytest.approx(40)  # 6 of 15
    assert metrics["test/reconstruction"] == pytest.approx(float(error), rel=1e-4)
    assert metrics["test/n"] == 200
    with torch.no_grad():
        net.prototypes.add_(0.1)
        codes = net.encoder(x).double()
        nearest = torch.cdist(net.prototypes.double(), codes).square().min(1).values
    expected = float(nearest.mean() / codes.var(0, correction=0).sum())
    assert measured(module, data)["test/latent_realism"] == pytest.approx(expected, rel=1e-4)


def drawn(axis: Any) -> Tensor:
    """(H, W): the picture that an axis shows; imshow drops the last axis of (H, W, 1)."""
    return torch.as_tensor(axis.images[0].get_array())


def test_the_pictures_come_from_the_decoder() -> None:
    net = lively()
    data = FashionMNIST(100, val_size=0, train_size=100, test_size=100)
    module = CaseBased(net, 10)
    measured(module, data)
    assert net.prototypes is not None
    assert net.decoder is not None
    pictures = module.pictures(data)
    assert set(pictures) == {"decoded prototypes", "one prediction", "weights"}
    with torch.no_grad():
        x = data.splits["test"][0][:1] / 255.0
        decoded, codes = net.decoder(net.prototypes), net.encoder(x)
        distances, _ = net.classify(codes)
        reconstruction = net.decoder(codes)
    names = [data.spec.classes[c] for c in net.weight.argmin(1).tolist()]
    shown = [axis for axis in pictures["decoded prototypes"].axes if axis.images]
    assert len(shown) == 15
    for place, axis in enumerate(shown):
        assert torch.allclose(drawn(axis), decoded[place, 0], atol=1e-6)
        assert axis.get_title() == f"{place}: {names[place]}"
    first, second, *nearest = pictures["one prediction"].axes
    for axis, image in ((first, x), (second, reconstruction)):
        assert torch.allclose(drawn(axis), image[0, 0], atol=1e-6)
    for axis, place in zip(nearest, distances[0].argsort().tolist(), strict=False):
        assert torch.allclose(drawn(axis), decoded[place, 0], atol=1e-6)
        assert axis.get_title() == f"{place}: {names[place]}\ndistance {float(distances[0, place]):.2f}"


def test_an_ordinary_network_reports_what_it_has() -> None:
    data = FashionMNIST(100, val_size=0, train_size=300, test_size=100)
    module = CaseBased(network(layer="dense", decode=False), 10)
    names = {name.removeprefix("test/") for name in measured(module, data)}
    assert names == {"top1", "top5", "ece", "nll", "n", "train_top1"}
    assert module.pictures(data) == {}


def test_pixels_are_those_before_normalisation() -> None:
    data = FashionMNIST(100, val_size=0, train_size=100, test_size=100)
    module = CaseBased(network(), 10)
    measured(module, data)
    images = data.splits["test"][0]
    assert torch.allclose(module.network.pixels(data.normalised(images)), images / 255.0, atol=1e-6)


ARMS = ("prototypes", "unregularised", "dense", "dense_no_decoder")


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_arms_differ_in_what_they_are_about_alone(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=case_based_prototypes", f"scale={scale}").stages
    kept = ("optimizer", "schedule", "lambda_class", "lambda_ae", "classes")
    arms = [stages[name] for name in ARMS]
    for first, second in pairwise(arms):
        assert (first.data, first.trainer) == (second.data, second.trainer)
        assert {k: first.module.get(k) for k in kept} == {k: second.module.get(k) for k in kept}
    assert [(arm.module["lambda_1"], arm.module["lambda_2"]) for arm in arms[:2]] == [(1, 1), (0, 0)]
    assert arms[0].module["network"] == arms[1].module["network"]
    for number, changed in ((2, {"layer"}), (3, {"layer", "decode"})):
        own, published = arms[number].module["network"], arms[0].module["network"]
        assert {key for key in published if own[key] != published[key]} == changed


def test_full_recipe_is_the_released_one(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=case_based_prototypes", "scale=full").stages
    arms = [stages[name] for name in ARMS]
    stage = arms[0]
    assert stage.module.get("schedule") is None
    assert (stage.data["batch_size"], stage.data["val_size"], stage.trainer["max_epochs"]) == (250, 5000, 1500)
    assert stage.data["augment"] == [
        {"_target_": "datamodules.case_based_prototypes.ElasticDeformation", "sigma": 4.0, "alpha": 20.0}
    ]
    optimizer = training.build(stage.module["optimizer"])(network().parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert {k: optimizer.defaults[k] for k in ("lr", "betas", "eps", "weight_decay")} == {
        "lr": 0.002,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
    }
    module = training.construct_from(stage, {})
    assert isinstance(module, CaseBased)
    assert parameters(module) == 44_153
    assert (module.lambda_class, module.lambda_ae, module.lambda_1, module.lambda_2) == (20, 1, 1, 1)
    assert {
        name: stage.module["network"]["act"] for name, stage in stages.items() if "act" in stage.module["network"]
    } == {stage.name: "relu" for stage in arms}
