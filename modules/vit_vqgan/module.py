"""Vector-quantized Image Modeling with Improved VQGAN (Yu et al., ICLR 2022).

arXiv 2110.04627. Stage 1: a ViT encoder, a codebook looked up in a low-dimensional normalised space, a ViT decoder:

    k* = argmin_k | l2(z_e) - l2(e_k) |^2,   z_e = linear(h) in R^32,   z_q = l2(e_k*),   straight-through
    L_VQ = | sg[l2(z_e)] - l2(e) |^2 + beta | l2(z_e) - sg[l2(e)] |^2,   beta = 0.25
    L = L_VQ + 0.1 L_adv + 0.1 L_perceptual + 0.1 L_logit-laplace + 1.0 L_2

Stage 2 (VIM, vim.py): a causal Transformer over the tokens in raster order, after one class token; sampled at
temperature 1 without top-k. Its activations, averaged over positions at a middle block, are probed linearly (probe.py).

The authors released no code. Where the text leaves room, re-implementations are followed, or not:
- norms in L_VQ are means over the dimensions (thuanz123/enhancing-transformers, quantizers.py), not sums.
- the straight-through step leads through the normalisation; re-implementations skip it: `over_normalisation`.
- tanh stands once, in a two-layer MLP at the end of the encoder and before the output of the decoder (paper).
  Re-implementations put it into every block instead: `activation="tanh", output_mlp=False`.
- the logit-laplace term has weight 0 by default, as in the re-implementations; theirs call |x - x_hat| by that name.
- the discriminator's loss is the mean over real and reconstructed images, R1 has gamma 10 every 16 batches.
- stage 2 takes its tokens from the frozen tokenizer on every batch; nothing is dumped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from modules.common.extractors import Extractor
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.vit_vqgan.adversarial import Critic
from modules.vit_vqgan.autoencoder import ViTAutoencoder
from modules.vit_vqgan.evaluation import ReconstructionMetrics
from modules.vit_vqgan.losses import ReconstructionLosses, logit_laplace_image
from modules.vit_vqgan.pictures import draw_codebook_use, draw_reconstructions
from modules.vit_vqgan.pixels import PixelModule
from modules.vit_vqgan.quantizer import Quantizer


class Tokenizer(PixelModule):
    """Stage 1. All arms are this module with other parts; test metrics are those of the reconstruction.

    Args:
        extractor: gives the features of `rfid`, named after it.
        autoencoder: images to tokens and back.
        quantizer: looks tokens up in the codebook.
        losses: L_2, L_perceptual and L_logit-laplace.
        critic: the discriminator and L_adv; None trains without.
        clip: largest norm of either network's gradient; None does not clip.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: logit-laplace has a weight and the decoder no two maps, or the other way round.
    """

    partial_backward = True  # each backward pass reaches one of the two networks

    def __init__(
        self,
        extractor: Extractor,
        autoencoder: ViTAutoencoder,
        quantizer: Quantizer,
        losses: ReconstructionLosses,
        critic: Critic | None = None,
        clip: float | None = 1.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.automatic_optimization = False
        maps = 2 if losses.weights["laplace"] else 1
        if autoencoder.maps != maps:
            raise ValueError(
                f"autoencoder.maps={autoencoder.maps}: expected {maps} with "
                f"losses.logit_laplace_weight={losses.weights['laplace']}"
            )
        self.autoencoder = autoencoder
        self.quantizer = quantizer
        self.losses = losses
        self.critic = critic
        self.clip = clip
        self.weights = {"adv": critic.weight if critic else 0.0, **losses.weights}
        self.side = autoencoder.side
        self.codebook_size = len(quantizer.codebook)
        self.evaluation = ReconstructionMetrics(extractor, self.codebook_size)
        self.squared_error = MeanMetric(nan_strategy="disable")  # of validation images

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x = self.pixels(batch[0])  # (B, C, H, W) in [0, 1]
        batches_seen = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        critic = self.critic if self.critic and batches_seen >= self.critic.start else None
        own_optimizer, *critic_optimizer = self.every_optimizer()

        maps, _, l_vq = self.reconstruct(x)
        x_hat = self.image(maps)
        terms = {"vq": l_vq, **self.losses.terms(x, x_hat, maps)}
        if critic:
            terms["adv"] = critic.generator_loss(x_hat)
        loss = l_vq + sum(weight * terms[name] for name, weight in self.weights.items() if name in terms)
        self.minimise(loss, own_optimizer)

        if critic:
            terms["disc"] = critic.discriminator_loss(x, x_hat)
            self.minimise(terms["disc"] + critic.penalty(x, batches_seen), *critic_optimizer)

        self.track(len(x), loss=loss, **terms)
        return loss.detach()

    def reconstruct(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, C, H, W) -> the decoder's maps (B, maps C, H, W), codes (B, T), L_VQ."""
        h, codes, l_vq = self.quantizer(self.autoencoder.encode(pixels))
        return self.autoencoder.decode(h).float(), codes, l_vq

    def image(self, maps: Tensor) -> Tensor:
        """The decoder's maps as pixels (B, C, H, W), neither clamped nor rounded."""
        return logit_laplace_image(maps) if self.autoencoder.maps == 2 else maps

    def tokenize(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> codes (B, T) in raster order."""
        return self.quantizer(self.autoencoder.encode(pixels))[1]

    def decode(self, codes: Tensor) -> Tensor:
        """(B, T) -> pixels (B, C, H, W), clamped to [0, 1]."""
        maps = self.autoencoder.decode(self.quantizer.decode(codes)).float()
        return self.image(maps).clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.image(self.reconstruct(self.pixels(x))[0])

    # Optimisers: the autoencoder's with the codebook, and the critic's

    def trained(self) -> Iterable[Any]:
        return [*self.autoencoder.parameters(), *self.quantizer.parameters()]

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = [super().configure_optimizers()]
        if self.critic is not None:
            factory = self.critic.optimizer_factory or self.optimizer_factory
            assert factory is not None
            optimizers.append(self.prepared(factory(self.critic.parameters())))
        return cast(list[Optimizer], optimizers)

    def every_optimizer(self) -> list[Any]:
        """Lightning gives no list where there is one optimiser."""
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def minimise(self, loss: Tensor, optimizer: Any) -> None:
        """One step of one optimiser."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip)
        optimizer.step()

    # Evaluation and pictures

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.evaluation.start(self.trainer.datamodule.spec.sizes["test"])  # type: ignore[attr-defined]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x = self.pixels(batch[0])
        x_hat = self(batch[0]).clamp(0, 1)
        self.squared_error.update((x_hat - x).square().mean((1, 2, 3)))

    def on_validation_epoch_end(self) -> None:
        """`val/psnr`, in dB as at the test: rates are chosen by it."""
        self.log("val/psnr", -10 * self.squared_error.compute().log10())
        self.squared_error.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x = self.pixels(batch[0])
        maps, codes, _ = self.reconstruct(x)
        x_hat = self.image(maps).clamp(0, 1)
        self.evaluation.update(x, x_hat, codes, self.next_indices(len(x)))

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.evaluation.compute().items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Test images above their reconstructions, and how often each code is used."""
        examples = self.evaluation.examples()
        if examples is None:
            return {}
        images, codes = examples
        rebuilt = self.decode(codes[:12].to(self.device))
        return {
            "reconstructions": draw_reconstructions(images[:12], rebuilt),
            "codebook use": draw_codebook_use(codes, self.codebook_size),
        }
