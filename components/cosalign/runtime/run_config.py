"""Loads the run config: a profile, overrides, one validated and resolved result.

``--profile`` names a shipped profile or a file; ``--set group.key=value`` overrides single values,
which are read as YAML. The resolved config, every default filled in and local paths absolute, is
what steps read, under its digest, so that a step can never run under another config than its run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cosalign.domain.errors import ConfigError, nearest
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.run_config import RunConfig
from cosalign.domain.run_config.judging import GUARD
from cosalign.domain.validation import validated
from cosalign.domain.yaml_text import dump_yaml, parse_yaml, yaml_value
from cosalign.store.storage import read_uri

STORED_CONFIGS = "configs"
"""Where configs of submitted runs lie below a storage root: all that a submitter writes there."""

_PATH_LISTS = (
    ("taxonomy", "files"),
    ("prompts", "files"),
    ("prompts", "held_out_files"),
    ("configs", "files"),
)
_PATHS = (
    ("storage", "root"),
    ("judging", "examples"),
    ("judging", "canary_file"),
    ("scoring", "calibration"),
    ("evaluation", "benchmark"),
)
_MODELS = (("models", "base"), ("models", "judge"), ("judging", "embedder"))


def shipped_profiles() -> dict[str, str]:
    """Names and texts of the profiles that ship with the package."""
    packaged = resources.files("cosalign.runtime") / "profiles"
    checkout = Path(__file__).parents[3] / "profiles"
    folder = packaged if packaged.is_dir() else checkout
    files = [item for item in folder.iterdir() if item.name.endswith(".yaml")]
    return {item.name.removesuffix(".yaml"): item.read_text("utf-8") for item in files}


def load_run_config(profile: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The resolved run config of a profile and its overrides.

    Args:
        profile: A shipped profile's name, or a file.
        overrides: ``group.key=value`` each; the value is YAML.

    Raises:
        ConfigError: A profile, field or value is unknown or wrong; the message names it.
    """
    text, source = _profile_text(profile)
    raw = parse_yaml(text, source, ConfigError)
    for override in overrides:
        _set(raw, override)
    return _resolved(validated(RunConfig, raw, source, ConfigError))


def dump_run_config(config: RunConfig) -> str:
    """The config as YAML text, every default filled in."""
    return dump_yaml(config.plain())


def run_config_digest(config: RunConfig) -> str:
    """SHA-256 of the dumped config."""
    return content_sha256(dump_run_config(config).encode())


def stored_config_path(digest: str) -> str:
    """Where a submitted run's config lies below the storage root, by its SHA-256."""
    return f"{STORED_CONFIGS}/{digest}.yaml"


def read_run_config(uri: str, digest: str | None) -> RunConfig:
    """Reads a resolved config.

    Args:
        uri: Local path, ``file://`` or ``gs://``.
        digest: What the file's SHA-256 must be; unchecked where ``None``.

    Raises:
        ConfigError: It is wrong, or another one than the digest names.
    """
    data = read_uri(uri)
    if digest is not None and content_sha256(data) != digest:
        raise ConfigError(
            f"{uri}: its SHA-256 is {content_sha256(data)[:12]}, the run was started with "
            f"{digest[:12]}; a run's config must not change, start a new run"
        )
    raw = parse_yaml(data.decode("utf-8", "replace"), uri, ConfigError)
    return validated(RunConfig, raw, uri, ConfigError)


def _profile_text(profile: str) -> tuple[str, str]:
    path = Path(profile).expanduser()
    if path.is_file():
        return path.read_text("utf-8", "replace"), profile
    profiles = shipped_profiles()
    if profile not in profiles:
        raise ConfigError(
            f"--profile {profile!r} is neither a file nor a shipped profile"
            f"{nearest(profile, profiles)}"
        )
    return profiles[profile], f"profile {profile}"


def _set(raw: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: write group.key=value")
    node: Any = raw
    for key in keys[:-1]:
        node = _child(node, key, override)
    parsed = _override_value(value, override)
    if isinstance(node, list):
        node[_index(node, keys[-1], override)] = parsed
    else:
        node[keys[-1]] = parsed


def _override_value(value: str, override: str) -> Any:
    try:
        return yaml_value(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: the value is not YAML; put it in quotes") from None


def _child(node: Any, key: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, override)]
    child = node.setdefault(key, {})
    if child is None:
        child = node[key] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set {override!r}: {key!r} holds a value, not a group")
    return child


def _index(node: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise ConfigError(f"--set {override!r}: {key!r} is no index into {len(node)} entries")
    return int(key)


def _resolved(config: RunConfig) -> RunConfig:
    raw = config.plain()
    for group, key in _PATHS:
        raw[group][key] = _absolute(raw[group][key])
    for group, key in _PATH_LISTS:
        raw[group][key] = [_absolute(value) for value in raw[group][key]]
    for group, key in _MODELS:
        raw[group][key] = _model_address(raw[group][key])
    for source in raw["prompts"]["sources"]:
        source["files"] = [_absolute(value) for value in source["files"]]
        source["mirror"] = _absolute(source["mirror"])
    judging = raw["judging"]
    judging["mode"] = _judge_mode(judging["mode"])
    if judging["second"]:
        judging["second"]["mode"] = _judge_mode(judging["second"]["mode"])
        judging["second"]["model"] = _model_address(judging["second"]["model"])
    for generator in raw["synthesis"]["generators"]:
        generator["model"] = _model_address(generator["model"])
        generator["replies"] = _absolute(generator["replies"])
    _resolve_suites(raw["evaluation"])
    _resolve_systems(raw["evaluation"]["systems"])
    if raw["increment"]:
        increment = raw["increment"]
        increment["previous"] = _absolute(increment["previous"])
        increment["model"] = _model_address(increment["model"])
    return validated(RunConfig, raw, "run config", ConfigError)


def _resolve_systems(systems: list[Any]) -> None:
    for system in systems:
        # A plain word names a model of the run's own, or a served one.
        if isinstance(system, dict):
            system["model"] = _model_address(system["model"])
            if system["filter"]:
                system["filter"]["model"] = _model_address(system["filter"]["model"])


def _resolve_suites(evaluation: dict[str, Any]) -> None:
    for suite in (*evaluation["benchmarks"], *evaluation["refusals"]):
        suite["file"], suite["mirror"] = _absolute(suite["file"]), _absolute(suite["mirror"])
    if evaluation["attacks"]:
        evaluation["attacks"]["file"] = _absolute(evaluation["attacks"]["file"])
    if evaluation["general"]:
        general = evaluation["general"]
        general["include"] = [_absolute(folder) for folder in general["include"]]


def _absolute(value: str | None) -> str | None:
    if not value or "://" in value:
        return value
    return str(Path(value).expanduser().absolute())


def _judge_mode(value: str) -> str:
    """A guard's own file, ``guard:FILE.yaml``, is a path too."""
    if value.startswith(GUARD) and value.endswith(".yaml"):
        return f"{GUARD}{_absolute(value.removeprefix(GUARD))}"
    return value


def _model_address(value: str | None) -> str | None:
    """A folder's address becomes absolute; a hub id, which is no folder here, stays."""
    address, *pin = (value or "").partition("@sha256:")
    if address and Path(address).expanduser().is_dir():
        return f"{_absolute(address)}{''.join(pin)}"
    return value
