"""Seeds and images: how far an accuracy difference would move with new seeds and new test images. Imports no torch.

Beside a record stand the answers of the main claim's two arms on each test image, as bits, in
results/images/<key>/<setting>.json. They are kept where the claim compares the top-1 accuracies of two stages on test
images that are the same for every seed. With them the difference of seed s on image i,

    d_si = mean + seed_s + image_i + rest_si,

has two crossed random effects (Searle, Casella & McCulloch 1992, Ch. 4), and the mean over n seeds and m images has the
variance var_seed / n + var_image / m + var_rest / (n m). The seed interval alone is about these very images.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError

from experiments.common import files
from experiments.common.errors import InputError
from experiments.config.expressions import Metric
from experiments.evidence import results
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.part import MOST_SEEDS, Part
from experiments.evidence.records import Entry
from experiments.evidence.sequences import ALPHA, Estimate
from experiments.running.plan import Plan

if TYPE_CHECKING:
    import numpy as np

METRIC = "test/top1"
MOST_BYTES = 50_000  # of one setting's bits; seeds that would not fit are left out
PERCENT = 100.0
SAME = 1e-3  # points: accuracies are recorded in single precision


class Answers(Part):
    """Which test images two stages had right.

    Attributes:
        registration: under which the seeds ran.
        better, than: the stages.
        images: a hash of the test images, see experiments.running.hits.
        count: how many they are.
        seeds: of the entry, from its first.
        right: stage -> for each seed the bits (numpy.packbits) in base64.
    """

    registration: str | None
    better: str
    than: str
    images: str
    count: Annotated[int, Field(ge=1)]
    seeds: Annotated[list[int], Field(max_length=MOST_SEEDS)]
    right: dict[str, Annotated[list[Annotated[str, Field(max_length=MOST_BYTES)]], Field(max_length=MOST_SEEDS)]]

    def differences(self) -> np.ndarray:
        """(seeds, images), in points: 100 where only the better arm was right, -100 where only the other was.

        Raises ValueError where bits are missing.
        """
        import numpy as np

        arms = []
        for stage in (self.better, self.than):
            packed = [np.frombuffer(base64.b64decode(text, validate=True), np.uint8) for text in self.right[stage]]
            if len(packed) != len(self.seeds) or any(len(bits) != (self.count + 7) // 8 for bits in packed):
                raise ValueError(f"{stage}: expected {self.count} bits for each of {len(self.seeds)} seeds")
            arms.append(np.stack([np.unpackbits(bits, count=self.count) for bits in packed]).astype(float))
        return PERCENT * (arms[0] - arms[1])


@dataclass(frozen=True)
class TwoWay:
    """A mean difference with its interval for new seeds and new images, and where its variance comes from.

    Attributes:
        estimate: mean and 95% interval; it holds for one look.
        seed, image, rest: standard deviations of the effects; 0 where the estimate of a variance is negative.
    """

    estimate: Estimate
    seed: float
    image: float
    rest: float


def two_way(differences: np.ndarray) -> TwoWay:
    """Crossed random effects of seeds and images, by the mean squares of an analysis of variance.

    The variance of the mean is (MS_seed + MS_image - MS_rest) / (n m), never below what either way alone gives, with
    Satterthwaite's degrees of freedom (1946).

    Args:
        differences: (seeds, images).

    Raises ValueError for fewer than two seeds or images.
    """
    import numpy as np
    from scipy import stats

    seeds, images = differences.shape
    if seeds < 2 or images < 2:
        raise ValueError(f"expected two seeds and two images or more, got {seeds} and {images}")

    mean = float(differences.mean())
    by_seed, by_image = differences.mean(1), differences.mean(0)
    rest = differences - by_seed[:, None] - by_image[None, :] + mean
    ms_seed = float(images * np.sum((by_seed - mean) ** 2) / (seeds - 1))
    ms_image = float(seeds * np.sum((by_image - mean) ** 2) / (images - 1))
    ms_rest = float(np.sum(rest**2) / ((seeds - 1) * (images - 1)))

    whole = max(ms_seed + ms_image - ms_rest, ms_seed, ms_image)
    freedom = whole**2 / _spread(ms_seed, ms_image, ms_rest, seeds, images) if whole > 0 else 1.0
    half = float(stats.t.ppf(1 - ALPHA / 2, max(1.0, freedom))) * math.sqrt(whole / (seeds * images))
    return TwoWay(
        Estimate(mean, mean - half, mean + half, seeds),
        seed=math.sqrt(max(0.0, (ms_seed - ms_rest) / images)),
        image=math.sqrt(max(0.0, (ms_image - ms_rest) / seeds)),
        rest=math.sqrt(ms_rest),
    )


def _spread(ms_seed: float, ms_image: float, ms_rest: float, seeds: int, images: int) -> float:
    """Of the sum of mean squares, as Satterthwaite's degrees of freedom divide by it."""
    terms = (ms_seed, seeds - 1), (ms_image, images - 1), (ms_rest, (seeds - 1) * (images - 1))
    return math.fsum(square**2 / free for square, free in terms)


