"""A real Slurm on this machine: jobs that lose their place are requeued and end as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from experiments.common.paths import ROOT
from experiments.config import compose

PROGRAMS = ("munged", "slurmctld", "slurmd", "scontrol", "scancel", "squeue", "sbatch")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]


def is_running(program: str) -> bool:
    return subprocess.run(["pgrep", "-x", program], check=False, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (slurm-wlm, munge)"),
    pytest.mark.skipif(shutil.which("pgrep") is None or is_running("slurmd"), reason="a Slurm runs here already"),
    pytest.mark.skipif(os.geteuid() != 0, reason="starts Slurm's daemons, which takes root"),
]

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={second}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=30
PartitionName=high Nodes=ALL PriorityTier=10
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def call(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def the_job() -> str:
    """The only job in the queue. The controller may be too busy to answer at once."""
    for _ in range(20):
        told = subprocess.run(["squeue", "-h", "-o", "%i"], check=False, capture_output=True, text=True, timeout=60)
        if told.returncode == 0 and len(told.stdout.split()) == 1:
            return told.stdout.strip()
        time.sleep(1)
    pytest.fail(f"squeue names no single job: {told.stdout}{told.stderr}")


def until(holds: Callable[[], object], what: str, seconds: float = 240) -> None:
    for _ in range(int(4 * seconds)):
        if holds():
            return
        time.sleep(0.25)
    pytest.fail(f"waited {seconds:.0f} s in vain: {what}")


def wait_for(process: subprocess.Popen[str], slurm: Path, seconds: float = 480) -> str:
    """What it printed. Jobs that Slurm put back, for which it lets two minutes pass, start at once."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return process.communicate(timeout=5)[0]
        except subprocess.TimeoutExpired:
            waiting = subprocess.run(
                ["squeue", "-h", "-t", "PD", "-o", "%i %r"], check=False, capture_output=True, text=True
            ).stdout
            for line in waiting.splitlines():
                job, reason = line.split(maxsplit=1)
                if reason == "BeginTime":
                    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=False)
    queue = subprocess.run(["squeue", "-l"], check=False, capture_output=True, text=True)
    log = (slurm / "slurmctld.log").read_text(errors="replace")[-3000:]
    pytest.fail(f"waited {seconds:.0f} s in vain; the queue: {queue.stdout}{queue.stderr}\nthe controller: {log}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Starts Slurm, and stops what it started. Another process of these tests may have one of its own beside it."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    configuration = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    told = CONFIGURATION.format(host=host, folder=folder, port=free_port(), second=free_port())
    configuration.write_text(told, encoding="utf-8")
    ours = Path(tempfile.gettempdir()) / "reprise-tests-munged"  # it exists where these tests started munge
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        with FileLock(f"{ours}.lock"):
            if not is_running("munged"):
                ours.touch()
                Path("/run/munge").mkdir(exist_ok=True)
                shutil.chown("/run/munge", "munge")
                call("runuser", "-u", "munge", "--", "munged")
            daemons = [
                subprocess.Popen([name, "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for name in ("slurmctld", "slurmd")
            ]
        try:
            until(
                lambda: "idle" in subprocess.run(["sinfo", "-h"], check=False, capture_output=True, text=True).stdout,
                "an idle node",
                60,
            )
            yield folder
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:  # slurmd waits for a job that is just ending
                    daemon.kill()
            kill_what_serves(configuration)
            with FileLock(f"{ours}.lock"):
                if ours.exists() and not is_running("slurmctld"):
                    call("pkill", "-x", "munged")
                    ours.unlink()


def kill_what_serves(configuration: Path) -> None:
    """The processes of jobs outlive slurmd; those of another Slurm on this machine are not ours to kill."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_slurm = (process / "comm").read_text().strip() in ("slurmd", "slurmstepd")
            serves = f"SLURM_CONF={configuration}\0".encode() in (process / "environ").read_bytes()
        except OSError:  # it has just ended
            continue
        if is_slurm and serves:
            os.kill(int(process.name), signal.SIGKILL)


LINES = [
    "paper=meal_v2",
    "scale=smoke",
    "seed=3",
    "claims=[]",
    "checks=[]",
    "published=[]",
    "objective=teacher_a/test/top1",
    "stages.teacher_a.trainer.max_epochs=40",
    "stages.teacher_a.data.train_size=640",
    "checkpoint_seconds=0.5",
]


def only(stage: str) -> list[str]:
    names = compose.paper_file("meal_v2")["stages"]
    return [f"~stages.{name}" for name in names if name != stage and "*" not in name]


def command(runs: Path, *more: str) -> list[str]:
    lines = [*LINES, *only("teacher_a"), f"runs_dir={runs}", *more]
    return [sys.executable, "-m", "experiments.run", "-m", *lines]


def outcome(runs: Path) -> dict[str, object]:
    (folder,) = runs.glob("meal_v2/smoke/seed=3/teacher_a-*")
    assert not list(folder.glob("hpc_ckpt*")), "Lightning's own requeueing left its checkpoint"
    weights = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return {
        "metrics": json.loads((folder / "metrics.json").read_text()),
        "rows": (folder / "metrics.csv").read_text(),
        "weights": {name: value.tolist() for name, value in weights.items()},
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    runs = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(runs), cwd=ROOT, check=True, capture_output=True)
    return outcome(runs)


@pytest.mark.parametrize("event", ["a job of a higher partition", "SIGUSR1", "SIGUSR2"])
def test_a_job_that_loses_its_place_goes_on(
    event: str, slurm: Path, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    options = {"partition": "low", "timeout_min": 20, "mem_gb": 3, "cpus_per_task": 2}
    launcher = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{key}={value}" for key, value in options.items())]
    sweep = subprocess.Popen(
        command(tmp_path, *launcher), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: list(tmp_path.glob("meal_v2/smoke/seed=3/teacher_a-*/last.ckpt")), "a checkpoint")
        job = the_job()
        if event.startswith("SIG"):
            call("scancel", f"--signal={event.removeprefix('SIG')}", job)
        else:
            call("sbatch", "-p", "high", "-c", "2", "--mem=100", "--wrap", "sleep 1", "-o", "/dev/null")
        until(lambda: "PENDING" in call("squeue", "-h", "-j", job, "-o", "%T"), "the job back in the queue")
        assert not list(tmp_path.glob("meal_v2/smoke/seed=3/teacher_a-*/manifest.json")), "it was done before"
        call("scontrol", "update", f"jobid={job}", "StartTime=now")  # Slurm lets requeued jobs wait for two minutes
        assert sweep.wait(240) == 0
    finally:
        sweep.kill()
        subprocess.run(["scancel", "--full", "-u", "root"], check=False, capture_output=True)
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize("event", ["a job of a higher partition", "SIGUSR2", "a killed job"])
def test_a_stage_of_reproduce_that_loses_its_place_goes_on(
    event: str, slurm: Path, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    lines = [line for line in LINES if not line.startswith(("seed=", "objective="))]
    options = {"partition": "low", "timeout_min": 20, "mem_gb": 3}
    launcher = ["launcher=submitit_slurm", *(f"launcher.{key}={value}" for key, value in options.items())]
    given = [*lines, *only("teacher_a"), "seeds=[3]", f"runs_dir={tmp_path}", *launcher]
    reproduce = subprocess.Popen(
        [sys.executable, "-m", "experiments.reproduce", *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until(lambda: list(tmp_path.glob("meal_v2/smoke/seed=3/teacher_a-*/last.ckpt")), "a checkpoint")
        job = the_job()
        if event == "a killed job":
            until(
                lambda: subprocess.run(["scancel", "--signal=KILL", "--full", job], check=False).returncode == 0,
                "a controller that answers",
                30,
            )
        elif event == "SIGUSR2":
            call("scancel", "--signal=USR2", job)
        else:
            call("sbatch", "-p", "high", "-c", "2", "--mem=100", "--wrap", "sleep 1", "-o", "/dev/null")
        if event != "a killed job":
            until(lambda: "PENDING" in call("squeue", "-h", "-j", job, "-o", "%T"), "the job back in the queue")
            call("scontrol", "update", f"jobid={job}", "StartTime=now")
        told = wait_for(reproduce, slurm)
        assert reproduce.returncode == 0, told
        assert ("it is tried once more" in told) == (event == "a killed job")
    finally:
        reproduce.kill()
        subprocess.run(["scancel", "--full", "-u", "root"], check=False, capture_output=True)
    assert outcome(tmp_path) == undisturbed
