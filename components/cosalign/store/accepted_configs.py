"""Which safety configs are accepted now: what may be served, and what reconcile goes by.

::

    accepted/NAME/history/00000001.json   one entry a change of the set, written once
    accepted/NAME/current.json            a copy of the newest entry, which readers follow

A set is published whole, so a reader sees all of a change or none of it, and a config that is not
in it is not to be served. Documents stand in it, not references to them: a reader needs nothing
else, and a set of a thousand configs is a few megabytes, written only when it changes.

Reading fails closed. A set that is torn, that differs from its entry in the history, or whose
digest does not fit its configs raises ``DataError``; an older set is never given in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

from pydantic import Field, model_validator

from cosalign.domain.config_change import terms_of
from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.domain.safety_config import SafetyConfig, Spec
from cosalign.domain.validation import StrictModel, validated
from cosalign.store.guarded_history import GuardedHistory, Link
from cosalign.store.storage import GenerationMismatch, Storage


class AcceptedConfig(StrictModel):
    """One config that may be served and trained on.

    Attributes:
        name: ``metadata.name``.
        namespace: ``metadata.namespace``; ``None`` for a config from a folder.
        region: ``spec.region``.
        digest: Identity of what it demands, 64 hex digits (``SafetyConfig.digest``).
        document: The whole config as plain JSON: ``apiVersion``, ``kind``, ``metadata`` with name
            and namespace, ``spec``; ``parse_safety_config`` reads its JSON text.
        accepted_at: When it first stood in the set as it is, ISO 8601 in UTC.
        approvers: Who approved it; empty where it was admitted while approvals were waived.
        statement: SHA-256 of the signed statement that its history came to last; ``None`` where
            there is none. A change of it has to name that statement.
        followed_by: Digest of the promoted model that was measured under it, as it is, and let pass
            by the gate's rules; ``None`` while none was. Serving that wants a measured model only
            holds it against the model that it serves.
    """

    name: str
    namespace: str | None = None
    region: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    document: dict[str, Any]
    accepted_at: str
    approvers: tuple[str, ...] = ()
    statement: str | None = None
    followed_by: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name, which no two configs of a set share."""
        return (self.namespace or "", self.name)

    @property
    def terms(self) -> str:
        """Identity of all of it that is approved; see ``config_change.terms_digest``.

        Raises:
            DataError: Its document is no config.
        """
        source, spec = f"accepted config {self.name}", self.document.get("spec")
        if not isinstance(spec, dict):
            raise DataError(f"{source}: its document holds no spec; it was altered")
        return terms_of(self.digest, validated(Spec, spec, source, DataError))

    def accepted_as(self, other: AcceptedConfig) -> bool:
        """Whether two differ at most in when they were accepted, and in who follows them."""
        return self.plain_terms() == other.plain_terms()

    def plain_terms(self) -> dict[str, Any]:
        """All of it that was accepted, as plain JSON."""
        return self.model_dump(mode="json", exclude={"accepted_at", "followed_by"})


class AcceptedSetContent(StrictModel):
    """A set, without its place in the history.

    Attributes:
        configs: Sorted by namespace and name.
        digest: Identity of all documents together, 64 hex digits.
        by: Who published it.
        at: When, ISO 8601 in UTC.
        withdrawn: Of configs that are accepted no longer, by ``NAMESPACE/NAME``, the statement that
            each was admitted on last: without it, that statement would be good once more.
        approvers_file: SHA-256 of the approvers file that the set was judged by; ``None`` in sets
            from before it was kept.
    """

    configs: tuple[AcceptedConfig, ...]
    digest: str
    by: str
    at: str
    withdrawn: dict[str, str] = {}
    approvers_file: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        keys = [config.key for config in self.configs]
        if keys != sorted(set(keys)):
            raise ValueError("configs are not sorted, or two have one namespace and name")
        if self.digest != set_digest(self.configs):
            raise ValueError("the digest does not fit the configs; the set was altered")
        return self


class AcceptedConfigs(AcceptedSetContent, Link):
    """A set as it was recorded."""

    def find(self, name: str, namespace: str | None = None) -> AcceptedConfig | None:
        """The config of a name, if it is accepted."""
        key = (namespace or "", name)
        return next((config for config in self.configs if config.key == key), None)

    def last_statement(self, name: str, namespace: str | None = None) -> str | None:
        """The statement that a config was admitted on last, be it accepted now or withdrawn."""
        found = self.find(name, namespace)
        return found.statement if found else self.withdrawn.get(f"{namespace or ''}/{name}")


