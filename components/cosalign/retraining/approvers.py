"""Who may propose and approve changes of safety configs: a file that the platform team owns.

Trust begins here: whoever can write this file can allow anything, so it is kept apart from the
configs, with other permissions, and ``cosalign reconcile`` reads it from a place of its own. One
person is one entry, however many keys they have: two approvals are two entries. A key, or a name
that differs in case alone, that stands twice would make two people of one, and is refused. That two
names with two keys are two human beings is what the platform team vouches for by writing them down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from cosalign.domain.errors import UserError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.safety_config import IsoDate, moment_of
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml
from cosalign.retraining.ssh_signature import SignatureRefused, key_blob

ANY_REGION = "*"
Role = Literal["author", "approver"]


class ApproversError(UserError):
    """The approvers file is wrong."""


class ApproverKey(StrictModel):
    """One public key and when its signatures count.

    A signature carries no time that could be trusted, so a key that is not valid any more takes
    with it what it approved and was not yet admitted.
    """

    key: str
    valid_from: IsoDate | None = Field(default=None, alias="validFrom")
    valid_until: IsoDate | None = Field(default=None, alias="validUntil")

    @field_validator("key")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            key_blob(value)
        except SignatureRefused as problem:
            raise ValueError(str(problem)) from None
        return value

    def valid(self, moment: datetime) -> bool:
        """Whether its signatures count at a moment."""
        begun = self.valid_from is None or moment_of(self.valid_from) <= moment
        return begun and (self.valid_until is None or moment < moment_of(self.valid_until))


class Person(StrictModel):
    """Someone who may propose, approve or both, for some regions."""

    name: str = Field(min_length=1, max_length=200, pattern=r"^[!-~]([ -~]*[!-~])?$")
    regions: tuple[str, ...] = Field(min_length=1)
    roles: tuple[Role, ...] = Field(default=("author", "approver"), min_length=1)
    keys: tuple[ApproverKey, ...] = Field(min_length=1)

    def may(self, role: Role, regions: Iterable[str]) -> bool:
        """Whether the person has a role in all of some regions."""
        everywhere = ANY_REGION in self.regions
        return role in self.roles and all(everywhere or r in self.regions for r in regions)


class ApproversFile(StrictModel):
    """The document as it stands in a file, a ConfigMap or ``gs://``."""

    api_version: Literal["cosalign.dev/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["Approvers"]
    installation: str = Field(min_length=1, max_length=200)
    required: bool = True
    people: tuple[Person, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names: dict[str, str] = {}
        owners: dict[bytes, str] = {}
        for person in self.people:
            if other := names.get(person.name.casefold()):
                raise ValueError(f"people: {person.name!r} and {other!r} are one name; merge them")
            names[person.name.casefold()] = person.name
            for key in person.keys:
                owner = owners.setdefault(key_blob(key.key), person.name)
                if owner != person.name:
                    raise ValueError(
                        f"people: {owner!r} and {person.name!r} have one key; a key is one person's"
                    )
        return self

    @model_validator(mode="after")
    def _somebody_can(self) -> Self:
        if self.required and not self.people:
            raise ValueError(
                "people: nobody may approve anything; add people, or write 'required: false' to "
                "admit every config without approvals"
            )
        return self


@dataclass(frozen=True)
class Approvers:
    """Who may propose and approve.

    Attributes:
        installation: Name of the installation that approvals have to be meant for.
        required: Whether approvals are asked for at all.
        people: By name.
        text: The file as it was read.
    """

    installation: str
    required: bool
    people: dict[str, Person]
    text: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return content_sha256(self.text.encode())

    def holder(self, key: bytes) -> tuple[Person, ApproverKey] | None:
        """Whose a key is; ``None`` where it is nobody's."""
        return self._holders.get(key)

    @cached_property
    def _holders(self) -> dict[bytes, tuple[Person, ApproverKey]]:
        # Once, and not for each signature of a thousand configs.
        return {key_blob(own.key): (p, own) for p in self.people.values() for own in p.keys}


def parse_approvers(text: str, source: str) -> Approvers:
    """Reads an approvers file.

    Args:
        text: YAML or JSON.
        source: The file's name, for messages.

    Raises:
        ApproversError: A field is unknown or wrong, or a person or key stands twice.
    """
    raw = parse_yaml(text, source, ApproversError)
    document = validated(ApproversFile, raw, source, ApproversError)
    people = {person.name: person for person in document.people}
    return Approvers(document.installation, document.required, people, text)


def read_approvers(address: str) -> Approvers:
    """The approvers file of an address, local or ``gs://``."""
    from cosalign.store.storage import read_uri

    return parse_approvers(read_uri(address).decode("utf-8", "replace"), address)


def allowed_signers(approvers: Approvers, namespaces: dict[Role, str]) -> str:
    """The same people in OpenSSH's form, so that ``ssh-keygen -Y verify`` can check signatures.

    Regions have no place in that form, and are left out.
    """
    lines = []
    for person in approvers.people.values():
        allowed = ",".join(namespaces[role] for role in person.roles)
        for key in person.keys:
            options = [f'namespaces="{allowed}"']
            options += [
                f'{option}="{moment_of(date).astimezone(UTC):%Y%m%d%H%M%S}Z"'
                for option, date in (("valid-after", key.valid_from),
                                     ("valid-before", key.valid_until)) if date
            ]  # fmt: skip
            kind, blob = key.key.split()[:2]
            lines.append(f"{_quoted(person.name)} {','.join(options)} {kind} {blob}")
    return "".join(f"{line}\n" for line in lines)


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
