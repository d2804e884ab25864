"""From a command line to a reconcile that can run: everything opened, every mistake found first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from cosalign.domain.errors import ConfigError, TransientError, UserError, nearest
from cosalign.domain.fingerprint import Json
from cosalign.domain.increment_policy import IncrementPolicy
from cosalign.domain.run_config import RunConfig
from cosalign.domain.run_config.increment import IncrementGroup
from cosalign.domain.validation import validated
from cosalign.domain.yaml_text import yaml_value
from cosalign.judging.stored_readings import ReadAs, StoredReadings
from cosalign.retraining.admitted_configs import Rules
from cosalign.retraining.approvers import Approvers, parse_approvers, read_approvers
from cosalign.retraining.connection import open_kubeflow
from cosalign.retraining.desired_configs import ConfigSource, FolderSource, Taxonomies
from cosalign.retraining.kubeflow_submitter import KubeflowSubmitter
from cosalign.retraining.lane_step import RetryRules
from cosalign.retraining.local_submitter import LocalSubmitter
from cosalign.retraining.notices import Webhook
from cosalign.retraining.reconcile import Reconciler, Settings, Tick
from cosalign.retraining.reporting import ConfigReporter, Outside, report
from cosalign.retraining.run_lane import RETRIED
from cosalign.retraining.run_orders import RunMaker
from cosalign.retraining.settling import SettleRules
from cosalign.retraining.shipped_pipelines import PIPELINES, shipped_pipeline
from cosalign.retraining.status_file import Status
from cosalign.retraining.stored_approvals import asks_for_approvals
from cosalign.retraining.submitters import Submitter
from cosalign.runtime.logs import get_logger
from cosalign.runtime.run_config import load_run_config
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.store.storage import Storage, open_storage

log = get_logger(__name__)
NOT_ASKED = """\
apiVersion: cosalign.dev/v1alpha1
kind: Approvers
installation: local
required: false
"""
"""On one's own machine nobody has to be asked; on a cluster the file has to say so."""

SET_BY_RECONCILE = {"previous", "configs", "model"}
"""Fields of the group ``increment`` that reconcile fills in."""


@dataclass(frozen=True)
class Reconciling:
    """A reconcile with all that it works with.

    Attributes:
        storage: The storage root.
        reconciler: What looks and acts.
        outside: Who is told.
    """

    storage: Storage
    reconciler: Reconciler
    outside: Outside

    def ticks(self) -> Iterator[tuple[Tick, Status]]:
        """One look; where runs are carried out here, looks until nothing is done any more.

        Raises:
            UserError: A run that was carried out here, and is due still, cannot go well as it is.
            TransientError: It failed for a reason that may pass.
        """
        by_hand = self.reconciler.submitter.by_hand
        while True:
            tick = self.reconciler.tick()
            yield tick, report(self.storage, tick, self.reconciler.name, self.outside)
            if not (by_hand and tick.done):
                break
        if by_hand:
            _refuse_failed(tick)


def _refuse_failed(tick: Tick) -> None:
    for step in tick.next_steps.values():
        outcome = step.tried.outcome if step.tried is not None else None
        if step.tried is not None and outcome is not None and outcome.ending != "succeeded":
            kind = TransientError if outcome.ending in RETRIED else UserError
            raise kind(f"run {step.tried.run} {outcome.ending}: {outcome.message}")


@contextmanager
def set_up(given: Mapping[str, Any]) -> Iterator[Reconciling]:
    """Opens everything that the command's options name.

    Args:
        given: The options of ``cosalign reconcile``.

    Raises:
        UserError: One is missing or wrong.
    """
    base = load_run_config(given["profile"], given["overrides"])
    storage = open_storage(base.storage.root)
    taxonomies = known_taxonomies(base.taxonomy.files)
    readings = StoredReadings(storage, taxonomies, ReadAs.of(base))
    rules = Rules(_approvers(given, storage, base.gate.model), taxonomies, readings)
    settings = _settings(given, storage.local_path("x") is not None)
    increment = _increment(given["increment"])
    webhook = _webhook(given)
    with ExitStack() as stack:
        source, reporter = _source(given, taxonomies, stack)
        submitter = _submitter(given, base, storage)
        reconciler = Reconciler(
            storage=storage, name=base.gate.model, source=source, rules=rules,
            maker=RunMaker(storage, base.gate.model, base, increment, submitter.identity),
            submitter=submitter, settings=settings,
        )  # fmt: skip
        outside = Outside(reporter, webhook, given["metrics_file"], given["pushgateway"])
        yield Reconciling(storage, reconciler, outside)


