# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's machines and bridges as libvirt's XML, for a pair that moves to libvirt or another hypervisor.
Pure.

Element trees, never pasted text. The devices are those of the lab's own machines, with a SPICE screen, the
agent's channels and three USB redirections.

Hard facts
* A domain whose kernel and initrd are given boots without a boot loader, as in the lab; they can be left out
  for a disk with one of its own.
* libvirt wants to own the bridges of its networks; ours belong to systemd-networkd, so the networks only
  name them (`forward mode='bridge'`).
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hafw_lab.model.topology import Link, NodeSpec, Segment, compute_mac

_REDIRECTIONS = 3
_MEMORY_MIB = 512
_DESKTOP_MIB = 1024


@dataclass(frozen=True, slots=True)
class Boot:
    """What a domain boots from; paths on the machine that will run it."""

    disk: Path
    disk_format: str = "qcow2"
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""


def network_name(segment: Segment) -> str:
    return f"hafw-{segment.name}"


def network_xml(segment: Segment) -> str:
    top = ET.Element("network")
    ET.SubElement(top, "name").text = network_name(segment)
    ET.SubElement(top, "forward", mode="bridge")
    ET.SubElement(top, "bridge", name=segment.name)
    return _text(top)


def domain_xml(spec: NodeSpec, segments: Sequence[Segment], boot: Boot, *, kvm: bool, desktop: bool) -> str:
    top = ET.Element("domain", type="kvm" if kvm else "qemu")
    ET.SubElement(top, "name").text = spec.name
    ET.SubElement(top, "memory", unit="MiB").text = str(_DESKTOP_MIB if desktop else _MEMORY_MIB)
    ET.SubElement(top, "vcpu").text = "1"
    _add_os(top, boot)
    features = ET.SubElement(top, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(top, "cpu", mode="host-passthrough" if kvm else "maximum")
    ET.SubElement(top, "clock", offset="utc")
    devices = ET.SubElement(top, "devices")
    _add_disk(devices, boot)
    for link in spec.links:
        _add_interface(devices, spec, link, segments)
    _add_channels(devices, desktop=desktop)
    if desktop:
        _add_screen(devices)
    return _text(top)


def _add_os(top: ET.Element, boot: Boot) -> None:
    system = ET.SubElement(top, "os")
    ET.SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    if boot.kernel is not None and boot.initrd is not None:
        ET.SubElement(system, "kernel").text = str(boot.kernel)
        ET.SubElement(system, "initrd").text = str(boot.initrd)
        ET.SubElement(system, "cmdline").text = boot.append


def _add_disk(devices: ET.Element, boot: Boot) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=boot.disk_format)
    ET.SubElement(disk, "source", file=str(boot.disk))
    ET.SubElement(disk, "target", dev="vda", bus="virtio")


def _add_interface(devices: ET.Element, spec: NodeSpec, link: Link, segments: Sequence[Segment]) -> None:
    segment = next(one for one in segments if one.name == link.segment)
    interface = ET.SubElement(devices, "interface", type="network")
    ET.SubElement(interface, "mac", address=compute_mac(spec.name, link.name))
    ET.SubElement(interface, "source", network=network_name(segment))
    ET.SubElement(interface, "model", type="virtio")


def _add_channels(devices: ET.Element, *, desktop: bool) -> None:
    ET.SubElement(ET.SubElement(devices, "serial", type="pty"), "target", type="isa-serial")
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    if desktop:
        channel = ET.SubElement(devices, "channel", type="spicevmc")
        ET.SubElement(channel, "target", type="virtio", name="com.redhat.spice.0")
    rng = ET.SubElement(devices, "rng", model="virtio")
    ET.SubElement(rng, "backend", model="random").text = "/dev/urandom"


def _add_screen(devices: ET.Element) -> None:
    ET.SubElement(devices, "controller", type="usb", model="qemu-xhci")
    ET.SubElement(devices, "input", type="tablet", bus="usb")
    graphics = ET.SubElement(devices, "graphics", type="spice", autoport="yes")
    # without an address of its own libvirt listens on this machine only
    ET.SubElement(graphics, "listen", type="address", address="127.0.0.1")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="qxl", ram="65536", vram="65536", vgamem="32768", heads="1")
    for _ in range(_REDIRECTIONS):
        ET.SubElement(devices, "redirdev", bus="usb", type="spicevmc")


def _text(top: ET.Element) -> str:
    ET.indent(top)
    return ET.tostring(top, encoding="unicode") + "\n"
