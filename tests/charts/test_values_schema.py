"""values.schema.json: what it refuses, and that a person can act on what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.charts.rendering import CHART, VALUE_SETS, Values, refusal, render

from cosalign.retraining.shipped_pipelines import PIPELINES, shipped_pipeline

DIGEST = "sha256:" + "ab" * 32
CONFIG = {"taxonomy": {"name": "cosa", "version": "1"}, "region": "no", "allowedRisks": []}

MISTAKES: list[tuple[Values, str, str]] = [
    ({"image": {}}, "", "'image' not allowed"),
    ({"images": {"synthesis": {"digest": "sha256:abc"}}}, "/images/synthesis/digest", "sha256"),
    ({"images": {"synthesis": {"digest": "ab" * 32}}}, "/images/synthesis/digest", "sha256"),
    ({"images": {"synthesis": {"digst": DIGEST}}}, "/images/synthesis", "'digst' not allowed"),
    ({"images": {"synthesiss": {}}}, "/images", "'synthesiss' not allowed"),
    ({"images": {"registry": "https://registry.example"}}, "/images/registry", "does not match"),
    ({"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy", "'IfNotPresent'"),
    ({"images": {"allowTags": "yes"}}, "/images/allowTags", "want boolean"),
    ({"images": {"training": {"tag": 1.1}}}, "/images/training/tag", "want string"),
    ({"storage": {"root": "s3://bucket"}}, "/storage/root", "does not match"),
    ({"storage": {"root": "gs://bucket/"}}, "/storage/root", "does not match"),
    ({"pipelines": {"store": "db"}}, "/pipelines/store", "'kubernetes'"),
    ({"pipelines": {"upload": {"host": "ml-pipeline:8888"}}}, "/upload/host", "does not match"),
    ({"pipelines": {"upload": {"retries": -1}}}, "/upload/retries", "minimum"),
    ({"pods": {"environment": {"NO-PROXY": "x"}}}, "/pods/environment", "'NO-PROXY'"),
    ({"pods": {"environment": {"WORKERS": 2}}}, "/environment/WORKERS", "want string"),
    ({"kfp": {"objectStoreSecrets": [{"name": "x"}]}}, "/kfp/objectStoreSecrets/0", "want string"),
    ({"pipelines": {"parameters": {"scoring_image": "x"}}}, "/parameters/scoring_image", "false"),
    ({"pipelines": {"parameters": {"shards": "four"}}}, "/parameters/shards", "want integer"),
    ({"pipelines": {"parameters": {"shards": 1.5}}}, "/parameters/shards", "want integer"),
    ({"pipelines": {"parameters": {"tolerations": "x"}}}, "/tolerations", "want array"),
    ({"pipelines": {"parameters": {"node_selector": ["x"]}}}, "/node_selector", "want object"),
    ({"pipelines": {"parameters": {"accelerator_count": 4}}}, "/accelerator_count", "want string"),
    ({"serviceAccounts": {"pipelines": {}}}, "/serviceAccounts", "'pipelines' not allowed"),
    ({"commonLabels": {"country": False}}, "/commonLabels/country", "want string"),
    ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "/commonLabels", "app.kubernetes.io"),
    ({"safetyConfigs": {"school": {**CONFIG, "region": False}}}, "/region", "want string"),
    ({"safetyConfigs": {"school": {**CONFIG, "regions": "no"}}}, "/school", "'regions'"),
    ({"safetyConfigs": {"school": {**CONFIG, "text": "x"}}}, "/school", "oneOf"),
    ({"safetyConfigs": {"school": {**CONFIG, "allowedRisks": ["a", "a"]}}}, "Risks", "equal"),
    ({"safetyConfigs": {"school": {**CONFIG, "expires": "soon"}}}, "/expires", "does not match"),
    ({"safetyConfigs": {"School": CONFIG}}, "/safetyConfigs", "'School'"),
    ({"runConfigs": {"a": {"prompts": {"limt": 3}}}}, "/runConfigs/a/prompts", "'limt'"),
    ({"runConfigs": {"a": {"prompts": {"limit": "3"}}}}, "/prompts/limit", "want integer"),
    ({"runConfigs": {"a": {"pairng": {}}}}, "/runConfigs/a", "'pairng' not allowed"),
    ({"runConfigs": {"a_b": {}}}, "/runConfigs", "'a_b'"),
    ({"trainer": {"nodes": 0}}, "/trainer/nodes", "minimum"),
    ({"trainer": {"memory": "500 GB"}}, "/trainer/memory", "does not match"),
    ({"trainer": {"tolerations": [{"keys": "x"}]}}, "/trainer/tolerations/0", "'keys'"),
    ({"networkPolicy": {"scope": "cluster"}}, "/networkPolicy/scope", "'release'"),
    ({"networkPolicy": {"https": {"cidrs": ["1.2.3.4"]}}}, "/https/cidrs/0", "does not match"),
    ({"networkPolicy": {"https": {"cidrs": []}}}, "/https/cidrs", "minItems"),
    ({"networkPolicy": {"kubernetesApi": {"ports": ["443"]}}}, "/ports/0", "want integer"),
    ({"resourceQuota": {"hard": {"requests.cpu": 8}}}, "/requests.cpu", "want string"),
    ({"priorityClass": {"value": 2_000_000_000}}, "/priorityClass/value", "maximum"),
    ({"pods": {"runAsUser": 0}}, "/pods/runAsUser", "minimum"),
    ({"serviceMonitor": {"interval": "30"}}, "/serviceMonitor/interval", "does not match"),
    ({"fullnameOverride": "Cosalign"}, "/fullnameOverride", "does not match"),
    ({"fullnameOverride": "c" * 44}, "/fullnameOverride", "maxLength"),
    ({"nameOverride": "My_App"}, "/nameOverride", "does not match"),
    ({"nameOverride": "-app"}, "/nameOverride", "does not match"),
    ({"nameOverride": "c" * 44}, "/nameOverride", "maxLength"),
]


@pytest.mark.parametrize(("values", "where", "what"), MISTAKES)
def test_a_mistake_is_named_with_its_place(values: Values, where: str, what: str) -> None:
    message = refusal(values)
    assert where in message
    assert what in message


def test_all_mistakes_are_named_at_once() -> None:
    message = refusal({"storage": {"root": "s3://x"}, "pods": {"runAsUser": 0}})
    assert "/storage/root" in message
    assert "/pods/runAsUser" in message


# What needs more than one value to judge is refused by templates.


def test_an_image_without_a_digest_is_refused() -> None:
    message = refusal({"images": {"allowTags": False}})
    assert ".digest is required" in message
    assert "images.allowTags=true" in message


def test_a_registry_is_required() -> None:
    assert "images.registry is required" in refusal({"images": {"registry": ""}})


def test_a_parameter_that_no_pipeline_takes_is_refused() -> None:
    message = refusal({"pipelines": {"parameters": {"run_config_url": "x"}}})
    assert "pipelines.parameters.run_config_url" in message
    assert "run_config_uri" in message


@pytest.mark.parametrize("name", PIPELINES)
def test_the_defaults_that_a_pipeline_was_compiled_with_are_taken(name: str) -> None:
    defaults = {
        parameter: spec["defaultValue"]
        for parameter, spec in shipped_pipeline(name).parameters.items()
        if "defaultValue" in spec and not parameter.endswith("_image")
    }
    assert defaults
    assert render({"pipelines": {"parameters": defaults}})


def test_a_priority_class_needs_a_name() -> None:
    assert "priorityClass.name" in refusal({"priorityClass": {"create": True}})


def _schema() -> Any:
    return json.loads((CHART / "values.schema.json").read_text("utf-8"))


def _objects(node: Any, where: str = "$") -> list[tuple[str, Any]]:
    found = []
    if isinstance(node, dict):
        if "properties" in node:
            found.append((where, node))
        for key, value in node.items():
            found += _objects(value, f"{where}.{key}")
    return found


def test_no_object_takes_unknown_keys() -> None:
    opened = [where for where, node in _objects(_schema()) if node.get("additionalProperties", 1)]
    # Names of parameters are checked by a template (above).
    assert opened == ["$.$defs.PipelineParameters"]


def test_every_value_is_in_the_schema_and_every_key_of_the_schema_in_the_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    schema = _schema()
    assert set(values) == set(schema["properties"]) - {"global"}
    for name, node in schema["properties"].items():
        if "properties" in node:
            assert set(values[name]) == set(node["properties"]), name


@pytest.mark.parametrize("values", VALUE_SETS)
def test_helm_takes_each_value_set_together_with_globals(values: str) -> None:
    given = yaml.safe_load((CHART / "ci" / values).read_text("utf-8"))
    assert render({**given, "global": {"anything": 1}})
