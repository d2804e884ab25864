from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.runtime.task_world import Tasting

from cosalign.domain.errors import CosalignError
from cosalign.runtime.import_walk import third_party_imports
from cosalign.runtime.self_test import self_test
from cosalign.runtime.step import main


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the project's namespace, whose modules are found first."""
    folder = tmp_path / "cosalign" / "cellar"
    folder.mkdir(parents=True)
    import cosalign

    monkeypatch.setattr(cosalign, "__path__", [str(tmp_path / "cosalign"), *cosalign.__path__])
    return folder


def test_imports_are_found_at_any_depth_and_through_own_modules(modules: Path) -> None:
    (modules / "entry.py").write_text(
        "import json\n"
        "from typing import TYPE_CHECKING\n"
        "from cosalign.cellar import shelf\n"
        "if TYPE_CHECKING:\n    import never_run\n"
        "def pour():\n    import yaml\n    from cosalign.cellar.barrel import tap\n"
    )
    (modules / "shelf.py").write_text(
        "try:\n    import numpy.linalg\nexcept ImportError:\n    pass\n"
    )
    (modules / "barrel.py").write_text("class A:\n    def tap(self):\n        import pyarrow\n")
    (modules / "apart.py").write_text("import torch\n")
    assert third_party_imports("cosalign.cellar.entry") == {
        "numpy": "cosalign.cellar.shelf",
        "pyarrow": "cosalign.cellar.barrel",
        "yaml": "cosalign.cellar.entry",
    }


def test_modules_that_import_each_other_end_the_walk(modules: Path) -> None:
    (modules / "a.py").write_text("import cosalign.cellar.b\nimport yaml\n")
    (modules / "b.py").write_text("import cosalign.cellar.a\n")
    assert list(third_party_imports("cosalign.cellar.a")) == ["yaml"]


def test_a_missing_package_is_named_with_who_needs_it(modules: Path) -> None:
    (modules / "c.py").write_text(
        "def late():\n    import no_such_package_at_all\n    import yaml\n"
    )
    with pytest.raises(CosalignError, match=r"no_such_package_at_all \(for cosalign\.cellar\.c\)"):
        self_test("cosalign.cellar.c")


def test_the_self_test_tells_versions(modules: Path) -> None:
    (modules / "d.py").write_text("import yaml\n")
    assert list(self_test("cosalign.cellar.d")) == ["PyYAML"]


def test_pairings_image_is_whole_here(capsys: pytest.CaptureFixture[str]) -> None:
    from cosalign.pairing.step import PairingStep

    assert main(PairingStep(), ["--self-test"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["component"] == "pairing"
    assert told["python"] == sys.version.split()[0]
    assert {"pyarrow", "pydantic"} <= told["packages"].keys()
    # The smallest image: no engine, no torch, no kfp.
    assert not {"torch", "vllm", "transformers", "kfp"} & told["packages"].keys()


def test_a_step_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Tasting(), ["--version"]) == 0
    assert capsys.readouterr().out.startswith("cosalign tasting ")
