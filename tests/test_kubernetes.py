"""The Kubernetes manifests as kustomize builds them: schemas, hardening, and the project's settings.

No cluster is at hand: the manifests are checked, not applied.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests import harness

KUSTOMIZE = next(
    (command for command in (("kustomize", "build"), ("kubectl", "kustomize")) if shutil.which(command[0])),
    (),
)
pytestmark = pytest.mark.skipif(not KUSTOMIZE, reason="there is neither kustomize nor kubectl")

DIRECTORIES = ("base", "production")
STATES = {"full": "run", "default": "commented"}
Manifests = list[dict[str, Any]]


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def array(items: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
# KEDA takes every value of a trigger as a text, and a number would be refused.
NUMBER = {"type": "string", "pattern": r"^[1-9]\d*$"}
COUNT = {"type": "integer", "minimum": 1}
# The fields of KEDA 2.20 that the manifests use, after its documentation: kubernetes-validate does not know
# its kinds.
KEDA = {
    "TriggerAuthentication": closed(
        "secretTargetRef",
        secretTargetRef=array(closed("parameter", "name", "key", parameter=TEXT, name=TEXT, key=TEXT)),
    ),
    "ScaledObject": closed(
        *("scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"),
        scaleTargetRef=closed("name", name=TEXT),
        pollingInterval=COUNT,
        # Only a running worker queues cron jobs.
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        fallback=closed(
            *("failureThreshold", "replicas"),
            failureThreshold=COUNT,
            replicas=COUNT,
            behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher"]},
        ),
        # A part of Kubernetes' own HorizontalPodAutoscaler, whose schema is applied to it.
        advanced=closed(horizontalPodAutoscalerConfig=closed(behavior={"type": "object"})),
        triggers=array(
            closed(
                *("type", "metadata"),
                type={"const": "metrics-api"},
                metricType={"enum": ["AverageValue", "Value"]},
                authenticationRef=closed("name", name=TEXT),
                metadata=closed(
                    *("url", "valueLocation", "targetValue"),
                    url={"type": "string", "pattern": r"^http://[a-z.-]+:8000/queues$"},
                    valueLocation=TEXT,
                    targetValue=NUMBER,
                    authMode={"const": "apiKey"},
                    keyParamName=TEXT,
                ),
            )
        ),
    ),
}

# So of the Prometheus operator 0.86, after its documentation.
MONITORS = {
    "ServiceMonitor": closed(
        *("selector", "endpoints"),
        selector={"type": "object"},
        endpoints=array(closed("port", port=TEXT, path=TEXT, interval=TEXT)),
    ),
    "PodMonitor": closed(
        *("selector", "podMetricsEndpoints"),
        selector={"type": "object"},
        podMetricsEndpoints=array(closed("port", port=TEXT, interval=TEXT)),
    ),
}
SCHEMAS = {"keda.sh/v1alpha1": KEDA, "monitoring.coreos.com/v1": MONITORS}


@pytest.fixture(scope="module")
def build(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifests]:
    """Return a function that builds a directory of a variant's manifests."""
    projects: dict[str, Path] = {}

    def get(directory: str, name: str = "full", **answers: Any) -> Manifests:
        key = f"{name}-{len(answers)}"
        if key not in projects:
            values = harness.variant(name) | {"deployment": ["kubernetes"]} | answers
            projects[key] = harness.render(template, tmp_path_factory.mktemp("k8s") / key, values)
        done = harness.run(*KUSTOMIZE, f"deploy/kubernetes/{directory}", cwd=projects[key])
        return list(yaml.safe_load_all(done.stdout))

    return get


