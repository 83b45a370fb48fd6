"""All that is known of single ops: one registry, one file for each op family."""

from graphprune.rules.registry import OpRule, Registry, op_rule, registry

__all__ = ["OpRule", "Registry", "op_rule", "registry"]
