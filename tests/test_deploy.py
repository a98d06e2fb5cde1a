"""The files under deploy/ agree with Kubernetes, with Compose, with one another and with the command line.

With `kubectl` on the PATH the kustomize base is rendered by it. Without, its files are read one after another, which
is the same as long as the base only lists resources; a test sees to that.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kustomize" / "base"
KUBERNETES_VERSIONS = ("1.30", "1.34")
LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of")

Manifest = dict[str, Any]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def key(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def read_resources() -> dict[tuple[str, str], Manifest]:
    """Return what the files say that kustomization.yaml lists, by kind and name."""
    paths = [BASE / name for name in load(BASE / "kustomization.yaml")["resources"]]
    found = [item for path in paths for item in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    by_key = {key(manifest): manifest for manifest in found}
    assert len(by_key) == len(found), "two manifests have the same kind and name"
    return by_key


def render_with_kubectl(kubectl: str) -> dict[tuple[str, str], Manifest]:
    command = [kubectl, "kustomize", str(BASE)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return {key(manifest): manifest for manifest in yaml.safe_load_all(rendered.stdout)}


@pytest.fixture(scope="module")
def base() -> dict[tuple[str, str], Manifest]:
    kubectl = shutil.which("kubectl")
    return render_with_kubectl(kubectl) if kubectl else read_resources()


@pytest.fixture(scope="module")
def workloads(base: dict[tuple[str, str], Manifest]) -> dict[str, Manifest]:
    """Return the base's workloads by name."""
    found = {name: manifest for (kind, name), manifest in base.items() if kind in ("Deployment", "StatefulSet")}
    assert set(found) == {"streamer-gateway", "streamer-node", "streamer-valkey"}
    return found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document = load(DEPLOY / "compose.yaml")
    assert set(document["services"]) == {"valkey", "gateway-1", "gateway-2", "proxy", "node-1", "node-2", "node-3"}
    return document


@pytest.fixture(scope="module")
def gateways(compose: dict[str, Any]) -> dict[str, Any]:
    """Return Compose's gateways by name."""
    return {name: service for name, service in compose["services"].items() if service.get("command") == ["gateway"]}


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def pod_of(workload: Manifest) -> Manifest:
    return workload["spec"]["template"]["spec"]


def container_of(workload: Manifest) -> Manifest:
    (container,) = pod_of(workload)["containers"]
    return container


def environment_of(container: Manifest) -> dict[str, str]:
    """Return a container's variables as its process would see them; "placeholder" where only the cluster knows."""
    environment: dict[str, str] = {}
    for variable in container.get("env", []):
        environment[variable["name"]] = expand(variable.get("value", "placeholder"), environment)
    return environment


def expand(text: str, environment: dict[str, str]) -> str:
    """Replace every $(NAME) by its value, as the kubelet does, but raise KeyError where it is not set before."""
    return re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], text)


