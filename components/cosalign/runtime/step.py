"""The skeleton of every container entry: read inputs, do nothing twice, write outputs.

A step is a function from a run config and earlier steps' manifests to tables in storage. Its
outputs lie in a folder named after the fingerprint of everything they depend on; the manifest is
written last. So a finished step found again is reused, a killed one starts over cheaply (its paid
work is in ledgers), and two settings never share a folder. Beside the manifest lies what the
fingerprint was made of (``lineage.py``), so that a result can be followed to all it came from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cosalign.domain.errors import ConfigError, DataError
from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import RunConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml
from cosalign.runtime.executor import ExecutorIo, parse_executor_input
from cosalign.runtime.exit_codes import run_and_exit_code
from cosalign.runtime.lineage import Lineage, settle_lineage
from cosalign.runtime.logs import configure_logs, get_logger
from cosalign.runtime.permanent_failure import attempt
from cosalign.runtime.result_notes import note_result
from cosalign.runtime.run_config import read_run_config, run_config_digest
from cosalign.runtime.safety_config_files import run_taxonomy
from cosalign.runtime.shares import all_shares
from cosalign.runtime.transient_failures import ROWS_TO_RETRY, transient_failures
from cosalign.runtime.usage import metered
from cosalign.runtime.version import VERSION
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import TableRef

MANIFEST_FILE = "manifest.json"
REUSED = "cosalign_reused"
"""Metadata key of an output artifact: the step found its result already there."""


class StepManifest(StrictModel):
    """What a step hands to the next: references and counts, never rows.

    It holds no times. Counts that end in ``_made``, and ``engine_starts``, say what this attempt
    paid for; all else is a function of the fingerprint, but for rows that a passing failure left
    unmade (``rows_to_retry``).

    Attributes:
        step: The step's name.
        fingerprint: Identity of all that the result depends on.
        storage: Address of the storage root that paths are relative to.
        tables: Tables by name.
        counts: Counts by name: the funnel, what was set aside, coverage.
        models: Model addresses by name.
        metrics: Figures by name; ``null`` where a figure could not be measured.
        files: Other results: name to storage path.
    """

    step: str
    fingerprint: str
    storage: str
    tables: dict[str, TableRef] = {}
    counts: dict[str, int] = {}
    models: dict[str, str] = {}
    metrics: dict[str, float | None] = {}
    files: dict[str, str] = {}

    @property
    def folder(self) -> str:
        """Where the result lies, below the storage root."""
        return f"steps/{self.step}/{self.fingerprint}"

    @property
    def identities(self) -> dict[str, str]:
        """What a later step depends on, by name: tables by SHA-256, models by address.

        Trained models, which are named by what they were made of, by their path below the root:
        results are the same in any storage.
        """
        models = {name: uri.removeprefix(f"{self.storage}/") for name, uri in self.models.items()}
        return models | {name: ref.sha256 for name, ref in self.tables.items()}


@dataclass
class ManifestDraft:
    """What a step fills in while it runs; the fields are :class:`StepManifest`'s."""

    tables: dict[str, TableRef] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """What a task asks of a step beside its config and inputs.

    Attributes:
        identities: Fingerprints that the step's shares paid for; empty where nobody has paid.
        model_uri: The model to evaluate, where it is no model of the run's own.
    """

    identities: tuple[str, ...] = ()
    model_uri: str | None = None


@dataclass(frozen=True)
class StepContext:
    """What a step works with; ``folder`` is the storage folder of its own outputs."""

    config: RunConfig
    storage: Storage
    taxonomy: Taxonomy
    inputs: dict[str, StepManifest]
    folder: str = ""
    order: Order = Order()


class Step(Protocol):
    """One step of the graph."""

    @property
    def name(self) -> str:
        """The step's name, which is also that of its output artifact."""
        ...

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """The earlier steps that it reads, each with the tables and models that it takes.

        What is not named here is not part of the step's fingerprint: scoring reads no configs, so
        another set of configs leaves its result standing.
        """
        ...

    def identity(self, context: StepContext) -> Json:
        """Everything that the result depends on beside the inputs and the taxonomy."""
        ...

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        """Does the work, writes below ``context.folder`` and fills in the draft."""
        ...


