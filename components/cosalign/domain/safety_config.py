"""Safety configs as files: what a region's safety lead writes and Kubernetes later stores.

A config is *categorical* (``spec.allowedRisks``) or *free-form* (``spec.text``), never both. Its
digest covers the taxonomy and the form alone: who owns it, which law it rests on and when it takes
effect change nothing about what the model must do, so they cause no new data and no training.
Approvals are no part of it; they are about the digest, and live elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from cosalign.domain.errors import SafetyConfigError, nearest
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml

API_VERSION = "cosalign.dev/v1alpha1"


def moment_of(value: str) -> datetime:
    """An ISO 8601 date or time as a moment; UTC where it names no zone."""
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _iso_date(value: str) -> str:
    try:
        moment_of(value)
    except ValueError:
        raise ValueError(f"{value!r} is no ISO 8601 date; write it as 2026-12-31") from None
    return value


IsoDate = Annotated[str, AfterValidator(_iso_date)]


class Metadata(StrictModel):
    """Kubernetes object metadata: ours to read is the name; the server adds the rest."""

    name: str = Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    namespace: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    generate_name: str | None = Field(default=None, alias="generateName")
    self_link: str | None = Field(default=None, alias="selfLink")
    uid: str | None = None
    resource_version: str | None = Field(default=None, alias="resourceVersion")
    generation: int | None = None
    creation_timestamp: str | None = Field(default=None, alias="creationTimestamp")
    deletion_timestamp: str | None = Field(default=None, alias="deletionTimestamp")
    deletion_grace: int | None = Field(default=None, alias="deletionGracePeriodSeconds")
    finalizers: list[str] = []
    owner_references: list[dict[str, Any]] = Field(default=[], alias="ownerReferences")
    managed_fields: list[dict[str, Any]] = Field(default=[], alias="managedFields")


class TaxonomyRef(StrictModel):
    """Name and version of the taxonomy that a config speaks in."""

    name: str
    version: str


class AcceptanceItem(StrictModel):
    """One prompt of a region's acceptance test and what the model must do with it."""

    prompt: str = Field(min_length=1, max_length=20_000)
    expect: Literal["answer", "decline"]


class Spec(StrictModel):
    """What the config says, and what it rests on."""

    taxonomy: TaxonomyRef
    region: str = Field(min_length=1, max_length=63)
    allowed_risks: tuple[str, ...] | None = Field(default=None, alias="allowedRisks")
    text: str | None = Field(default=None, max_length=20_000)
    owner: str | None = None
    description: str | None = None
    basis: tuple[str, ...] = ()
    effective_from: IsoDate | None = Field(default=None, alias="effectiveFrom")
    expires: IsoDate | None = None
    acceptance: tuple[AcceptanceItem, ...] = ()
    training: Literal["allowed", "evaluateOnly"] = "allowed"

    @field_validator("allowed_risks")
    @classmethod
    def _once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if (value or ()).count(name) > 1:
                raise ValueError(f"{name!r} stands twice; write each risk once")
        return value

    @field_validator("text")
    @classmethod
    def _says_something(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("the text is empty; say what is allowed, or use allowedRisks")
        return value

    @model_validator(mode="after")
    def _dates_in_order(self) -> Self:
        begin, end = self.effective_from, self.expires
        if begin and end and moment_of(end) <= moment_of(begin):
            raise ValueError(
                f"expires {self.expires!r} is not after effectiveFrom {self.effective_from!r}"
            )
        return self

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.allowed_risks is None) == (self.text is None):
            have = "neither" if self.text is None else "both"
            raise ValueError(
                f"exactly one of allowedRisks and text must be given, found {have}; "
                "write 'allowedRisks: []' to allow no risk at all"
            )
        return self

    def in_force(self, moment: datetime) -> bool:
        """See :meth:`SafetyConfig.in_force`."""
        begin, end = self.effective_from, self.expires
        begun = begin is None or moment_of(begin) <= moment
        return begun and (end is None or moment < moment_of(end))


