"""Three services that were written for this: they are put into fresh copies of the template."""

from __future__ import annotations

from workflows.conftest import registry, registry_port

__all__ = ["registry", "registry_port"]

collect_ignore = ["services"]
