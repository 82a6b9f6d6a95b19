"""The training step: which network a step changes, what the terms share, and the arms' limit cases."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.mee.dcgan import DiscriminatorBody, Generator
from modules.mee.entropy import Entropy
from modules.mee.evaluation import RingScores
from modules.mee.losses import Mixing
from modules.mee.module import MaEMGAN
from modules.mee.neighbours import Shift
from modules.mee.networks import Embedding
from modules.mee.terms import Terms
from tests.schedules import half


def gan(packing: int = 1, critic_steps: int = 3, **terms: Any) -> MaEMGAN:
    """A small GAN of 8x8 images; the same weights each time."""
    torch.manual_seed(0)
    generator = Generator(8, 8, 8, start=2)
    embedding = Embedding(DiscriminatorBody(8, 8, channels=3 * packing, start=2), 4, packing=packing)
    options = {"critic_steps": critic_steps, "optimizer": torch.optim.Adam}
    return MaEMGAN(generator, embedding, RingScores(), terms=Terms(**terms), **options)


def full(**options: Any) -> MaEMGAN:
    return gan(mixing=Mixing(), neighbours=Shift(), entropy=Entropy(4, size=32, ramp=0), **options)


class Training:
    """Steps of a module without Lightning's loops."""

    def __init__(self, module: MaEMGAN, monkeypatch: pytest.MonkeyPatch, epoch: int = 0) -> None:
        self.module = module
        self.steps: list[str] = []
        optimizers = module.configure_optimizers()
        monkeypatch.setattr(module, "optimizers", lambda: optimizers)
        monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
        monkeypatch.setattr(type(module), "current_epoch", property(lambda _: epoch))

    def step(self, x: Tensor, batch_idx: int) -> None:
        torch.manual_seed(batch_idx)
        self.module.training_step(SimpleNamespace(x=x), batch_idx)


def test_the_generator_steps_on_the_noise_that_the_discriminator_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of a step is drawn once: G learns of the very samples that D has just learnt of."""
    module = full()
    training = Training(module, monkeypatch)
    noises: list[Tensor] = []
    fakes: list[Tensor] = []
    module.generator.register_forward_pre_hook(lambda _, inputs: noises.append(inputs[0].clone()))
    module.generator.register_forward_hook(lambda _, inputs, output: fakes.append(output.detach()))
    for batch_idx in range(4):
        training.step(torch.randn(16, 3, 8, 8), batch_idx)
    of_d, of_g, *between, of_d_again, of_g_again = noises
    assert len(between) == 2  # steps of D alone
    assert torch.equal(of_d, of_g)
    assert torch.equal(of_d_again, of_g_again)
    assert torch.equal(fakes[0], fakes[1])
    assert not torch.equal(of_d, of_d_again)


def test_how_strongly_the_entropy_pulls(monkeypatch: pytest.MonkeyPatch) -> None:
    """In G's step the other term's gradient is -1 / (B K) in each entry; the entropy's grows with its weight."""
    pulls = []
    for weight in (0.0, 1e-3, 1e-2):
        module = gan(entropy=Entropy(4, weight=weight, size=32, ramp=0))
        tracked: dict[str, float] = {}
        monkeypatch.setattr(module, "track", lambda count, tracked=tracked, **values: tracked.update(values))
        codes: list[Tensor] = []
        resampled = module.codes
        monkeypatch.setattr(module, "codes", lambda *x, to=codes, of=resampled: to.extend(of(*x)) or to[-len(x) :])
        assert isinstance(module.entropy, Entropy)
        buffer = module.entropy.fake.codes.clone()
        Training(module, monkeypatch).step(torch.randn(16, 3, 8, 8), 0)
        pulls.append((float(tracked["entropy_pull"]), float(tracked["entropy_pull_generator"])))

    generated = codes[-1].detach()  # (16, 4)
    nearest = buffer[torch.cdist(generated, buffer).argmin(1)]
    distance = (generated - nearest).square().mean(1).mean()
    gradient = 1e-2 * 2 * (generated - nearest) / (generated.numel() * distance)
    assert pulls[0] == (0.0, 0.0)
    assert pulls[2][1] == pytest.approx(float(gradient.norm()) * generated.numel() ** 0.5, rel=1e-4)
    assert pulls[2][0] == pytest.approx(10 * pulls[1][0], rel=1e-3)


