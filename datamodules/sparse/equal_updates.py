"""As many updates as with unlabelled images, on the labelled ones alone: what more training does by itself."""

from __future__ import annotations

from datamodules.common.loader import Loader
from datamodules.sparse.few_shot import FewShot, Passes, Turns


def equal_passes(labelled_batches: int, unlabelled_batches: int, mu: int, passes: int) -> int:
    """Passes of the labelled images with at least as many batches as `passes` of them and one of the unlabelled images
    for every `mu`-th.

    Args:
        labelled_batches, unlabelled_batches: of one pass.
        mu, passes: see FewShot; mu 0 has no unlabelled passes.
    """
    unlabelled = (passes // mu) * unlabelled_batches if mu else 0
    return passes + -(-unlabelled // labelled_batches)


class EqualUpdates(FewShot):
    """FewShot's labelled batches alone, as many as FewShot has of both, rounded up to whole passes.

    Its first passes are FewShot's own: the same images, order and augmentation. The unlabelled images are never served.
    """

    def train_dataloader(self) -> Loader:
        rank, world = self.rank_and_world
        total = len(self.splits["train"][1])
        unlabelled = total - self.few
        passes = equal_passes(
            self.few // min(self.batch_size, self.few),
            unlabelled // min(self.unlabelled_batch, unlabelled),
            self.mu,
            self.passes,
        )
        alone = Passes(passes, 0, self.batch_size, self.unlabelled_batch)
        turns = Turns(self.few, total, alone, seed=self.seed, rank=rank, world=world)
        return Loader(turns, self.fetch("train", augment=True))