# --- kept beside a record --------------------------------------------------------------------------------------------


def arms(claim: JudgedClaim) -> tuple[str, str] | None:
    """The two stages whose top-1 accuracies a claim compares; None for any other claim."""
    if claim.kind != "normal" or claim.lower_is_better or not isinstance(claim.than, str):
        return None
    sides = claim.claim().shown().expression()
    if any(not isinstance(side, Metric) or side.name != METRIC or "*" in side.stage for side in sides):
        return None
    better, than = (side.stage for side in sides if isinstance(side, Metric))
    return better, than


def gather(entry: Entry, plans: Sequence[Plan]) -> Answers | None:
    """The answers of the main claim's arms, from the stages' directories.

    None unless every seed left them, on the same images, and they give the differences that the entry holds.
    """
    import numpy as np

    from experiments.running import hits

    main = entry.main_claim()
    stages = arms(main) if main is not None else None
    if main is None or stages is None:
        return None
    folders = {plan.seed: [plan.stages[name].directory for name in stages] for plan in plans}
    pairs = {seed: [hits.read(folder) for folder in folders.get(seed, [])] for seed in main.seeds}
    answered = {seed: [hit for hit in pair if hit is not None] for seed, pair in pairs.items()}
    tests = {(hit.images, len(hit.right)) for pair in answered.values() for hit in pair}
    if any(len(pair) < len(stages) for pair in answered.values()) or len(tests) != 1:
        return None

    ((images, count),) = tests
    packed = {
        seed: [base64.b64encode(np.packbits(hit.right).tobytes()).decode() for hit in pair]
        for seed, pair in answered.items()
    }
    most = MOST_BYTES // sum(map(len, packed[main.seeds[0]]))
    seeds = main.seeds[:most]
    answers = Answers(
        registration=entry.registered.hash,
        better=stages[0],
        than=stages[1],
        images=images,
        count=count,
        seeds=seeds,
        right={name: [packed[seed][arm] for seed in seeds] for arm, name in enumerate(stages)},
    )
    return answers if not _differs(answers, main) else None


def _differs(answers: Answers, main: JudgedClaim) -> str:
    """Where the bits do not give the differences that a claim was judged by; empty where they do."""
    recorded = dict(zip(main.seeds, main.per_seed, strict=True))
    for seed, mean in zip(answers.seeds, answers.differences().mean(1), strict=True):
        if seed not in recorded:
            return f"seed {seed} is none of the record's"
        if abs(recorded[seed] - mean) > SAME:
            return f"seed {seed}: the bits say {mean:g} points, the record {recorded[seed]:g}"
    return ""


def path_of(paper: str, title: str) -> Path:
    return results.base() / "images" / paper / f"{title}.json"


def keep(paper: str, title: str, entry: Entry, plans: Sequence[Plan]) -> None:
    """Write the answers of a recorded entry, where there are any; what is there of another registration goes."""
    answers = gather(entry, plans)
    path = path_of(paper, title)
    if answers is not None:
        files.write_text(path, json.dumps(answers.plain(), indent=1, sort_keys=True) + "\n")
    elif path.is_file() and _parse(path).registration != entry.registered.hash:
        path.unlink()


def of(paper: str, title: str, entry: Entry) -> Answers | None:
    """The answers that were kept of an entry; None where there are none, or only of an earlier registration.

    Raises InputError for a damaged file, and for bits that do not give the differences that the record holds.
    """
    path, main = path_of(paper, title), entry.main_claim()
    if not path.is_file() or main is None:
        return None
    answers = _parse(path)
    if answers.registration != entry.registered.hash or arms(main) != (answers.better, answers.than):
        return None
    try:
        wrong = _differs(answers, main)
    except (ValueError, KeyError) as error:
        wrong = f"damaged ({error})"
    if wrong:
        raise InputError(f"{path}: {wrong}; restore it with git")
    return answers


def _parse(path: Path) -> Answers:
    try:
        return Answers.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0][:80]}); restore it with git") from error
