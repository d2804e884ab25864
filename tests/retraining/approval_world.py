"""People with SSH keys, made and used by OpenSSH itself, and configs for them to allow."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cosalign.domain.config_change import config_change
from cosalign.domain.safety_config import SafetyConfig, parse_safety_config
from cosalign.retraining.approvals import NAMESPACES, SignedStatement, Statement, parse_statement
from cosalign.retraining.approvers import Approvers, Role, parse_approvers
from cosalign.runtime.safety_config_files import known_taxonomies

KNOWN = known_taxonomies()
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def config(form: list[str] | str, name: str = "shop", **spec: Any) -> SafetyConfig:
    """A config of region de."""
    key = "text" if isinstance(form, str) else "allowedRisks"
    plain = {"taxonomy": {"name": "cosa", "version": "1"}, "region": "de", key: form, **spec}
    document = {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": name},
        "spec": plain,
    }
    return parse_safety_config(json.dumps(document), name, KNOWN)


@dataclass
class Keys:
    """Private keys by person, in a folder."""

    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    def public(self, name: str, kind: str = "ed25519") -> str:
        """The public key line of a person, who gets a key if they have none."""
        if name not in self.made:
            path = self.folder / name
            command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            self.made[name] = path
        return self.made[name].with_suffix(".pub").read_text().strip()

    def sign(self, name: str, data: bytes, namespace: str) -> str:
        """A person's signature, by ssh-keygen."""
        self.public(name)
        done = subprocess.run(
            ["ssh-keygen", "-q", "-Y", "sign", "-f", str(self.made[name]), "-n", namespace],
            input=data,
            capture_output=True,
            check=True,
        )
        return done.stdout.decode()


def person(keys: Keys, name: str, **more: Any) -> dict[str, Any]:
    """A person as the approvers file has it."""
    return {"name": name, "regions": ["de"], "keys": [{"key": keys.public(name)}], **more}


def approvers_file(people: list[dict[str, Any]], **more: Any) -> str:
    """An approvers file of the installation prod."""
    plain = {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "Approvers",
        "installation": "prod",
        "people": people,
        **more,
    }
    return json.dumps(plain)


@dataclass
class World:
    """Some people who may act for region de, and their keys."""

    keys: Keys
    approvers: Approvers

    def statement(
        self,
        old: SafetyConfig | None,
        new: SafetyConfig | None,
        author: str = "ada",
        previous: str | None = None,
        **forged: Any,
    ) -> SignedStatement:
        """A statement of a change as an honest tool writes it, but for what is forged."""
        change = config_change(old, new, KNOWN)
        honest = {
            "installation": "prod",
            "namespace": None,
            "config": change.name,
            "regions": list(change.regions),
            "before": change.before,
            "after": change.after,
            "demands": new.digest if new else None,
            "effect": "edits" if change.effect == "same" else change.effect.value,
            "previous": previous,
            "author": author,
            "issued": NOW.isoformat(),
            "valid_until": (NOW + timedelta(days=30)).isoformat(),
        }
        plain = Statement.model_validate_json(json.dumps({**honest, **forged}))
        return parse_statement(plain.as_bytes(), "statement")

    def signed(self, statement: SignedStatement, *by: tuple[str, Role]) -> SignedStatement:
        """The statement with signatures of some people."""
        data = statement.statement.as_bytes()
        made = tuple(self.keys.sign(name, data, NAMESPACES[role]) for name, role in by)
        signatures = (*statement.signatures, *made)
        return SignedStatement(statement.statement, statement.digest, signatures)


def world(folder: Path, **more: dict[str, Any]) -> World:
    """Ada, Bob and Cy; others, and changes to these three, by keyword."""
    keys = Keys(folder)
    people = {name: person(keys, name) for name in ("ada", "bob", "cy")}
    for name, fields in more.items():
        people[name] = {**people.get(name, person(keys, name)), **fields}
    text = approvers_file(list(people.values()))
    return World(keys, parse_approvers(text, "approvers.yaml"))
