"""Where the published label files are, for all tests of the paper."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datamodules.reassess_imagenet.labels import LabelFile

FOLDER = Path(os.environ.get("REPRISE_DATA", "data")) / "labels"


@pytest.fixture(scope="session")
def label_files() -> dict[str, LabelFile]:
    files = {"v1": LabelFile(str(FOLDER), "real.json"), "v2": LabelFile(str(FOLDER), "imagenetv2_refined.json")}
    for file in files.values():
        if problem := file.available():
            pytest.skip(problem)
    return files
