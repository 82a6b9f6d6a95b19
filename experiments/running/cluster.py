"""`reproduce launcher=...`: the stages of all seeds as jobs of Slurm (through submitit) or tasks of Ray.

The engines that exist do the work: they place jobs, start them, put them back into the queue. Here stands only what
reproduce asks of them. Every stage writes into its folder under `runs_dir`, which all machines see under one name; a
job that starts again goes on from what it had saved there.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.common import overlay
from experiments.common.errors import InputError, RunError
from experiments.common.paths import ROOT
from experiments.common.plain import Arguments
from experiments.running import engine
from experiments.running.devices import processes, uses_gpu
from experiments.running.engine import Outcome
from experiments.running.manifest import silent
from experiments.running.plan import Plan, Stage
from experiments.running.pool import Lost, Message, Scheduler
from experiments.running.processes import end_as_interrupted

AT_A_TIME = 100  # jobs with jobs=auto: queues have limits, and what waits here can still be stopped
PAUSE = 1.0  # seconds between two looks at files
ASK_EVERY = 10.0  # seconds between two questions to the cluster, which serves others too
TIMEOUTS = 1000  # of one job, each of which puts it back into the queue
GRACE = 30.0  # seconds that a file system may take to show what a job that has ended wrote


class Cluster(Scheduler):
    """Stages that run somewhere else, as many at a time as `count`."""

    def __init__(self, service: Service, count: int) -> None:
        self.service = service
        self.count = count
        self.jobs: list[tuple[Plan, Stage, Any]] = []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """What still runs is told to end; it saves, and the same command goes on from there."""
        for _, _, job in self.jobs:
            self.service.cancel(job)
        self.service.close()

    def _start(self, plan: Plan, stage: Stage) -> bool:
        if len(self.jobs) >= self.count:
            return False
        self.jobs.append((plan, stage, self.service.submit(plan, stage)))
        return True

    def _running(self) -> bool:
        return bool(self.jobs)

    def _messages(self) -> Iterator[tuple[Plan, Stage, Message]]:
        time.sleep(PAUSE)
        for plan, stage, job in list(self.jobs):
            message = self.service.ended(job)
            if message is not None:
                self.jobs.remove((plan, stage, job))
                yield plan, stage, message


class Service(ABC):
    """What runs one stage somewhere else."""

    @abstractmethod
    def submit(self, plan: Plan, stage: Stage) -> Any:
        """A handle of the job."""

    @abstractmethod
    def ended(self, job: Any) -> Outcome | Lost | None:
        """What became of it; None while it waits or runs."""

    @abstractmethod
    def cancel(self, job: Any) -> None:
        """End it as Ctrl-C would."""

    @abstractmethod
    def close(self) -> None:
        """After the last job."""


def open_cluster(launcher: Mapping[str, Any], jobs: int | str, folder: Path) -> Cluster:
    """The cluster that a configuration names.

    Args:
        launcher: conf/launcher/<name>.yaml.
        jobs: at a time, or `auto`.
        folder: for the jobs' files; every machine sees it.
    Raises:
        InputError: its library or its commands are not installed, or an option would begin a line of its own in the
            script of a job.
    """
    for key, value in launcher.items():
        if any(set(text) & set("\n\r\0") for text in _texts(value)):
            raise InputError(f"launcher.{key}={value!r:.80}: expected one line")
    service: Service = Ray(launcher) if launcher["name"] == "ray" else Slurm(launcher, folder)
    return Cluster(service, AT_A_TIME if jobs == "auto" else int(jobs))


def _texts(value: Any) -> Iterator[str]:
    """Every name and value within an option, as text; that of a mapping as a whole would show a line break as two
    letters."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _texts(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)


def work(plan: Plan, stage: Stage) -> Outcome:
    """Run a stage where a cluster has placed it."""
    os.chdir(ROOT)
    end_as_interrupted()
    return engine.attempt(plan, stage, silent)


class Job:
    """work() for submitit, which puts a job whose time or place runs out back into the queue if it says how."""

    def __call__(self, plan: Plan, stage: Stage) -> Outcome:
        return work(plan, stage)

    def checkpoint(self, plan: Plan, stage: Stage) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, plan, stage)


