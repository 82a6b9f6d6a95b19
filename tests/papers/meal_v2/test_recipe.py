"""The full recipe against the released code (59e6bca) and its README, and what the arms of mini share."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torchvision import transforms

from datamodules.common.folders import ImageNet
from experiments.config import compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.classifier import Classifier
from modules.common.schedules import Position
from modules.meal_v2 import Discriminator, Labels, MealV2

STUDENTS = ("student", "soft", "one_teacher", "student_wd", "student_untrained")
HARD = ("continued", "continued_wd", "smoothed")


def planned(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=meal_v2", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def full() -> Plan:
    return planned("scale=full")


def test_every_student_has_the_released_optimiser_batch_and_length(full: Plan) -> None:
    for name in STUDENTS + HARD:
        stage = full.stages[name]
        optimizer = stage.module["optimizer"]
        decay = 1e-4 if name.endswith("_wd") else 0.0
        assert optimizer == {
            "_target_": "torch.optim.SGD",
            "_partial_": True,
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": decay,
        }
        assert stage.trainer["max_epochs"] == 180
        assert stage.data["batch_size"] == stage.reference_batch == 512
        assert "gradient_clip_val" not in stage.trainer
    assert {name for name, stage in full.stages.items() if stage.fit} == {*STUDENTS, *HARD}


@pytest.mark.parametrize(("option", "rates"), [(None, [0.01, 0.01]), (1e-4, [0.01, 1e-4])])
def test_the_rate_is_a_tenth_from_epoch_101_in_every_group(full: Plan, option: Any, rates: list[float]) -> None:
    """Epochs 0 to 100 at 0.01, 101 to 179 at 0.001; the discriminator's own rate follows unless it is given."""
    stage = full.stages["student"]
    networks = [Classifier(torch.nn.Linear(64, 64), 64) for _ in range(2)]
    module = MealV2(
        networks[0],
        64,
        networks[1:],
        discriminator=Discriminator(64, lr=option),
        optimizer=training.build(stage.module["optimizer"]),
        schedule=training.build(stage.module["schedule"]),
    )
    assert [group["lr"] for group in module.configure_optimizers().param_groups] == rates

    assert module.schedule is not None
    factors = [module.schedule(Position(epoch, 0, 2503, 180)) for epoch in range(180)]
    assert factors == pytest.approx([1.0] * 101 + [0.1] * 79)


def test_the_student_learns_from_both_teachers_and_the_discriminator_alone(full: Plan) -> None:
    module = training.build(full.stages["student"].module["labels"])
    assert module == Labels(soft=1, hard=0, smoothing=0, temperature=1, teachers="mean_prob")
    discriminator = {k: v for k, v in full.stages["student"].module["discriminator"].items() if k != "_target_"}
    assert discriminator == {
        "classes": 1000,
        "reduction": 8,
        "final_relu": True,
        "weight": 1,
        "input": "logits",
        "reverse": False,
        "lr": None,
    }
    assert full.stages["student"].module["cutmix_beta"] == 0


def test_each_arm_differs_from_its_neighbour_in_one_thing(full: Plan) -> None:
    """Down the ladder: the discriminator goes, then the second teacher, then soft labels altogether."""
    ladder = {
        "soft": ("student", {"module.discriminator"}),
        "one_teacher": ("soft", {"needs.teachers"}),
        "student_wd": ("student", {"module.optimizer.weight_decay"}),
        "student_untrained": ("student", {"needs.student"}),
        "continued": ("soft", {"needs.teachers", "module.labels.soft", "module.labels.hard"}),
        "continued_wd": ("continued", {"module.optimizer.weight_decay"}),
        "smoothed": ("continued", {"module.labels.smoothing"}),
    }
    assert set(ladder) == {*STUDENTS, *HARD} - {"student"}
    for name, (other, differing) in ladder.items():
        assert differences(vars(full.stages[name]), vars(full.stages[other])) == differing, name


def differences(a: Any, b: Any, where: str = "") -> set[str]:
    """Paths of what two stages compute with and do not share."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = set(a) | set(b) if where else {"module", "needs", "data", "trainer"}
        return {path for key in keys for path in differences(a.get(key), b.get(key), f"{where}.{key}".strip("."))}
    return set() if a == b else {where}


def test_images_are_cropped_and_mirrored_and_nothing_else(full: Plan) -> None:
    """Random crops of 8 to 100% of the area and mirrors; tested on one centre crop of 224 out of 256."""
    data = training.build(full.stages["student"].data)
    assert type(data) is ImageNet
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    crop, flip, _ = data.transform(train=True).transforms
    assert (type(crop), crop.size) == (transforms.RandomResizedCrop, (224, 224))
    assert (tuple(crop.scale), crop.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (type(flip), flip.p) == (transforms.RandomHorizontalFlip, 0.5)

    resize, centre, _ = data.transform(train=False).transforms
    assert (resize.size, centre.size) == (256, (224, 224))
    bilinear = transforms.InterpolationMode.BILINEAR
    assert crop.interpolation == resize.interpolation == bilinear


def test_weights_are_named_in_full(full: Plan) -> None:
    """timm's plain names have moved to other weights; only a full tag pins the published start and teachers."""
    names = {n: full.stages[n].module["network"]["model_name"] for n in ("teacher_a", "teacher_b", "init")}
    assert names == {
        "teacher_a": "senet154.gluon_in1k",
        "teacher_b": "resnet152s.gluon_in1k",
        "init": "resnet50.ram_in1k",
    }
    assert all(full.stages[n].module["network"]["pretrained"] and not full.stages[n].fit for n in names)
    assert all(timm.is_model_pretrained(name) for name in names.values())


