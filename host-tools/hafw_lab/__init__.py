# SPDX-License-Identifier: GPL-2.0-or-later
"""hafw-lab: a whole firewall pair, its client and its server on one machine, out of namespaces."""
