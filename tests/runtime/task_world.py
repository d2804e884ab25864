"""A step with shares, and tasks of it as a cluster would start them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosalign.domain.errors import CosalignError
from cosalign.domain.fingerprint import Json
from cosalign.runtime.run_config import dump_run_config, load_run_config, run_config_digest
from cosalign.runtime.shares import Share
from cosalign.runtime.step import ManifestDraft, StepContext


@dataclass
class Tasting:
    """A step that can be prepared and paid for in shares; it fails when it is told to."""

    name: str = "tasting"
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    identity_is: str = "bitter"
    failure: CosalignError | None = None
    done: list[str] = field(default_factory=list)

    def identity(self, context: StepContext) -> Json:  # noqa: ARG002
        return self.identity_is

    def prepare(self, context: StepContext) -> Mapping[str, int]:  # noqa: ARG002
        self._do("prepare")
        return {"glasses_made": 2}

    def pay(self, context: StepContext, share: Share) -> Mapping[str, int]:  # noqa: ARG002
        self._do(f"share {share}")
        return {"glasses_made": 3}

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        self._do("execute")
        draft.counts["glasses"] = len(context.order.identities)

    def _do(self, what: str) -> None:
        self.done.append(what)
        if self.failure is not None:
            raise self.failure


@dataclass
class TaskWorld:
    """A run config on disk, and executor inputs of tasks under it."""

    root: Path

    def __post_init__(self) -> None:
        config = load_run_config("small", [f"storage.root={self.root / 'out'}"])
        self.config_file = self.root / "config.yaml"
        self.config_file.write_text(dump_run_config(config))
        self.digest = run_config_digest(config)

    def words(
        self,
        *first: str,
        uri: str = "",
        artifact: str = "paid",
        parameters: Mapping[str, Any] | None = None,
        outputs: tuple[str, ...] = (),
    ) -> list[str]:
        """A task's command line; its one artifact lies at ``uri``, output parameters in files."""
        address = uri or str(self.root / "task" / artifact)
        given = {
            "inputs": {
                "parameterValues": {
                    "run_config_uri": str(self.config_file),
                    "run_config_digest": self.digest,
                    **(parameters or {}),
                }
            },
            "outputs": {
                "artifacts": {artifact: {"artifacts": [{"name": artifact, "uri": address}]}},
                "parameters": {n: {"outputFile": str(self.root / "task" / n)} for n in outputs},
                "outputFile": str(self.root / "task/executor-output.json"),
            },
        }
        return [*first, "--executor-input", json.dumps(given)]

    def output(self, name: str) -> str:
        """What the last task wrote as an output parameter."""
        return (self.root / "task" / name).read_text()

    def metadata(self, artifact: str = "paid") -> dict[str, Any]:
        """What the last task told KFP of its artifact."""
        told = json.loads((self.root / "task/executor-output.json").read_text())
        found: dict[str, Any] = told["artifacts"][artifact]["artifacts"][0]["metadata"]
        return found
