"""Prometheus metrics: who was answered under which config, what it added, what was refused.

Labels are tenants, regions, digests and codes, all of them from files that the operator writes;
nothing that a stranger can choose becomes a label.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_ADDED = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.5, 1.0)
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
UNKNOWN = "unknown"
DIGEST_CHARACTERS = 12


class GatewayMetrics:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by = ["tenant", "config"]
        self.requests = Counter(
            "cosalign_gateway_requests", "Requests by what came of them; code is ok for an answer",
            [*by, "code"], registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "cosalign_gateway_tokens", "Tokens of prompts (config included) and of answers",
            [*by, "kind"], registry=self.registry,
        )  # fmt: skip
        self.added = Histogram(
            "cosalign_gateway_added_seconds", "Time of a request that the gateway spent itself",
            by, registry=self.registry, buckets=_ADDED,
        )  # fmt: skip
        self.first_token = Histogram(
            "cosalign_gateway_upstream_first_byte_seconds",
            "From sending a request to the model server until its answer began",
            registry=self.registry, buckets=_WAITS,
        )  # fmt: skip
        self.in_flight = Gauge(
            "cosalign_gateway_in_flight", "Requests being answered", registry=self.registry
        )
        self.config_age = Gauge(
            "cosalign_gateway_config_age_seconds", "Since the source of configs was last read",
            registry=self.registry,
        )  # fmt: skip
        self.audit_waiting = Gauge(
            "cosalign_gateway_audit_rows_waiting", "Audit rows not stored yet",
            registry=self.registry,
        )  # fmt: skip
        self.audit_lost = Gauge(
            "cosalign_gateway_audit_rows_lost", "Audit rows let go", registry=self.registry
        )
        self.model = Gauge(
            "cosalign_gateway_model", "1 for the model that new requests go to",
            ["digest"], registry=self.registry,
        )  # fmt: skip

    def exposition(self) -> bytes:
        """All of them in Prometheus' text form."""
        return generate_latest(self.registry)


def short(digest: str) -> str:
    """A digest as labels show it."""
    return digest[:DIGEST_CHARACTERS]
