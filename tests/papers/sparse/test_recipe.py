"""The published recipe in numbers: networks, losses, optimisers, passes, sets and accuracies; the released code's."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import pytest

from experiments.config import compose
from experiments.running.plan import Plan, Stage, plan
from tests.papers.sparse.published import ACCURACIES, MEANS, SHOTS

Make = Callable[..., Plan]


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=sparse", "scale=full"]).overrides), 0)


@pytest.fixture(scope="module")
def sparse(full: Plan) -> Stage:
    return full.stages["sparse"]


def test_the_weights_of_table_2(sparse: Stage) -> None:
    supervision = {key: value for key, value in sparse.module["rules"]["supervision"].items() if key != "_target_"}
    assert supervision == {
        "alpha": 0.1,
        "beta": 0.01,
        "gamma": 0.5,
        "kl": 0.5,
        "temperature": 2.0,
        "direction": "mean_to_network",
        "mutual_gradient": True,
        "mixup": 0.2,
        "classification": False,
    }
    voting = {key: value for key, value in sparse.module["rules"]["voting"].items() if key != "_target_"}
    assert voting == {
        "temperature": 2.0,
        "present": 0.6,
        "decay": 0.99,
        "quantile": 0.75,
        "normalised": True,
        "selected": True,
        "training_mode": False,
    }
    translating = {key: value for key, value in sparse.module["rules"]["translating"].items() if key != "_target_"}
    assert translating == {"rec": 10.0, "cls": 1.0, "gp": 10.0, "from_noise": False}
    assert sparse.module["rules"]["class_loss"] == "softmax"


def test_three_optimisers_without_a_schedule(sparse: Stage) -> None:
    """G and D with PyTorch's weight decay, C with another; betas of all are the same."""
    for optimizer, decay in {"optimizer": 0.01, "classifier_optimizer": 1e-4}.items():
        options = sparse.module[optimizer]
        assert options["_target_"] == "torch.optim.AdamW"
        assert (options["lr"], options["betas"], options["weight_decay"]) == (2e-4, [0.5, 0.999], decay)
    assert sparse.module.get("schedule") is None
    assert sparse.trainer["precision"] == "32-true"
    assert sparse.module["select"]  # the best validation accuracy, separately for G, D, C


def test_a_thousand_passes_in_batches_of_24(sparse: Stage) -> None:
    data = sparse.data
    assert sparse.trainer["max_epochs"] * data["passes"] == 1000
    assert (data["batch_size"], sparse.reference_batch, data["unlabelled_batch"]) == (24, 24, None)
    assert (data["mu"], data["per_class"], data["unlabelled"]) == (10, 5, None)
    assert data["augment"] == [{"_target_": "datamodules.common.augment.HorizontalFlip"}]
    assert (data["channels"], data["side"], data["shrink"]) == (3, None, 1)
    source = data["source"]
    assert (source["name"], source["side"]) == ("bloodmnist", 128)


def test_the_networks_are_the_released_ones(sparse: Stage) -> None:
    """Sizes are left at the classes' own, which test_networks.py compares with the released parameter counts."""
    networks = sparse.module["networks"]
    assert networks["generator"] == {"_target_": "modules.sparse.networks.Translator", "classes": 8}
    assert networks["discriminator"] == {"_target_": "modules.sparse.networks.Critic", "classes": 8}
    classifier = {"_target_": "modules.sparse.networks.efficientnet_b3", "classes": 8, "pretrained": True}
    assert networks["classifier"] == classifier


def test_the_released_codes_numbers(make_plan: Make) -> None:
    stages = make_plan("paper=sparse", "scale=full", "variant=code_compat").stages
    stage = stages["sparse"]
    assert {stages[rival].data["mu"] for rival in ("updates", "pseudo", "generated")} == {stage.data["mu"]}
    rules = stage.module["rules"]
    ours = [rules["supervision"][key] for key in ("alpha", "beta", "gamma", "kl", "temperature")]
    assert ours == [0.1, 0.1, 1.0, 0.1, 0.1]
    assert not rules["supervision"]["mutual_gradient"]
    assert rules["supervision"]["classification"]
    voting = rules["voting"]
    assert (voting["temperature"], voting["present"], voting["training_mode"]) == (0.5, 1.0, True)
    assert not voting["normalised"]
    assert not voting["selected"]
    assert (rules["class_loss"], stage.data["mu"]) == ("binary", 5)


def test_eleven_sets_and_four_numbers_of_shots(full: Plan, make_plan: Make) -> None:
    variants = {n: v for n, v in full.config["variants"].items() if v["scale"] == "full" and n != "code_compat"}
    assert len(variants) == 43  # and the default, BloodMNIST with 5
    stage = make_plan("paper=sparse", "scale=full", "variant=organsmnist_20").stages["sparse"]
    assert (stage.data["source"]["name"], stage.data["per_class"]) == ("organsmnist", 20)
    assert stage.module["networks"]["generator"]["classes"] == 11


def test_published_accuracies(full: Plan) -> None:
    """Of each set and number of labels a class, on the arm and the outputs that produced them."""
    rows = {}
    for row in full.config["published"]:
        name = "bloodmnist" if row["variant"] == "default" else row["variant"]
        assert row["stage"] == "sparse"
        rows[name, row["metric"]] = row["value"]
    expected = {}
    for name, (alone, ensemble) in ACCURACIES.items():
        for shots, c, ens in zip(SHOTS, alone, ensemble, strict=True):
            variant = name if shots == 5 else f"{name}_{shots}"
            expected[variant, "test/top1"] = c
            expected[variant, "test/top1_ens"] = ens
    assert rows == pytest.approx(expected)


def test_the_sets_accuracies_have_the_published_means() -> None:
    for place, shots in enumerate(SHOTS):
        alone, ensemble = MEANS[shots]
        assert fmean(rows[0][place] for rows in ACCURACIES.values()) == pytest.approx(alone, abs=0.03)
        assert fmean(rows[1][place] for rows in ACCURACIES.values()) == pytest.approx(ensemble, abs=0.03)
