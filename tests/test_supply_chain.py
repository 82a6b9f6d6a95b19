"""What is fetched from elsewhere is named so that it cannot become something else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import yaml

from experiments.common.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))


def workflow(name: str) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows" / name).read_text(encoding="utf-8"))
    return content


def test_actions_are_pinned_by_commit_and_may_only_read() -> None:
    assert WORKFLOWS
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        uses = re.findall(r"uses: (.*)", text)
        assert uses
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", line) for line in uses), path
        content = workflow(path.name)
        assert content["permissions"] == {"contents": "read"}
        assert all("permissions" not in job for job in content["jobs"].values())


def test_the_workflow_looks_at_the_whole_history_each_push_and_runs_everything_each_night() -> None:
    content = workflow("ci.yml")
    assert {"push", "pull_request", "schedule"} <= set(content[True])  # YAML 1.1 reads `on` as true
    for job in content["jobs"].values():
        checkout = job["steps"][0]
        assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}
        assert "make check-results ARGS=--require-history" in [step.get("run") for step in job["steps"]]
    runs = {name: [step.get("run", "") for step in job["steps"]] for name, job in content["jobs"].items()}
    assert {"make lint", "make test"} <= set(runs["check"])
    assert any(".ci/run" in run for run in runs["everything"])
    assert "make test-all" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_images_are_pinned_by_digest() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages: set[str] = set()
    for image, name in re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE):
        assert image in stages or re.fullmatch(r"[\w./:-]+@sha256:[0-9a-f]{64}", image)
        stages.add(name)
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert "image" not in container
    assert container["build"]["target"] in stages


def test_hooks_fetch_nothing() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for repo in hooks["repos"]:
        assert repo["repo"] == "local"
        assert {hook["language"] for hook in repo["hooks"]} == {"system"}
        assert all(hook["entry"].startswith(".venv/bin/") for hook in repo["hooks"])


def test_no_resolver_reads_more_than_values() -> None:
    """An interpolation can call what is registered: nothing that runs code or reads a file or any variable."""
    code = (
        "from experiments.commands import run, reproduce\n"
        "from hydra._internal.utils import get_args_parser\n"
        "from omegaconf.basecontainer import BaseContainer\n"
        "print(*sorted(BaseContainer._resolvers))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    values = {"oc.create", "oc.decode", "oc.deprecated", "oc.dict.keys", "oc.dict.values", "oc.env", "oc.select"}
    assert set(done.stdout.split()) - {"hydra", "now", "python_version"} == values
