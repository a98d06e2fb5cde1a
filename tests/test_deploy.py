"""The files under deploy/ agree with Kubernetes, with Compose, with one another and with the command line."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from streamer.log.credentials import PASSWORD, PASSWORD_FILE, USERNAME
from streamer.settings import NodeSettings
from tests.servers import missing, wait_until
from workers.commands import cli
from workers.gateway.processes import STOP_TIMEOUT_S

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kustomize" / "base"
KUBERNETES_VERSIONS = ("1.30", "1.34")

Manifest = dict[str, Any]
Manifests = dict[tuple[str, str], Manifest]


def _render() -> str:
    """What `kubectl kustomize` makes of the base; without kubectl its files in a row, since it only lists resources."""
    if kubectl := shutil.which("kubectl"):
        return subprocess.run([kubectl, "kustomize", str(BASE)], check=True, capture_output=True, text=True).stdout
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return "\n---\n".join((BASE / name).read_text() for name in listed)


@pytest.fixture(scope="module")
def base() -> Manifests:
    manifests = list(yaml.safe_load_all(_render()))
    by_name = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert len(by_name) == len(manifests)
    return by_name


@pytest.fixture(scope="module")
def workloads(base: Manifests) -> dict[str, Manifest]:
    """The base's workloads, by name."""
    found = {name: manifest for (_, name), manifest in base.items() if "template" in manifest.get("spec", {})}
    assert set(found) == {"streamer-gateway", "streamer-node", "streamer-valkey"}
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Compose's services, by name."""
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def _pod(workload: Manifest) -> Manifest:
    pod: Manifest = workload["spec"]["template"]["spec"]
    return pod


def _container(workload: Manifest) -> Manifest:
    (container,) = _pod(workload)["containers"]
    assert isinstance(container, dict)
    return container


def _environment(container: Manifest) -> dict[str, str]:
    """A container's variables as its process would see them; what only the cluster knows is "given"."""
    environment: dict[str, str] = {}
    for variable in container["env"]:
        environment[variable["name"]] = _expand(variable.get("value", "given"), environment)
    return environment


def _expand(text: str, environment: dict[str, str]) -> str:
    """Replace each $(NAME) as the kubelet does, but raise KeyError where it is not set before."""
    return re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], text)


def _ports(container: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def _selected(selector: dict[str, str], workloads: dict[str, Manifest]) -> list[str]:
    """The workloads whose pods a selector finds."""
    pods = {name: workload["spec"]["template"]["metadata"]["labels"] for name, workload in workloads.items()}
    return [name for name, labels in pods.items() if selector.items() <= labels.items()]


def _bytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([mg])\w*", size.lower()).groups()  # type: ignore[union-attr]
    return int(number) << {"m": 20, "g": 30}[unit]


# Kubernetes


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_manifest_is_valid(base: Manifests, version: str) -> None:
    for manifest in base.values():
        # A version without schemas would be replaced by an older one, silently.
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_every_file_of_the_base_is_listed() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in BASE.iterdir())


def test_selectors_find_the_pods_that_are_meant(base: Manifests, workloads: dict[str, Manifest]) -> None:
    for (kind, name), manifest in base.items():
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector:
            assert _selected(selector.get("matchLabels", selector), workloads) == [name], kind
    (rule,) = base["NetworkPolicy", "streamer-valkey"]["spec"]["ingress"]
    (peer,) = rule["from"]
    assert _selected(peer["podSelector"]["matchLabels"], workloads) == ["streamer-gateway", "streamer-node"]


def test_services_and_policies_name_ports_that_the_pods_open(base: Manifests, workloads: dict[str, Manifest]) -> None:
    for (kind, name), manifest in base.items():
        if kind == "Service":
            named = {port["targetPort"] for port in manifest["spec"]["ports"]}
        elif kind == "NetworkPolicy":
            named = {port["port"] for rule in manifest["spec"]["ingress"] for port in rule["ports"]}
        else:
            continue
        assert named <= set(_ports(_container(workloads[name])))
    # Metrics are not for clients: they are in no Service, and not for everyone in the policy.
    assert [port["targetPort"] for port in base["Service", "streamer-gateway"]["spec"]["ports"]] == ["http"]
    open_rule, inner_rule = base["NetworkPolicy", "streamer-gateway"]["spec"]["ingress"]
    assert [port["port"] for port in open_rule["ports"]] == ["http"]
    assert inner_rule["from"]


def test_the_gateways_probes_ask_where_it_answers(workloads: dict[str, Manifest]) -> None:
    container = _container(workloads["streamer-gateway"])
    environment, ports = _environment(container), _ports(container)
    assert ports["http"] == int(environment["STREAMER_PORT"])
    assert environment["STREAMER_HOST"] == "0.0.0.0"  # noqa: S104
    # A restart does not bring Redis back, so only readiness follows it.
    for probe, path in {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}.items():
        asks = container[f"{probe}Probe"]["httpGet"]
        assert (asks["path"], ports[asks["port"]]) == (path, int(environment["STREAMER_INTERNAL_PORT"]))


