"""The pair's rules as libnftables JSON. Pure: values in, commands out."""

from agent.rules.nft import Commands
from agent.rules.table import compile_flip, compile_pair, compile_table, digest

__all__ = ["Commands", "compile_flip", "compile_pair", "compile_table", "digest"]
