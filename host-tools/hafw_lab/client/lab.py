# SPDX-License-Identifier: GPL-2.0-or-later
"""A running lab: what scenarios, tests and the command line work with.

    with Lab.start(LabOptions(), progress=print) as lab:
        lab.node("client").run(["ping", "-c1", "192.168.0.3"])
        lab.fail(lab.wait_primary(None, 5), POWER)

It ends with the block, and with the process that started it, however that ends.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.adapters.openssl import make_pair_key
from hafw_lab import wire
from hafw_lab.client import machine_node
from hafw_lab.client.connection import Client, SupervisorProcess
from hafw_lab.client.host_node import HostNode
from hafw_lab.client.machine_node import MACHINE_PATIENCE, MachineNode
from hafw_lab.client.namespace_node import NamespaceNode
from hafw_lab.client.node import Node
from hafw_lab.compose import lab, machines
from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.model.fault import POWER, Fault, FaultKind
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.model.topology import DEFAULT, Topology
from hafw_lab.progress import Progress
from hafw_lab.terminal import clean_values

__all__ = ["POWER", "AgentKind", "Fault", "FaultKind", "Lab", "LabOptions", "LabStatus", "NodeStatus"]

_ASK_AGAIN_S = 0.05
"""An agent has no notice for "my role has changed", so it is asked."""
_AGENT_TIMEOUT_S = 5.0
_BOOT_TIMEOUT_S = 1800.0
"""Longer than the supervisor itself waits for a machine; it says what is wrong."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    running: bool
    pid: int | None
    """As numbered inside the node."""
    exit_status: int | None
    """Of its last run that ended; negative for a signal."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    name: str
    firewall: bool
    alive: bool
    vips: tuple[str, ...]
    links: Mapping[str, bool]
    services: Mapping[str, ServiceStatus]
    conntrack: int | None
    refused_sysctls: tuple[str, ...]
    logs: tuple[str, ...]
    agent: Mapping[str, Any] | None
    """What `hafw status --json` says, if it answers. With the key `error` it says why there is no status."""
    machine: Mapping[str, Any] | None = None
    """Of a virtual machine: its release, what it runs on, whether it can be reached or is paused, and a
    script that starts it by hand."""
    host: bool = False
    """It is this machine itself."""


@dataclass(frozen=True, slots=True)
class LabStatus:
    name: str
    primary: str | None
    options: Mapping[str, Any]
    nodes: tuple[NodeStatus, ...]
    starting: str | None = None
    """How far a lab is that is not up yet."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def node(self, name: str) -> NodeStatus:
        return next(node for node in self.nodes if node.name == name)


