"""Approvals: what people signed about one change of one config.

A *statement* says which change is meant: the installation, the config's namespace, name and
regions, digests of the terms before and after, its effect, who proposes it, until when it may be
used, and the statement that the version in force rests on. The author signs it, and those who
approve sign the same bytes, under another SSH namespace; so nobody can be made an author or an
approver by what others write, and where the files lie does not matter: in Git beside the config, in
``gs://``, in an annotation or a ConfigMap. Naming the statement before makes them a chain: an
approval is good for one step of one config's history, and not again after that history went on.

::

    NAME.approvals/STATEMENT.json            the statement, canonical JSON
    NAME.approvals/STATEMENT.author.sig      its author's signature
    NAME.approvals/STATEMENT.<key>.sig       an approval, one file a signature, so Git merges them

``STATEMENT`` is the first 16 digits of the statement's SHA-256. A *bundle* is the same in one JSON
text, for an annotation (``cosalign.dev/approvals``) or a ConfigMap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from cosalign.domain.config_change import Effect
from cosalign.domain.errors import DataError, UserError
from cosalign.domain.fingerprint import canonical_json, content_sha256
from cosalign.domain.safety_config import IsoDate
from cosalign.domain.validation import StrictModel, validated
from cosalign.retraining.approvers import Approvers, Role
from cosalign.retraining.ssh_signature import SignatureRefused, key_fingerprint, parse_signature
from cosalign.store.storage import Storage

NAMESPACES: dict[Role, str] = {
    "author": "config-author@cosalign.dev",
    "approver": "config-approval@cosalign.dev",
}
ANNOTATION = "cosalign.dev/approvals"
FOLDER_SUFFIX = ".approvals"
_SHORT = 16
_Digest = Field(pattern=r"^[0-9a-f]{64}$")


class Statement(StrictModel):
    """One change of one config, as it is proposed.

    Attributes:
        form: Version of this document's form.
        installation: The installation it is for, as the approvers file names it.
        namespace: The Kubernetes namespace of the config; ``None`` for one from a folder.
        config: The config's name.
        regions: Its region; before and after where they differ.
        before: Digest of the terms in force; ``None`` where the config is added.
        after: Digest of the terms wanted; ``None`` where the config is removed.
        demands: Digest of what is demanded, which tables and models name; ``None`` on a removal.
        effect: What the author was told that the change does.
        previous: SHA-256 of the statement that the version in force was admitted on; ``None`` for
            a config's first.
        author: Who proposes it.
        issued: When.
        valid_until: Until when it may be admitted.
    """

    form: Literal["cosalign-approval/1"] = "cosalign-approval/1"
    installation: str
    namespace: str | None
    config: str
    regions: tuple[str, ...]
    before: str | None = _Digest
    after: str | None = _Digest
    demands: str | None = _Digest
    effect: Effect
    previous: str | None = _Digest
    author: str
    issued: IsoDate
    valid_until: IsoDate

    def as_bytes(self) -> bytes:
        """The bytes that are signed."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"


@dataclass(frozen=True)
class SignedStatement:
    """A statement with the signatures that lie beside it, none of them believed yet.

    Attributes:
        statement: What was signed.
        digest: SHA-256 of its bytes.
        signatures: Armoured, in any order, of authors and approvers.
    """

    statement: Statement
    digest: str
    signatures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """Whose signatures hold.

    Attributes:
        author: The author, if the statement's author signed it; else ``None``.
        approvers: Everybody else who approved, sorted, each once.
        refused: Why other signatures count for nothing, one line each.
        unknown: Fingerprints of keys that are nobody's.
    """

    author: str | None
    approvers: tuple[str, ...]
    refused: tuple[str, ...]
    unknown: tuple[str, ...]


def verify_signatures(
    signed: SignedStatement, approvers: Approvers, moment: datetime | None
) -> Verified:
    """Checks every signature of a statement.

    Args:
        signed: The statement and its signatures.
        approvers: Who may propose and approve.
        moment: Keys have to be valid then; at any time where ``None``.
    """
    statement = signed.statement
    authors: set[str] = set()
    approved: set[str] = set()
    refused: list[str] = []
    unknown: set[str] = set()
    for text in signed.signatures:
        try:
            name, role = _signer(text, statement, approvers, moment)
        except _UnknownKey as problem:
            unknown.add(str(problem))
        except SignatureRefused as problem:
            refused.append(str(problem))
        else:
            (authors if role == "author" else approved).add(name)
    if statement.author in approved:
        refused.append(f"{statement.author} is the author, and cannot approve too")
    return Verified(
        author=statement.author if statement.author in authors else None,
        approvers=tuple(sorted(approved - {statement.author})),
        refused=tuple(sorted(set(refused))),
        unknown=tuple(sorted(unknown)),
    )


class _UnknownKey(SignatureRefused):
    """A signature by a key that is nobody's."""


