# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nodes of a lab are virtual machines, and what each of them boots."""

import base64
from dataclasses import replace

from agent.config import loader
from hafw_lab import programs
from hafw_lab.compose import pair_file
from hafw_lab.errors import LabError
from hafw_lab.kernel.taps import require_taps
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.model.topology import NodeSpec, Topology
from hafw_lab.plan.values import LabPlan, Machine, NodePlan
from hafw_lab.progress import Progress

_MEMORY_MB, _DESKTOP_MB = 512, 1024


def add_machines(
    plan: LabPlan,
    topology: Topology,
    options: LabOptions,
    say: Progress,
    *,
    key: str,
    elsewhere: bool = False,
) -> LabPlan:
    """The plan with the machines that `options` wants; their images are built if they are not there. `key`:
    of the pair. Those that will run `elsewhere` need nothing of this machine to run on. Raises LabError."""
    if not options.machines:
        return plan
    check_machines(topology, options)
    if elsewhere:
        programs.require_programs("exports", programs.OF_EXPORTS)
    else:
        require_means(topology, options)
    # building is the business of labs with machines only
    from hafw_lab.image import store
    from hafw_lab.image.seed import make_seed

    text = pair_file.compose(topology, options)
    pair = loader.parse(text, "the lab's pair file")
    kinds = {name: (release, name in options.desktops) for name, release in options.machines.items()}
    images = {
        kind: store.require_image(kind[0], say, desktop=kind[1]) for kind in sorted(set(kinds.values()))
    }

    def convert(node: NodePlan, spec: NodeSpec) -> NodePlan:
        chosen = images[kinds[node.name]]
        seed = make_seed(spec, topology, options, pair, text, key)
        machine = Machine(
            release=chosen.release,
            kernel=str(chosen.kernel),
            initrd=str(chosen.initrd),
            disk=str(chosen.disk),
            disk_format=chosen.format,
            image_key=chosen.key,
            ssh_key=str(chosen.ssh_key),
            seed=base64.b64encode(seed).decode(),
            append=chosen.append,
            memory_mb=_DESKTOP_MB if chosen.desktop else _MEMORY_MB,
            video=options.desktops.get(node.name, ""),
            remote=(options.remote or "") if chosen.desktop else "",
        )
        # What an init would do in a node made of namespaces is systemd's business here.
        return replace(
            node, machine=machine, files=(), copies=(), binds=(), sysctls=(), setup=(), network=""
        )

    specs = {spec.name: spec for spec in topology.nodes}
    nodes = (convert(one, specs[one.name]) if one.name in options.machines else one for one in plan.nodes)
    return replace(plan, nodes=tuple(nodes))


def require_means(topology: Topology, options: LabOptions) -> None:
    """What this machine has to have, looked for before the minutes that an image takes. Raises LabError."""
    programs.require_programs("machines", programs.OF_MACHINES)
    if options.remote:
        programs.require_programs("screens on the network", programs.OF_REMOTE_SCREENS)
    if any(spec.name not in options.machines for spec in topology.firewalls):
        programs.require_programs("firewalls made of namespaces", programs.OF_NAMESPACES)
    require_taps()


def check_machines(topology: Topology, options: LabOptions) -> None:
    """Raises LabError for what cannot be a machine."""
    names = [spec.name for spec in topology.nodes]
    if options.host in options.machines:
        raise LabError(f"{options.host} is this machine itself", "it cannot be a virtual one as well")
    for name in options.machines:
        if name not in names:
            raise LabError(
                f"there is no node {name!r} that could be a machine", f"the nodes are {', '.join(names)}"
            )
        if len(name) > 32:
            raise LabError(f"{name!r} is too long a name for a machine", "use at most 32 letters")
    for name in options.desktops:
        if name not in options.machines:
            raise LabError(f"{name} has a desktop, so it must be a machine", "name it among the machines")
    firewalls = [spec.name for spec in topology.firewalls if spec.name in options.machines]
    if firewalls and options.agent is not AgentKind.HAFW:
        text = f"{', '.join(firewalls)}: a firewall that is a machine runs hafw, not {options.agent.value}"
        raise LabError(text, "leave --agent out, or --vm")
