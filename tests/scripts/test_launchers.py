"""The launchers of many processes, with stand-ins for Python and for gcloud."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.experiments.command import TINY

ROOT = Path(__file__).parent.parent.parent
LOCAL = ROOT / "scripts" / "local_processes.sh"
POD = ROOT / "scripts" / "tpu_pod.sh"
TPU = {"TPU_NAME": "pod", "TPU_ZONE": "zone-a", "TPU_TYPE": "v5litepod-16", "TPU_POLL": "0"}


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def start(script, *arguments, **variables):
    return subprocess.Popen(
        ["bash", script, *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(script, *arguments, **variables):
    process = start(script, *arguments, **variables)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


# ---- Several processes on this machine


def local(tmp_path, behaviour, count=3):
    """Runs a shell script in place of Python."""
    python = executable(tmp_path / "python", f"#!/usr/bin/env bash\n{behaviour}\n")
    return start(LOCAL, str(count), "finetune", "--config=c.py", PYTHON=str(python), PORT="1234")


def test_every_process_is_told_of_the_others_and_its_lines_bear_its_number(tmp_path):
    process = local(
        tmp_path, 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS: $*"'
    )
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert sorted(said.splitlines()) == [
        f"[{i}] {i} of 3 at localhost:1234: -m experiments.finetune --config=c.py" for i in range(3)
    ]


def test_when_one_process_fails_the_others_are_stopped_and_its_status_is_returned(tmp_path):
    begun = time.monotonic()
    process = local(tmp_path, '[ "$JAX_PROCESS_ID" != 1 ] || exit 3; exec sleep 120')
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "process 1 ended with status 3: stopping the others" in said
    assert time.monotonic() - begun < 30


def test_a_process_that_does_not_heed_sigterm_is_killed(tmp_path):
    process = local(
        tmp_path, '[ "$JAX_PROCESS_ID" != 1 ] || exit 3; trap "" TERM; exec sleep 120', 2
    )
    process.communicate(timeout=60)
    assert process.returncode == 3


def test_sigterm_goes_to_all_and_all_may_end_well(tmp_path):
    process = local(
        tmp_path, 'trap "echo saved; exit 0" TERM; echo ready; while :; do sleep 0.1; done'
    )
    ready = [process.stdout.readline() for _ in range(3)]
    assert {line[4:] for line in ready} == {"ready\n"}
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.count("saved") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "how many processes of which experiment?"),
        (["two", "finetune"], "two is no number of processes"),
        (["2", "fine"], "there is no experiments/fine.py"),
    ],
)
def test_what_local_processes_cannot_start_is_refused(arguments, message):
    status, said = run(LOCAL, *arguments, PYTHON=sys.executable)
    assert status == 1
    assert message in said


@pytest.mark.slow
def test_two_processes_run_an_experiment_to_its_report(minilm_dir, tmp_path):
    flags = [
        "--config=configs/finetune.py",
        *TINY,
        "--config.steps=2",
        "--config.mesh.fsdp=2",
        f"--workdir={tmp_path / 'run'}",
    ]
    process = start(LOCAL, "2", "finetune", *flags, PYTHON=sys.executable)
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 2]
    assert (tmp_path / "run" / "report.html").exists()
    assert "accuracy" not in "".join(line for line in said.splitlines() if line[:3] == "[1]")


# ---- A pod of TPUs

GCLOUD = """#!/usr/bin/env bash
# Notes its arguments; answers `describe` and a look at the status from the lines of two files.
printf '%s\\n' "$*" | head -1 >> "$FAKE/calls"
next() {
  head -1 "$1"
  sed -i 1d "$1"
}
case "$*" in
  *describe*) answer=$(next "$FAKE/states"); [ "$answer" != GONE ] && echo "$answer" ;;
  *"/status"*null*) next "$FAKE/ends" ;;
