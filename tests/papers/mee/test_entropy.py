"""The entropy and its two buffers: by hand, by scikit-learn and scipy, and what stays in a buffer."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import differential_entropy
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from modules.mee.entropy import Entropy, PaperBuffer, ReleasedBuffer
from modules.mee.losses import squared_distances


def with_buffer(codes: Tensor, **options: float) -> Entropy:
    entropy = Entropy(codes.shape[1], size=len(codes), ramp=0, weight=1.0, **options)  # type: ignore[arg-type]
    entropy.fake.codes.copy_(codes)
    return entropy


def test_the_loss_by_hand() -> None:
    """Mean squared distances .02 and .82: the logarithm of their mean, not the mean of their logarithms (2.0553)."""
    codes = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    entropy = with_buffer(torch.tensor([[0.0, 0.2], [3.0, 3.0]]))
    assert isinstance(entropy.fake, PaperBuffer)
    distances = entropy.fake.distances(codes)
    assert float(-0.5 * distances.log().sum()) == pytest.approx(2.0553, abs=1e-4)
    weighted, plain = entropy.loss(codes, entropy.fake, epoch=0)
    assert float(plain) == pytest.approx(0.8675, abs=1e-4)
    assert float(weighted) == float(plain)


@pytest.mark.parametrize("s", [0.1, 3.0])
def test_a_scale_of_codes_and_buffer_is_twice_its_logarithm(s: float) -> None:
    codes, earlier = torch.randn(64, 16), torch.randn(1024, 16)
    values = []
    for factor in (1.0, s):
        entropy = with_buffer(factor * earlier)
        values.append(float(entropy.loss(factor * codes, entropy.fake, 0)[1]))
    assert values[1] - values[0] == pytest.approx(-2 * math.log(s), abs=1e-4)


def test_the_weight_grows_over_the_ramp() -> None:
    entropy = Entropy(16)
    assert [entropy.weight_at(epoch) for epoch in (0, 50, 100, 1000)] == pytest.approx([0, 2.5e-4, 5e-4, 5e-4])
    assert Entropy(16, ramp=0).weight_at(0) == 5e-4


def test_the_papers_buffer_is_first_in_first_out() -> None:
    buffer = PaperBuffer(1024, 16)
    start = buffer.codes.clone()
    assert -1 <= float(start.min()) < float(start.max()) <= 1
    batches = [torch.randn(64, 16, requires_grad=True) for _ in range(17)]
    for number, batch in enumerate(batches[:16], start=1):
        buffer.append(batch)
        assert buffer.codes.shape == (1024, 16)
        assert torch.equal(buffer.codes[: 1024 - 64 * number], start[64 * number :])
    assert torch.equal(buffer.codes, torch.cat(batches[:16]).detach())
    assert not buffer.codes.requires_grad
    buffer.append(batches[16])
    assert torch.equal(buffer.codes, torch.cat(batches[1:]).detach())


def test_the_released_buffer_shrinks_to_the_batch_before() -> None:
    buffer = ReleasedBuffer(1024, 16, 64)
    assert bool((buffer.codes[:, :1] == buffer.codes).all())  # all slots begin alike
    assert -1 <= float(buffer.codes.min()) < -0.9
    assert 0.9 < float(buffer.codes.max()) <= 1
    lengths = [int(buffer.length)]
    for _ in range(18):
        batch = torch.randn(64, 16)
        buffer.append(batch)
        lengths.append(int(buffer.length))
    assert lengths == [*range(1024, 0, -63), 1, 1]
    assert lengths[:2] == [1024, 961]
    assert lengths[15:18] == [79, 16, 1]
    assert torch.equal(buffer.codes[0], batch)
    codes = torch.randn(64, 16)
    assert torch.allclose(buffer.distances(codes), (codes - batch).square().mean(1))


def test_the_released_buffer_while_it_shrinks() -> None:
    """Against a list of rows, cut and appended to."""
    buffer = ReleasedBuffer(30, 4, 8)
    rows = list(buffer.codes.clone())
    for _ in range(6):
        codes = torch.randn(8, 4)
        expected = torch.stack([(row - codes).square().mean(1) for row in rows]).amin(0)
        assert torch.allclose(buffer.distances(codes), expected)
        buffer.append(codes)
        rows = [*rows[8:], codes]
    short = torch.randn(3, 4)
    assert buffer.distances(short).shape == (3,)
    buffer.append(short)
    assert torch.equal(buffer.codes[0], torch.cat([short, codes[3:]]))


def test_codes_are_compared_before_they_are_put_in() -> None:
    for estimator in ("paper", "released"):
        entropy = Entropy(4, size=64, estimator=estimator, batch=16, ramp=0)
        codes = torch.randn(16, 4)
        assert math.isfinite(float(entropy.loss(codes, entropy.fake, 0)[1]))
        assert float(entropy.fake.distances(codes).max()) == 0.0
        assert float(entropy.real.distances(codes).min()) > 0.0  # a buffer of its own


def test_the_loss_pushes_codes_away_from_their_neighbours() -> None:
    codes = torch.randn(16, 4, requires_grad=True)
    entropy = Entropy(4, ramp=0)
    assert isinstance(entropy.real, PaperBuffer)
    _, nearest = squared_distances(codes, entropy.real.codes)
    away = codes.detach() - entropy.real.codes[nearest]
    entropy.loss(codes, entropy.real, 0)[0].backward()
    assert codes.grad is not None
    assert bool((-(codes.grad * away).sum(1) > 0).all())
    assert not any(buffer.requires_grad for buffer in entropy.buffers())


def test_estimates_rank_distributions_as_others_do() -> None:
    """Uniform codes against codes in four tight clusters; neighbours are looked for among other codes."""
    uniform = torch.rand(500, 2)
    centres = torch.tensor([[0.2, 0.2], [0.2, 0.8], [0.8, 0.2], [0.8, 0.8]])
    clustered = centres[torch.arange(500) % 4] + 0.01 * torch.randn(500, 2)
    ours, theirs, scipys = [], [], []
    for codes in (uniform, clustered):
        half, other = codes[:250], codes[250:]
        ours.append(float(squared_distances(half, other)[0].log().mean()) / 2)
        actual = NearestNeighbors(n_neighbors=2).fit(codes.numpy()).kneighbors(codes.numpy())[0][:, 1]
        theirs.append(float(torch.as_tensor(actual).log().mean()))
        scipys.append(float(differential_entropy(codes.numpy()).sum()))
    assert ours[0] > ours[1] + 1
    assert theirs[0] > theirs[1] + 1
    assert scipys[0] > scipys[1]


def test_nearest_neighbours_are_scikit_learns() -> None:
    codes, earlier = torch.randn(64, 16), torch.randn(1024, 16)
    actual = NearestNeighbors(n_neighbors=1).fit(earlier.numpy()).kneighbors(codes.numpy())[0][:, 0]
    distance, _ = squared_distances(codes, earlier)
    assert torch.allclose(distance, torch.as_tensor(actual).float().square() / 16, rtol=1e-4)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="estimator='papers': expected one of paper, released"):
        Entropy(16, estimator="papers")
    with pytest.raises(ValueError, match="batch=None: expected the number of images"):
        Entropy(16, estimator="released")
