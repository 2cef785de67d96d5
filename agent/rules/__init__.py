# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair's rules as libnftables JSON. Pure: values in, commands out."""

from agent.rules.compile import compile_flip, compile_pair, compile_table, digest
from agent.rules.nft_json import Commands

__all__ = ["Commands", "compile_flip", "compile_pair", "compile_table", "digest"]
