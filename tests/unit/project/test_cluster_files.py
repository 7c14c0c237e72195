"""What `cluster/` holds, by the validators of the systems it is for. What is not installed here is said and skipped."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from render_farm.farm.run.settings import Settings, load_settings
from tests.helpers import crds

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
OVERLAYS = ("small", "production", "production-run", "production-nightly", "production-kueue")


def program(name: str) -> str:
    """Beside this Python (the dependency group `deploy`), or on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not here: `pip install --group deploy` brings it on Linux x86-64")
    return found


def call(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- Kubernetes -----------------------------------------------------------------------------------------------------


@cache
def built(overlay: str) -> dict[str, dict[str, Any]]:
    """What `kubectl apply -k` would send, by kind."""
    return kustomized(CLUSTER / "kuberay/overlays" / overlay)


def kustomized(folder: Path) -> dict[str, dict[str, Any]]:
    text = call(program("kubectl"), "kustomize", str(folder))
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.mark.slow
@pytest.mark.parametrize("group", crds.FOLDERS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_are_what_their_operators_define(overlay, group):
    crds.folder_of(group)
    kinds = {
        "ray.io": {"RayCluster", "RayJob", "RayCronJob"},
        "monitoring.coreos.com": {"PodMonitor", "PrometheusRule"},
    }
    ours = {
        kind: document for kind, document in built(overlay).items() if document["apiVersion"].startswith(f"{group}/")
    }
    assert set(ours) == kinds[group] if group != "ray.io" else len(set(ours) & kinds[group]) == len(ours) == 1
    assert {kind: crds.problems(document) for kind, document in ours.items()} == {kind: [] for kind in ours}


@pytest.mark.slow
def test_the_definitions_are_of_kuberay_1_7_or_newer():
    """They name no version. 1.6 has none of these fields, and the files here use the first two."""
    cluster = crds.schema("ray.io/v1", "RayCluster")["properties"]["spec"]["properties"]
    assert "timeZone" in crds.schema("ray.io/v1", "RayCronJob")["properties"]["spec"]["properties"]
    assert "priority" in cluster["workerGroupSpecs"]["items"]["properties"]
    assert "tlsOptions" in cluster


@pytest.mark.slow
def test_unknown_fields_are_refused():
    crds.folder_of("ray.io")
    cluster = json.loads(json.dumps(built("small")["RayCluster"]))
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resurces"] = {}
    cluster["spec"]["autoscalerOptions"]["version"] = "v3"
    found = " ".join(crds.problems(cluster))
    assert "resurces" in found and "v3" in found


def test_unknown_fields_of_monitors_and_rules_are_refused():
    crds.folder_of("monitoring.coreos.com")
    monitor, rule = (json.loads(json.dumps(built("small")[kind])) for kind in ("PodMonitor", "PrometheusRule"))
    monitor["spec"]["podMetricsEndpoints"][0] |= {"intervall": "15s", "interval": "15 s"}
    rule["spec"]["groups"][0]["rules"][0]["severity"] = "page"
    found = " ".join(crds.problems(monitor) + crds.problems(rule))
    assert "intervall" in found and "15 s" in found and "severity" in found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_other_resources_are_what_kubernetes_defines(overlay):
    validator = pytest.importorskip("kubernetes_validate")
    ours = [
        document
        for document in built(overlay).values()
        if not document["apiVersion"].startswith(("ray.io/", "monitoring.coreos.com/"))
    ]
    assert {"Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy"} <= {document["kind"] for document in ours}
    for document in ours:
        validator.validate(document, "1.33", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_one_namespace_and_no_secret_is_written_down(overlay):
    documents = built(overlay)
    assert "Secret" not in documents
    for kind, document in documents.items():
        assert kind == "Namespace" or document["metadata"]["namespace"] == "render-farm"
    for container in _containers(list(documents.values())):
        for variable in container.get("env", []):
            assert not re.search("KEY|SECRET|PASSWORD|TOKEN", variable["name"]) or "valueFrom" in variable


def _containers(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in _containers(item)]
    if not isinstance(node, dict):
        return []
    own = [c for c in node.get("containers", []) if isinstance(c, dict) and "image" in c]
    return own + [found for value in node.values() for found in _containers(value)]


def cluster_spec(overlay: str) -> dict[str, Any]:
    documents = built(overlay)
    if "RayCluster" in documents:
        return documents["RayCluster"]["spec"]
    if "RayJob" in documents:
        return documents["RayJob"]["spec"]["rayClusterSpec"]
    return documents["RayCronJob"]["spec"]["jobTemplate"]["rayClusterSpec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cluster_is_as_the_farm_needs_it(overlay):
    spec = cluster_spec(overlay)
    assert re.search(rf"^ray=={re.escape(spec['rayVersion'])} ", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert spec["authOptions"]["mode"] == "token"
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-gpus"] == "0" and head["rayStartParams"]["num-cpus"] == "0"
    pods = [head["template"]["spec"], *(group["template"]["spec"] for group in spec["workerGroupSpecs"])]
    for pod in pods:
        (container,) = pod["containers"]
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        drain_s = int(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert drain_s == pod["terminationGracePeriodSeconds"] - 10
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert pod["securityContext"]["runAsNonRoot"] and not container["securityContext"]["allowPrivilegeEscalation"]
        memory = next(volume for volume in pod["volumes"] if volume["name"] == "shm")["emptyDir"]
        assert memory["medium"] == "Memory"
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        names = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == names
    for group in spec["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"]
        assert "NCCL_DEBUG" in {variable["name"] for variable in container["env"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_cluster_grows_from_nothing_except_in_a_queue(overlay):
    spec = cluster_spec(overlay)
    sizes = [(group["minReplicas"], group["replicas"], group["maxReplicas"]) for group in spec["workerGroupSpecs"]]
    entrypoint = built(overlay).get("RayJob", {}).get("spec", {}).get("entrypoint", "")
    if overlay == "production-kueue":
        assert not spec["enableInTreeAutoscaling"] and "autoscalerOptions" not in spec
        assert all(smallest == now == most > 0 for smallest, now, most in sizes)
        job = built(overlay)["RayJob"]
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] and job["spec"]["suspend"]
        assert job["spec"]["shutdownAfterJobFinishes"] and "--max-gpus" not in entrypoint
        return
    assert all((smallest, now) == (0, 0) for smallest, now, _ in sizes)
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
    variables = {variable["name"]: variable["value"] for variable in spec["autoscalerOptions"]["env"]}
    timeout_s = int(variables["RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"])
    assert farm_settings().timeouts.worker_start_s <= timeout_s < 3600


def test_the_variables_for_ray_are_those_that_it_reads():
    """By their names in the installed Ray: a misspelt one would change nothing, without a word."""
    import ray
    from ray._private import ray_constants

    assert ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S == 30.0
    config = Path(ray.__file__).with_name("autoscaler") / "v2/instance_manager/config.py"
    assert '"RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"' in config.read_text()


def test_the_component_for_spot_notices_fits_the_overlays(tmp_path):
    """Its groups are numbered: they must be the spot ones."""
    overlay, component = (
        os.path.relpath(CLUSTER / "kuberay" / name, tmp_path)
        for name in ("overlays/production", "components/spot-notice")
    )
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [overlay], "components": [component]}))
    text = call(program("kubectl"), "kustomize", str(tmp_path))
    documents = [
        document for document in yaml.safe_load_all(text) if document["kind"] in ("RayCluster", "NetworkPolicy")
    ]
    (cluster,) = [document for document in documents if document["kind"] == "RayCluster"]
    watching = {
        group["groupName"]: "spot_notice" in json.dumps(group["template"]["spec"]["containers"][0].get("lifecycle"))
        for group in cluster["spec"]["workerGroupSpecs"]
    }
    assert watching == {"gpu-1": False, "gpu-1-spot": True, "gpu-8": False, "gpu-8-spot": True}
    (policy,) = [document for document in documents if document["metadata"]["name"] == "render-farm-spot-notice"]
    (selected,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert set(selected["values"]) == {name for name, watches in watching.items() if watches}
    assert policy["metadata"]["namespace"] == cluster["metadata"]["namespace"]


def test_production_has_machines_of_one_and_eight_gpus_spot_and_on_demand():
    groups = cluster_spec("production")["workerGroupSpecs"]
    kinds = {
        (
            group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"],
            group["labels"]["ray.io/market-type"],
        )
        for group in groups
    }
    assert kinds == {("1", "spot"), ("1", "on-demand"), ("8", "spot"), ("8", "on-demand")}


@pytest.mark.parametrize("overlay", ["production-run", "production-nightly"])
def test_jobs_have_the_overlays_cluster(overlay):
    standing = dict(cluster_spec("production"))
    standing.pop("gcsFaultToleranceOptions")
    assert cluster_spec(overlay) == standing
    images = {
        container["image"]
        for container in _containers(built(overlay)["RayJob" if overlay.endswith("run") else "RayCronJob"])
    }
    assert len(images) == 1


def test_metrics_ports_of_the_monitor_are_those_of_the_pods():
    spec = cluster_spec("production")
    ports = {port["name"] for port in spec["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {end["port"] for end in built("production")["PodMonitor"]["spec"]["podMetricsEndpoints"]} <= ports


def test_the_rules_in_the_cluster_are_those_of_the_dashboards():
    rules = yaml.safe_load((ROOT / "dashboards/prometheus/alerts.yml").read_text())
    assert built("production")["PrometheusRule"]["spec"]["groups"] == rules["groups"]


def test_the_cluster_settings_file_is_loaded_as_settings():
    assert farm_settings().model_cache == "/models"


def farm_settings() -> Settings:
    return load_settings(file=str(CLUSTER / "kuberay/base/farm.toml"), environment={})


# --- ray up ---------------------------------------------------------------------------------------------------------


def _overlaid() -> dict[str, Any]:
    call_line = [sys.executable, str(CLUSTER / "overlay.py"), str(CLUSTER / "aws.yaml"), str(CLUSTER / "gcp.yaml")]
    return yaml.safe_load(call(*call_line))


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_ray_accepts_the_cluster_config(provider):
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text()) if provider == "aws" else _overlaid()
    assert config["provider"]["type"] == provider
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    schema = json.loads(Path(spec.origin).with_name("autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(json.loads(json.dumps(config)))
    validate_config(filled)
    assert filled["available_node_types"]["head"]["resources"]["GPU"] == 0
    assert "-m render_farm.farm.ray_cluster.spot_notice" in config["worker_start_ray_commands"][-1]
    for name, node in config["available_node_types"].items():
        known = {"InstanceType", "machineType"} & set(node["node_config"])
        assert known == ({"InstanceType"} if provider == "aws" else {"machineType"}), name


# --- image, compose, Slurm ------------------------------------------------------------------------------------------


def test_the_dockerfile_is_clean():
    call(program("hadolint"), str(CLUSTER / "Dockerfile"))


def test_what_the_image_copies_is_there_and_not_ignored():
    allowed = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    for line in (CLUSTER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists() and name in allowed, name


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")], ids=["cpu", "gpu"])
def test_compose_understands_the_workstation(files):
    arguments = [argument for name in files for argument in ("-f", str(CLUSTER / name))]
    config = json.loads(call(program("docker-compose"), *arguments, "config", "--format", "json"))
    services = config["services"]
    assert set(services) == {"head", "worker", "pages", "s3", "bucket", "prometheus", "grafana"}
    for name, service in services.items():
        assert not re.search(":latest$|^[^:]+$", service["image"]), name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), volume
    assert (len(files) == 2) == bool(services["worker"].get("deploy"))
    # A worker of the farm takes a CPU slot beside its GPU: a limit of a few would leave GPUs idle.
    assert (len(files) == 2) != any("--num-cpus" in word for word in services["worker"]["command"])


def test_prometheus_understands_its_configuration(tmp_path):
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not here (Debian: apt-get install prometheus)")
    shutil.copy(CLUSTER / "compose.prometheus.yml", tmp_path / "prometheus.yml")
    shutil.copy(ROOT / "dashboards/prometheus/alerts.yml", tmp_path / "alerts.yml")
    call(promtool, "check", "config", str(tmp_path / "prometheus.yml"))


def test_the_slurm_script_is_clean():
    call("bash", "-n", str(CLUSTER / "slurm.sbatch"))
    call(program("shellcheck"), "--shell=bash", str(CLUSTER / "slurm.sbatch"))
