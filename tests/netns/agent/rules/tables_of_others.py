# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of other programs, as these make them: their names, hooks and ways of writing."""

THEIRS = {
    "docker": """
table ip docker-bridges {
    map filter-forward-in-jumps {
        type ifname : verdict
        elements = { "docker0" : jump filter-forward-in__docker0 }
    }
    chain filter-FORWARD {
        type filter hook forward priority filter
        policy accept
        oifname vmap @filter-forward-in-jumps
    }
    chain filter-forward-in__docker0 {
        ct state established,related counter accept
        counter drop comment "UNPUBLISHED PORT DROP"
    }
    chain nat-POSTROUTING {
        type nat hook postrouting priority srcnat
        policy accept
        oifname != "docker0" ip saddr 172.17.0.0/16 counter masquerade comment "MASQUERADE"
    }
}
""",
    "libvirt": """
table ip libvirt_network {
    chain forward {
        type filter hook forward priority filter
        policy accept
        counter jump guest_cross
    }
    chain guest_cross {
        iifname "lo" counter accept
    }
}
""",
    "firewalld": """
table inet firewalld {
    chain mangle_PREROUTING {
        type filter hook prerouting priority mangle + 10
        policy accept
        jump mangle_PREROUTING_ZONES
    }
    chain mangle_PREROUTING_ZONES {
        iifname "eth9" goto mangle_PRE_public
        goto mangle_PRE_public
    }
    chain mangle_PRE_public {
    }
}
""",
}
