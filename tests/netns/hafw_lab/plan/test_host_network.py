# SPDX-License-Identifier: GPL-2.0-or-later
"""The bridges of `hafw-lab render host`, made by the real systemd-networkd in namespaces of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from hafw_lab.model.topology import DEFAULT
from hafw_lab.plan.host_network import DIRECTORY, plan_host

pytestmark = pytest.mark.netns
# networkd waits for udev unless /sys is read-only, as it is in a container
SCRIPT = """
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
cp "$1"/* /run/systemd/network/
chown -R systemd-network:systemd-network /run/systemd/netif
mount -t sysfs -o ro none /sys
setpriv --pdeathsig KILL /lib/systemd/systemd-networkd >/run/log 2>&1 &
networkd=$!
for attempt in $(seq 300); do
    [ "$(ip -o link show type bridge up | wc -l)" = 3 ] && ip -4 -o addr | grep -q "$2" && break
    sleep 0.1
done
ip -j -d addr
ip -j route
kill $networkd
wait $networkd || true
cat /run/log >&2
"""


@pytest.mark.skipif(
    not Path("/lib/systemd/systemd-networkd").exists(), reason="this system has no systemd-networkd"
)
def test_networkd_makes_what_the_lab_has(tmp_path: Path) -> None:
    for file in plan_host(DEFAULT, "omarine", server_route=True):
        if file.path.parent == DIRECTORY:
            (tmp_path / file.path.name).write_text(file.text)
    argv = ["unshare", "--mount", "--net", "--propagation", "private", "bash", "-c", SCRIPT, "bash"]
    done = subprocess.run([*argv, tmp_path, "192.168.0.3"], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    addresses, routes = (json.loads(line) for line in done.stdout.splitlines())
    bridges = {
        one["ifname"]: one for one in addresses if one.get("linkinfo", {}).get("info_kind") == "bridge"
    }
    assert set(bridges) == {"br0", "br1", "br2"}, done.stderr
    for bridge in bridges.values():
        data = bridge["linkinfo"]["info_data"]
        assert (data["stp_state"], data["forward_delay"], data["mcast_snooping"]) == (0, 0, 0)
        assert "UP" in bridge["flags"]
    held = {name: [one["local"] for one in bridge["addr_info"]] for name, bridge in bridges.items()}
    assert held == {"br0": ["192.168.0.3"], "br1": [], "br2": []}
    ways = {route["dst"]: route.get("gateway") for route in routes}
    assert ways == {"192.168.0.0/24": None, "192.168.2.0/24": "192.168.0.100"}, "br1, br2 are in no table"
