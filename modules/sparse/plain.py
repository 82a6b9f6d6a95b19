"""Plain pseudo-labels: SPARSE without translation (Lee 2013), a rival of what it explains its gain by.

The same networks, votes, history, selection and steps. Where SPARSE lets G, D and C learn from translations of the kept
images u, all three learn here from u as it is, with its pseudo-label y' as the class:

    L = L_cls(G(u), y') + L_cls(D(u), y') + L_cls(C(u), y')
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.common.distributed import world_size
from modules.sparse.adversarial import shared_mean
from modules.sparse.losses import class_loss
from modules.sparse.module import Sparse


def pseudo_label_terms(logits: Mapping[str, Tensor], labels: Tensor, count: int, kind: str) -> dict[str, Tensor]:
    """Each network's class loss of pseudo-labelled images, as a mean over the `count` of all processes.

    Args:
        logits: by network, of this process's images, (b, K).
        labels: their pseudo-labels (b,).
        count: kept images of all processes.
        kind: see `class_loss`.
    """
    return {name: shared_mean(class_loss(each, labels, kind), count) for name, each in logits.items()}


class PlainPseudoLabels(Sparse):
    """G's tail, D's class head and C, one step each per unlabelled batch, on the images that D and C are surest of.

    G's decoder and D's patches learn nothing; there are no translations to judge.
    """

    def unsupervised_step(self, batch: Any) -> Tensor | None:
        kept = self.pseudo_labelled(batch)
        if kept.count < world_size():
            return None

        logits = {
            "tail": self.generator.classify(kept.u),
            "critic": self.discriminator.classify(kept.u),
            "classifier": self.classifier(kept.u),
        }
        terms = pseudo_label_terms(logits, kept.labels, kept.count, self.rules.class_loss)
        loss = sum(terms.values(), start=kept.u.new_zeros(()))
        self.minimise(loss, *self.steppers())

        right = 100 * shared_mean((kept.labels == kept.truth).float(), kept.count)
        losses = {f"pseudo_{name}_loss": term for name, term in terms.items()}
        self.follow(kept.count, pseudo_top1=right, **losses)
        return loss.detach()
