# SPDX-License-Identifier: GPL-2.0-or-later
"""Definitions for libvirt: valid by libvirt's own schemas, and the lab's wiring again."""

import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hafw_lab.model.topology import DEFAULT, compute_mac
from hafw_lab.verbs.libvirt import Boot, domain_xml, network_xml

BOOT = Boot(
    Path("/srv/a & b/fw-1.qcow2"), "qcow2", Path("/srv/vmlinuz"), Path("/srv/initrd"), "root=/dev/vda"
)


def validate(text: str, schema: str, directory: Path) -> None:
    file = directory / f"{schema}.xml"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(["/usr/bin/virt-xml-validate", file, schema], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("desktop", [False, True])
@pytest.mark.parametrize("kvm", [False, True])
def test_domains_are_valid(kvm: bool, desktop: bool, tmp_path: Path) -> None:
    for spec in DEFAULT.nodes:
        validate(domain_xml(spec, DEFAULT.segments, BOOT, kvm=kvm, desktop=desktop), "domain", tmp_path)


def test_networks_are_valid_and_leave_the_bridge_to_the_host(tmp_path: Path) -> None:
    for segment in DEFAULT.segments:
        text = network_xml(segment)
        validate(text, "network", tmp_path)
        forward = ET.fromstring(text).find("forward")
        assert forward is not None
        assert forward.get("mode") == "bridge"


def test_a_firewall_has_its_three_networks_in_order_and_the_labs_addresses() -> None:
    spec = DEFAULT.node("fw-1")
    assert spec is not None
    top = ET.fromstring(domain_xml(spec, DEFAULT.segments, BOOT, kvm=True, desktop=True))
    assert [one.get("network") for one in top.iterfind("devices/interface/source")] == [
        f"hafw-{link.segment}" for link in spec.links
    ]
    assert [one.get("address") for one in top.iterfind("devices/interface/mac")] == [
        compute_mac("fw-1", link.name) for link in spec.links
    ]
    assert len(top.findall("devices/redirdev")) == 3
    listen = top.find("devices/graphics/listen")
    assert listen is not None
    assert listen.get("address") == "127.0.0.1"
