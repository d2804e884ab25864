"""The gate as a part of the evaluation step: its rival, its file, and a promotion by itself.

The rival is the promoted model. It answers the same items beside the candidate, before the same
judge, so the difference is paired; what it answered when it was evaluated itself comes from the
ledgers. The promotion happens before the step's manifest is written: an attempt that dies between
them is repeated, and finds the model promoted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cosalign.domain.errors import ConfigError, ModelError
from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import RunConfig
from cosalign.domain.run_config.gate import CURRENT
from cosalign.evaluation.gate import decide
from cosalign.evaluation.promotion import promote_by_itself
from cosalign.evaluation.scorecard import Scorecard
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.runtime.step import ManifestDraft, StepContext
from cosalign.store.gate_file import GATE_FILE, GateFile, ModelRef, read_gate
from cosalign.store.model_pointer import Entry, ModelPointer, rival_of


def gate_identity(context: StepContext) -> Json:
    """What the step's result depends on by its gate: the policy, and the model to beat."""
    rival = find_rival(context)
    policy = context.config.gate.model_dump(mode="json")
    return [policy, None if rival is None else rival.digest]


def find_rival(context: StepContext) -> Entry | None:
    """The promoted model that the candidate is held against, if there is one."""
    config = context.config
    if config.gate.reference != CURRENT:
        return None
    history = ModelPointer(context.storage, config.gate.model).history()
    uri = context.inputs["training"].models.get(config.gate.candidate)
    digest = "" if uri is None or not history else _resolved(config, uri).digest
    return rival_of(history, digest)


def rival_model(context: StepContext, rival: Entry) -> ModelFolder:
    """The rival, fetched and checked.

    Raises:
        ModelError: It is not the model that was promoted.
    """
    found = _resolved(context.config, rival.uri)
    if found.digest != rival.digest:
        raise ModelError(
            f"{rival.uri}: the current model of {context.config.gate.model!r} should be "
            f"{rival.digest[:12]} and is {found.digest[:12]}; roll back, or restore it"
        )
    return found


def run_gate(
    context: StepContext,
    draft: ManifestDraft,
    card: Scorecard,
    systems: Mapping[str, ModelRef],
    rival: Entry | None,
) -> None:
    """Decides, writes ``gate.json``, puts the decision on the card, and promotes where told to.

    Args:
        context: The step's.
        draft: The step's manifest, with its evaluation table.
        card: The figures; gets the decision as ``gate``.
        systems: The models behind the evaluated systems.
        rival: See :func:`find_rival`.
    """
    policy = context.config.gate
    card["gate"] = None
    if policy.candidate not in systems:
        if policy.promote:
            raise ConfigError(
                f"gate.promote is on, and evaluation.systems does not hold gate.candidate "
                f"{policy.candidate!r}; add it there"
            )
        return
    reference = CURRENT if rival is not None else _reference(context)
    decision = decide(card, policy, reference)
    card["gate"] = decision.as_json() | {"policy": policy.model_dump(mode="json")}
    file = GateFile(
        passed=decision.passed, candidate=decision.candidate, reference=reference,
        model=systems[policy.candidate], rival=rival.digest if rival else None,
        against_current=policy.reference == CURRENT, name=policy.model,
        policy=policy.model_dump(mode="json"), checks=tuple(card["gate"]["checks"]),
        items=draft.tables["evaluation"].sha256,
    )  # fmt: skip
    path = f"{context.folder}/{GATE_FILE}"
    context.storage.write_bytes(path, file.as_bytes())
    draft.files["gate"] = path
    draft.metrics["gate_passed"] = float(decision.passed)
    draft.metrics["gate_failed_checks"] = float(len(decision.failed))


def promote_where_told(context: StepContext, draft: ManifestDraft) -> None:
    """Promotes a candidate that passed, where the run config says so; see ``promote_by_itself``."""
    policy = context.config.gate
    if not policy.promote or "gate" not in draft.files:
        return
    gate = read_gate(context.storage, draft.files["gate"])
    cache = Path(context.config.storage.cache).expanduser()
    by = f"evaluation {context.folder.rpartition('/')[2][:12]}"
    pointer = ModelPointer(context.storage, policy.model)
    draft.counts["promotions_made"] = int(promote_by_itself(pointer, gate, by, cache))


def stored_models(models: Iterable[tuple[str, ModelFolder]]) -> dict[str, ModelRef]:
    """The models behind systems, as the gate names them."""
    return {name: ModelRef(uri=model.uri, digest=model.digest) for name, model in models}


def _reference(context: StepContext) -> str:
    policy = context.config.gate
    return policy.first_reference if policy.reference == CURRENT else policy.reference


def _resolved(config: RunConfig, uri: str) -> ModelFolder:
    return resolve_model(uri, Path(config.storage.cache).expanduser())