def _approvers(given: Mapping[str, Any], storage: Storage, name: str) -> Approvers:
    if given["approvers"]:
        return read_approvers(given["approvers"])
    if given["local"]:
        if asks_for_approvals(storage, name):
            raise UserError(
                f"{storage.uri}: what is accepted here needs approvals; name with --approvers the "
                "file that says who may give them, or one that says 'required: false', which the "
                "audit log keeps"
            )
        log.info("approvals_not_asked_for", why="--local without --approvers")
        return parse_approvers(NOT_ASKED, "--local")
    raise UserError(
        "name with --approvers the file that says who may propose and approve; where nobody is to "
        "be asked, it says 'required: false'"
    )


def _settings(given: Mapping[str, Any], in_folder: bool) -> Settings:
    policy = _fields("--policy", given["policy"], set(IncrementPolicy.model_fields))
    # In a folder the kernel knows at once whether a run goes on, so a claim without one is dead.
    lease = 0.0 if given["local"] and in_folder else given["lease_seconds"]
    settle = given["settle_seconds"]
    if settle is None:
        settle = 0.0 if given["local"] else SettleRules().seconds
    return Settings(
        settle=SettleRules(settle, given["settle_limit_seconds"]),
        retry=RetryRules(given["attempts"], given["backoff_seconds"], lease),
        policy=validated(IncrementPolicy, policy, "--policy", ConfigError),
        by=given["by"], full=given["full"],
    )  # fmt: skip


def _increment(given: Sequence[str]) -> dict[str, Any]:
    known = set(IncrementGroup.model_fields) - SET_BY_RECONCILE
    return _fields("--increment", given, known)


def _fields(option: str, given: Sequence[str], known: set[str]) -> dict[str, Any]:
    """Names and YAML values of a repeated option."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{option} {text!r}: write KEY=VALUE")
        if name not in known:
            raise UserError(f"{option} {name}: there is no such key{nearest(name, known)}")
        found[name] = yaml_value(value)
    return found


def _webhook(given: Mapping[str, Any]) -> Webhook | None:
    if not given["webhook"]:
        return None
    if not given["webhook_secret"]:
        raise UserError(
            "--webhook sends signed notices, and there is no secret: set COSALIGN_WEBHOOK_SECRET, "
            "or name another variable with --webhook-secret-env"
        )
    webhook = Webhook(given["webhook"], given["webhook_secret"])
    _ = webhook.key  # A wrong one is found before anything is done.
    return webhook


def _source(
    given: Mapping[str, Any], taxonomies: Taxonomies, stack: ExitStack
) -> tuple[ConfigSource, ConfigReporter | None]:
    if bool(given["configs"]) == given["kubernetes"]:
        raise UserError("name where configs come from: either --configs ADDRESS or --kubernetes")
    if given["configs"]:
        return FolderSource(given["configs"], taxonomies), None
    from cosalign.retraining.kubernetes_configs import KubernetesReporter, KubernetesSource
    from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi

    cluster = Cluster.own()
    api = stack.enter_context(KubernetesApi(cluster))
    namespaces = tuple(given["config_namespaces"]) or (cluster.namespace,)
    return KubernetesSource(api, namespaces, taxonomies), KubernetesReporter(api)


def _submitter(given: Mapping[str, Any], base: RunConfig, storage: Storage) -> Submitter:
    if given["local"]:
        return LocalSubmitter(storage)
    if storage.local_path("x") is not None:
        raise ConfigError(
            f"storage.root is {base.storage.root!r}, which pods cannot read; name a place on "
            "gs:// (--set storage.root=gs://BUCKET/PREFIX), or carry runs out here with --local"
        )
    server = open_kubeflow(
        given["host"], given["namespace"], given["token_env"], given["token_file"]
    )
    return KubeflowSubmitter(
        server, experiment=given["experiment"], parameters=_parameters(given["parameters"]),
        versions=_pairs("--version", given["versions"]), pipeline_root=given["pipeline_root"],
        service_account=given["service_account"],
    )  # fmt: skip


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UserError(f"{option} {text!r}: write NAME=VALUE")
        found[name] = value
    return found


def _parameters(given: Sequence[str]) -> dict[str, Json]:
    """Parameters with the types that pipelines want; what is no text is given as YAML."""
    types = {
        name: spec["parameterType"]
        for pipeline in PIPELINES
        for name, spec in shipped_pipeline(pipeline).parameters.items()
    }
    return {
        name: value if types.get(name, "STRING") == "STRING" else yaml_value(value)
        for name, value in _pairs("--parameter", given).items()
    }
