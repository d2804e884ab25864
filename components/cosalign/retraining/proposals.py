"""Proposing and approving a change: what people do on their own machines, before Git sees it.

What is signed is computed anew on each machine from the two versions of the config, never taken
from a file that somebody sent: whoever approves sees what the change does by their own reading, and
a statement that says otherwise is refused before it is signed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cosalign.domain.config_change import ConfigChange, Effect, terms_digest
from cosalign.domain.errors import UserError
from cosalign.domain.safety_config import SafetyConfig, moment_of
from cosalign.retraining.approvals import (
    FOLDER_SUFFIX,
    NAMESPACES,
    SignedStatement,
    Statement,
    parse_statement,
    statement_stem,
)
from cosalign.retraining.approvers import Approvers, Role
from cosalign.retraining.ssh_signature import SignatureRefused, key_fingerprint, parse_signature
from cosalign.store.storage import Storage

VALID_FOR = timedelta(days=30)


@dataclass(frozen=True)
class ApprovalsFolder:
    """Where a config's statements and signatures lie.

    Attributes:
        storage: The folder that the config's file lies in.
        path: ``NAME.approvals``.
    """

    storage: Storage
    path: str

    @classmethod
    def beside(cls, storage: Storage, name: str) -> ApprovalsFolder:
        """The folder of a config's name."""
        return cls(storage, f"{name}{FOLDER_SUFFIX}")

    def keep(self, proposed: SignedStatement) -> str:
        """Writes a statement and gives its address; signatures that lie there stay."""
        path = f"{self.path}/{statement_stem(proposed.digest)}.json"
        self.storage.write_bytes(path, proposed.statement.as_bytes())
        return self.storage.uri_of(path)

    def sign(self, proposed: SignedStatement, role: Role, key: Path) -> str:
        """Adds a signature with somebody's key and gives its address.

        Raises:
            UserError: ssh-keygen is not there, or could not sign.
        """
        text = ssh_sign(proposed.statement.as_bytes(), NAMESPACES[role], key)
        signer = key_fingerprint(parse_signature(text).key).removeprefix("SHA256:")
        safe = "".join(c for c in signer if c.isalnum())[:12]
        path = f"{self.path}/{statement_stem(proposed.digest)}.{role}-{safe}.sig"
        self.storage.write_bytes(path, text.encode())
        return self.storage.uri_of(path)


def propose(
    change: ConfigChange,
    new: SafetyConfig | None,
    approvers: Approvers,
    author: str,
    previous: str | None,
    namespace: str | None,
    moment: datetime,
) -> SignedStatement:
    """The statement of a change, not signed yet.

    It may be used for 30 days, and for as long after the config takes effect.

    Raises:
        UserError: Nothing changes, or the author may not propose for these regions.
    """
    if change.effect is Effect.SAME:
        raise UserError(f"{change.name}: nothing changes that would have to be approved")
    person = approvers.people.get(author)
    if person is None or not person.may("author", change.regions):
        raise UserError(
            f"{author!r} may not propose changes for {', '.join(change.regions)}, by the approvers "
            "file; name another author, or ask the platform team"
        )
    begin = new.spec.effective_from if new is not None else None
    used_from = max(moment, moment_of(begin)) if begin else moment
    statement = Statement(
        installation=approvers.installation, namespace=namespace, config=change.name,
        regions=change.regions, before=change.before, after=change.after,
        demands=None if new is None else new.digest, effect=change.effect,
        previous=previous, author=author, issued=moment.isoformat(timespec="seconds"),
        valid_until=(used_from + VALID_FOR).isoformat(timespec="seconds"),
    )  # fmt: skip
    return parse_statement(statement.as_bytes(), change.name)


def statement_of(
    change: ConfigChange,
    approvals: Sequence[SignedStatement],
    installation: str,
    previous: str | None,
) -> SignedStatement:
    """The statement among some that is about a change as it is seen here.

    Args:
        change: The change.
        approvals: All statements at hand.
        installation: The installation that it has to be meant for.
        previous: The statement that it has to build on.

    Raises:
        UserError: None or several are, or the one says less than the change does.
    """
    found = [
        signed
        for signed in approvals
        if (s := signed.statement).config == change.name
        and (s.before, s.after, s.regions) == (change.before, change.after, change.regions)
        and (s.installation, s.previous) == (installation, previous)
    ]
    if len(found) != 1:
        raise UserError(
            f"{change.name}: {len(found) or 'no'} statements propose this change; see cosalign "
            "config propose, or take away those that are out of date"
        )
    statement = found[0].statement
    if statement.effect.approvals < change.approvals:
        raise UserError(
            f"{change.name}: {statement.author} proposes it as a change that {statement.effect}, "
            f"and it {change.effect.value}; do not sign, have it proposed anew"
        )
    return found[0]


def last_statement(
    old: SafetyConfig | None, new: SafetyConfig, approvals: Sequence[SignedStatement]
) -> str | None:
    """The statement that a step has to name, by the statements that lie beside the config.

    It is the one that leads to the old version, and the last one where the history came back to
    it. Of a config that is added it is the last one of all, from before it was removed.

    Raises:
        UserError: Several might be it.
    """
    terms, wanted = None if old is None else terms_digest(old), terms_digest(new)
    pending = {s.digest for s in approvals if _is_step(s.statement, terms, wanted)}
    leading = {s.digest for s in approvals if old is None or s.statement.after == terms} - pending
    previous = {s.digest: s.statement.previous for s in approvals}
    found = sorted(leading - {d for digest in leading for d in _ancestors(digest, previous)})
    if len(found) > 1:
        shown = ", ".join(digest[:12] for digest in found)
        raise UserError(
            f"the version in force may rest on any of {shown}; name one with --previous, or the "
            "storage root that keeps what is accepted with --root"
        )
    return found[0] if found else None


def _is_step(statement: Statement, before: str | None, after: str) -> bool:
    return (statement.before, statement.after) == (before, after)


def _ancestors(digest: str, previous: Mapping[str, str | None]) -> Iterator[str]:
    # A digest cannot stand in what it is the digest of, so this ends.
    before = previous.get(digest)
    while before is not None:
        yield before
        before = previous.get(before)


def ssh_sign(data: bytes, namespace: str, key: Path) -> str:
    """A signature by ``ssh-keygen``, with a key file, an agent's key or one on hardware.

    Args:
        data: What is signed.
        namespace: As what kind of thing.
        key: The private key's file, or the public one's of a key in an agent.

    Raises:
        UserError: ssh-keygen is not there, or could not sign.
    """
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key.expanduser()), "-n", namespace]
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise UserError(
            "ssh-keygen is not installed; install the OpenSSH client, 8.1 or later"
        ) from None
    text = done.stdout.decode("utf-8", "replace")
    try:
        parse_signature(text)
    except SignatureRefused:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UserError(f"{key}: ssh-keygen could not sign: {said[-1] if said else ''}") from None
    return text
