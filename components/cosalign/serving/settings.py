"""The gateway's settings: one YAML file, checked whole before anything listens.

Tenants, keys and limits live in a file of their own (:mod:`cosalign.serving.tenants`): they change
daily and are re-read while the gateway runs, whereas what stands here is read once.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from cosalign.domain.errors import ConfigError
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml
from cosalign.inference.served_model import is_served, parse_served
from cosalign.store.storage import read_uri


class ConfigsGroup(StrictModel):
    """Where accepted safety configs come from.

    ``kind: accepted`` reads the set that the reconciler publishes in storage (the default);
    ``kind: kubernetes`` the same, less those whose SafetyConfig is gone from a namespace, so that a
    deletion counts at once; ``kind: files`` files and folders that the operator trusts as they
    stand.

    Attributes:
        kind: Which of the three.
        name: The accepted set's name.
        addresses: Files and folders, local or ``gs://``.
        namespace: Of the objects; the gateway's own where null.
        taxonomies: Files of taxonomies beside the shipped ones.
        refresh_seconds: How often the source is looked at.
        max_stale_seconds: How long the last good state is used where the source cannot be read.
    """

    kind: Literal["accepted", "kubernetes", "files"] = "accepted"
    name: str = "main"
    addresses: tuple[str, ...] = ()
    namespace: str | None = None
    taxonomies: tuple[str, ...] = ()
    refresh_seconds: float = Field(default=10.0, gt=0, le=60)
    max_stale_seconds: float = Field(default=300.0, gt=0)

    @model_validator(mode="after")
    def _has_addresses(self) -> Self:
        if (self.kind == "files") != bool(self.addresses):
            raise ValueError("addresses belong to kind files, which needs at least one")
        return self


class ModelGroup(StrictModel):
    """Which model answers.

    Without ``uri`` the storage's ``current`` pointer says so, and is followed. With it, that model
    is served, whatever was promoted: its address, and the name that the upstream lists it under
    (its digest where null).

    Attributes:
        pointer: The pointer's name (``gate.model`` of run configs).
        uri: A model's address; ``served:NAME?tokenizer=ADDRESS`` for one whose weights are
            elsewhere.
        served_name: What the upstream calls it.
        refresh_seconds: How often the pointer is looked at.
    """

    pointer: str = "main"
    uri: str | None = None
    served_name: str | None = None
    refresh_seconds: float = Field(default=10.0, gt=0, le=60)

    @field_validator("uri")
    @classmethod
    def _has_a_tokenizer(cls, value: str | None) -> str | None:
        if value is not None and is_served(value) and not parse_served(value).tokenizer:
            raise ValueError(
                f"no tokenizer is known of {value}, so its prompts can be neither counted nor "
                "searched for control tokens; add ?tokenizer=ADDRESS, a folder, hub id or gs:// "
                "with the model's tokenizer and chat template"
            )
        return value


class UpstreamsGroup(StrictModel):
    """The model servers.

    Attributes:
        urls: Base addresses up to and without ``/v1``.
        every_address: Whether a host name stands for all addresses that it resolves to (a headless
            Service), each a server of its own.
        prompt: How the config and the conversation are sent. ``tokens``: as token ids, made here
            with the model's tokenizer. ``template``: as messages and the chat template's argument.
            ``system``: as messages under a system message.
        api_key_file: File with a bearer token for the servers.
        probe_seconds: How often each is asked what it serves.
        connect_seconds: Longest wait for a connection.
        idle_seconds: Longest wait for the next piece of a stream, the first included.
        total_seconds: Longest answer, a whole one or all of a stream.
    """

    urls: tuple[str, ...] = ()
    every_address: bool = False
    prompt: Literal["tokens", "template", "system"] = "tokens"
    api_key_file: str | None = None
    probe_seconds: float = Field(default=2.0, gt=0)
    connect_seconds: float = Field(default=2.0, gt=0)
    idle_seconds: float = Field(default=120.0, gt=0)
    total_seconds: float = Field(default=600.0, gt=0)


class AuditGroup(StrictModel):
    """Audit rows.

    Attributes:
        address: Where; ``audit/serving`` below the storage root where null.
        seconds: How often rows are written, so how much a crash may lose.
        held_rows: Rows held in memory where the storage takes none.
        required: Whether requests are refused once that many rows wait.
    """

    address: str | None = None
    seconds: float = Field(default=5.0, gt=0)
    held_rows: int = Field(default=50_000, ge=1)
    required: bool = False


class ListenGroup(StrictModel):
    """Where the gateway listens; health and metrics have a port of their own.

    Attributes:
        host: Address of both.
        port: Of the API.
        admin_port: Of ``/healthz``, ``/readyz`` and ``/metrics``.
        drain_seconds: How long a stopping gateway still takes requests, until all have noticed.
        in_flight: Requests at a time, all tenants together.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    admin_port: int = Field(default=9090, ge=0, le=65535)
    drain_seconds: float = Field(default=5.0, ge=0)
    in_flight: int = Field(default=1024, ge=1)


class GatewaySettings(StrictModel):
    """All of them.

    Attributes:
        model_name: The one model name that callers see and use.
        storage: The storage root: pointer, accepted set, audit rows.
        tenants: Address of the tenants' file.
        pepper_file: File with the secret under which API keys are hashed.
        cache: Folder for tokenizers that were fetched.
        leak_guard_characters: An answer that repeats this many letters and digits of its config in
            a row is ended (``content_filter``); 0 for never.
    """

    model_name: str = Field(default="cosalign", min_length=1, max_length=128)
    storage: str
    tenants: str
    pepper_file: str
    listen: ListenGroup = ListenGroup()
    configs: ConfigsGroup = ConfigsGroup()
    model: ModelGroup = ModelGroup()
    upstreams: UpstreamsGroup = UpstreamsGroup()
    audit: AuditGroup = AuditGroup()
    cache: str = "~/.cache/cosalign"
    leak_guard_characters: int = Field(default=48, ge=0)


def read_gateway_settings(address: str) -> GatewaySettings:
    """The settings in a file.

    Raises:
        ConfigError: A setting is unknown, missing or wrong.
        DataError: There is no such file.
    """
    raw = parse_yaml(read_uri(address).decode("utf-8", "replace"), address, ConfigError)
    settings = validated(GatewaySettings, raw, address, ConfigError)
    if not settings.upstreams.urls:
        raise ConfigError(f"{address}: upstreams.urls: name at least one model server")
    return settings
