# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair's rules. Pure: values in, commands out."""