def test_at_380_the_teachers_are_efficientnets_of_which_one_has_seen_more_data() -> None:
    stages = planned("scale=full", "variant=resnet50_380").stages
    assert stages["teacher_a"].module["network"]["model_name"] == "tf_efficientnet_b4.ns_jft_in1k"
    assert stages["teacher_b"].module["network"]["model_name"] == "tf_efficientnet_b4.aa_in1k"
    assert stages["init"].module["network"]["model_name"] == "resnet50.ram_in1k"

    data = training.build(stages["student"].data)
    resize, centre, _ = data.transform(train=False).transforms
    assert (resize.size, centre.size) == (434, (380, 380))


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("resnet18", "resnet18.tv_in1k"),
        ("mobilenetv3_small_075", "tf_mobilenetv3_small_075.in1k"),
        ("mobilenetv3_small_100", "tf_mobilenetv3_small_100.in1k"),
        ("mobilenetv3_large_100", "tf_mobilenetv3_large_100.in1k"),
        ("efficientnet_b0", "tf_efficientnet_b0.aa_in1k"),
    ],
)
def test_another_student_keeps_teachers_and_recipe(full: Plan, variant: str, name: str) -> None:
    stages = planned("scale=full", f"variant={variant}").stages
    assert stages["init"].module["network"]["model_name"] == name
    assert timm.is_model_pretrained(name)
    for same in ("teacher_a", "teacher_b", "student", "continued"):
        assert (stages[same].module, stages[same].data) == (full.stages[same].module, full.stages[same].data)


def test_cutmix_pastes_into_every_batch_of_the_student(full: Plan) -> None:
    stages = planned("scale=full", "variant=cutmix").stages
    assert stages["student"].module == {**full.stages["student"].module, "cutmix_beta": 1.0}
    assert stages["continued"].module == full.stages["continued"].module


def test_published_numbers_hang_on_the_arms_they_came_from() -> None:
    rows = compose.paper_file("meal_v2")["published"]
    published = {(row.get("variant"), f"{row['stage']}/{row['metric']}"): row["value"] for row in rows}
    students = {
        None: (80.67, 95.09),
        "resnet50_380": (81.72, 95.81),
        "cutmix": (80.98, 95.35),
        "resnet18": (73.19, 90.82),
        "mobilenetv3_small_075": (67.6, 87.23),
        "mobilenetv3_small_100": (69.65, 88.71),
        "mobilenetv3_large_100": (76.92, 93.32),
        "efficientnet_b0": (78.29, 93.95),
    }
    expected = {(variant, "student/test/top1"): top1 for variant, (top1, _) in students.items()}
    expected |= {(variant, "student/test/top5"): top5 for variant, (_, top5) in students.items()}
    expected |= {(None, "init/test/top1"): 79.034, ("resnet18", "init/test/top1"): 69.752}
    expected |= {(None, "teacher_a/test/top1"): 81.378, (None, "teacher_b/test/top1"): 80.86}
    assert published == expected
    assert {row["dataset"] for row in rows} == {"ImageNet-1k val"}


def test_mini_keeps_the_proportions_of_the_schedule() -> None:
    """As many of its epochs at the first rate as 101 of 180, the same momentum and (no) weight decay."""
    stages = planned("scale=mini").stages
    for name in STUDENTS + HARD:
        stage = stages[name]
        epochs = stage.trainer["max_epochs"]
        assert stage.module["schedule"]["milestones"] == [round(epochs * 101 / 180)]
        optimizer = stage.module["optimizer"]
        assert optimizer["momentum"] == 0.9
        assert optimizer["weight_decay"] == (5e-4 if name.endswith("_wd") else 0.0)
        assert stage.data == stages["student"].data


def test_mini_has_clean_labels_and_students_that_see_a_part_of_the_teachers_images() -> None:
    stages = planned("scale=mini").stages
    assert {stage.data["label_noise"] for stage in stages.values()} == {0.0}

    teacher, student = (training.build(stages[name].data) for name in ("teacher_a", "student"))
    teacher.setup()
    student.setup()
    assert torch.equal(teacher.splits["train"][0][: len(student.splits["train"][0])], student.splits["train"][0])
    assert len(teacher.splits["train"][0]) == 32 * len(student.splits["train"][0])

    assert torch.equal(teacher.splits["test"][0], student.splits["test"][0])
    seen = {image.numpy().tobytes() for image in teacher.splits["train"][0]}
    assert not seen & {image.numpy().tobytes() for image in student.splits["test"][0]}


def test_noise_is_digits_with_replaced_labels_and_clean_the_same_with_their_own() -> None:
    noise, clean = (planned(f"variant={name}").stages for name in ("noise", "clean"))
    assert {name for name in noise if noise[name].data != {**clean[name].data, "label_noise": 0.3}} == set()
    assert {name for name in noise if noise[name].module != clean[name].module} == set()
    assert {stage.data["_target_"] for stage in noise.values()} == {"datamodules.common.digits.Digits"}
    assert {stage.data["label_noise"] for stage in clean.values()} == {0.0}