class AcceptedSet(GuardedHistory[AcceptedConfigs]):
    """The accepted configs of one name, and the history of them.

    Args:
        storage: The storage root.
        name: As of the model that follows them (``gate.model``).
    """

    def __init__(self, storage: Storage, name: str = "main") -> None:
        super().__init__(storage, f"accepted/{name}", AcceptedConfigs, lambda: _moved(name))
        self.name = name

    def current(self) -> AcceptedConfigs | None:
        """What is accepted now; ``None`` where nothing was ever published.

        Raises:
            DataError: It is torn or was altered; nothing is to be taken for accepted.
        """
        return self.checked()

    def publish(
        self,
        configs: Iterable[AcceptedConfig],
        by: str,
        at: str,
        expected: int | None = None,
        approvers_file: str | None = None,
    ) -> AcceptedConfigs:
        """Makes a set the accepted one; nothing is written where it is already.

        A config that stood in the set before, as it is, keeps the time of its acceptance.

        Args:
            configs: All of them, in any order.
            by: Who publishes.
            at: When, ISO 8601 in UTC.
            expected: Number of the set that the decision was made against, 0 for none; whatever
                is newest where ``None``.
            approvers_file: SHA-256 of the approvers file that they were judged by; another one than
                before is recorded, though no config changes.

        Raises:
            GenerationMismatch: Another set was published since; read it and decide again.
            DataError: Two configs have one namespace and name, or the stored set is torn.
        """
        head = self.settle()
        number = head.number if head else 0
        if expected is not None and expected != number:
            raise self.moved()
        wanted = _with_earlier_times(_distinct(configs), head)
        if head is not None and (wanted, approvers_file or head.approvers_file) == (
            head.configs, head.approvers_file,
        ):  # fmt: skip
            return head
        content = AcceptedSetContent(
            configs=wanted, digest=set_digest(wanted), by=by, at=at,
            withdrawn=_withdrawn(wanted, head), approvers_file=approvers_file,
        )  # fmt: skip
        return self.append(lambda link: _entry(content, link), number)


def accepted_config(
    config: SafetyConfig,
    document: dict[str, Any],
    accepted_at: str,
    approvers: Iterable[str] = (),
    statement: str | None = None,
) -> AcceptedConfig:
    """A checked config as it is published.

    Args:
        config: The config.
        document: What it was read from; of its metadata, name and namespace are kept.
        accepted_at: ISO 8601 in UTC.
        approvers: Who approved it.
        statement: SHA-256 of the statement that it was admitted on.
    """
    metadata = document["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace") if metadata.get(key)}
    plain = {key: document[key] for key in ("apiVersion", "kind")}
    return AcceptedConfig(
        name=config.name,
        namespace=metadata.get("namespace"),
        region=config.region,
        digest=config.digest,
        document={**plain, "metadata": kept, "spec": document["spec"]},
        accepted_at=accepted_at,
        approvers=tuple(approvers),
        statement=statement,
    )


def set_digest(configs: Iterable[AcceptedConfig]) -> str:
    """Identity of a set of configs: all that was accepted, and who follows it; not times."""
    rows: list[Json] = [[config.plain_terms(), config.followed_by] for config in configs]
    return fingerprint("accepted-configs", rows)


def _entry(content: AcceptedSetContent, link: Link) -> AcceptedConfigs:
    return AcceptedConfigs.model_validate({**dict(content), **dict(link)})


def _distinct(configs: Iterable[AcceptedConfig]) -> list[AcceptedConfig]:
    found = list(configs)
    for (namespace, name), count in Counter(config.key for config in found).items():
        if count > 1:
            where = f" in namespace {namespace}" if namespace else ""
            raise DataError(f"two configs are called {name!r}{where}; rename one")
    return found


def _with_earlier_times(
    configs: Iterable[AcceptedConfig], head: AcceptedConfigs | None
) -> tuple[AcceptedConfig, ...]:
    earlier = {config.key: config for config in head.configs} if head else {}

    def settled(config: AcceptedConfig) -> AcceptedConfig:
        before = earlier.get(config.key)
        if before is None or not config.accepted_as(before):
            return config
        return config.model_copy(update={"accepted_at": before.accepted_at})

    return tuple(sorted(map(settled, configs), key=lambda config: config.key))


def _withdrawn(configs: Iterable[AcceptedConfig], head: AcceptedConfigs | None) -> dict[str, str]:
    """What the set before knew of statements, as far as the new set does not say it itself."""
    if head is None:
        return {}
    accepted = {"/".join(config.key) for config in configs}
    gone = {"/".join(c.key): c.statement for c in head.configs if c.statement is not None}
    known = {**head.withdrawn, **gone}
    return {key: known[key] for key in sorted(known) if key not in accepted}


def _moved(name: str) -> GenerationMismatch:
    return GenerationMismatch(
        f"the accepted configs of {name!r} changed meanwhile: another reconcile came first; it is "
        "tried again by itself"
    )
