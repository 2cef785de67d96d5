"""hafw-lab: a whole firewall pair, its client and its server on one machine, out of namespaces."""
