"""Which job a process belongs to, by what its environment tells: SLURM, Kubernetes, a TPU pod, or nothing.

JAX detects most of these on its own. What it does not do, and is done here: stay out of the way of a single process,
give a SLURM task all GPUs of its node, and take a Kubernetes job's word without that service's Python client.
"""

import re
import urllib.request
from collections.abc import Mapping
from typing import Any

from tadjax.errors import ConfigError

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID")
METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"


def detect(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of jax.distributed.initialize for the job that `environment` tells of; None for a process alone.

    In this order: JAX_NUM_PROCESSES, JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID (for which JOB_COMPLETION_INDEX stands
    in a Kubernetes job); a SLURM step of several tasks; a TPU pod slice, about which JAX then asks on its own.
    """
    if _number(environment, "JAX_NUM_PROCESSES", 1) > 1:
        address = environment.get("JAX_COORDINATOR_ADDRESS")
        process_id = _number(environment, "JAX_PROCESS_ID", _number(environment, "JOB_COMPLETION_INDEX", -1))
        if not address or process_id < 0:
            raise ConfigError(
                "JAX_NUM_PROCESSES is set in the environment; JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID (or "
                "JOB_COMPLETION_INDEX) must be, too"
            )
        return explicit(address, _number(environment, "JAX_NUM_PROCESSES", 1), process_id)
    if _number(environment, "SLURM_NTASKS", 1) > 1 and all(name in environment for name in SLURM):
        return _slurm(environment)
    return {} if _on_tpu_pod(environment) else None


def explicit(coordinator: str, num_processes: int, process_id: int) -> dict[str, Any]:
    """Arguments of jax.distributed.initialize that leave nothing to be detected. ConfigError if they make no job."""
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ConfigError(f"the coordinator is {coordinator!r}; it must be HOST:PORT, where process 0 is to be found")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"process {process_id} of {num_processes}: the last is {num_processes - 1}, the first is 0")
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",
    }


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not re.fullmatch(r"-?\d+", text):
        raise ConfigError(f"{name} is {text!r} in the environment; it must be a number")
    return int(text)


def _slurm(environment: Mapping[str, str]) -> dict[str, Any]:
    """A SLURM step: the only task of a node gets all its GPUs, several get one each."""
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", environment["SLURM_STEP_NODELIST"])  # a[01-04,07]b,c
    host = "".join(part or "" for part in first.groups())
    port = 61440 + _number(environment, "SLURM_JOB_ID", 0) % 4096  # jobs that share a node must not share a port
    count, process_id = _number(environment, "SLURM_NTASKS", 1), _number(environment, "SLURM_PROCID", 0)
    options = explicit(f"{host}:{port}", count, process_id)
    alone = re.fullmatch(r"1(\(x\d+\))?", environment["SLURM_STEP_TASKS_PER_NODE"])
    bound = environment.get("CUDA_VISIBLE_DEVICES", "").isdigit()  # SLURM shows each task its own GPU only
    if not alone and not bound:
        options["local_device_ids"] = [_number(environment, "SLURM_LOCALID", 0)]
    return options


def _on_tpu_pod(environment: Mapping[str, str]) -> bool:
    """Whether this is one of several TPU hosts: by what GKE sets, else by what the VM's metadata server says."""
    platforms = environment.get("JAX_PLATFORMS")
    if "TPU_SKIP_MDS_QUERY" in environment or (platforms and "tpu" not in platforms.split(",")):
        return False  # JAX sets the former, when it is imported, where there is no TPU chip
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    if hosts is None:
        server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
        hosts = _metadata(server, "worker-network-endpoints")
        told = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata(server, "tpu-env"))
        slices = int(told[1]) if told else slices
    return "," in hosts or slices > 1


def _metadata(server: str, key: str) -> str:
    """An attribute of this VM; empty where it has none, or where no such server is (so no Cloud TPU VM)."""
    request = urllib.request.Request(METADATA.format(server, key), headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.read().decode()
    except OSError:
        return ""