def _signer(
    text: str, statement: Statement, approvers: Approvers, moment: datetime | None
) -> tuple[str, Role]:
    signature = parse_signature(text)
    role: Role = "author" if signature.namespace == NAMESPACES["author"] else "approver"
    shown = key_fingerprint(signature.key)
    holder = approvers.holder(signature.key)
    if holder is None:
        raise _UnknownKey(shown)
    person, key = holder
    try:
        signature.check(statement.as_bytes(), NAMESPACES[role])
    except SignatureRefused as problem:
        raise SignatureRefused(f"signature by {person.name} ({shown}): {problem}") from None
    if moment is not None and not key.valid(moment):
        raise SignatureRefused(f"{person.name}'s key {shown} is not valid at this time")
    if not person.may(role, statement.regions):
        where = ", ".join(statement.regions)
        raise SignatureRefused(f"{person.name} is no {role} for region {where}")
    if role == "author" and person.name != statement.author:
        raise SignatureRefused(f"{person.name} signed as author, and the author is another")
    return person.name, role


def parse_statement(data: bytes, source: str) -> SignedStatement:
    """A statement from its bytes, without signatures.

    Raises:
        DataError: It is none, or not written canonically, so that it might be read in two ways.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise DataError(f"{source}: not JSON; propose the change again") from None
    if not isinstance(raw, dict):
        raise DataError(f"{source}: no statement; propose the change again")
    statement = validated(Statement, raw, source, DataError)
    if statement.as_bytes() != data:
        raise DataError(
            f"{source}: not in canonical form; it was edited or reformatted, which no signature "
            "outlives: propose the change again, and keep formatters away from *.approvals"
        )
    return SignedStatement(statement, content_sha256(data))


def read_approvals(storage: Storage, folder: str) -> tuple[SignedStatement, ...]:
    """All statements of an approvals folder with the signatures beside them, sorted by digest.

    Raises:
        DataError: A statement is no statement.
    """
    paths = [stat.path for stat in storage.list(folder)]
    found = []
    for path in paths:
        if path.endswith(".json"):
            signed = parse_statement(storage.read_bytes(path), storage.uri_of(path))
            beside = [p for p in paths if p.startswith(path.removesuffix("json")) and
                      p.endswith(".sig")]  # fmt: skip
            texts = (storage.read_bytes(p).decode("utf-8", "replace") for p in beside)
            found.append(SignedStatement(signed.statement, signed.digest, tuple(texts)))
    return tuple(sorted(found, key=lambda signed: signed.digest))


def statement_stem(digest: str) -> str:
    """The name of a statement's files, without an ending."""
    return digest[:_SHORT]


class _Bundled(StrictModel):
    statement: str
    signatures: tuple[str, ...] = ()


class _Bundle(StrictModel):
    form: Literal["cosalign-approvals/1"]
    statements: tuple[_Bundled, ...]


def parse_bundle(text: str, source: str) -> tuple[SignedStatement, ...]:
    """Statements and signatures from one JSON text, as annotations and ConfigMaps carry them.

    Raises:
        DataError: It is no bundle, or a statement in it is none.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{source}: not JSON; bundle the approvals again") from None
    if not isinstance(raw, dict):
        raise DataError(f"{source}: no bundle of approvals; bundle them again")
    bundle = validated(_Bundle, raw, source, DataError)
    found = []
    for item in bundle.statements:
        signed = parse_statement(item.statement.encode(), source)
        found.append(SignedStatement(signed.statement, signed.digest, item.signatures))
    return tuple(found)


def as_bundle(approvals: Iterable[SignedStatement]) -> str:
    """Statements and their signatures as one line of JSON; see :func:`parse_bundle`."""
    statements = [
        {"statement": s.statement.as_bytes().decode(), "signatures": list(s.signatures)}
        for s in approvals
    ]
    return json.dumps({"form": "cosalign-approvals/1", "statements": statements})


def approvals_of_object(raw: Mapping[str, Any]) -> tuple[SignedStatement, ...]:
    """The approvals that a SafetyConfig carries in its annotation; none where it has none.

    Args:
        raw: The object as the API server or a file has it.

    Raises:
        DataError: The annotation holds no bundle.
    """
    metadata = raw.get("metadata") or {}
    text = (metadata.get("annotations") or {}).get(ANNOTATION)
    return parse_bundle(text, f"{metadata.get('name')}: {ANNOTATION}") if text else ()


def merged(*sources: Iterable[SignedStatement]) -> tuple[SignedStatement, ...]:
    """Approvals of several places as one: signatures of one statement stand together."""
    found: dict[str, SignedStatement] = {}
    for signed in (signed for source in sources for signed in source):
        known = found.get(signed.digest)
        have = known.signatures if known else ()
        both = tuple(dict.fromkeys((*have, *signed.signatures)))
        found[signed.digest] = SignedStatement(signed.statement, signed.digest, both)
    return tuple(found[digest] for digest in sorted(found))


def require_one(approvals: Iterable[SignedStatement], named: str) -> SignedStatement:
    """The statement whose digest begins with some digits.

    Raises:
        UserError: There is none, or more than one.
    """
    found = [signed for signed in approvals if signed.digest.startswith(named)]
    if len(found) != 1:
        raise UserError(f"{len(found)} statements begin with {named!r}; name one by more digits")
    return found[0]