def test_a_gateway_has_time_to_drain_before_it_is_killed(
    workloads: dict[str, Manifest], services: dict[str, Any]
) -> None:
    gateway = workloads["streamer-gateway"]
    container = _container(gateway)
    assert _stop_s(_environment(container)) < _pod(gateway)["terminationGracePeriodSeconds"]
    for name in ("gateway-1", "gateway-2"):
        grace_s = float(services[name]["stop_grace_period"].removesuffix("s"))
        assert _stop_s(services[name]["environment"]) < grace_s


def _stop_s(environment: dict[str, str]) -> float:
    """For how long a gateway stops at the most, with `--processes` before the supervisor ends what hangs."""
    return float(environment["STREAMER_NOTICE_S"]) + float(environment["STREAMER_DRAIN_S"]) + STOP_TIMEOUT_S


def test_no_balancer_sends_a_gateway_clients_any_more_when_it_refuses_them(
    workloads: dict[str, Manifest], services: dict[str, Any]
) -> None:
    container = _container(workloads["streamer-gateway"])
    probe = container["readinessProbe"]
    assert float(_environment(container)["STREAMER_NOTICE_S"]) > probe["periodSeconds"] * probe["failureThreshold"]
    # A sleep before SIGTERM would only make it longer.
    assert "lifecycle" not in container
    proxy = (DEPLOY / "Caddyfile").read_text()
    interval_s, timeout_s = (float(text) for text in re.findall(r"health_(?:interval|timeout) (\d+)s", proxy))
    for name in ("gateway-1", "gateway-2"):
        assert float(services[name]["environment"]["STREAMER_NOTICE_S"]) > interval_s + timeout_s


def test_a_node_has_time_to_send_its_last_updates_before_it_is_killed(
    workloads: dict[str, Manifest], services: dict[str, Any]
) -> None:
    assert _pod(workloads["streamer-node"])["terminationGracePeriodSeconds"] > NodeSettings.exit_flush_s
    for name in ("node-1", "node-2", "node-3"):
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > NodeSettings.exit_flush_s


def test_pods_are_not_root_and_no_service_sets_their_options(workloads: dict[str, Manifest]) -> None:
    for workload in workloads.values():
        pod, container = _pod(workload), _container(workload)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        # A Service named "streamer" would set STREAMER_PORT in every pod that has service links.
        assert pod["enableServiceLinks"] is False


def test_valkeys_password_is_in_a_file_of_the_secret_that_the_readme_creates(
    base: Manifests, workloads: dict[str, Manifest]
) -> None:
    readme = (DEPLOY / "README.md").read_text()
    text = re.search(r"<<END\n(.+?)\n    END", readme, re.DOTALL)
    assert text
    created = yaml.safe_load(text[1])
    used = {
        (variable["valueFrom"]["secretKeyRef"]["name"], variable["valueFrom"]["secretKeyRef"]["key"])
        for workload in workloads.values()
        for variable in _container(workload)["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    valkey = workloads["streamer-valkey"]
    (volume,) = [volume for volume in _pod(valkey)["volumes"] if "secret" in volume]
    (item,) = volume["secret"]["items"]
    used.add((volume["secret"]["secretName"], item["key"]))
    assert used == {(created["metadata"]["name"], key) for key in created["stringData"]}
    assert created["stringData"][item["key"]].startswith("requirepass ")
    (mount,) = [one for one in _container(valkey)["volumeMounts"] if one["name"] == volume["name"]]
    settings = base["ConfigMap", "streamer-valkey"]["data"]["valkey.conf"]
    assert f"include {mount['mountPath']}/{item['path']}\n" in settings
    assert "PASSWORD" not in " ".join(_container(valkey)["args"])


def test_gateways_that_others_reach_ask_for_tokens_with_the_secret_that_the_readme_creates(
    workloads: dict[str, Manifest], services: dict[str, Any]
) -> None:
    gateway = workloads["streamer-gateway"]
    container, readme = _container(gateway), (DEPLOY / "README.md").read_text()
    (volume,) = _pod(gateway)["volumes"]
    (mount,) = container["volumeMounts"]
    path = Path(_environment(container)["STREAMER_TOKEN_SECRET_FILE"])
    assert (mount["name"], mount["mountPath"], "subPath" in mount) == (volume["name"], str(path.parent), False)
    assert "STREAMER_INSECURE" not in _environment(container)
    assert re.search(rf"secret generic .*{volume['secret']['secretName']} --from-file={path.name}=", readme)
    assert f"--secret-file {path} " in readme
    # Compose's gateways are reached through the proxy alone, and that from this machine alone.
    for name, service in services.items():
        if name.startswith("gateway"):
            assert service["environment"]["STREAMER_INSECURE"] == "true"
            assert (service["networks"], "ports" in service) == (["back"], False)


def test_valkey_keeps_the_log(base: Manifests, workloads: dict[str, Manifest], services: dict[str, Any]) -> None:
    lines = base["ConfigMap", "streamer-valkey"]["data"]["valkey.conf"].splitlines()
    settings = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    flags = services["valkey"]["command"]
    memory = _container(workloads["streamer-valkey"])["resources"]
    assert memory["requests"]["memory"] == memory["limits"]["memory"]
    for found, limit in (
        (settings, memory["limits"]["memory"]),
        (
            {flag[2:]: value for flag, value in zip(flags[1::2], flags[2::2], strict=True)},
            services["valkey"]["mem_limit"],
        ),
    ):
        assert (found["appendonly"], found["maxmemory-policy"]) == ("yes", "noeviction")
        # A rewrite of the append-only file forks, and the fork may come to hold as much again.
        assert 2 * _bytes(found["maxmemory"]) <= _bytes(limit)
    (claim,) = workloads["streamer-valkey"]["spec"]["volumeClaimTemplates"]
    assert {"name": claim["metadata"]["name"], "mountPath": settings["dir"]} in _container(
        workloads["streamer-valkey"]
    )["volumeMounts"]
    assert services["valkey"]["volumes"] == ["valkey-data:/data"]


# Compose, and the image


def test_compose_has_two_gateways_behind_the_proxy_and_three_nodes(services: dict[str, Any]) -> None:
    gateways = {name: service for name, service in services.items() if service.get("command") == ["gateway"]}
    proxy = (DEPLOY / "Caddyfile").read_text()
    (upstreams,) = re.findall(r"reverse_proxy (.+) \{", proxy)
    assert upstreams.split() == [f"{name}:{one['environment']['STREAMER_PORT']}" for name, one in gateways.items()]
    assert len(gateways) == 2
    for gateway in gateways.values():
        assert f"health_port {gateway['environment']['STREAMER_INTERNAL_PORT']}\n" in proxy
    nodes = {name: service["environment"].get("NODE_NAME") for name, service in services.items() if "node-" in name}
    assert nodes == {name: name for name in ("node-1", "node-2", "node-3")}
    # Valkey has no password there.
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "proxy": ["127.0.0.1:8080:8080"]
    }
    assert all(not service["user"].startswith("0") for service in services.values())


def test_the_image_copies_what_exists_and_what_the_build_context_lets_in_and_is_not_root() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = {
        name for names in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for name in names.split()
    }
    allowed = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert copied == set(allowed)
    assert all((ROOT / name).exists() for name in copied)
    assert re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE) == ["10001:10001"]


