"""One run on Kubeflow Pipelines: version by content, experiment, run, and how it went.

kfp's client knows the servers' many ways of signing in, so it is used for that and for uploads. It
is imported here only when a client is opened. What is ours: a version's name says what is in it, so
that the same pipeline is uploaded once and two of them never share a name; and a run is followed to
its real end, where the client's own wait takes a cancelled run for one that still goes on.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosalign.domain.errors import CosalignError, TransientError, UserError
from cosalign.domain.fingerprint import Json, content_sha256
from cosalign.retraining.shipped_pipelines import CompiledPipeline
from cosalign.runtime.version import VERSION

ENDED = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
WELL = {"SUCCEEDED", "SKIPPED"}
CONFLICT = 409
NOT_FOUND = 404
REFUSED = {401, 403}
THROTTLED = 429
SERVERS_FAULT = 500


class KubeflowUnavailable(TransientError):
    """The Kubeflow Pipelines server did not answer, or is overloaded."""


class KubeflowRefused(UserError):
    """The server does not take the token, or not for what is asked."""


class RunLost(TransientError):
    """A run that goes on can no longer be looked at; ``exit_code`` is 75, since nothing failed."""


class RunFailed(CosalignError):
    """A run on Kubeflow ended other than well; ``exit_code`` is 1."""

    exit_code = 1


@dataclass(frozen=True)
class RunRequest:
    """What to run.

    Attributes:
        name: The run's name.
        experiment: The experiment's name; it is made if there is none.
        parameters: The pipeline's.
        labels: Names and values; KFP's runs have none, so they stand in the description as JSON.
        pipeline_root: Where artifacts go; the server's default if ``None``.
        service_account: Of the run's pods; the server's default if ``None``.
    """

    name: str
    experiment: str
    parameters: Mapping[str, Json]
    labels: Mapping[str, str] = field(default_factory=dict)
    pipeline_root: str | None = None
    service_account: str | None = None


@dataclass(frozen=True)
class RunState:
    """How a run is doing.

    Attributes:
        run_id: Its id.
        state: KFP's word for it.
        message: The server's, where it failed.
        tasks: States by task, ``running``, or ``3 running, 1 succeeded`` of one in a loop; KFP's
            own drivers are tasks too.
    """

    run_id: str
    state: str
    message: str = ""
    tasks: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ENDED


def version_name(name: str, compiled: CompiledPipeline) -> str:
    """The name of a pipeline's version: release and content."""
    return f"{name}-{VERSION}-{content_sha256(compiled.package().encode())[:12]}"


def with_training_placed(given: Mapping[str, Json], compiled: CompiledPipeline) -> dict[str, Json]:
    """Parameters of a run, training on the nodes of the other GPU tasks unless they say otherwise.

    A pipeline cannot say so by itself: a default is a constant. The chart does the same.
    """
    if "node_selector" in given and "training_node_selector" in compiled.parameters:
        return {"training_node_selector": given["node_selector"], **given}
    return dict(given)


class Kubeflow:
    """A Kubeflow Pipelines server.

    Args:
        client: A ``kfp.Client``.
        namespace: The user's namespace on a multi-user server.
    """

    def __init__(self, client: Any, namespace: str | None = None) -> None:
        self._client = client
        self._namespace = namespace

    def deployed(self, name: str, version: str) -> tuple[str, str]:
        """Finds a version that was deployed; gives the ids of pipeline and version.

        Raises:
            UserError: There is none.
            KubeflowUnavailable: The server does not answer.
        """
        with explained(f"look for version {version!r} of pipeline {name!r}"):
            pipeline = self._pipeline(name)
            found = self._version(pipeline, version) if pipeline else None
        if pipeline is None or found is None:
            raise UserError(
                f"Kubeflow Pipelines has no version {version!r} of pipeline {name!r}; deploy it "
                "(the chart does, with pipelines.store=kubernetes), or name none to upload the one "
                "that ships"
            )
        return pipeline, found

    def version(
        self, name: str, compiled: CompiledPipeline, version: str | None = None
    ) -> tuple[str, str]:
        """Finds or uploads a pipeline's version; gives the ids of pipeline and version.

        Args:
            name: The pipeline's name.
            compiled: Its content.
            version: The version's name, where whoever made the pipeline gave it one that says what
                is in it; made of release and content if ``None``.

        Raises:
            KubeflowUnavailable: The server does not answer.
            UserError: It refuses.
        """
        with explained(f"upload pipeline {name!r}"):
            pipeline = self._pipeline(name) or self._new_pipeline(name)
            wanted = version or version_name(name, compiled)
            found = self._version(pipeline, wanted)
            if found is None:
                self._upload(pipeline, wanted, compiled)
                found = self._version(pipeline, wanted)
        if found is None:
            raise KubeflowUnavailable(f"version {wanted!r} was uploaded and is not listed yet")
        return pipeline, found

    def start(self, pipeline_id: str, version_id: str, request: RunRequest) -> str:
        """Starts a run, in its experiment; gives its id. Raises as :meth:`version`."""
        models = self._client.api_models
        with explained(f"start run {request.name!r}"):
            experiment = self._client.create_experiment(
                request.experiment, namespace=self._namespace
            )
            body = models.V2beta1Run(
                display_name=request.name,
                description=json.dumps(dict(sorted(request.labels.items()))),
                experiment_id=experiment.experiment_id,
                pipeline_version_reference=models.V2beta1PipelineVersionReference(
                    pipeline_id=pipeline_id, pipeline_version_id=version_id
                ),
                runtime_config=models.V2beta1RuntimeConfig(
                    parameters=dict(request.parameters), pipeline_root=request.pipeline_root
                ),
                service_account=request.service_account,
            )
            run = self._client.runs.run_service_create_run(run=body)
        return str(run.run_id)

    def state(self, run_id: str) -> RunState | None:
        """How a run is doing; ``None`` where there is none. Raises as :meth:`version`."""
        with explained(f"look at run {run_id!r}"):
            try:
                run = self._client.get_run(run_id)
            except Exception as problem:
                if _status(problem) == NOT_FOUND:
                    return None
                raise
        return _state_of(run)

    def find(self, name: str) -> list[RunState]:
        """Runs of a name, the one that was made first before the others. Raises as `version`."""
        with explained(f"look for run {name!r}"):
            listed = self._client.list_runs(
                page_size=100, namespace=self._namespace, filter=_named(name)
            )
        runs = [run for run in listed.runs or () if run.display_name == name]
        # By the server's clock; ids part those of one second, the same way for everyone.
        runs.sort(key=lambda run: (str(run.created_at), str(run.run_id)))
        return [_state_of(run) for run in runs]

    def cancel(self, run_id: str) -> None:
        """Ends a run that goes on. Raises as :meth:`version`."""
        with explained(f"cancel run {run_id!r}"):
            self._client.terminate_run(run_id)

    def _pipeline(self, name: str) -> str | None:
        listed = self._client.list_pipelines(
            page_size=100, namespace=self._namespace, filter=_named(name)
        )
        ids = [str(p.pipeline_id) for p in listed.pipelines or () if p.display_name == name]
        return ids[0] if ids else None

    def _new_pipeline(self, name: str) -> str:
        models = self._client.api_models
        body = models.V2beta1Pipeline(display_name=name, name=name, namespace=self._namespace)
        try:
            made = self._client.pipelines.pipeline_service_create_pipeline(pipeline=body)
        except Exception as problem:
            # Somebody else may have made it in between.
            found = self._pipeline(name) if _status(problem) == CONFLICT else None
            if found is None:
                raise
            return found
        return str(made.pipeline_id)

    def _version(self, pipeline_id: str, name: str) -> str | None:
        listed = self._client.list_pipeline_versions(
            pipeline_id, page_size=100, filter=_named(name)
        )
        versions = listed.pipeline_versions or ()
        ids = [str(v.pipeline_version_id) for v in versions if v.display_name == name]
        return ids[0] if ids else None

    def _upload(self, pipeline_id: str, name: str, compiled: CompiledPipeline) -> None:
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "pipeline.yaml"
            package.write_text(compiled.package(), encoding="utf-8")
            try:
                self._client.upload_pipeline_version(str(package), name, pipeline_id=pipeline_id)
            except Exception as problem:
                if _status(problem) != CONFLICT:
                    raise


