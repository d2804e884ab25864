"""What the chart ships: current copies, all of them in the package, and documented values."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.rendering import CHART, ROOT, VALUE_SETS, run_helm

from charts import generate
from cosalign.domain.run_config import RunConfig
from cosalign.pipelines.compilation import GRAPHS
from cosalign.pipelines.images import VERSION
from cosalign.retraining.shipped_pipelines import compiled_path


def _check() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "charts" / "generate.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_generated_files_are_current() -> None:
    done = _check()
    assert done.returncode == 0, done.stderr


def test_a_stale_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = generate.generated()
    monkeypatch.setattr(
        generate, "generated", lambda: {**wanted, CHART / "values.schema.json": "{}"}
    )
    assert generate.stale() == [CHART / "values.schema.json"]


def test_a_pipeline_that_is_no_more_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "GRAPHS", {})
    assert {path.stem for path in generate.stale()} >= set(GRAPHS)


def test_the_chart_has_the_project_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == VERSION


def test_the_package_holds_pipelines_crds_and_schema(tmp_path: Path) -> None:
    done = run_helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as packed:
        names = {member.name: member for member in packed}
        assert "cosalign/crds/safetyconfigs.cosalign.dev.yaml" in names
        assert "cosalign/values.schema.json" in names
        for name in GRAPHS:
            file = packed.extractfile(f"cosalign/files/pipelines/{name}.json")
            assert file is not None
            assert file.read() == compiled_path(name).read_bytes()
        assert not [name for name in names if "/ci/" in name]
    from_package = run_helm(
        "template", "rel", str(archive), "-f", str(CHART / "ci" / VALUE_SETS[0])
    )
    from_folder = run_helm("template", "rel", str(CHART), "-f", str(CHART / "ci" / VALUE_SETS[0]))
    assert from_package.stdout == from_folder.stdout


def test_nothing_in_the_chart_is_a_link() -> None:
    assert [path for path in CHART.rglob("*") if path.is_symlink()] == []


def test_run_configs_are_checked_by_their_own_model() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    given = schema["$defs"]["RunConfig"]["properties"]
    assert set(given) == set(RunConfig.model_fields)


# The README's table.

VALUES = """\
# A heading that is no description.
# -- First.
one: a|b
group:
  # -- Second.
  two: [1, 2]
  deeper:
    # -- Third.
    three: {}
# -- Fourth.
four:
  - {five: 5}
"""


def test_documented_values() -> None:
    assert generate.documented_values(VALUES) == [
        ("one", '"a\\|b"', "First."),
        ("group.two", "[1, 2]", "Second."),
        ("group.deeper.three", "{}", "Third."),
        ("four", '[{"five": 5}]', "Fourth."),
    ]


@pytest.mark.parametrize("removed", ["# -- First.\n", "    # -- Third.\n"])
def test_a_value_without_a_description_is_an_error(removed: str) -> None:
    with pytest.raises(ValueError, match="has no '# --' comment"):
        generate.documented_values(VALUES.replace(removed, ""))


def _paths(values: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        found.add(f"{prefix}{key}")
        if isinstance(value, dict):
            found |= _paths(value, f"{prefix}{key}.")
    return found


def test_every_documented_path_is_a_value() -> None:
    text = (CHART / "values.yaml").read_text("utf-8")
    documented = {path for path, _, _ in generate.documented_values(text)}
    assert documented <= _paths(yaml.safe_load(text))
