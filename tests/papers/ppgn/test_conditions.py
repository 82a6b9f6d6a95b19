"""Gradients of the condition, hidden units, captions and the hole of inpainting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.ppgn.conditions import CaptionCondition, ClassCondition, UnitCondition, pull
from modules.ppgn.networks import SmallEncoder, SmallGenerator
from modules.ppgn.sampler import Sampler
from modules.ppgn.spaces import CodeSpace, Inpainting, square_holes

LOGITS = torch.tensor([[1.0, 0.0, -1.0, 2.0], [0.2, 0.1, 3.0, -0.5]])
TARGET = torch.tensor([1, 2])


def gradient(mode: str, logits: Tensor = LOGITS, target: Tensor = TARGET) -> Tensor:
    logits = logits.clone().requires_grad_(True)
    return torch.autograd.grad(pull(logits, target, mode).sum(), logits)[0]


def test_the_exact_gradient_is_onehot_minus_p() -> None:
    exact = gradient("exact")
    torch.testing.assert_close(exact, nn.functional.one_hot(TARGET, 4) - LOGITS.softmax(1))
    torch.testing.assert_close(exact.sum(1), torch.zeros(2), atol=1e-6, rtol=0)


def test_the_released_gradient_is_at_the_target_alone() -> None:
    released = gradient("released")
    p = LOGITS.softmax(1)[torch.arange(2), TARGET]
    torch.testing.assert_close(released[torch.arange(2), TARGET], 1 - p)
    assert int((released != 0).sum()) == 2
    assert torch.equal(released[torch.arange(2), TARGET], gradient("exact")[torch.arange(2), TARGET])


@pytest.mark.parametrize("mode", ["exact", "released"])
def test_both_vanish_where_the_class_is_certain(mode: str) -> None:
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    assert torch.equal(gradient(mode, sure, torch.tensor([0])), torch.zeros(1, 3))


def test_a_units_softmax_is_over_the_channels_at_its_place() -> None:
    encoder = SmallEncoder().eval()
    x = torch.randn(2, 1, 28, 28)
    condition = UnitCondition(encoder, place=(3, 5))
    expected = encoder.maps(x)[:, :, 3, 5].log_softmax(1)[torch.arange(2), torch.tensor([4, 30])]
    torch.testing.assert_close(condition(x, torch.tensor([4, 30])), expected)
    with pytest.raises(ValueError, match=r"place=\(7, 0\): expected one inside a map of \(7, 7\)"):
        UnitCondition(encoder, place=(7, 0))(x, TARGET)


class Toy:
    """A captioner whose word k is as probable as the images' mean says: log p = -word * mean."""

    def word_log_probabilities(self, x: Tensor, words: Tensor) -> Tensor:
        return -words * x.flatten(1).mean(1, keepdim=True)


def test_a_caption_is_the_sum_over_its_words() -> None:
    x = torch.ones(2, 1, 2, 2)
    words = torch.tensor([[3, 2, -1], [1, -1, -1]])
    torch.testing.assert_close(CaptionCondition(Toy())(x, words), torch.tensor([-5.0, -1.0]))


def test_without_a_captioner_the_message_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="captioner=None: expected a network with word_log_probabilities"):
        CaptionCondition()
    with pytest.raises(ValueError, match="none comes with this suite"):
        CaptionCondition(nn.Identity())


def test_another_gradient() -> None:
    with pytest.raises(ValueError, match="gradient='soft': expected one of exact, released"):
        ClassCondition(None, "soft")


# Inpainting


def hole_and_space() -> tuple[Inpainting, Tensor, Tensor]:
    encoder, generator = SmallEncoder().eval(), SmallGenerator()
    image = torch.randn(2, 1, 28, 28)
    hole = square_holes(torch.tensor([[0.0, 0.5], [0.99, 0.2]]), 10, 28)
    return Inpainting(CodeSpace(encoder, generator), image, hole), image, hole


def test_pixels_outside_the_hole_are_the_images_bit_for_bit() -> None:
    space, image, hole = hole_and_space()
    filled = space.decode(torch.rand(2, 128))
    assert torch.equal(filled.masked_fill(hole, 0), image.masked_fill(hole, 0))
    assert not torch.equal(filled, image)


def test_the_class_pulls_through_the_hole_alone() -> None:
    space, _, hole = hole_and_space()
    generated = space.space.decode(torch.rand(2, 128)).detach().requires_grad_(True)
    (gradient_,) = torch.autograd.grad(space.compose(generated).square().sum(), generated)
    assert bool(gradient_[hole].all())
    assert not bool(gradient_[~hole].any())


def test_what_is_known_pulls_by_its_jacobian() -> None:
    """d context / dh = J_G^T (x - G(h)) over the pixels outside the hole."""
    space, image, hole = hole_and_space()
    h = torch.rand(2, 128, requires_grad=True)
    context = space.context(h)
    assert context is not None
    (ours,) = torch.autograd.grad(context.sum(), h)
    x = space.space.decode(h)
    (expected,) = torch.autograd.grad(x, h, (image - x.detach()).masked_fill(hole, 0))
    torch.testing.assert_close(ours, expected)
    sampler = Sampler(rule="plain", e1=0.0, e2=0.0, e3=0.0, e4=0.0)
    assert not bool(sampler.parts(space, None, h.detach(), TARGET)[2].any())  # e4 = 0: no such gradient
    with_it = Sampler(rule="plain", e1=0.0, e2=0.0, e3=0.0, e4=1.0).parts(space, None, h.detach(), TARGET)[2]
    torch.testing.assert_close(with_it, expected)


def test_holes_are_squares_inside_the_image() -> None:
    holes = square_holes(torch.tensor([[0.0, 0.999], [0.5, 0.5]]), 3, 8)
    assert holes.shape == (2, 1, 8, 8)
    assert holes.flatten(1).sum(1).tolist() == [9, 9]
    assert bool(holes[0, 0, :3, 5:].all())


def test_the_word_of_number_0_counts() -> None:
    """Only what is below 0 is padding."""

    class Even:
        """A captioner to whom every word is as probable."""

        def word_log_probabilities(self, x: Tensor, words: Tensor) -> Tensor:
            return torch.full(words.shape, -2.0)

    words = torch.tensor([[0, 5, -1], [0, 0, 1]])
    torch.testing.assert_close(CaptionCondition(Even())(torch.ones(2, 1, 2, 2), words), torch.tensor([-4.0, -6.0]))


def test_holes_are_where_their_corners_are() -> None:
    assert square_holes(torch.zeros(1, 2, device="meta"), 3, 8).device.type == "meta"