def follow(
    read: Callable[[], RunState | None], on_change: Callable[[RunState], None], seconds: float
) -> RunState:
    """Follows a run to its end; a server that does not answer for a while is asked again.

    Args:
        read: Gives the run's state.
        on_change: Is told of each new state, of the run or of a task.
        seconds: Time between two looks.

    Raises:
        RunFailed: There is no such run any more.
        RunLost: The server no longer lets it be looked at.
    """
    shown: RunState | None = None
    while True:
        try:
            now = read()
        except KubeflowUnavailable:
            time.sleep(seconds)
            continue
        except KubeflowRefused as problem:
            raise RunLost(
                f"{problem}. The run goes on, and Kubeflow's UI shows it; a token that outlives "
                "this command is read from a file that is renewed (--token-file)"
            ) from None
        if now is None:
            raise RunFailed("the run is gone: somebody deleted it")
        if now != shown:
            on_change(now)
            shown = now
        if now.ended:
            return now
        time.sleep(seconds)


def refuse_failed(run: RunState) -> None:
    """Raises ``RunFailed`` unless a run ended well."""
    if run.state not in WELL:
        said = f": {run.message}" if run.message else ""
        raise RunFailed(f"run {run.run_id} ended as {run.state}{said}")


def _state_of(run: Any) -> RunState:
    message = run.error.message if run.error else ""
    return RunState(str(run.run_id), run.state or "PENDING", message or "", _tasks_of(run))


def _tasks_of(run: Any) -> dict[str, str]:
    states: dict[str, Counter[str]] = {}
    for task in (run.run_details and run.run_details.task_details) or ():
        counted = states.setdefault(str(task.display_name), Counter())
        counted[str(task.state or "PENDING").lower()] += 1
    return {name: _counted(found) for name, found in states.items()}


def _counted(states: Counter[str]) -> str:
    if states.total() == 1:
        return next(iter(states))
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _named(name: str) -> str:
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def _status(problem: Exception) -> int | None:
    """The HTTP status of an error of kfp's client, which has many."""
    status = getattr(problem, "status", None)
    return status if isinstance(status, int) else None


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns errors of kfp's client into ours: the server's fault, or the user's.

    Args:
        what: What is being done, for the message.

    Raises:
        KubeflowUnavailable: The server does not answer, or says that it cannot now.
        KubeflowRefused: It does not take the token, or not for this.
        UserError: It refuses for another reason.
    """
    from kfp_server_api.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as problem:
        status = problem.status or 0
        if status >= SERVERS_FAULT or status in (0, THROTTLED):
            raise KubeflowUnavailable(f"cannot {what}: status {status}; try again") from None
        refusal = KubeflowRefused if status in REFUSED else UserError
        raise refusal(
            f"cannot {what}: the server answers {status} ({_reason(problem)}); check the address, "
            "the namespace and your rights"
        ) from None
    except (HTTPError, OSError) as problem:
        raise KubeflowUnavailable(f"cannot {what}: {problem}") from None


def _reason(problem: Any) -> str:
    try:
        return str(json.loads(problem.body)["error"])[:300]
    except (KeyError, TypeError, ValueError):
        return str(problem.reason)
