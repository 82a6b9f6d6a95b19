"""Methods without gradients: seen once, solved, saved, loaded, resumed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from modules.common.closed_form import ClosedForm
from tests.quiet import trainer


class ClassMeans(ClosedForm):
    solution = ("means",)

    def solve(self, x: Tensor, y: Tensor) -> None:
        self.means = torch.stack([x[y == c].mean(0) for c in range(3)])


def loader() -> DataLoader:
    x, y = torch.arange(36.0).view(12, 3), torch.arange(12) % 3
    return DataLoader(TensorDataset(x, y), batch_size=5)


def test_every_image_counts_once_whatever_the_epochs(tmp_path: Path) -> None:
    x = torch.arange(36.0).view(12, 3)
    for epochs in (1, 3):
        module = ClassMeans()
        trainer(epochs, default_root_dir=tmp_path).fit(module, loader())
        assert torch.equal(module.means, torch.stack([x[c::3].mean(0) for c in range(3)]))


def test_the_solution_survives_saving_and_a_kill_while_gathering(tmp_path: Path) -> None:
    module = ClassMeans()
    fitted = trainer(1, default_root_dir=tmp_path)
    fitted.fit(module, loader())
    other = ClassMeans()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.means, module.means)
    batches = list(loader())
    first, second = ClassMeans(), ClassMeans()
    first._trainer = second._trainer = fitted
    fitted.fit_loop.epoch_progress.current.processed = fitted.fit_loop.epoch_progress.current.completed = 0
    first.training_step(batches[0], 0)
    checkpoint: dict = {}
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(checkpoint)
    for number in (1, 2):
        second.training_step(batches[number], number)
    second._sums, second.log = {}, lambda *a, **k: None  # type: ignore[method-assign]
    second.on_train_epoch_end()
    assert torch.equal(second.means, module.means)


def test_nothing_is_found_before_it_is_solved() -> None:
    module = ClassMeans()
    assert module.means.shape == (0,)
    assert (module.automatic_optimization, module.configure_optimizers()) == (False, [])
    module._trainer = SimpleNamespace(optimizers=[], current_epoch=0)  # type: ignore[assignment]
    module.on_train_epoch_end()  # nothing was seen
    assert module.means.shape == (0,)
    x, y = torch.arange(9.0).view(3, 3), torch.arange(3)
    for _ in range(2):  # a second epoch's images are those of the first; what was solved is forgotten
        module.training_step((x, y), 0)
        module.on_train_epoch_end()
        assert torch.equal(module.means, x)
    with pytest.raises(NotImplementedError, match="ClosedForm does not say how it is solved"):
        ClosedForm().solve(x, y)