def main(step: Step, argv: Sequence[str] | None = None) -> int:
    """Container entry of a step; gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"cosalign {step.name} {VERSION}")  # noqa: T201  it is what was asked for
        return 0
    if words == ["--self-test"]:
        from cosalign.runtime.self_test import print_self_test

        return run_and_exit_code(lambda: print_self_test(step.name))
    configure_logs()
    return run_and_exit_code(lambda: _run(step, words))


def run_step(
    step: Step, config: RunConfig, inputs: dict[str, StepManifest], order: Order = Order()
) -> tuple[StepManifest, bool]:
    """Runs a step, or finds its finished result.

    Returns:
        The manifest, and whether it was already there.

    Raises:
        DataError: Its shares paid for something else than what it is now asked for.
    """
    context, lineage = opened_step(step, config, inputs, order)
    storage, identity = context.storage, lineage.fingerprint
    folder = f"steps/{step.name}/{identity}"
    log = get_logger(__name__).bind(step=step.name, fingerprint=identity[:12])
    _refuse_other_shares(step, identity, order)
    finished = finished_manifest(step, storage, identity)
    if finished is not None:
        # A result of an earlier release has none yet.
        settle_lineage(storage, folder, lineage)
        log.info("nothing_to_do", tables=len(finished.tables))
        return finished, True
    log.info("step_started")
    draft = ManifestDraft()
    with transient_failures() as failed:
        step.execute(replace(context, folder=folder), draft)
    if failed:
        draft.counts[ROWS_TO_RETRY] = len(failed)
        log.warning("rows_to_retry", rows=len(failed))
    manifest = StepManifest(
        step=step.name, fingerprint=identity, storage=storage.uri, **vars(draft)
    )
    settle_lineage(storage, folder, lineage)
    storage.write_bytes(f"{folder}/{MANIFEST_FILE}", _manifest_bytes(manifest))
    log.info("step_finished", **manifest.counts)
    return manifest, False


def open_step(
    step: Step, config: RunConfig, inputs: dict[str, StepManifest], order: Order = Order()
) -> tuple[StepContext, str]:
    """A step's context, and the fingerprint of all that its result depends on."""
    context, lineage = opened_step(step, config, inputs, order)
    return context, lineage.fingerprint


def opened_step(
    step: Step, config: RunConfig, inputs: dict[str, StepManifest], order: Order = Order()
) -> tuple[StepContext, Lineage]:
    """A step's context, and all that its result depends on."""
    storage = open_storage(config.storage.root)
    taxonomy = run_taxonomy(config.taxonomy)
    context = StepContext(config, storage, taxonomy, inputs, order=order)
    return context, _lineage(step, context)


def finished_manifest(step: Step, storage: Storage, identity: str) -> StepManifest | None:
    """The manifest of a finished result, if it and all that it names are there.

    A result with rows that another attempt may make is not finished.
    """
    found = _finished(storage, f"steps/{step.name}/{identity}")
    return None if found is None or found.counts.get(ROWS_TO_RETRY) else found


def _refuse_other_shares(step: Step, identity: str, order: Order) -> None:
    if any(other != identity for other in order.identities):
        raise DataError(
            f"{step.name}: what it reads changed while its shares were paid for (a prompt file, a "
            "safety config or a model); start the run again, nothing is paid twice"
        )


