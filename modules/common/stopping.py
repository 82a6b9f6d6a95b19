"""Early stopping on a held-out split with the best weights kept; a resumed training stops where it would have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.common.module import StageModule


class Best(nn.Module):
    """The weights of a network at its lowest loss so far, and for how many epochs there has been no lower one.

    All of it is buffers: in checkpoints, in no optimiser, and not counted as parameters.

    Args:
        network: whose weights are kept; its batch statistics too.
    """

    lowest: Tensor
    waited: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "-") for name in network.state_dict()}  # a buffer's name may hold no dot
        for name, value in network.state_dict().items():
            self.register_buffer(self.names[name], value.clone())
        self.register_buffer("lowest", torch.tensor(torch.inf))
        self.register_buffer("waited", torch.tensor(0))

    @torch.no_grad()
    def observe(self, loss: float, network: nn.Module) -> None:
        """Look at a network after an epoch, with its loss on the held-out split."""
        if loss < float(self.lowest):
            self.lowest.fill_(loss)
            self.waited.zero_()
            for name, value in network.state_dict().items():
                getattr(self, self.names[name]).copy_(value)
        else:
            self.waited += 1

    def restore(self, network: nn.Module) -> None:
        network.load_state_dict({name: getattr(self, ours) for name, ours in self.names.items()})


class EarlyStopped(StageModule):
    """A stage that ends once no watched network has improved for `patience` epochs, each with its best weights.

    A network whose patience is exhausted is not looked at again, so that several trained side by side end with what
    each would have alone. A subclass calls `watch` when it is built and `observe` after each validation.
    """

    def watch(self, patience: int | None, **networks: nn.Module) -> None:
        """Keep the best weights of these networks; `patience` None trains to the last epoch and keeps nothing."""
        self.patience = patience
        self.watched = networks if patience is not None else {}
        self.best = nn.ModuleDict({name: Best(network) for name, network in self.watched.items()})

    def observe(self, **losses: Tensor) -> None:
        for name, network in self.watched.items():
            best = self.best[name]
            assert isinstance(best, Best)
            if not self._exhausted(best):
                best.observe(float(losses[name]), network)
        if self.done():
            self.trainer.should_stop = True

    def _exhausted(self, best: nn.Module) -> bool:
        assert isinstance(best, Best)
        assert self.patience is not None
        return int(best.waited) >= self.patience

    def done(self) -> bool:
        return bool(self.watched) and all(self._exhausted(best) for best in self.best.values())

    def on_train_start(self) -> None:
        if self.done():  # resumed after its last epoch
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        """Before the checkpoint is written, so that it holds the best weights where this epoch is the last."""
        super().on_train_epoch_end()
        assert self.trainer.max_epochs is not None
        if self.trainer.should_stop or self.current_epoch + 1 >= self.trainer.max_epochs:
            for name, network in self.watched.items():
                best = self.best[name]
                assert isinstance(best, Best)
                best.restore(network)
