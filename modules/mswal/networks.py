"""The residual U-Net with mini-inception blocks (MSWAL, arXiv 2503.13560), and networks as nnU-Net plans them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import ResidualUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

HEADS = "seg_layers"  # in the names of the parameters that depend on the classes


class MiniInception(BasicBlockD):
    """A residual block with the side branch. Arguments as BasicBlockD.

    Raises:
        ValueError: the block is strided or changes the width, where the paper keeps the plain residual block.
    """

    def __init__(
        self,
        conv_op: type[nn.Module],
        input_channels: int,
        output_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        conv_bias: bool = False,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        unit = (conv_op, input_channels, output_channels)
        super().__init__(*unit, kernel_size, stride, conv_bias, norm_op, norm_op_kwargs, **options)
        if not is_plain(self):
            raise ValueError(f"stride {self.stride}, {input_channels} -> {output_channels} channels: no side branch")
        self.side = nn.Sequential(*(ConvDropoutNormReLU(*unit, 1, 1, False, norm_op, norm_op_kwargs) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlin2(self.conv2(self.conv1(x)) + self.side(x) + x)


def is_plain(block: BasicBlockD) -> bool:
    """Stride 1 and equal width: no projection is needed."""
    return all(s == 1 for s in block.stride) and block.input_channels == block.output_channels


class InceptionNnunet(ResidualUNet):
    """A ResidualUNet whose plain blocks are MiniInception blocks. Arguments as ResidualUNet."""

    def __init__(self, **plan: Any) -> None:
        super().__init__(**plan)
        names = ("conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs")
        options: dict[str, Any] = {name: plan.get(name) for name in names}
        for parent in list(self.modules()):
            for name, block in list(parent.named_children()):
                if isinstance(block, BasicBlockD) and is_plain(block):
                    width = block.output_channels
                    kernel = block.conv1.conv.kernel_size
                    setattr(parent, name, MiniInception(plan["conv_op"], width, width, kernel, 1, **options))


@contextmanager
def watched_sides(network: nn.Module) -> Iterator[list[Tensor]]:
    """While it is open, every pass of every MiniInception block adds its side branch's share to the list.

    The share is the standard deviation of what the side branch gives over the sum of that and the main branch's: 1
    before training, where the main branch gives 0, and 0 where the side branch has come to nothing.
    """
    shares: list[Tensor] = []
    main: dict[nn.Module, Tensor] = {}

    def keep(block: nn.Module) -> Callable[..., None]:
        return lambda _, inputs, output: main.__setitem__(block, output.std())

    def add(block: nn.Module) -> Callable[..., None]:
        return lambda _, inputs, output: shares.append(output.std() / (output.std() + main[block]))

    blocks = [block for block in network.modules() if isinstance(block, MiniInception)]
    hooks = [block.conv2.register_forward_hook(keep(block)) for block in blocks]
    hooks += [block.side.register_forward_hook(add(block)) for block in blocks]
    try:
        yield shares
    finally:
        for hook in hooks:
            hook.remove()


def build_network(
    architecture: Callable[..., nn.Module],
    features: Sequence[int],
    classes: int,
    decoder: int = 1,
    in_channels: int = 1,
) -> nn.Module:
    """A network as an nnU-Net plan describes it: kernels 3, instance norm, leaky ReLU, a head at every resolution.

    Args:
        architecture: class with nnU-Net's arguments and its blocks or convolutions per stage.
        features: channels of each stage; every stage but the first halves the resolution.
        classes: C with background.
        decoder: blocks or convolutions per decoder stage.

    Initial weights are He normal, biases 0, the last norm before every addition 0. From the same random state two
    architectures get alike what they share: the side branches are drawn last.
    """
    with torch.random.fork_rng(devices=[]):  # what torch draws here is replaced below, and depends on the architecture
        network = architecture(
            input_channels=in_channels,
            n_stages=len(features),
            features_per_stage=list(features),
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1] + [2] * (len(features) - 1),
            num_classes=classes,
            n_conv_per_stage_decoder=decoder,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
    for _, layer in sorted(network.named_modules(), key=lambda item: ".side." in item[0]):
        network.initialize(layer)  # type: ignore[operator]
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # half the time, same values


def transfer(network: nn.Module, source: nn.Module) -> None:
    """Copy every weight but the heads, in place.

    Raises:
        ValueError: the two are not the same architecture.
    """
    body = {name: value for name, value in source.state_dict().items() if HEADS not in name}
    own = {name: value.shape for name, value in network.state_dict().items() if HEADS not in name}
    if own != {name: value.shape for name, value in body.items()}:
        raise ValueError("pretrained: not the network's architecture; both need the same plan")
    network.load_state_dict(body, strict=False)