esac
"""


def pod(tmp_path, *arguments, states=(), ends=()):
    """Runs tpu_pod.sh with a stand-in for gcloud, and returns its status, words and calls."""
    executable(tmp_path / "gcloud", GCLOUD)
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
    (tmp_path / "ends").write_text("".join(f"{end}\n" for end in ends))
    (tmp_path / "calls").touch()
    path = f"{tmp_path}:{os.environ['PATH']}"
    status, said = run(POD, *arguments, PATH=path, FAKE=str(tmp_path), **TPU)
    calls = (tmp_path / "calls").read_text().splitlines()
    return status, said, [call.removeprefix("compute tpus tpu-vm ") for call in calls]


def test_a_pod_is_made_and_deleted_by_name(tmp_path):
    _, _, made = pod(tmp_path, "create")
    _, _, both = pod(tmp_path, "delete")
    assert made[0].startswith("create pod --zone=zone-a --accelerator-type=v5litepod-16")
    assert both[1] == "delete pod --zone=zone-a --quiet"


def test_a_run_starts_on_every_worker_with_its_flags_quoted(tmp_path):
    _, _, calls = pod(tmp_path, "run", "finetune", "--config.task.name=two words")
    assert len(calls) == 1
    assert calls[0].startswith("ssh pod --zone=zone-a --worker=all --command=cd lora_jax && ")
    assert r"-m experiments.finetune --config.task.name=two\ words" in calls[0]


def test_the_checkout_goes_to_every_worker(tmp_path):
    status, said, calls = pod(tmp_path, "install")
    assert status == 0, said
    assert calls[0].startswith("scp ")
    assert calls[0].endswith("pod:lora_jax.tar.gz --zone=zone-a --worker=all")
    assert calls[1].startswith("ssh pod --zone=zone-a --worker=all")


def test_a_preempted_pod_is_made_again_until_the_run_has_ended_well(tmp_path):
    states = ["GONE", "CREATING", "READY", "PREEMPTED", "READY", "READY"]
    status, said, calls = pod(tmp_path, "keep", "finetune", states=states, ends=["", "", "0"])
    assert status == 0, said
    verbs = [call.split()[0] for call in calls if not call.startswith("describe")]
    make = ["create", "scp", "ssh", "ssh"]
    assert verbs == [*make, "ssh", "delete", *make, "ssh", "ssh"]
    assert "the run has ended well" in said


def test_a_run_that_failed_is_not_started_again(tmp_path):
    status, said, calls = pod(tmp_path, "keep", "finetune", states=["READY"], ends=["1"])
    assert status == 1
    assert "the run ended with status 1" in said
    assert len(calls) == 2


@pytest.mark.parametrize("verb", ["create", "install", "run", "logs", "keep", "stop", "delete"])
def test_dry_run_prints_the_commands_and_runs_none(verb, tmp_path):
    experiment = ["finetune", "--config=c.py"] if verb in ("run", "keep") else []
    status, said, calls = pod(tmp_path, "--dry_run", verb, *experiment)
    assert status == 0, said
    assert calls == []
    assert "gcloud compute tpus tpu-vm" in said


def test_what_a_pod_lacks_is_named():
    without = {name: value for name, value in TPU.items() if name != "TPU_ZONE"}
    status, said = run(POD, "create", **without)
    assert (status, said) == (1, "error: set TPU_ZONE; see " + f"{POD} --help\n")
    status, said = run(POD, "fly", **TPU)
    assert status == 1
    assert "fly is none of create, install" in said


# ---- SLURM and Kubernetes


def test_slurm_starts_one_process_a_task(tmp_path):
    executable(tmp_path / "srun", '#!/bin/sh\necho "$@"\n')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python3"}
    script = ROOT / "scripts" / "slurm.sbatch"
    assert run(script, "finetune", "--config=c.py", **environment) == (
        0,
        "--kill-on-bad-exit=1 python3 -m experiments.finetune --config=c.py\n",
    )
    status, said = run(script, **environment)
    assert status == 2
    assert "which experiment?" in said


def test_the_jobset_tells_every_process_of_the_others():
    manifest = yaml.safe_load((ROOT / "scripts" / "jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}
    count = int(environment["JAX_NUM_PROCESSES"]["value"])
    assert spec["parallelism"] == spec["completions"] == count
    name = manifest["metadata"]["name"]
    host, port = environment["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
    assert host == f"{name}-{job['name']}-0-0.{name}"
    assert container["ports"] == [{"containerPort": int(port)}]
    index = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert "job-completion-index" in index
    assert spec["completionMode"] == "Indexed"
    module = container["command"][2].removeprefix("experiments.")
    assert (ROOT / "experiments" / f"{module}.py").exists()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
