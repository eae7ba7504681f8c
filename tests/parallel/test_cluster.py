"""Which job a process belongs to, from the environments that schedulers set."""

import http.server
import threading

import pytest

from tadjax.errors import ConfigError
from tadjax.parallel.cluster import detect

NO_TPU = {"TPU_SKIP_MDS_QUERY": "1"}  # as JAX sets it on machines without TPU chips
SLURM = {
    **NO_TPU,
    "SLURM_JOB_ID": "5000",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "gpu[03-05,09]-ib,login",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}


def test_an_ordinary_process_is_alone():
    assert detect(NO_TPU) is None
    assert detect({**NO_TPU, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}) is None


def test_a_slurm_task_that_has_its_node_to_itself_takes_all_its_gpus():
    assert detect(SLURM) == {
        "coordinator_address": "gpu03-ib:62344",  # 61440 + 5000 % 4096
        "num_processes": 4,
        "process_id": 2,
        "cluster_detection_method": "deactivate",  # JAX's own detection would take the node's first GPU only
    }


@pytest.mark.parametrize(
    "nodes, first", [("a,b", "a"), ("n[7,9]", "n7"), ("n[001-016],m2", "n001"), ("host-1", "host-1")]
)
def test_the_first_node_coordinates(nodes, first):
    assert detect({**SLURM, "SLURM_STEP_NODELIST": nodes})["coordinator_address"].startswith(f"{first}:")


@pytest.mark.parametrize("visible, devices", [({}, [3]), ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [3])])
def test_slurm_tasks_that_share_a_node_take_a_gpu_each(visible, devices):
    task = {**SLURM, **visible, "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "3", "SLURM_PROCID": "3"}
    assert detect(task)["local_device_ids"] == devices


def test_a_gpu_that_slurm_bound_to_a_task_is_not_chosen_again():
    task = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": "3"}
    assert "local_device_ids" not in detect(task)


@pytest.mark.parametrize("change", [{"SLURM_NTASKS": "1"}, {"SLURM_STEP_NODELIST": None}])
def test_a_single_task_and_a_shell_within_an_allocation_are_alone(change):
    environment = {name: value for name, value in {**SLURM, **change}.items() if value is not None}
    assert detect(environment) is None


def test_a_kubernetes_job_numbers_its_processes():
    pod = {**NO_TPU, "JAX_NUM_PROCESSES": "4", "JAX_COORDINATOR_ADDRESS": "tadjax-workers-0-0.tadjax:8482"}
    assert detect({**pod, "JOB_COMPLETION_INDEX": "3"})["process_id"] == 3
    assert detect({**pod, "JOB_COMPLETION_INDEX": "3", "JAX_PROCESS_ID": "1"})["process_id"] == 1
    with pytest.raises(ConfigError, match="JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID"):
        detect(pod)
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is 'four' in the environment"):
        detect({**pod, "JAX_NUM_PROCESSES": "four"})


@pytest.mark.parametrize(
    "environment, several",
    [
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b", **NO_TPU}, False),
    ],
)
def test_gke_tells_the_hosts_of_a_tpu_slice(environment, several):
    assert detect(environment) == ({} if several else None)  # {}: JAX asks for the rest


@pytest.mark.parametrize(
    "attributes, several",
    [
        ({}, False),
        ({"worker-network-endpoints": "10.0.0.1"}, False),
        ({"worker-network-endpoints": "a:0:10.0.0.1,b:1:10.0.0.2"}, True),
        ({"worker-network-endpoints": "10.0.0.1", "tpu-env": "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'"}, True),
    ],
)
def test_a_tpu_vm_asks_its_metadata_server(attributes, several):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = key in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(key, "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            found = detect({"GCE_METADATA_IP": f"localhost:{server.server_port}"})
        finally:
            server.shutdown()
    assert found == ({} if several else None)


def test_a_machine_without_a_metadata_server_is_alone():
    assert detect({"GCE_METADATA_IP": "localhost:9"}) is None