def pods(manifests: Manifests) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the pod of each workload."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def named(manifests: Manifests, kind: str) -> dict[str, dict[str, Any]]:
    """Return the manifests of a kind by their names."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def check(manifest: dict[str, Any]) -> None:
    """Check a manifest against its schema.

    Raises:
        ValidationError: of kubernetes_validate or of jsonschema.
    """
    if manifest["apiVersion"] not in SCHEMAS:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        return
    jsonschema.validate(manifest["spec"], SCHEMAS[manifest["apiVersion"]][manifest["kind"]])
    if manifest["kind"] == "ScaledObject":
        target = manifest["spec"]["scaleTargetRef"] | {"apiVersion": "apps/v1", "kind": "Deployment"}
        behavior = manifest["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        spec = {"scaleTargetRef": target, "maxReplicas": 1, "behavior": behavior}
        check({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": spec})


@pytest.mark.parametrize("directory", DIRECTORIES)
@pytest.mark.parametrize("answers", [{}, {"jobs_api": False}], ids=["jobs_api", "no jobs_api"])
@pytest.mark.parametrize("name", STATES)
def test_manifests_are_valid(
    build: Callable[..., Manifests], directory: str, name: str, answers: dict[str, Any]
) -> None:
    manifests = build(directory, name, **answers)
    for manifest in manifests:
        check(manifest)
    queues = harness.queues(harness.variant(name), "run")
    workers = {harness.CATALOGUE[queue]["service"] for queue in queues}
    assert named(manifests, "Deployment").keys() == {"webserver", *workers}
    assert named(manifests, "PodDisruptionBudget").keys() == {"webserver", *workers}
    is_scaled = directory == "production" and not answers
    assert named(manifests, "ScaledObject").keys() == (workers if is_scaled else set())


def test_a_misspelt_field_is_refused(build: Callable[..., Manifests]) -> None:
    manifests = build("production")
    probe = next(pods(manifests))[1]["containers"][0]["readinessProbe"]
    probe["periodSecond"] = probe.pop("periodSeconds")
    wrong = next(one for one in manifests if one["kind"] == "Deployment")
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)
    (scaled, *_) = named(manifests, "ScaledObject").values()
    scaled["spec"]["minReplicas"] = 1
    with pytest.raises(jsonschema.ValidationError):
        check(scaled)


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_pods_can_do_little(build: Callable[..., Manifests], directory: str) -> None:
    manifests = build(directory)
    assert named(manifests, "Namespace")["full-stack"]["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted"
    }
    for name, pod in pods(manifests):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] >= 10000, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }, name
            for limits in ("requests", "limits"):
                assert container["resources"][limits].keys() == {"cpu", "memory"}, name
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name
            assert re.fullmatch(r"[^:]+:(?!latest)[\w.-]+", container["image"]), name
            # Secrets are files: an environment shows in `kubectl describe` and in what a process starts.
            assert not [one for one in container.get("env", []) if "valueFrom" in one], name
            assert all("secretRef" not in one for one in container.get("envFrom", [])), name
    assert "Secret" not in {manifest["kind"] for manifest in manifests}
    assert named(manifests, "NetworkPolicy")["nothing"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_workers_run_and_stop_as_their_queues_need(build: Callable[..., Manifests]) -> None:
    found = dict(pods(build("base")))
    for queue, known in harness.CATALOGUE.items():
        pod = found[known["service"]]
        (container,) = pod["containers"]
        settings = f"app.components.worker.queues.{queue}.WorkerSettings"
        assert container["command"][:4] == ["python", "-m", "arq", settings]
        assert pod["terminationGracePeriodSeconds"] > known["completion_wait"]
        checks = {name: container[f"{name}Probe"]["exec"]["command"] for name in ("readiness", "liveness")}
        assert checks["readiness"] == ["python", "-m", "app.check", queue]
        assert checks["liveness"] == ["python", "-m", "app.check", "--live", queue]
        # A worker's report lasts 16 s: one that is late must not be restarted at once.
        probe = container["livenessProbe"]
        assert probe["periodSeconds"] * probe.get("failureThreshold", 3) >= 60


def test_the_application_reads_what_the_manifests_set(build: Callable[..., Manifests]) -> None:
    manifests = build("production")
    (settings,) = (one for one in manifests if one["kind"] == "ConfigMap")
    for name, pod in pods(manifests):
        if name == "redis":
            continue
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        secrets = {one["name"]: one["secret"] for one in pod["volumes"] if "secret" in one}
        keys = {
            f"{mounts[volume]}/{item['path']}": item["key"]
            for volume, secret in secrets.items()
            for item in secret["items"]
        }
        # A worker has no use for the key of the API.
        assert set(keys.values()) == {"redis_password"} | ({"api_key"} if name == "webserver" else set())
        variables = settings["data"] | {one["name"]: one["value"] for one in container.get("env", [])}
        paths = {value for variable, value in variables.items() if variable.endswith("_FILE")}
        assert paths == keys.keys()
    (authentication,) = named(manifests, "TriggerAuthentication").values()
    (reference,) = authentication["spec"]["secretTargetRef"]
    assert reference["key"] == "api_key"
    assert reference["name"] in {secret["secretName"] for secret in secrets.values()}


def test_scaling_asks_for_each_queue(build: Callable[..., Manifests]) -> None:
    scaled = named(build("production"), "ScaledObject")
    for queue, known in harness.CATALOGUE.items():
        spec = scaled[known["service"]]["spec"]
        metadata = [trigger["metadata"] for trigger in spec["triggers"]]
        assert [one["valueLocation"] for one in metadata] == [
            f'#(name=="{queue}").ready',
            f'#(name=="{queue}").running',
        ]
        assert metadata[0]["targetValue"] == str(known["max_jobs"])
        assert int(metadata[1]["targetValue"]) < known["max_jobs"]
        # Running jobs stay in the queue: each poll looks past those of all replicas, and as many again.
        (module,) = (harness.ROOT / "template").glob(f"*/app/components/worker/queues/{queue}.py.jinja")
        (limit,) = re.findall(r"queue_read_limit = (\d+)", module.read_text())
        assert int(limit) >= 2 * spec["maxReplicaCount"] * known["max_jobs"]


def test_metrics_are_served_to_the_operator_alone(template: Path, tmp_path: Path) -> None:
    answers = harness.variant("full") | {"deployment": ["kubernetes"]}
    project = harness.render(template, tmp_path / "project", answers)
    kustomization = project / "deploy/kubernetes/production/kustomization.yaml"
    text = kustomization.read_text()
    kustomization.write_text(text.replace("# components: [../monitoring]", "components: [../monitoring]"))
    assert kustomization.read_text() != text

    done = harness.run(*KUSTOMIZE, "deploy/kubernetes/production", cwd=project)

    manifests = list(yaml.safe_load_all(done.stdout))
    for manifest in manifests:
        check(manifest)
    (service,) = named(manifests, "ServiceMonitor").values()
    labels = named(manifests, "Service")["webserver"]["metadata"]["labels"]
    assert labels.items() >= service["spec"]["selector"]["matchLabels"].items()
    for name, pod in pods(manifests):
        (container,) = pod["containers"]
        ports = {one["name"]: one["containerPort"] for one in container.get("ports", [])}
        assert ports.get("metrics") == (9100 if name.startswith("worker-") else None)
    (policy,) = (one for name, one in named(manifests, "NetworkPolicy").items() if name == "metrics")
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == [9100]
