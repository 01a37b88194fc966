"""Execution providers by name; each is imported only when a variant asks for it."""

PROVIDERS = {"cpu": "hearthd.engine.providers.cpu:CpuProvider"}