def ports_of(container: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def selected_by(selector: dict[str, str], workloads: dict[str, Manifest]) -> list[str]:
    """Return the names of the workloads whose pods the selector finds."""
    assert selector, "an empty selector would find every pod"
    return [
        name
        for name, workload in workloads.items()
        if selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    ]


def of_kind(base: dict[tuple[str, str], Manifest], kind: str, names: set[str]) -> list[Manifest]:
    """Return the manifests of a kind, and fail where they are not the ones expected."""
    found = {name: manifest for (other, name), manifest in base.items() if other == kind}
    assert set(found) == names
    return list(found.values())


def whole_seconds(duration: str) -> int:
    assert re.fullmatch(r"\d+s", duration), duration
    return int(duration[:-1])


def octets(size: str) -> int:
    """Return a size in octets, written as Valkey, Compose or Kubernetes writes it."""
    match = re.fullmatch(r"(\d+)(mb|gb|m|g|Mi|Gi)", size)
    assert match, size
    return int(match[1]) * 1024 ** {"m": 2, "g": 3}[match[2][0].lower()]


def grace_s(workload: Manifest) -> int:
    return pod_of(workload)["terminationGracePeriodSeconds"]


# The base as a whole


def test_the_base_lists_every_file_of_its_folder_and_transforms_nothing() -> None:
    kustomization = load(BASE / "kustomization.yaml")
    listed = kustomization["resources"]
    assert set(kustomization) == {"apiVersion", "kind", "resources"}
    assert sorted(listed) == sorted(path.name for path in BASE.iterdir() if path.name != "kustomization.yaml")
    assert len(listed) == len(set(listed))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the PATH")
def test_kubectl_renders_what_the_files_say(base: dict[tuple[str, str], Manifest]) -> None:
    assert base == read_resources()
    assert len(base) >= 8


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_manifest_is_valid_for_kubernetes(base: dict[tuple[str, str], Manifest], version: str) -> None:
    assert base
    for manifest in base.values():
        # A version without schemas would be replaced by an older one, silently.
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_validation_sees_a_misspelt_field(workloads: dict[str, Manifest], version: str) -> None:
    broken = deepcopy(workloads["streamer-gateway"])
    container_of(broken)["readynessProbe"] = container_of(broken).pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(broken, version, strict=True)


def test_no_manifest_forces_a_namespace(base: dict[tuple[str, str], Manifest]) -> None:
    assert base
    assert not [name for name, manifest in base.items() if "namespace" in manifest["metadata"]]


def test_every_manifest_carries_the_common_labels_and_its_pods_carry_the_same(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    for manifest in base.values():
        assert set(manifest["metadata"]["labels"]) == set(LABELS), key(manifest)
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "streamer"
    for workload in workloads.values():
        assert workload["spec"]["template"]["metadata"]["labels"] == workload["metadata"]["labels"]


# References from one manifest to another


def test_every_workload_finds_its_own_pods_and_no_others(workloads: dict[str, Manifest]) -> None:
    for name, workload in workloads.items():
        assert selected_by(workload["spec"]["selector"]["matchLabels"], workloads) == [name]


def test_every_service_finds_the_pods_of_one_workload_at_a_port_that_they_open(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    for service in of_kind(base, "Service", {"streamer-gateway", "streamer-valkey"}):
        (name,) = selected_by(service["spec"]["selector"], workloads)
        assert name == service["metadata"]["name"]
        (port,) = service["spec"]["ports"]
        assert port["targetPort"] in ports_of(container_of(workloads[name]))


def test_the_gateway_service_leads_from_port_80_to_the_gateways_own(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    (port,) = base["Service", "streamer-gateway"]["spec"]["ports"]
    container = container_of(workloads["streamer-gateway"])
    assert port["port"] == 80
    assert ports_of(container)[port["targetPort"]] == int(environment_of(container)["STREAMER_PORT"]) == 8080


def test_the_disruption_budget_and_the_spread_are_about_the_gateways(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    (budget,) = of_kind(base, "PodDisruptionBudget", {"streamer-gateway"})
    assert selected_by(budget["spec"]["selector"]["matchLabels"], workloads) == ["streamer-gateway"]
    assert budget["spec"]["maxUnavailable"] < workloads["streamer-gateway"]["spec"]["replicas"]
    spread = pod_of(workloads["streamer-gateway"])["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for one in spread:
        assert selected_by(one["labelSelector"]["matchLabels"], workloads) == ["streamer-gateway"]


def test_only_gateways_and_nodes_reach_valkey(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    (policy,) = of_kind(base, "NetworkPolicy", {"streamer-valkey"})
    assert selected_by(policy["spec"]["podSelector"]["matchLabels"], workloads) == ["streamer-valkey"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    (port,) = rule["ports"]
    assert set(peer) == {"podSelector"}
    assert selected_by(peer["podSelector"]["matchLabels"], workloads) == ["streamer-gateway", "streamer-node"]
    assert port["port"] in ports_of(container_of(workloads["streamer-valkey"]))


def test_the_stateful_set_names_a_headless_service(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    service = base["Service", workloads["streamer-valkey"]["spec"]["serviceName"]]
    assert service["spec"]["clusterIP"] == "None"


def test_every_volume_that_is_mounted_exists_and_every_volume_is_mounted(workloads: dict[str, Manifest]) -> None:
    seen = 0
    for workload in workloads.values():
        claims = workload["spec"].get("volumeClaimTemplates", [])
        volumes = {volume["name"] for volume in pod_of(workload).get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        assert {mount["name"] for mount in container_of(workload).get("volumeMounts", [])} == volumes
        seen += len(volumes)
    assert seen


def test_valkey_reads_the_config_map_and_writes_to_its_claim(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    workload = workloads["streamer-valkey"]
    container = container_of(workload)
    (volume,) = pod_of(workload)["volumes"]
    config_map = base["ConfigMap", volume["configMap"]["name"]]
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = [f"{paths[volume['name']]}/{name}" for name in config_map["data"]]
    assert files
    assert set(files) <= set(container["args"])
    assert paths[claim["metadata"]["name"]] == settings_of(config_map)["dir"]
    of_kind(base, "ConfigMap", {config_map["metadata"]["name"]})


def test_every_secret_is_one_that_the_readme_creates_and_none_is_in_the_repository(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    wanted = {
        (variable["valueFrom"]["secretKeyRef"]["name"], variable["valueFrom"]["secretKeyRef"]["key"])
        for workload in workloads.values()
        for variable in container_of(workload)["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    created = set(re.findall(r"kubectl create secret generic (\S+) --from-literal=(\w+)=", readme))
    assert created
    assert wanted == created
    of_kind(base, "Secret", set())


def test_gateways_and_nodes_look_for_redis_where_the_service_is(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    for name in ("streamer-gateway", "streamer-node"):
        url = urlsplit(environment_of(container_of(workloads[name]))["STREAMER_REDIS_URL"])
        service = base["Service", str(url.hostname)]
        assert selected_by(service["spec"]["selector"], workloads) == ["streamer-valkey"]
        assert [port["port"] for port in service["spec"]["ports"]] == [url.port]
        assert url.password


# What a pod may and how it comes and goes


def test_every_pod_keeps_to_the_restricted_profile(workloads: dict[str, Manifest]) -> None:
    for workload in workloads.values():
        pod, container = pod_of(workload), container_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


def test_no_service_of_the_namespace_can_set_an_option(workloads: dict[str, Manifest]) -> None:
    """A Service named "streamer" would set STREAMER_PORT in every pod that has service links."""
    assert [pod_of(workload)["enableServiceLinks"] for workload in workloads.values()] == [False] * 3


def test_the_gateways_probes_ask_the_internal_port(workloads: dict[str, Manifest]) -> None:
    container = container_of(workloads["streamer-gateway"])
    environment = environment_of(container)
    paths = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    for name, path in paths.items():
        probe = container[name]["httpGet"]
        assert probe["path"] == path
        assert ports_of(container)[probe["port"]] == int(environment["STREAMER_INTERNAL_PORT"]) == 9090
    assert ipaddress.ip_address(environment["STREAMER_HOST"]).is_unspecified


def test_metrics_are_announced_on_the_internal_port_and_in_no_service(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    workload = workloads["streamer-gateway"]
    annotations = workload["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/path"] == "/metrics"
    assert int(annotations["prometheus.io/port"]) == ports_of(container_of(workload))["internal"]
    assert [port["targetPort"] for port in base["Service", "streamer-gateway"]["spec"]["ports"]] == ["http"]


def test_valkeys_probes_ping_and_give_it_time_to_load(workloads: dict[str, Manifest]) -> None:
    container = container_of(workloads["streamer-valkey"])
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "valkey-cli ping" in " ".join(container[name]["exec"]["command"])
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    assert environment_of(container)["VALKEYCLI_AUTH"] == environment_of(container)["VALKEY_PASSWORD"]


def test_a_gateways_pod_has_time_to_drain_and_another_takes_its_clients(workloads: dict[str, Manifest]) -> None:
    workload = workloads["streamer-gateway"]
    container = container_of(workload)
    drain_s = float(environment_of(container)["STREAMER_DRAIN_S"])
    assert drain_s > 0
    assert grace_s(workload) > drain_s + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert workload["spec"]["replicas"] >= 2
    assert workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


# Valkey's settings


def settings_of(config_map: Manifest) -> dict[str, str]:
    """Return the directives of valkey.conf."""
    lines = [line for line in config_map["data"]["valkey.conf"].splitlines() if line and not line.startswith("#")]
    return dict(line.split(maxsplit=1) for line in lines)


def flags_of(command: list[str]) -> dict[str, str]:
    """Return the directives of a valkey-server command line."""
    assert command[0] == "valkey-server"
    names, values = command[1::2], command[2::2]
    assert len(names) == len(values)
    assert all(name.startswith("--") for name in names)
    return {name[2:]: value for name, value in zip(names, values, strict=True)}


def assert_keeps_the_log(settings: dict[str, str], memory_limit: str) -> None:
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    # A rewrite of the append-only file forks, and the fork may come to hold as much again.
    assert 0 < 2 * octets(settings["maxmemory"]) <= octets(memory_limit)
    channel, hard, soft, soft_s = settings["client-output-buffer-limit"].split()
    assert channel == "pubsub"
    assert octets(hard) > octets(soft) > 0
    assert int(soft_s) > 0


def test_valkey_on_kubernetes_writes_the_log_down_and_evicts_nothing(
    base: dict[tuple[str, str], Manifest], workloads: dict[str, Manifest]
) -> None:
    limit = container_of(workloads["streamer-valkey"])["resources"]["limits"]["memory"]
    assert_keeps_the_log(settings_of(base["ConfigMap", "streamer-valkey"]), limit)


def test_valkey_in_compose_writes_the_log_down_and_evicts_nothing(compose: dict[str, Any]) -> None:
    valkey = compose["services"]["valkey"]
    assert_keeps_the_log(flags_of(valkey["command"]), valkey["mem_limit"])
    assert [volume.split(":") for volume in valkey["volumes"]] == [[*compose["volumes"], "/data"]]


# Compose


def test_only_the_proxy_publishes_a_port_and_on_loopback(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published == {"proxy": ["127.0.0.1:8080:8080"]}
    assert not [name for name, service in compose["services"].items() if "network_mode" in service]


def test_only_the_proxy_stands_outside_the_inner_network(compose: dict[str, Any]) -> None:
    assert compose["networks"]["back"] == {"internal": True}
    outside = {name for name, service in compose["services"].items() if service["networks"] != ["back"]}
    assert outside == {"proxy"}


def test_no_container_is_root_or_may_become_it(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        user, _, group = service["user"].partition(":")
        assert int(user) > 0, name
        assert int(group) > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else []), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert service["restart"] == "unless-stopped", name
        assert "privileged" not in service, name


def test_a_gateway_in_compose_has_time_to_drain(gateways: dict[str, Any]) -> None:
    assert len(gateways) == 2
    for gateway in gateways.values():
        drain_s = float(gateway["environment"]["STREAMER_DRAIN_S"])
        assert whole_seconds(gateway["stop_grace_period"]) > drain_s > 0


def test_compose_asks_for_health_where_the_gateway_answers(compose: dict[str, Any], gateways: dict[str, Any]) -> None:
    assert gateways
    for gateway in gateways.values():
        *_, program = gateway["healthcheck"]["test"]
        compile(program, "healthcheck", "exec")
        assert f"http://127.0.0.1:{gateway['environment']['STREAMER_INTERNAL_PORT']}/healthz" in program
        assert ipaddress.ip_address(gateway["environment"]["STREAMER_HOST"]).is_unspecified
        assert gateway["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert "valkey-cli ping" in " ".join(compose["services"]["valkey"]["healthcheck"]["test"])


def test_the_proxy_leads_to_every_gateway_and_asks_whether_it_is_ready(
    compose: dict[str, Any], gateways: dict[str, Any]
) -> None:
    text = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    (upstreams,) = re.findall(r"^\s*reverse_proxy (.+) \{$", text, re.MULTILINE)
    directives = dict(re.findall(r"^\s*([a-z_]+) (\S+)$", text, re.MULTILINE))
    internal_ports = {gateway["environment"]["STREAMER_INTERNAL_PORT"] for gateway in gateways.values()}
    assert upstreams.split() == [f"{name}:{one['environment']['STREAMER_PORT']}" for name, one in gateways.items()]
    assert {directives["health_port"]} == internal_ports
    assert directives["health_uri"] == "/readyz"
    assert directives["lb_policy"] == "least_conn"
    assert whole_seconds(directives["lb_try_duration"]) > whole_seconds(directives["dial_timeout"]) > 0
    assert "read_timeout" not in directives
    assert re.findall(r"^:(\d+) \{$", text, re.MULTILINE) == [compose["services"]["proxy"]["ports"][0].split(":")[-1]]


def test_every_file_that_compose_hands_to_a_container_exists(compose: dict[str, Any]) -> None:
    used = {config["source"] for service in compose["services"].values() for config in service.get("configs", [])}
    assert used == set(compose["configs"]) == {"caddyfile", "node-loop"}
    assert all((DEPLOY / config["file"]).is_file() for config in compose["configs"].values())


def test_every_node_of_compose_runs_the_loop_under_a_name_of_its_own(compose: dict[str, Any]) -> None:
    nodes = {name: service for name, service in compose["services"].items() if "NODE_NAME" in str(service)}
    assert len(nodes) == 3
    for name, node in nodes.items():
        (config,) = node["configs"]
        assert node["environment"]["NODE_NAME"] == name
        assert node["entrypoint"] == ["sh", config["target"]]
        assert node["init"] is True


def test_compose_builds_the_image_from_the_top_of_the_repository(compose: dict[str, Any]) -> None:
    builds = [service["build"] for service in compose["services"].values() if "build" in service]
    assert builds
    for build in builds:
        context = (DEPLOY / build["context"]).resolve()
        assert context == ROOT
        assert (context / build["dockerfile"]).is_file()


# The image


def test_the_image_is_built_in_stages_and_does_not_run_as_root(dockerfile: list[tuple[str, str]]) -> None:
    stages = [rest for name, rest in dockerfile if name == "FROM"]
    last = dockerfile[max(i for i, (name, _) in enumerate(dockerfile) if name == "FROM") :]
    users = [rest for name, rest in last if name == "USER"]
    assert len(stages) >= 2
    assert all(stage.startswith("python:3.13-slim") for stage in stages)
    assert users[-1] == "10001:10001"
    assert ("ENTRYPOINT", '["streamer"]') in last
    assert ("CMD", '["gateway"]') in last
    assert ("EXPOSE", "8080 9090") in last
    assert [rest for name, rest in last if name == "COPY"] == ["--from=build /opt/streamer /opt/streamer"]


def test_the_image_and_the_manifests_agree_on_the_user(
    dockerfile: list[tuple[str, str]], workloads: dict[str, Manifest], compose: dict[str, Any]
) -> None:
    (user,) = [rest for name, rest in dockerfile if name == "USER"]
    ours = [workload for workload in workloads.values() if container_of(workload)["image"].startswith("streamer:")]
    contexts = [pod_of(workload)["securityContext"] for workload in ours]
    assert [f"{context['runAsUser']}:{context['runAsGroup']}" for context in contexts] == [user] * 2
    services = [service for service in compose["services"].values() if service["image"].startswith("streamer:")]
    assert [service["user"] for service in services] == [user] * 5


def test_the_build_context_holds_what_the_image_copies_and_no_more(dockerfile: list[tuple[str, str]]) -> None:
    copied = {
        source.removeprefix("./")
        for name, rest in dockerfile
        if name == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    first, *lines = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert first == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert {"pyproject.toml", "streamer", "workers"} <= copied
    assert [source for source in sorted(copied) if not (ROOT / source).exists()] == []


def test_every_place_names_the_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    named = {
        path.relative_to(DEPLOY).as_posix(): set(re.findall(r"(?:\bstreamer:|newTag: |VERSION=)(\d[\w.]*\w)", text))
        for path, text in deploy_texts()
    }
    assert {path for path, versions in named.items() if versions} == {
        "README.md",
        "compose.yaml",
        "kustomize/base/gateway-deployment.yaml",
        "kustomize/base/node-deployment.yaml",
    }
    assert set().union(*named.values()) == {version}


# The command line


def deploy_texts() -> Iterator[tuple[Path, str]]:
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file():
            yield path, path.read_text(encoding="utf-8")


def own_variables_of(command: click.Command) -> set[str]:
    """Return the environment variables that a command's own options read."""
    found: set[str] = set()
    for parameter in command.params:
        names = parameter.envvar or []
        found |= {names} if isinstance(names, str) else set(names)
    return found


def variables_of(command: click.Command) -> set[str]:
    """Return the environment variables that a command and its subcommands read."""
    found = own_variables_of(command)
    if isinstance(command, click.Group):
        found |= set().union(*map(variables_of, command.commands.values()))
    return found


def processes(
    workloads: dict[str, Manifest], compose: dict[str, Any]
) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Yield where `streamer` is started, with which arguments and with which of its own variables."""
    script = (DEPLOY / "node-loop.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    (loop,) = [shlex.split(line) for line in script.splitlines() if line.strip().startswith("run streamer ")]
    for name, workload in workloads.items():
        container = container_of(workload)
        if container["image"].startswith("streamer:"):
            environment = environment_of(container)
            yield name, [expand(argument, environment) for argument in container["args"]], environment
    for name, service in compose["services"].items():
        if service["image"].startswith("streamer:"):
            yield name, service["command"] if "command" in service else loop[2:], service["environment"]


def test_every_variable_under_deploy_is_one_that_the_command_line_reads() -> None:
    from workers.cli import cli

    used = {name for _, text in deploy_texts() for name in re.findall(r"\bSTREAMER_[A-Z0-9_]+\b", text)}
    assert {
        "STREAMER_REDIS_URL",
        "STREAMER_HOST",
        "STREAMER_PORT",
        "STREAMER_INTERNAL_PORT",
        "STREAMER_DRAIN_S",
    } <= used
    assert used <= variables_of(cli)


def test_every_process_is_started_with_arguments_and_variables_that_the_command_line_takes(
    workloads: dict[str, Manifest], compose: dict[str, Any]
) -> None:
    from workers.cli import cli

    started = list(processes(workloads, compose))
    assert [arguments[0] for _, arguments, _ in started].count("gateway") == 3
    assert [arguments[0] for _, arguments, _ in started].count("node") == 4
    for where, (name, *arguments), environment in started:
        command = cli.commands[name]
        used = {variable for variable in environment if variable.startswith("STREAMER_")}
        assert used, where
        assert used <= own_variables_of(cli) | variables_of(command), where
        with pytest.MonkeyPatch.context() as patch:
            for variable in variables_of(cli):
                patch.delenv(variable, raising=False)
            for variable, value in environment.items():
                patch.setenv(variable, value)
            # Parses and converts, but runs nothing.
            command.make_context(name, list(arguments))
