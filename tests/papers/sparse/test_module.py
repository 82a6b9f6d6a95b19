"""Which step moves which network, what limit cases come to, and how accuracy is counted."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.networks import ConvNet
from modules.sparse.evaluation import Accuracies, Best, Translation, asked_classes
from modules.sparse.losses import Supervision, supervised_terms
from modules.sparse.module import NOISES, Kept, Sparse, Translating
from modules.sparse.pseudo_labels import Voting

Make = Callable[..., Sparse]


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def moved(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """The parts of a network that have other weights than before."""
    return {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}


def test_a_supervised_step_leaves_decoder_and_patch_critic_alone(make_sparse: Make, labelled: Any) -> None:
    module = make_sparse()
    before = {name: weights(network) for name, network in module.networks.items()}
    module.training_step(labelled, 0)
    assert moved(module.generator, before["generator"]) == {"first_plain", "bottleneck", "tail"}
    assert moved(module.discriminator, before["discriminator"]) == {"body", "category"}
    assert moved(module.classifier, before["classifier"])


def supervised_loss(
    logits: dict[str, np.ndarray], mixed: dict[str, np.ndarray], y: Any, order: Any, weight: float
) -> Any:
    """L_sup of the paper in NumPy: Table 2's weights, T = 2, KL(mean of the others || p_m)."""

    def softmax(values: np.ndarray) -> np.ndarray:
        powers = np.exp(values - values.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def cross_entropy(values: np.ndarray, labels: Any) -> float:
        return float(-np.log(softmax(values))[np.arange(len(labels)), labels].mean())

    soft = {name: softmax(values / 2) for name, values in logits.items()}
    loss = 0.0
    for name, values in logits.items():
        p = soft[name]
        prototypes = np.stack([p[y == k].mean(0) for k in range(p.shape[1])])
        loss += cross_entropy(-((p[:, None] - prototypes) ** 2).sum(2), y)

        others = sum(q for other, q in soft.items() if other != name) / 2
        divergence = (others * np.log(others / p)).sum(1).mean()
        loss += 0.1 * (cross_entropy(values, y) + 0.5 * divergence)

        plain = softmax(values)
        loss += 0.01 * float(-(plain * np.log(plain)).sum(1).mean())
        loss += 0.5 * (weight * cross_entropy(mixed[name], y) + (1 - weight) * cross_entropy(mixed[name], y[order]))
    return loss


def test_a_supervised_step_goes_down_the_papers_loss_in_every_networks_answers(
    make_sparse: Make, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradient of the step, against L_sup in NumPy and its differences: the mean of the others in L_mut moves
    with the others, which learn from it too."""
    module = make_sparse()
    names = ("tail", "critic", "classifier")
    source = torch.Generator().manual_seed(1)
    clean, mixed = (
        {name: torch.randn(6, 3, dtype=torch.float64, generator=source).requires_grad_() for name in names}
        for _ in range(2)
    )
    answers = iter([clean, mixed])
    monkeypatch.setattr(module, "class_logits", lambda x: next(answers))
    monkeypatch.setattr(module, "minimise", lambda loss, *optimizers: loss.backward())
    torch.manual_seed(3)
    loss = module.training_step(labelled, 0)

    torch.manual_seed(3)
    order = torch.randperm(6).numpy()
    weight = float(torch.distributions.Beta(0.2, 0.2).sample())
    y = labelled.y.numpy()
    logits, of_mixed = ({n: v.detach().numpy().copy() for n, v in given.items()} for given in (clean, mixed))
    assert float(loss) == pytest.approx(supervised_loss(logits, of_mixed, y, order, weight), rel=1e-6)

    for name in names:
        differences = np.zeros((6, 3))
        for place in np.ndindex(6, 3):
            values = []
            for step in (1e-5, -1e-5):
                moved_logits = {n: v.copy() for n, v in logits.items()}
                moved_logits[name][place] += step
                values.append(supervised_loss(moved_logits, of_mixed, y, order, weight))
            differences[place] = (values[0] - values[1]) / 2e-5
        assert clean[name].grad is not None
        assert clean[name].grad.numpy() == pytest.approx(differences, abs=1e-7)


def test_steps_of_the_unsupervised_phase_move_one_network_each(
    make_sparse: Make, unlabelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_sparse()
    names = list(module.networks)
    moves: list[set[str]] = []

    def minimise(loss: Tensor, *optimizers: Any) -> None:
        before = {name: weights(network) for name, network in module.networks.items()}
        module.zero_grad(set_to_none=True)
        loss.backward()
        with_gradient = {
            n for n, network in module.networks.items() if any(p.grad is not None for p in network.parameters())
        }
        for optimizer in optimizers:
            optimizer.step()
        moves.append({name for name in names if moved(module.networks[name], before[name])})
        assert with_gradient == moves[-1]

    monkeypatch.setattr(module, "minimise", minimise)
    module.training_step(unlabelled, 0)
    assert moves == [{"discriminator"}, {"generator"}, {"classifier"}]
    assert all(p.requires_grad for p in module.parameters())


def test_the_classifier_learns_from_the_new_generator_and_the_z_that_d_and_g_saw(
    make_sparse: Make, unlabelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_sparse()
    passes: list[tuple[Tensor, Tensor, Tensor]] = []
    translate = module.generator.forward

    def follow(x: Tensor, z: Tensor) -> Tensor:
        fake = translate(x, z)
        passes.append((x.detach(), z, fake.detach()))
        return fake

    targets: list[Tensor] = []
    seen_by_c: list[Tensor] = []
    learn = module.mean_class_loss
    module.classifier.register_forward_pre_hook(lambda _, inputs: seen_by_c.append(inputs[0]))
    monkeypatch.setattr(module.generator, "forward", follow)
    monkeypatch.setattr(
        module, "mean_class_loss", lambda logits, y, count: targets.append(y) or learn(logits, y, count)
    )
    module.training_step(unlabelled, 0)

    first, back, last = passes
    assert torch.equal(first[0], last[0])
    assert torch.equal(first[1], last[1])
    assert torch.equal(back[0], first[2])  # the way back starts from the fake, as it is
    assert not torch.equal(first[2], last[2])  # G has stepped in between
    assert torch.equal(seen_by_c[-1], last[2])
    critic_labels, asked_of_d, asked_of_tail, asked_of_c = targets
    assert torch.equal(critic_labels, back[1])  # pseudo-labels
    assert torch.equal(asked_of_d, first[1])
    assert torch.equal(asked_of_tail, first[1])
    assert torch.equal(asked_of_c, first[1])


def kept(x: Tensor) -> Kept:
    n = len(x)
    return Kept(
        x, torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.long), torch.zeros(n, dtype=torch.long), n
    )


def test_terms_of_both_players(make_sparse: Make) -> None:
    """A critic that answers 0 to all, and logits of 0: its penalty is 1, its class terms ln K."""
    module = make_sparse().eval()
    for p in module.discriminator.parameters():
        nn.init.zeros_(p)
    nn.init.zeros_(module.generator.tail.weight)
    nn.init.zeros_(module.generator.tail.bias)
    x = torch.rand(4, 1, 8, 8)
    now = kept(x)
    fake = module.generator(x, now.asked)
    critic = {name: float(value.detach()) for name, value in module.critic_terms(now, fake.detach()).items()}
    assert critic == pytest.approx({"critic": 0, "penalty": 10, "critic_class": float(torch.tensor(3.0).log())})
    ours = module.translation_terms(now, fake)
    back = module.generator(fake, now.labels)
    expected = {
        "generator": 0.0,
        "generator_class": float(torch.tensor(3.0).log()),
        "generator_tail": float(torch.tensor(3.0).log()),
        "reconstruction": 10 * float(F.l1_loss(back, x).detach()),
    }
    assert {name: float(value.detach()) for name, value in ours.items()} == pytest.approx(expected)


def test_generating_has_no_way_back_and_does_not_see_the_image(make_sparse: Make, unlabelled: Any) -> None:
    module = make_sparse(translating=Translating(from_noise=True))
    x = unlabelled.x
    assert "reconstruction" not in module.translation_terms(kept(x), module.generator(x, kept(x).asked))
    torch.manual_seed(1)
    first = module.source(x)
    torch.manual_seed(1)
    assert torch.equal(first, module.source(torch.zeros_like(x)))
    assert torch.equal(make_sparse().source(x), x)
    assert first.shape == x.shape
    module.on_test_start()
    drawn = module.tested_source(x, torch.tensor([0, 1, NOISES, NOISES + 1]))
    assert torch.equal(drawn[:2], drawn[2:])
    assert not torch.equal(drawn[0], drawn[1])


def test_without_unlabelled_batches_it_is_supervised_training_bit_for_bit(make_sparse: Make, labelled: Any) -> None:
    """mu = 0: networks, and what only the unsupervised phase uses, are those of a loop that knows L_sup alone."""
    module, other = make_sparse(), make_sparse()
    optimizers = [torch.optim.AdamW(network.parameters()) for network in other.networks.values()]
    for step in range(4):
        torch.manual_seed(step)
        module.training_step(labelled, step)

        torch.manual_seed(step)
        order = torch.randperm(6)
        weight = torch.distributions.Beta(0.2, 0.2).sample()
        mixed = weight * labelled.x + (1 - weight) * labelled.x[order]
        heads = [other.generator.classify, other.discriminator.classify, other.classifier]
        clean = [head(labelled.x) for head in heads]
        from_mixed = [head(mixed) for head in heads]
        names = ("tail", "critic", "classifier")
        pairs = (dict(zip(names, logits, strict=True)) for logits in (clean, from_mixed))
        terms = supervised_terms(*pairs, labelled.y, order, weight, Supervision())
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.stack([*terms.values()]).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    ours, theirs = module.state_dict(), other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_pseudo_labels_are_drawn_in_evaluation_mode_and_leave_no_trace(make_sparse: Make, unlabelled: Any) -> None:
    module = make_sparse()
    before = copy.deepcopy(module.state_dict())
    first = module.pseudo_probabilities(unlabelled)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(part.training for part in module.modules())
    assert torch.allclose(module.pseudo_probabilities(unlabelled), first, atol=1e-6)  # nothing has been learnt since

    released = make_sparse(voting=Voting(training_mode=True))
    released.pseudo_probabilities(unlabelled)
    changed = released.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in changed.items() if "running_mean" in name)


def test_the_surest_quarter_is_kept_with_its_pseudo_labels(make_sparse: Make, unlabelled: Any) -> None:
    module = make_sparse()
    p = module.pseudo_probabilities(unlabelled)
    now = module.pseudo_labelled(unlabelled)
    rows = p.amax(1).topk(4).indices.sort().values
    assert now.count == 4
    assert torch.equal(now.u, unlabelled.x[rows])
    assert torch.equal(now.labels, p[rows].argmax(1))
    assert torch.equal(now.truth, unlabelled.truth[rows])


def test_as_coded_all_images_are_kept_and_the_classifier_has_one_more_loss(
    make_sparse: Make, unlabelled: Any, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = make_sparse(
        voting=Voting(selected=False), class_loss="binary", supervision=Supervision(classification=True)
    )
    assert coded.pseudo_labelled(unlabelled).count == 16
    values: dict[str, Tensor] = {}
    monkeypatch.setattr(coded, "follow", lambda count, **given: values.update(given))
    coded.training_step(labelled, 0)
    assert float(values["classification"].detach()) > 0
    plain = make_sparse()
    monkeypatch.setattr(plain, "follow", lambda count, **given: values.update(given))
    values.clear()
    plain.training_step(labelled, 0)
    assert "classification" not in values


def test_the_ensemble_of_equals_is_the_classifier(make_sparse: Make, logged: Callable[..., dict[str, float]]) -> None:
    module = make_sparse().eval()
    module.discriminator.classify = module.classifier.forward  # type: ignore[method-assign]
    batch = SimpleNamespace(x=torch.rand(30, 1, 8, 8), y=torch.arange(30) % 3, row=torch.arange(30))
    metrics = logged(module, batch)
    assert metrics["test/top1"] == metrics["test/top1_ens"] == metrics["test/top1_critic"]
    assert metrics["test/n"] == 30


def test_translations_are_judged(make_sparse: Make, logged: Callable[..., dict[str, float]]) -> None:
    """A judge who always says class 1: right for what is asked to become 1, and for copies of class 1."""
    judge = ConvNet(1, 8, [4], [2], 3, grid=1)
    nn.init.zeros_(judge[-1].weight)
    judge[-1].bias.data = torch.tensor([0.0, 1.0, 0.0])
    module = make_sparse(judge=judge).eval()
    batch = SimpleNamespace(x=torch.rand(12, 1, 8, 8), y=torch.tensor([0, 1, 2] * 4), row=torch.arange(12))
    asked = asked_classes(batch.y, batch.row, 3)
    metrics = logged(module, batch)
    assert "test/top1" in metrics
    assert metrics["test/translated"] == pytest.approx(100 * float((asked == 1).float().mean()))
    assert metrics["test/copied"] == pytest.approx(100 / 3)
    assert metrics["test/above_chance"] == pytest.approx(metrics["test/translated"] - 100 / 3, abs=1e-4)
    assert metrics["test/moved"] > 0


@pytest.mark.parametrize("constant", [0, 1])
def test_images_of_one_class_for_all_that_is_asked_are_not_above_chance(constant: int) -> None:
    """Of 24 images 9 are of class 0, so that class 1 is asked for 9 times and class 0 fifteen times, 62.5%."""
    y = torch.tensor([0] * 9 + [1] * 15)
    asked = asked_classes(y, torch.arange(24), 2)
    measure = Translation(2)
    measure.update(torch.full((24,), constant), y, asked, torch.zeros(24, 1, 2, 2), torch.zeros(24, 1, 2, 2))
    values = {name: float(value) for name, value in measure.compute().items()}
    assert values["translated"] == pytest.approx([62.5, 37.5][constant])
    assert values["above_chance"] == pytest.approx([0.0, -25.0][constant])

    measure.update(asked, y, asked, torch.zeros(24, 1, 2, 2), torch.zeros(24, 1, 2, 2))  # a perfect translator
    assert float(measure.compute()["above_chance"]) == pytest.approx(37.5)


@pytest.mark.parametrize("classes", [2, 5])
def test_every_other_class_is_asked_for_equally_often(classes: int) -> None:
    y = torch.arange(40 * classes) % classes
    asked = asked_classes(y, torch.arange(len(y)) // classes, classes)
    assert bool((asked != y).all())
    assert len(set(asked.bincount(minlength=classes).tolist())) == 1


def test_accuracies_by_hand() -> None:
    measure = Accuracies(2, ("", "ens"))
    y = torch.tensor([0, 0, 0, 1])
    always = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    measure.update(y, plain=always, ens=F.one_hot(y, 2).float())
    values = {name: float(value) for name, value in measure.compute().items()}
    expected = {
        "top1": 75,
        "balanced": 50,
        "f1": 0.75 * 6 / 7,
        "top1_ens": 100,
        "balanced_ens": 100,
        "f1_ens": 1,
        "n": 4,
    }
    assert values == pytest.approx(expected)
    measure.update(y[:1], plain=always[:1], ens=always[:1])
    assert float(measure.compute()["n"]) == 1  # began anew


def test_the_best_weights_are_kept_and_come_back() -> None:
    network = ConvNet(1, 8, [4], [2], 3, grid=1)
    best = Best(network)
    before = copy.deepcopy(network.state_dict())
    best.restore(network)  # nothing is known: nothing changes
    seen = []
    for accuracy in (30.0, 70.0, 70.0, 50.0):
        for p in network.parameters():
            nn.init.normal_(p)
        seen.append(copy.deepcopy(network.state_dict()))
        best.look(network, torch.tensor(accuracy))
    best.restore(network)
    assert all(torch.equal(value, seen[1][name]) for name, value in network.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    again = Best(network)
    again.load_state_dict(best.state_dict())
    assert float(again.accuracy) == 70


def test_weights_that_are_never_right_come_back_too() -> None:
    network = nn.Linear(1, 1)
    best = Best(network)
    best.look(network, torch.tensor(0.0))
    kept_weight = network.weight.detach().clone()
    nn.init.constant_(network.weight, 7.0)
    best.restore(network)
    assert torch.equal(network.weight, kept_weight)


def test_training_means_are_over_the_batches_that_have_a_value(
    make_sparse: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_sparse()
    means: dict[str, float] = {}
    monkeypatch.setattr(
        module, "log_dict", lambda values: means.update({name: float(value) for name, value in values.items()})
    )
    strategy = SimpleNamespace(reduce=lambda values, reduce_op: values)
    module._trainer = SimpleNamespace(strategy=strategy, optimizers=[])  # type: ignore[assignment]
    module.follow(6, loss=torch.tensor(2.0))
    module.follow(2, loss=torch.tensor(6.0))
    module.follow(4, critic=torch.tensor(5.0))
    module.on_train_epoch_end()
    assert means == {"train/loss": 3, "train/critic": 5}


def test_each_of_two_processes_gets_half_of_the_kept_images(
    make_sparse: Make, unlabelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_sparse().pseudo_labelled(unlabelled)
    monkeypatch.setattr("modules.sparse.module.world_size", lambda: 2)
    first = make_sparse().pseudo_labelled(unlabelled)
    assert (first.count, whole.count) == (4, 4)
    assert torch.equal(first.u, whole.u[:2])


def test_a_resumed_run_goes_on_with_the_history(make_sparse: Make, unlabelled: Any) -> None:
    module, resumed = make_sparse(), make_sparse()
    p = module.pseudo_probabilities(unlabelled)
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    stored = io.BytesIO()
    torch.save(checkpoint, stored)
    stored.seek(0)
    resumed.on_load_checkpoint(torch.load(stored, weights_only=True))
    assert resumed.history is not None
    assert torch.equal(resumed.history.average[unlabelled.row], p)
    assert resumed.history.seen.nonzero().flatten().tolist() == unlabelled.row.tolist()


def test_wrong_arguments(make_sparse: Make) -> None:
    with pytest.raises(ValueError, match="class_loss='hinge': expected one of softmax, binary"):
        make_sparse(class_loss="hinge")