class Slurm(Service):
    """Jobs of Slurm through submitit; `name: submitit_local` runs them as processes here, to try it.

    Whether a job has gone is asked of squeue: accounting, which submitit asks, is not everywhere.
    """

    def __init__(self, launcher: Mapping[str, Any], folder: Path) -> None:
        import submitit

        logging.getLogger("submitit").setLevel(logging.ERROR)
        self.launcher = launcher
        self.local = launcher["name"] == "submitit_local"
        try:
            self.executor = (
                submitit.AutoExecutor(folder, cluster="local")
                if self.local
                else submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=TIMEOUTS)
            )
        except RuntimeError as error:
            raise InputError(f"launcher={launcher['name']}: sbatch is not installed on this machine") from error
        self.asked = 0.0
        self.queued: set[str] = set()
        self.missing: dict[str, float] = {}  # since when a job is in no queue and has left nothing

    def submit(self, plan: Plan, stage: Stage) -> Any:
        options: Arguments = {"name": f"{plan.paper}-{stage.name}", "timeout_min": self.launcher["timeout_min"]}
        if not self.local:
            options |= {
                "mem_gb": self.launcher["mem_gb"],
                "cpus_per_task": self.launcher["cpus_per_task"],
                "slurm_partition": self.launcher["partition"],
                "slurm_account": self.launcher["account"],
                "slurm_additional_parameters": dict(self.launcher["extra"]),
                "slurm_setup": [f"export PYTHONPATH={shlex.quote(str(ROOT))}"],
            }
            gpus = _gpus(self.launcher, stage)
            if gpus:
                options["gpus_per_node"] = gpus
        self.executor.update_parameters(**{key: value for key, value in options.items() if value is not None})
        return self.executor.submit(Job(), plan, stage)

    def ended(self, job: Any) -> Outcome | Lost | None:
        if job.paths.result_pickle.exists():
            error = job.exception()
            if error is None:
                outcome: Outcome = job.result()
                return outcome
            return Lost(f"its job ended with {str(error).strip().splitlines()[-1]}; see {job.paths.stderr}")
        if self._is_queued(job):
            self.missing.pop(job.job_id, None)
            return None
        since = self.missing.setdefault(job.job_id, time.monotonic())
        if time.monotonic() - since < GRACE:
            return None
        return Lost(f"its job {job.job_id} ended and left nothing; see {job.paths.stderr}")

    def _is_queued(self, job: Any) -> bool:
        if self.local:
            return not job.done()
        if time.monotonic() - self.asked > ASK_EVERY:
            told = subprocess.run(["squeue", "-h", "-o", "%i"], check=False, capture_output=True, text=True, timeout=60)
            if told.returncode == 0:  # else it does not answer just now: nothing is known to have gone
                self.queued = set(told.stdout.split())
            self.asked = time.monotonic()
        return job.job_id in self.queued

    def cancel(self, job: Any) -> None:
        job.cancel(check=False)

    def close(self) -> None:
        """Nothing is held."""


class Ray(Service):
    """Tasks of a Ray cluster: a running one, or one that is started here."""

    def __init__(self, launcher: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("launcher=ray: ray is not installed: make extras EXTRAS=ray") from error
        self.ray = ray
        self.launcher = launcher
        environment = {"PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"}
        environment |= {name: value for name, value in os.environ.items() if name == overlay.VARIABLE}
        try:
            ray.init(address=launcher["address"], runtime_env={"env_vars": environment}, log_to_driver=False)
        except ConnectionError as error:
            raise RunError(f"launcher.address={launcher['address']}: no Ray cluster answers there") from error

    def submit(self, plan: Plan, stage: Stage) -> Any:
        gpus = _gpus(self.launcher, stage)
        task = self.ray.remote(max_retries=0, num_cpus=self.launcher["cpus"], num_gpus=gpus)(work)
        return task.remote(plan, stage)

    def ended(self, job: Any) -> Outcome | Lost | None:
        done, _ = self.ray.wait([job], timeout=0)
        if not done:
            return None
        try:
            outcome: Outcome = self.ray.get(job)
        except self.ray.exceptions.RayError as error:
            return Lost(f"its task ended with {type(error).__name__}")
        return outcome

    def cancel(self, job: Any) -> None:
        self.ray.cancel(job)

    def close(self) -> None:
        self.ray.shutdown()


def _gpus(launcher: Mapping[str, Any], stage: Stage) -> int:
    """How many GPUs a stage's job asks for."""
    if launcher["gpus"] is not None:
        return int(launcher["gpus"])
    return processes(stage.trainer) if uses_gpu(stage.trainer) else 0