class Lab:
    def __init__(self, client: Client) -> None:
        self._client = client
        info = client.ask("info")
        self.privileged = os.geteuid() == 0
        self.name: str = info["name"]
        self.options: Mapping[str, Any] = info["about"]
        """As LabOptions.to_json() gives them."""
        self.firewalls: tuple[str, ...] = tuple(info["firewalls"])
        self.nodes: tuple[str, ...] = tuple(info["nodes"])
        self.vips: tuple[str, ...] = tuple(info["vips"])
        self.supervisor_pid: int = info["pid"]
        self.machines: Mapping[str, str] = info["machines"]
        """The nodes that are virtual machines, and the release of each."""
        self.host: str | None = self.options["host"]
        """The node that is this machine itself, if any."""
        self._home: str = info["home"]
        self.directory = Path(info["directory"]) if info["directory"] else None
        """Of the machines, if there are any."""
        self.patience = MACHINE_PATIENCE if self.machines else 1
        """How much longer than in a lab without machines whatever happens here may take."""

    @staticmethod
    @contextlib.contextmanager
    def start(
        options: LabOptions,
        topology: Topology = DEFAULT,
        *,
        progress: Progress = lambda _: None,
        name: str = "lab",
    ) -> Iterator["Lab"]:
        """A lab for the length of the block: up, with a primary, when the block begins. Raises LabError."""
        key = make_pair_key()
        plan = lab.plan_lab(name, topology, options, privileged=os.geteuid() == 0, key=key)
        plan = machines.add_machines(plan, topology, options, progress, key=key)
        process = SupervisorProcess(plan)
        try:
            client = process.wait_ready(progress)
            yield Lab(client)
        finally:
            process.end()

    def node(self, name: str) -> Node:
        """Raises LabError for a name that is not in the topology."""
        if name == self.host:
            return HostNode(self._client, name, self._home)
        return self.machine(name) if name in self.machines else self.namespaces(name)

    def namespaces(self, name: str) -> NamespaceNode:
        """The same, for what only nodes made of namespaces can do. Raises LabError."""
        if name not in self.nodes:
            raise LabError(f"there is no node {name!r}", f"the nodes are {', '.join(self.nodes)}")
        if name in self.machines or name == self.host:
            what = "this machine itself" if name == self.host else "a virtual machine"
            raise LabError(f"{name} is {what}", "only a node made of namespaces can do this")
        return NamespaceNode(self._client, name, privileged=self.privileged)

    def machine(self, name: str) -> MachineNode:
        """The same, for what only virtual machines can do. Raises LabError."""
        if name not in self.machines or self.directory is None:
            raise LabError(f"{name} is not a virtual machine", f"hafw-lab up --vm {name} makes it one")
        return MachineNode(self._client, name, self.directory / name)

    def down(self) -> None:
        """End the lab, also one that `hafw-lab up` left running. Returns when its supervisor is gone."""
        self._client.ask("down")
        if not self._client.ended.wait(20):
            raise LabError(
                "the lab's supervisor does not end", f"kill -9 {self.supervisor_pid} ends everything"
            )

    @property
    def ended(self) -> bool:
        """Whether it is gone, for any reason."""
        return self._client.ended.is_set()

    def save(self, directory: Path) -> Mapping[str, Any]:
        """Write all machines, as they are at one moment, into a directory; they continue. Returns the plan
        and what they run on. Raises LabError."""
        return self._client.ask("save", timeout_s=_BOOT_TIMEOUT_S, directory=str(directory))

    def close(self) -> None:
        """Leave a lab that one has attached to; it continues."""
        self._client.close()

    # -- who is primary --

    def primary(self) -> str | None:
        """The firewall that has all virtual addresses in its kernel, provided that no other one has any of
        them."""
        found: str | None = self._client.ask("primary")["primary"]
        return found

    def wait_primary(self, name: str | None, timeout_s: float) -> str:
        """Until `name`, or any firewall for None, is primary(), as the kernel says. Raises LabError."""
        answer = self._client.ask("wait_primary", timeout_s=timeout_s + 5, name=name, wait_s=timeout_s)
        return str(answer["primary"])

    def wait_settled(self, timeout_s: float) -> str:
        """Until nothing is left to happen: one firewall is primary, all services of every live firewall run,
        and the agents, where there are any, have the roles that go with it and say that the peer's states
        are in. Returns the primary. Raises LabError that says what is missing."""
        until = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            missing = self._find_unsettled(max(0.1, until - time.monotonic()))
            if missing is None:
                return self.wait_primary(None, 1)
            if time.monotonic() > until:
                raise LabError(f"the pair has not settled within {timeout_s:g} s: {missing}")
            pause.wait(_ASK_AGAIN_S)

    def _find_unsettled(self, timeout_s: float) -> str | None:
        primary = self.wait_primary(None, timeout_s)
        for node in self.status().nodes:
            if not node.firewall or not node.alive:
                continue
            if node.machine is not None and not node.machine["ready"]:
                return f"{node.name} does not answer"
            stopped = [name for name, service in node.services.items() if not service.running]
            if stopped:
                return f"{node.name} does not run {', '.join(stopped)}"
            if "agent" in node.services:
                problem = self._find_agent_unsettled(node, primary)
                if problem is not None:
                    return problem
        return None

    def _find_agent_unsettled(self, node: NodeStatus, primary: str) -> str | None:
        role = node.agent.get("role") if node.agent else None
        wanted = "primary" if node.name == primary else "backup"
        if role != wanted:
            return f"the agent on {node.name} is {role or 'silent'}, not {wanted}"
        # where the higher priority takes over, a node that has handed over stands back, by the same file
        stands_back = self.options["preempt"] and node.agent is not None and node.agent.get("ready")
        if self.node(node.name).read_text(lab.READINESS).strip() != "0" and not stands_back:
            return f"the agent on {node.name} has not got the peer's states yet"
        return None

    # -- faults --

    def fail(self, node: str, fault: Fault) -> int:
        """Break something. Returns the moment, CLOCK_MONOTONIC in ns. It stays broken until heal()."""
        answer = self._client.ask("inject", timeout_s=_BOOT_TIMEOUT_S, node=node, fault=str(fault))
        return int(answer["at_ns"])

    def heal(self, node: str) -> None:
        """Repair everything that is broken on `node`: it boots again from nothing if it was off, its links
        have carrier, what does not run is started, in the order of a boot. Returns when its services are
        up."""
        self._client.ask("heal", timeout_s=_BOOT_TIMEOUT_S, node=node)

    def set_link(self, node: str, link: str, *, up: bool) -> int:
        """Carrier of one link, for scenarios that flap. Returns the moment, CLOCK_MONOTONIC in ns."""
        return int(self._client.ask("link", node=node, link=link, up=up)["at_ns"])

    # -- status --

    def status(self) -> LabStatus:
        answer = clean_values(self._client.ask("status"))
        # side by side: in a machine without KVM an agent takes seconds to answer
        with ThreadPoolExecutor(max(1, len(answer["nodes"]))) as pool:
            nodes = tuple(pool.map(self._node_status, answer["nodes"]))
        return LabStatus(self.name, answer["primary"], self.options, nodes, answer["starting"])

    def _node_status(self, facts: wire.Message) -> NodeStatus:
        running = {
            name: ServiceStatus(one["pid"] is not None, one["pid"], one["exit"])
            for name, one in facts["services"].items()
        }
        asked = facts["alive"] and "agent" in running and running["agent"].running
        return NodeStatus(
            name=facts["name"],
            firewall=facts["firewall"],
            alive=facts["alive"],
            vips=tuple(facts["vips"]),
            links=facts["links"],
            services=running,
            conntrack=facts["conntrack"],
            refused_sysctls=tuple(facts["refused_sysctls"]),
            logs=tuple(facts["logs"]),
            agent=self._ask_agent(facts["name"]) if asked else None,
            machine=facts["machine"],
            host=facts["name"] == self.host,
        )

    def _ask_agent(self, node: str) -> Mapping[str, Any] | None:
        """Its exit status is for monitoring and not looked at: a sick agent also answers."""
        try:
            argv = ["hafw", "status", "--json"] if node not in self.machines else machine_node.ASK_AGENT
            done = self.node(node).run(argv, timeout_s=_AGENT_TIMEOUT_S, check=False)
            answer = json.loads(done.stdout)
        except (NodeDownError, LabError, ValueError, RecursionError):
            return None
        return clean_values(answer) if _is_status(answer) else None


def _is_status(answer: object) -> bool:
    """Whether it has the shape that is read from here on: the node may run anything."""
    if not isinstance(answer, dict):
        return False
    last = answer.get("last_transition")
    return all(isinstance(answer.get(name, {}), dict) for name in ("problems", "states", "rules")) and (
        last is None or (isinstance(last, dict) and {"from", "to", "result"} <= last.keys())
    )
