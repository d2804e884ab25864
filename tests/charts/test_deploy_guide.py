"""docs/deploy.md: what it tells people to type exists, as far as can be known without a cloud."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from functools import cache
from itertools import pairwise

import click
import pytest
import yaml
from tests.charts.kubernetes_tools import helm, kubectl
from tests.charts.rendering import ROOT, objects_in, of_kind, render

from cosalign.pipelines.command_line import cosalign
from cosalign.retraining.shipped_pipelines import shipped_pipeline

NODE_POOLS = ROOT / "manifests/platform/base/node-pools.yaml"
GUIDE = (ROOT / "docs" / "deploy.md").read_text("utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def _commands(program: str) -> list[list[str]]:
    """Command lines of a program in the guide, as arguments after its name."""
    lines = "\n".join(_blocks("bash")).replace("\\\n", " ").splitlines()
    found = [shlex.split(re.split(r" [|>] ", line)[0], comments=True) for line in lines]
    return [words[1:] for words in found if words and words[0].endswith(program)]


def _options(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words if word.startswith("--")]


@pytest.mark.parametrize("block", _blocks("bash"))
def test_the_shell_can_read_it(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_paths_in_the_repository_exist() -> None:
    named = set(re.findall(r"(?<!/)(?:charts|manifests|docs)/[\w./-]*\w", GUIDE))
    linked = {f"docs/{path}" for path in re.findall(r"\]\((?!http)([\w./-]+)\)", GUIDE)}
    assert named
    missing = {path for path in named | linked if not (ROOT / path).exists()}
    assert missing == set()


def test_cosalign_commands_and_their_options_exist() -> None:
    commands = _commands("cosalign")
    assert len(commands) >= 4
    for words in commands:
        command: click.Command = cosalign
        rest = list(words)
        while isinstance(command, click.Group):
            name = rest.pop(0)
            below = command.get_command(click.Context(command), name)
            assert below is not None, f"cosalign knows no {name}"
            command = below
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(_options(rest)) <= known, words


@cache
def _help(program: str, *words: str) -> str:
    path = {"helm": helm, "kubectl": kubectl}[program]()
    done = subprocess.run([path, *words, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    more = [path, "options"] if program == "kubectl" else [path, "--help"]
    both = subprocess.run(more, capture_output=True, text=True, check=False)
    return done.stdout + both.stdout


@pytest.mark.parametrize("program", ["helm", "kubectl"])
def test_helm_and_kubectl_commands_and_their_options_exist(program: str) -> None:
    commands = _commands(program)
    assert len(commands) >= 5
    for words in commands:
        depth = 3 if words[:2] == ["create", "secret"] else 1
        if words[:2] == ["create", "rolebinding"]:
            depth = 2
        text = _help(program, *words[:depth])
        for option in _options(words):
            assert re.search(rf"{option}\b", text), f"{program} {words[0]} knows no {option}"


def test_it_deletes_what_outlives_an_uninstall() -> None:
    reconcile = {"enabled": True, "runConfig": "weekly", "approvers": {"installation": "prod"}}
    objects = render(
        {
            "fullnameOverride": "cosalign",
            "pipelines": {"store": "upload"},
            "runConfigs": {"weekly": {}},
            "reconcile": reconcile,
        }
    )
    hooks = {
        f"{item['kind'].lower()}/{item['metadata']['name']}"
        for item in objects
        if "helm.sh/hook" in item["metadata"].get("annotations", {})
    }
    (delete,) = [words for words in _commands("kubectl") if words[0] == "delete"]
    assert {word for word in delete if "/" in word} == hooks


def test_the_values_are_taken() -> None:
    (values,) = _blocks("yaml")
    given = yaml.safe_load(values)
    given["images"]["allowTags"] = False
    assert of_kind(render(given), "PipelineVersion")


def test_parameters_and_pools_that_it_gives_runs_exist() -> None:
    parameters = shipped_pipeline("cosalign").parameters
    pools = {pool["spec"]["nodeConfig"]["labels"]["cosalign.dev/pool"]
             for pool in objects_in(NODE_POOLS.read_text("utf-8"))}  # fmt: skip
    runs = [words for words in _commands("cosalign") if words[0] == "submit"]
    assert len(runs) == 2
    for words in runs:
        given = [after for word, after in pairwise(words) if word == "-p"]
        for name, _, value in (one.partition("=") for one in given):
            assert name in parameters
            if name.endswith("node_selector"):
                assert json.loads(value)["cosalign.dev/pool"] in pools


def test_the_accounts_and_roles_it_names_are_the_chart_s() -> None:
    objects = render({"fullnameOverride": "cosalign", "trainer": {"enabled": True}})
    for kind in ("ServiceAccount", "Role"):
        for name in of_kind(objects, kind):
            if name.startswith(
                ("cosalign-config-approver", "cosalign-config-viewer", "cosalign-pipeline-")
            ):
                continue
            assert name in GUIDE, name