class SafetyConfigFile(StrictModel):
    """The document as it stands in a file or on a cluster; ``status`` is the cluster's."""

    api_version: Literal["cosalign.dev/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["SafetyConfig"]
    metadata: Metadata
    spec: Spec
    status: dict[str, Any] | None = None


@dataclass(frozen=True)
class SafetyConfig:
    """A checked config, resolved against its taxonomy.

    Attributes:
        name: ``metadata.name``.
        region: ``spec.region``.
        allowed_mask: The allowed set of a categorical config, ``None`` for a free-form one.
        text: The policy text of a free-form config, ``None`` for a categorical one.
        taxonomy_digest: The taxonomy that ``allowed_mask`` speaks in.
        spec: All the rest.
    """

    name: str
    region: str
    allowed_mask: int | None
    text: str | None
    taxonomy_digest: str
    spec: Spec

    @property
    def kind(self) -> Literal["categorical", "freeform"]:
        """Which of the two forms it has."""
        return "freeform" if self.allowed_mask is None else "categorical"

    @property
    def digest(self) -> str:
        """Identity of what it demands: taxonomy and form, nothing else; 64 hex digits."""
        form: Json = self.text.strip() if self.text is not None else self.allowed_mask
        return config_digest(self.taxonomy_digest, form)

    def in_force(self, moment: datetime) -> bool:
        """Whether it is in force: from ``effectiveFrom`` on, and before ``expires``.

        A date without a time begins at midnight, UTC.
        """
        return self.spec.in_force(moment)


def config_digest(taxonomy_digest: str, form: Json) -> str:
    """Digest of a config from its taxonomy and its form (a mask, or a text)."""
    return fingerprint("safety-config", {"taxonomy": taxonomy_digest, "form": form})


def parse_safety_config(text: str, source: str, taxonomies: dict[str, Taxonomy]) -> SafetyConfig:
    """Reads one safety config.

    Args:
        text: YAML or JSON.
        source: The file's name, for messages.
        taxonomies: Known taxonomies by ``"name version"``.

    Raises:
        SafetyConfigError: A field or risk is unknown or wrong, or the catch-all is allowed.
    """
    return safety_config_of(parse_yaml(text, source, SafetyConfigError), source, taxonomies)


def safety_config_of(
    raw: Mapping[str, Any], source: str, taxonomies: dict[str, Taxonomy]
) -> SafetyConfig:
    """A safety config from plain data; see :func:`parse_safety_config`."""
    document = validated(SafetyConfigFile, raw, source, SafetyConfigError)
    spec = document.spec
    taxonomy = taxonomies.get(f"{spec.taxonomy.name} {spec.taxonomy.version}")
    if taxonomy is None:
        wanted = f"{spec.taxonomy.name} {spec.taxonomy.version}"
        raise SafetyConfigError(
            f"{source}: spec.taxonomy: {wanted!r} is not known{nearest(wanted, taxonomies)}"
        )
    return SafetyConfig(
        name=document.metadata.name,
        region=spec.region,
        allowed_mask=_allowed_mask(spec.allowed_risks, taxonomy, source),
        text=spec.text,
        taxonomy_digest=taxonomy.digest,
        spec=spec,
    )


def _allowed_mask(risks: tuple[str, ...] | None, taxonomy: Taxonomy, source: str) -> int | None:
    if risks is None:
        return None
    allowable = taxonomy.names_of(taxonomy.allowable_mask)
    for i, risk in enumerate(risks):
        where = f"{source}: spec.allowedRisks[{i}]"
        if risk == taxonomy.names[-1]:
            raise SafetyConfigError(
                f"{where}: {risk!r} is the catch-all and can never be allowed; remove it"
            )
        if risk not in allowable:
            raise SafetyConfigError(f"{where}: {risk!r} is no risk{nearest(risk, allowable)}")
    return taxonomy.mask_of(risks)
