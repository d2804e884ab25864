"""A world to reconcile in: configs that are given, and runs that leave results without training."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from cosalign.domain.config_change import NoReader, PolicyReader, PolicyReading
from cosalign.domain.fingerprint import content_sha256, fingerprint
from cosalign.domain.increment_policy import IncrementPolicy
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.retraining.admitted_configs import Rules
from cosalign.retraining.approvers import parse_approvers
from cosalign.retraining.desired_configs import StaticSource
from cosalign.retraining.lane_step import RetryRules
from cosalign.retraining.reconcile import Reconciler, Settings
from cosalign.retraining.run_orders import RunMaker
from cosalign.retraining.settling import SettleRules
from cosalign.retraining.submitters import RunOrder, SubmittedRun, Submitter, SubmitterDouble
from cosalign.runtime.result_notes import note_result
from cosalign.runtime.run_config import load_run_config, read_run_config
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.store.gate_file import GateFile, ModelRef
from cosalign.store.model_pointer import Choice, GateResult, ModelPointer
from cosalign.store.storage import GenerationMismatch, Storage, list_uris, open_storage, read_uri

WAIVED = """
apiVersion: cosalign.dev/v1alpha1
kind: Approvers
installation: tests
required: false
"""
NO_WAIT = SettleRules(0.0, 0.0)


def document(name: str, *risks: str, **spec: Any) -> dict[str, Any]:
    """A categorical config, unless ``spec`` says otherwise."""
    return {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": name},
        "spec": {
            "taxonomy": {"name": "cosa", "version": "1"},
            "region": name.partition("-")[0],
            "allowedRisks": list(risks),
            **spec,
        },
    }


def digest_of(address: str) -> str:
    return content_sha256(address.encode())


@dataclass
class Worker:
    """Carries runs out in no time: writes gate, scores and note as an evaluation would.

    ``follows`` says whether a model follows a config, by the model's digest and the config's name;
    ``canaries``, whether the judge gets its canaries right.
    """

    storage: Storage
    follows: Callable[[str, str], bool] = lambda *_: True
    canaries: bool = True
    ends: list[SubmittedRun] = field(default_factory=list)
    orders: list[RunOrder] = field(default_factory=list)

    def __call__(self, order: RunOrder) -> SubmittedRun:
        self.orders.append(order)
        if self.ends:
            ended = self.ends.pop(0)
            if ended.status != "succeeded":
                return ended
        self.write_results(order)
        return SubmittedRun("", "succeeded")

    def write_results(self, order: RunOrder) -> None:
        digest = str(order.parameters["run_config_digest"])
        config = read_run_config(str(order.parameters["run_config_uri"]), digest)
        uris = [uri for folder in config.configs.files for uri in list_uris(folder, ".yaml")]
        names = [yaml.safe_load(read_uri(uri))["metadata"]["name"] for uri in uris]
        uri = str(order.parameters.get("model_uri", f"trained:{digest[:12]}"))
        model = digest_of(uri)
        good = {name: self.follows(model, name) for name in names}
        folder = f"steps/evaluation/{fingerprint('evaluation', [digest, uri, good])}"
        gate = GateFile(
            passed=all(good.values()) and self.canaries, candidate="dpo", reference="ica",
            model=ModelRef(uri=uri, digest=model), rival=None, against_current=False,
            name=config.gate.model, policy={}, items="0" * 64,
            checks=(*(_check(name, ok) for name, ok in good.items()),
                    {**_check("", self.canaries), "rule": "canaries"}),
        )  # fmt: skip
        self.storage.write_bytes(f"{folder}/gate.json", gate.as_bytes())
        card = {"configs": [_part(name, ok) for name, ok in good.items()]}
        self.storage.write_bytes(f"{folder}/scores.json", json.dumps(card).encode())
        manifest = {
            "step": "evaluation", "fingerprint": folder.rpartition("/")[2],
            "storage": self.storage.uri,
            "files": {"gate": f"{folder}/gate.json", "scores": f"{folder}/scores.json"},
        }  # fmt: skip
        self.storage.write_bytes(f"{folder}/manifest.json", json.dumps(manifest).encode())
        note_result(self.storage, digest, folder)
        if config.gate.promote and gate.passed:
            promote(self.storage, config.gate.model, uri, f"{folder}/gate.json")


def promote(storage: Storage, name: str, uri: str, gate: str | None = None) -> None:
    pointer = ModelPointer(storage, name)
    digest = digest_of(uri)
    result = None
    if gate is not None:
        result = GateResult(passed=True, uri=storage.uri_of(gate), sha256="0" * 64)
    if digest in [entry.digest for entry in pointer.history()]:
        return
    head = pointer.settle()
    choice = Choice(action="promote", uri=uri, digest=digest, by="a run", at="now", gate=result)
    pointer.record(choice, head.number if head else 0)


def _check(name: str, passed: bool) -> dict[str, Any]:
    code = "passed" if passed else "too_high"
    return {"rule": "unsafe_share", "where": name, "code": code, "passed": passed}


def _part(name: str, followed: bool) -> dict[str, Any]:
    score = {"score": 0.4 if followed else 0.1, "low": 0.3, "high": 0.5}
    return {"suite": "control", "label": name, "names": [name], "scores": {"dpo": score}}


class Lenient(NoReader):
    """Finds in no policy what cannot be allowed, and is sure of nothing else."""

    def read(self, config: SafetyConfig, taxonomy: Taxonomy) -> PolicyReading:  # noqa: ARG002
        return PolicyReading(may=taxonomy.full_mask, surely=0, found=0)


@dataclass
class World:
    """Everything that a reconcile works with."""

    root: str
    settings: Settings = field(
        default_factory=lambda: Settings(settle=NO_WAIT, retry=RetryRules(3, 0.0, 3600.0))
    )
    approvers: str = WAIVED
    overrides: tuple[str, ...] = ()
    reader: PolicyReader | None = None

    def __post_init__(self) -> None:
        self.storage = open_storage(self.root)
        self.taxonomies = known_taxonomies()
        self.source = StaticSource([], self.taxonomies)
        self.worker = Worker(self.storage)
        self.submitter = SubmitterDouble(self.worker)

    def wants(self, *documents: Mapping[str, Any]) -> None:
        """Says what regions want from now on."""
        self.source.documents[:] = documents

    def reconciler(
        self, storage: Storage | None = None, submitter: Submitter | None = None
    ) -> Reconciler:
        """A reconcile as another process would begin it."""
        base = load_run_config("small", (f"storage.root={self.storage.uri}", *self.overrides))
        mine = submitter or self.submitter
        return Reconciler(
            storage=storage or self.storage, name="main", source=self.source,
            rules=Rules(
                parse_approvers(self.approvers, "approvers"), self.taxonomies, self.reader
            ),
            maker=RunMaker(storage or self.storage, "main", base, {}, mine.identity),
            submitter=mine, settings=self.settings,
        )  # fmt: skip

    def ticks(self, count: int = 6) -> None:
        """Looks so often, each time as another process."""
        for _ in range(count):
            self.reconciler().tick()

    @property
    def started(self) -> list[str]:
        """Kinds of the runs that were started, in order."""
        return [order.labels["cosalign.dev/kind"] for _, order in self.submitter.runs]

    @property
    def names(self) -> list[str]:
        """Names of the runs that were started, in order."""
        return [order.name for _, order in self.submitter.runs]


def with_policy(**policy: Any) -> Settings:
    return Settings(
        settle=NO_WAIT, retry=RetryRules(3, 0.0, 3600.0), policy=IncrementPolicy(**policy)
    )


class Crash(BaseException):
    """The process died."""


class DyingStorage:
    """Storage of a process that dies at one of its writes, just before or just after it."""

    def __init__(self, storage: Storage, at: int, after: bool) -> None:
        self._storage = storage
        self._left = at
        self._after = after
        self._lock = threading.Lock()
        self.died = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last and not self._after:
            self._die()
        made = self._storage.write_bytes(path, data, if_generation=if_generation)
        if last:
            self._die()
        return made

    def _die(self) -> None:
        self.died = True
        raise Crash


__all__ = ["Crash", "DyingStorage", "GenerationMismatch", "Worker", "World", "document", "promote"]