def test_what_the_entropy_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient with respect to generated samples over that of the other term, through a held discriminator."""
    module = gan(entropy=Entropy(4, weight=0.3, size=32, ramp=0))
    assert isinstance(module.entropy, Entropy)
    noise = torch.randn(16, 8)
    torch.manual_seed(3)
    buffer = copy.deepcopy(module.entropy.fake)
    module.generator_loss(noise)

    torch.manual_seed(3)
    fake = module.generate(noise).detach().requires_grad_()
    module.embedding.eval()  # the same spectral norms again
    (code,) = module.codes(fake)
    gradients = [
        torch.autograd.grad(term, fake, retain_graph=True)[0].norm()
        for term in (-0.3 * buffer.distances(code).mean().log(), -code.mean())
    ]
    assert float(module._pulls["entropy_moves"]) == pytest.approx(float(gradients[0] / gradients[1]), rel=0.05)


def test_a_packed_discriminator_judges_neighbours_in_the_batch_together(monkeypatch: pytest.MonkeyPatch) -> None:
    module = gan(packing=2, mixing=Mixing(), neighbours=Shift(), entropy=Entropy(4, size=32, ramp=0))
    x = torch.randn(5, 3, 8, 8)
    packs = module.embedding.pack(x)
    assert torch.equal(packs, torch.stack([torch.cat([x[0], x[1]]), torch.cat([x[2], x[3]])]))  # the fifth is alone
    assert torch.equal(gan().embedding.pack(x), x)

    seen: list[tuple[int, ...]] = []
    module.embedding.body.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    old = weights(module.generator), weights(module.embedding)
    Training(module, monkeypatch).step(torch.randn(16, 3, 8, 8), 0)
    assert seen == [(24, 6, 8, 8), (16, 6, 8, 8), (8, 6, 8, 8)]  # real, generated, mixed; neighbours; G's step
    assert changed(module.generator, old[0])
    assert changed(module.embedding, old[1])
    with pytest.raises(ValueError, match="packing=0: expected 1 or more samples"):
        Embedding(nn.Identity(), packing=0)


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def changed(network: nn.Module, before: list[Tensor]) -> bool:
    moved = {not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True)}
    assert len(moved) == 1, "some weights of a network moved and others did not"
    return moved.pop()


def test_the_generator_steps_once_in_three(monkeypatch: pytest.MonkeyPatch) -> None:
    module = full()
    training = Training(module, monkeypatch)
    for batch_idx in range(4):
        old = weights(module.generator), weights(module.embedding)
        training.step(torch.randn(16, 3, 8, 8), batch_idx)
        assert changed(module.embedding, old[1])
        assert changed(module.generator, old[0]) == (batch_idx % 3 == 0)
    assert all(p.requires_grad for p in module.parameters())


def test_a_step_of_the_generator_leaves_no_gradient_in_the_discriminator() -> None:
    module = full()
    module.embedding.requires_grad_(False)
    module.generator_loss(torch.randn(16, 8)).backward()
    assert all(p.grad is None for p in module.embedding.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.generator.parameters())


def test_a_step_of_the_discriminator_leaves_no_gradient_in_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    module = full()
    Training(module, monkeypatch).step(torch.randn(16, 3, 8, 8), 1)
    assert all(p.grad is None for p in module.generator.parameters())


def test_each_arm_has_its_terms() -> None:
    x, fake = torch.randn(16, 3, 8, 8), torch.randn(16, 3, 8, 8)
    terms = {"mixing": Mixing(), "neighbours": Shift(), "entropy": Entropy(4, size=32, ramp=0)}
    for chosen, expected in {
        (): {"maf"},
        ("mixing",): {"maf", "disomap"},
        ("mixing", "neighbours"): {"maf", "disomap", "dlle"},
        ("mixing", "neighbours", "entropy"): {"maf", "disomap", "dlle", "entropy"},
    }.items():
        module = gan(**{name: terms[name] for name in chosen})
        object.__setattr__(module, "_current", 0)
        module._trainer = SimpleNamespace(current_epoch=0)  # type: ignore[assignment]
        assert set(module.critic_terms(x, fake)) == expected


def trained(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Tensor]:
    module = gan(mixing=Mixing(), **options)
    training = Training(module, monkeypatch)
    source = torch.Generator().manual_seed(1)
    for batch_idx in range(5):
        training.step(torch.randn(16, 3, 8, 8, generator=source), batch_idx)
    return {**module.generator.state_dict(), **module.embedding.state_dict()}


def test_an_entropy_without_weight_is_maf_gan_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = trained(monkeypatch)
    without = trained(monkeypatch, entropy=Entropy(4, weight=0.0, size=32))
    within_ramp = trained(monkeypatch, entropy=Entropy(4, weight=0.1, size=32, ramp=10))  # epoch 0 weighs nothing
    with_it = trained(monkeypatch, entropy=Entropy(4, weight=0.1, size=32, ramp=0))
    assert all(torch.equal(value, without[name]) for name, value in baseline.items())
    assert all(torch.equal(value, within_ramp[name]) for name, value in baseline.items())
    assert not all(torch.equal(value, with_it[name]) for name, value in baseline.items())


def test_codes_of_a_step_are_drawn_apart() -> None:
    module = gan()
    x = torch.randn(16, 3, 8, 8)
    first, second = module.codes(x, x)
    assert first.shape == second.shape == (16, 4)
    assert not torch.equal(first, second)


def test_a_copy_of_a_module_keeps_its_modes() -> None:
    module = copy.deepcopy(full())
    assert all(part.training for part in module.modules())


def test_validation_and_test_report_alike_and_nothing_is_drawn_without_a_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = gan()
    assert module.pictures(None) == {}
    told: dict[str, Any] = {}
    monkeypatch.setattr(module, "log_dict", told.update)
    monkeypatch.setattr(module.evaluation, "compute", lambda: {"kl": 0.25})
    module.on_validation_epoch_end()
    module.on_test_epoch_end()
    assert told["val/kl"] == told["test/kl"] == 0.25


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="critic_steps=0: expected 1 or more"):
        gan(critic_steps=0)


def test_players_train_with_their_own_optimizer_and_schedule() -> None:
    plain = gan()
    module = MaEMGAN(plain.generator, plain.embedding, RingScores(), optimizer=torch.optim.Adam, schedule=half)
    assert (module.optimizer_factory, module.schedule) == (torch.optim.Adam, half)


def test_a_step_tells_the_gap_between_real_and_generated_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = full()
    tracked: dict[str, Any] = {}
    monkeypatch.setattr(module, "track", lambda count, **values: tracked.update(values, count=count))
    Training(module, monkeypatch).step(torch.randn(16, 3, 8, 8), 0)
    assert float(tracked["gap"]) == -float(tracked["maf"])
    terms = ("maf", "disomap", "dlle", "entropy")
    assert float(tracked["loss"]) == pytest.approx(sum(float(tracked[name]) for name in terms), rel=1e-5)
    assert tracked["count"] == 16


def test_every_test_image_has_a_noise_of_its_own_however_it_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes take images 0, 2, 4, ... and 1, 3, 5, ...; samples are those of one process."""

    class Watched(nn.Module):
        """Keeps what it is asked to measure."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: dict[int, Tensor] = {}

        def start(self, judge: Any) -> None: ...

        def prepare(self, data: Any) -> None:
            self.seen = {}

        def update(self, real: Tensor, fake: Tensor, indices: Tensor) -> None:
            assert len(real) == len(fake)
            self.seen.update(zip(indices.tolist(), fake, strict=True))

    module = gan().eval()
    module.evaluation = Watched()
    x = torch.randn(10, 3, 8, 8)
    made: list[dict[int, Tensor]] = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        data = SimpleNamespace(spec=SimpleNamespace(sizes={"test": 10}))
        trainer = SimpleNamespace(datamodule=data, global_rank=rank, world_size=world)
        monkeypatch.setattr(type(module), "trainer", trainer, raising=False)
        torch.manual_seed(5)
        module.on_test_epoch_start()
        with torch.no_grad():
            for part in x[rank::world].split(3):
                module.test_step(SimpleNamespace(x=part), 0)
        made.append(module.evaluation.seen)
    whole, first, second = made
    assert sorted(whole) == list(range(10))
    assert (sorted(first), sorted(second)) == ([0, 2, 4, 6, 8], [1, 3, 5, 7, 9])
    both = {**first, **second}
    assert all(torch.allclose(both[number], sample, atol=1e-6) for number, sample in whole.items())
    assert len({tuple(sample.flatten().tolist()) for sample in whole.values()}) == 10