def read_manifest(path: Path) -> StepManifest:
    """Reads an input manifest.

    Raises:
        DataError: It is missing or not a manifest.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; run the step before, or correct the path")
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(data: bytes, source: str) -> StepManifest:
    """Parses a manifest; ``source`` names it in messages."""
    raw = parse_yaml(data.decode("utf-8", "replace"), source, DataError)
    return validated(StepManifest, raw, source, DataError)


def _lineage(step: Step, context: StepContext) -> Lineage:
    inputs: dict[str, Json] = {
        name: [_input_identity(context.inputs[name], item) for item in items]
        for name, items in step.inputs.items()
    }
    identity: dict[str, Json] = {
        "step": step.name,
        "inputs": inputs,
        "taxonomy": context.taxonomy.digest,
        "identity": step.identity(context),
    }
    return Lineage(identity, {name: context.inputs[name].folder for name in step.inputs})


def _input_identity(manifest: StepManifest, item: str) -> Json:
    if item in manifest.identities:
        return manifest.identities[item]
    raise DataError(f"the manifest of {manifest.step} names no {item!r}; run that step again")


def _manifest_bytes(manifest: StepManifest) -> bytes:
    # NaN is refused: it is no JSON, and null says "could not be measured".
    plain = manifest.model_dump(mode="json")
    text = json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)
    return f"{text}\n".encode()


def _finished(storage: Storage, folder: str) -> StepManifest | None:
    present = {stat.path: stat.size for stat in storage.list(folder)}
    path = f"{folder}/{MANIFEST_FILE}"
    if path not in present:
        return None
    manifest = parse_manifest(storage.read_bytes(path), storage.uri_of(path))
    named = [ref.path for ref in manifest.tables.values()] + list(manifest.files.values())
    lost = [p for p in named if p.startswith(folder) and not present.get(p)]
    inside = [uri for uri in manifest.models.values() if uri.startswith(f"{storage.uri}/")]
    lost += [uri for uri in inside if not storage.list(uri.removeprefix(f"{storage.uri}/"))]
    if lost:
        get_logger(__name__).warning("result_incomplete", path=lost[0], step=manifest.step)
        return None
    return manifest


def _run(step: Step, argv: Sequence[str]) -> None:
    io = parse_arguments(step, argv)
    config = task_config(step, io)
    storage, digest = open_storage(config.storage.root), config_digest(io, config)
    with attempt(storage, io), metered(storage, config, digest, step.name):
        manifest, reused = run_step(step, config, task_inputs(step, io), task_order(io))
        note_result(storage, digest, manifest.folder)
        shares = all_shares(int(io.parameters.get("shards", 0)))
        io.write_parameter("shares", [str(share) for share in shares])
        _write_outputs(step, io, manifest, reused)


def task_config(step: Step, io: ExecutorIo) -> RunConfig:
    """The run config that a task names, with the base model that the task names, if it does.

    Raises:
        ConfigError: An input is missing, or the config is another than its digest says.
    """
    missing = [name for name in step.inputs if name not in io.artifacts]
    if missing or "run_config_uri" not in io.parameters:
        needed = missing[0] if missing else "run_config_uri"
        raise ConfigError(f"{step.name}: the input {needed!r} is missing; see --help")
    config = read_run_config(
        io.parameters["run_config_uri"], io.parameters.get("run_config_digest") or None
    )
    base = io.parameters.get("base_model_uri")
    models = config.models.model_copy(update={"base": base}) if base else config.models
    return config.model_copy(update={"models": models})


def task_inputs(step: Step, io: ExecutorIo) -> dict[str, StepManifest]:
    """The manifests that a task hands in."""
    return {name: read_manifest(io.artifacts[name]) for name in step.inputs}


def task_order(io: ExecutorIo) -> Order:
    """What a task asks for beside."""
    identities = tuple(io.parameters.get("identities") or ())
    return Order(identities, io.parameters.get("model_uri") or None)


def config_digest(io: ExecutorIo, config: RunConfig) -> str:
    """SHA-256 of the run config, as the task names it or as it is."""
    return io.parameters.get("run_config_digest") or run_config_digest(config)


def _write_outputs(step: Step, io: ExecutorIo, manifest: StepManifest, reused: bool) -> None:
    storage = open_storage(manifest.storage)
    for name in io.outputs:
        if name == step.name:
            io.write_output(name, _manifest_bytes(manifest))
            io.metadata[name] = {REUSED: reused, "fingerprint": manifest.fingerprint}
        elif name in manifest.files:
            io.write_output(name, storage.read_bytes(manifest.files[name]))
        else:  # Metrics live in metadata, with no file behind them.
            io.metadata[name] = {k: v for k, v in manifest.metrics.items() if v is not None}
    io.finish()


def parse_arguments(step: Step, argv: Sequence[str]) -> ExecutorIo:
    """A task's inputs and outputs, from KFP's executor input or from plain flags."""
    parser = argparse.ArgumentParser(
        prog=f"python -m cosalign.{step.name}",
        description=(step.__doc__ or step.name).splitlines()[0],
    )
    parser.add_argument("--executor-input", help="KFP's executor input, JSON")
    parser.add_argument("--run-config", help="the run config: a path, file:// or gs://")
    parser.add_argument("--run-config-digest", help="SHA-256 that the run config must have")
    for name in step.inputs:
        parser.add_argument(f"--{name}", type=Path, help=f"manifest of the {name} step")
    parser.add_argument("--output", type=Path, help="where this step's manifest is written")
    args = parser.parse_args(argv)
    if args.executor_input:
        return parse_executor_input(args.executor_input)
    if not args.run_config or not args.output:
        parser.error("give --executor-input, or --run-config and --output")
    parameters = {"run_config_uri": args.run_config, "run_config_digest": args.run_config_digest}
    artifacts = {n: getattr(args, n) for n in step.inputs if getattr(args, n)}
    output = {"name": step.name, "uri": str(args.output.absolute())}
    executor_output = args.output.with_name(f"{args.output.name}.executor-output.json")
    return ExecutorIo(parameters, artifacts, executor_output, {step.name: output})
