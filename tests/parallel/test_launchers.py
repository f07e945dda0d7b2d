"""Who started this process, beside how many others, and whether all that is said agrees."""

import http.server
import threading

import pytest

from cotjax.errors import InputError
from cotjax.parallel import launchers
from cotjax.parallel.launchers import Launch, find_launch

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
NO_TPU = {"TPU_SKIP_MDS_QUERY": "1"}  # as JAX sets it where there is none
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}


def found(**environment):
    return find_launch(NO_TPU | environment)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({COUNT: "1"}, None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, Launch("Slurm", 2, 1)),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, Launch("Open MPI", 4, 1)),
        (MPI | {ADDRESS: "a:1"}, Launch("Open MPI", 4, 1, "a:1")),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d", COUNT: "4"}, Launch("GKE", 4)),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, Launch("GKE", 2)),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "3"}, Launch("GKE", 6)),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "a"}, Launch("GKE", 2)),
        ({ADDRESS: "a:1", COUNT: "2", NUMBER: "0"}, Launch(ADDRESS, 2, 0, "a:1")),
        ({ADDRESS: "a:1", COUNT: "2", "JOB_COMPLETION_INDEX": "1"}, Launch(ADDRESS, 2, 1, "a:1")),
    ],
)
def test_a_launchers_variables(environment, expected):
    assert found(**environment) == expected


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2", COUNT: "3"}, "Slurm says that there are 2"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", COUNT: "4"}, "GKE says that there are 2"),
        ({"TPU_WORKER_HOSTNAMES": "a", COUNT: "4"}, "GKE says that there are 1"),
        ({COUNT: "2"}, "nothing says where the other processes are. Set JAX_COORDINATOR_ADDRESS"),
        ({COUNT: "two"}, "JAX_NUM_PROCESSES = two: needs a whole number from 1"),
        ({COUNT: "0"}, "JAX_NUM_PROCESSES = 0: needs a whole number from 1"),
        ({ADDRESS: "a:1", NUMBER: "0"}, "needs JAX_NUM_PROCESSES too"),
        ({ADDRESS: "a:1", COUNT: "2"}, "needs JAX_PROCESS_ID too"),
        ({ADDRESS: "a:1", COUNT: "2", NUMBER: "2"}, "JAX_PROCESS_ID = 2: needs a number below"),
        ({ADDRESS: "a:1", COUNT: "2", NUMBER: "-1"}, "JAX_PROCESS_ID = -1: needs a whole number"),
        (MPI, "does not say where the first process is. Set it: mpirun -x JAX_COORDINATOR"),
    ],
)
def test_what_does_not_agree_is_one_sentence(environment, says):
    with pytest.raises(InputError, match=says):
        found(**environment)


@pytest.fixture
def metadata(monkeypatch):
    """A machine's metadata, as Google Cloud serves it: fill the dict, and ask its environment."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = self.headers["Metadata-Flavor"] == "Google" and name in attributes
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *about):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: object())
    yield attributes, {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    server.shutdown()
    server.server_close()


def test_a_slice_of_tpu_vms_is_known_by_its_metadata(metadata, monkeypatch):
    attributes, environment = metadata
    assert find_launch(environment) is None, "a machine without TPU"
    attributes["worker-network-endpoints"] = "unknown:0:10.0.0.1"
    assert find_launch(environment) is None, "one host"
    attributes["worker-network-endpoints"] = "10.0.0.1,10.0.0.2"
    assert find_launch(environment) == Launch("TPU metadata", 2)
    attributes["tpu-env"] = "ZONE: 'a'\nMEGASCALE_NUM_SLICES: '2'\n"
    assert find_launch(environment) == Launch("TPU metadata", 4)
    with pytest.raises(InputError, match="TPU metadata says that there are 4"):
        find_launch(environment | {COUNT: "2"})
    assert find_launch(environment | NO_TPU) is None
    assert find_launch(environment | {"JAX_PLATFORMS": "cpu"}) is None
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'libtpu is not installed. Run pip install "cotjax\[tpu'):
        find_launch(environment)