# The command line


def _variables(command: click.Command) -> set[str]:
    return {str(parameter.envvar) for parameter in command.params if parameter.envvar}


def _processes(workloads: dict[str, Manifest], services: dict[str, Any]) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Each `streamer` that is started: its arguments and its variables."""
    loop = (DEPLOY / "node-loop.sh").read_text().replace("\\\n", " ")
    (line,) = [shlex.split(line) for line in loop.splitlines() if line.strip().startswith("run streamer ")]
    for workload in workloads.values():
        container = _container(workload)
        if container["image"].startswith("streamer:"):
            environment = _environment(container)
            yield [_expand(argument, environment) for argument in container["args"]], environment
    for service in services.values():
        if service["image"].startswith("streamer:"):
            yield service.get("command", line[2:]), service["environment"]


def test_every_process_has_arguments_and_variables_that_the_command_line_takes(
    workloads: dict[str, Manifest], services: dict[str, Any]
) -> None:
    started = list(_processes(workloads, services))
    assert sorted(arguments[0] for arguments, _ in started) == ["gateway"] * 3 + ["node"] * 4
    for (name, *arguments), environment in started:
        command = cli.commands[name]
        assert {variable for variable in environment if variable.startswith("STREAMER_")} <= _variables(command)
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            command.make_context(name, list(arguments))  # parses and converts, but runs nothing


def test_what_the_files_say_of_variables_is_true() -> None:
    texts = [path.read_text() for path in DEPLOY.rglob("*") if path.is_file()]
    named = set(re.findall(r"\bSTREAMER_[A-Z0-9_]+\b", " ".join(texts)))
    credentials = {USERNAME, PASSWORD, PASSWORD_FILE}
    assert named <= credentials.union(*map(_variables, cli.commands.values()))


def test_the_node_loop_passes_sigterm_on_and_ends(tmp_path: Path) -> None:
    log, stub = tmp_path / "log", tmp_path / "streamer"
    stub.write_text(f"""#!/bin/sh
trap 'echo terminated >>{log}; exit 0' TERM
echo "$1 $2 $3" >>{log}
while :; do sleep 0.05; done
""")
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NODE_NAME": "node-9"}
    loop = subprocess.Popen(["sh", DEPLOY / "node-loop.sh"], env=environment)
    try:
        wait_until("the loop starts its command", log.exists)
        loop.send_signal(signal.SIGTERM)
        assert loop.wait(10) == 0
    finally:
        loop.kill()
        loop.wait()
    assert log.read_text().splitlines() == ["node node-9 --job", "terminated"]


def test_the_wheel_holds_scripts_page_and_type_marker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "No matching distribution found for hatchling" in built.stderr:
        missing("hatchling, which pip fetches to build the wheel,")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    sources = [*ROOT.glob("streamer/**/*.lua"), *ROOT.glob("streamer/gateway/page/*"), ROOT / "streamer/py.typed"]
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= inside
    assert "workers/__main__.py" in inside
