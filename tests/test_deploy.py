"""The Helm chart and the Compose file: what they render to is valid, and starts programs that exist as they exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint
from typer.main import get_command

from slosgate import __version__
from slosgate.engines.fleet.spec import LimitsSpec
from slosgate.gateway.cli import app
from slosgate.gateway.config import parse
from slosgate.gateway.reports.metrics import Metrics
from tests.docs.blocks import ROOT, titled

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.37"
OTHERS = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")  # kinds that are no part of Kubernetes itself

SIM = {"engine": "sim", "image": f"slosgate:{__version__}", "replicas": 2}
TP4 = {"gpus": 4, "options": ["--tensor-parallel-size", "4"]}
CASES: dict[str, dict[str, Any]] = {
    "one model": {},
    "two models": {"models": {"simulated": SIM}},
    "tensor parallelism": {"models": {"chat": TP4}},
    "a Redis of one's own": {"redis": {"url": "rediss://cache.example:6380/0"}},
    "a Redis with a password": {"redis": {"secret": "cache"}},
    "scaled and scraped": {
        "prometheus": {"serviceMonitor": True},
        "models": {"chat": {"autoscaling": {"enabled": True}}},
    },
    "of the docs": yaml.safe_load(titled(ROOT / "docs" / "fleets.md", "my-values.yaml")),
    "configured": {"gateway": {"config": "[classes.interactive]\nttft_ms = 400\n", "secret": "keys"}},
}


@pytest.fixture(scope="module")
def chart() -> Chart:
    return Chart.load(DEPLOY / "chart")


def test_the_chart_installs_this_version(chart: Chart) -> None:
    about = yaml.safe_load((DEPLOY / "chart" / "Chart.yaml").read_text())
    assert about["version"] == about["appVersion"] == __version__
    for values in ({}, CASES["of the docs"]):
        ours = [c["image"] for c in containers(rendered(chart, values)) if "slosgate" in c["image"]]
        assert {image.rpartition(":")[2] for image in ours} == {__version__}


def rendered(chart: Chart, values: dict[str, Any]) -> list[dict[str, Any]]:
    files = chart.render(values, name="prod")
    return [found for text in files.values() for found in yaml.safe_load_all(text) if found]


def containers(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            yield from manifest["spec"]["template"]["spec"]["containers"]


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_chart_renders_to_valid_manifests(chart: Chart, values: dict[str, Any]) -> None:
    manifests = rendered(chart, values)
    assert len({(m["kind"], m["metadata"]["name"]) for m in manifests}) == len(manifests)
    for manifest in manifests:
        if manifest["apiVersion"] not in OTHERS:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    for container in containers(manifests):
        locked = container["securityContext"]
        assert (locked["readOnlyRootFilesystem"], locked["allowPrivilegeEscalation"]) == (True, False)
        assert container["readinessProbe"]


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_its_containers_have_options_that_exist(chart: Chart, values: dict[str, Any]) -> None:
    started = [c["args"] for c in containers(rendered(chart, values)) if c["name"] in ("gateway", "engine")]
    assert started
    for arguments in started:
        assert unknown_options([str(argument) for argument in arguments]) <= {"--tensor-parallel-size"}  # vLLM's own


def test_its_gateway_has_a_good_configuration(chart: Chart) -> None:
    [config] = [m for m in rendered(chart, CASES["configured"]) if m["kind"] == "ConfigMap"]
    found = parse(config["data"]["slosgate.toml"])
    assert (found.server.drain_s, found.drain.notice_s, found.classes["interactive"].ttft_ms) == (60, 10, 400)


def test_four_gpus_are_asked_for(chart: Chart) -> None:
    [engine] = [c for c in containers(rendered(chart, CASES["tensor parallelism"])) if c["name"] == "engine"]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert engine["args"][-2:] == ["--tensor-parallel-size", "4"]


def test_a_redis_of_ones_own_replaces_the_charts(chart: Chart) -> None:
    manifests = rendered(chart, CASES["a Redis of one's own"])
    assert not [m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"] == "prod-valkey"]
    told = [e for c in containers(manifests) for e in c["env"] if e["name"] == "SLOSGATE_REDIS"]
    assert [e["value"] for e in told] == ["rediss://cache.example:6380/0"] * 2


def test_keda_scales_by_a_metric_that_the_gateway_has(chart: Chart) -> None:
    [scaled] = [m for m in rendered(chart, CASES["scaled and scraped"]) if m["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    [metric] = re.findall(r"slosgate_\w+", trigger["metadata"]["query"])
    assert metric in {family.name for family in Metrics().registry.collect()}
    behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == LimitsSpec(most=4).down_after_s


def test_unknown_values_are_refused(chart: Chart) -> None:
    with pytest.raises(Exception, match="gatway"):
        chart.render({"gatway": {}}, name="prod")


def test_the_chart_is_well_formed() -> None:
    assert lint(DEPLOY / "chart")["errors"] == []


def test_the_compose_file_starts_programs_as_they_exist() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services.keys() == {"valkey", "gateway", "replica"}
    for name in ("gateway", "replica"):
        assert not unknown_options(services[name]["command"])


def unknown_options(arguments: list[str]) -> set[str]:
    """Those that the command of ours which they name doesn't have."""
    command: Any = get_command(app)
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    return {a.partition("=")[0] for a in arguments if a.startswith("--")} - known
