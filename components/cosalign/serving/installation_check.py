"""What an installation would answer under: each tenant and region with its config, or not."""

from __future__ import annotations

from cosalign.serving.api_keys import read_pepper
from cosalign.serving.config_registry import ConfigRegistry
from cosalign.serving.config_sources import open_config_source
from cosalign.serving.refusals import Refusal
from cosalign.serving.settings import GatewaySettings
from cosalign.serving.tenants import parse_tenants
from cosalign.store.storage import read_uri


def check_installation(settings: GatewaySettings) -> tuple[list[str], int]:
    """One line for each tenant and region, and how many of them would be refused.

    Raises:
        CosalignError: A file is missing or wrong, or the source of configs cannot be read.
    """
    read_pepper(settings.pepper_file)
    text = read_uri(settings.tenants).decode("utf-8", "replace")
    tenants = parse_tenants(text, settings.tenants)
    source = open_config_source(settings)
    registry = ConfigRegistry(source, settings.configs.max_stale_seconds)
    registry.take(source.read())
    lines, refused = [], 0
    for tenant in tenants.by_name.values():
        for region in tenant.regions:
            try:
                config = registry.find(region, tenant.configs.get(region))
                lines.append(f"{tenant.name} {region}: {config.name} {config.digest}")
            except Refusal as refusal:
                refused += 1
                lines.append(f"{tenant.name} {region}: refused, {refusal.code}")
    return lines, refused
