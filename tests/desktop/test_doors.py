# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is let in to a machine's screen, and by which doors. The machines have a kernel of a few bytes."""

import asyncio
import contextlib
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hafw_lab.client.desktop import Remote, Ticket
from hafw_lab.lab_directory import clear_crashed
from hafw_lab.model.fault import PAUSE
from hafw_lab.supervisor.machine_node import PoweredMachine
from hafw_lab.vm.spice import SPICE_SOCKET, Screen
from tests.checkout import ROOT
from tests.desktop.processes import find_listening_ports
from tests.desktop.spice_link import BAD_CONNECTION, DISPLAY, MAIN, OK, PERMISSION_DENIED, knock
from tests.desktop.tiny_desktop import PATIENCE_S, start_tiny
from tests.desktop.virtual_screen import decode


def screen_of(machine: PoweredMachine) -> Screen:
    assert machine.screen is not None
    return machine.screen


async def make_ticket(machine: PoweredMachine, valid_s: int = 300) -> Ticket:
    password = await screen_of(machine).make_ticket(valid_s)
    remote = screen_of(machine).describe_remote()
    return Ticket(password, machine.files.directory / SPICE_SOCKET, Remote(**remote) if remote else None)


def connect(path: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(PATIENCE_S)
    channel.connect(str(path))
    return channel


def knock_here(path: Path, password: str, kind: int = MAIN) -> int:
    with connect(path) as channel:
        return knock(channel, password, kind)


def knock_remotely(remote: Remote, password: str) -> int:
    """As a viewer does: with TLS, the server's certificate vouched for by the lab's authority."""
    context = ssl.create_default_context(cadata=remote.authority)
    context.check_hostname = False  # viewers look at the subject instead
    with (
        socket.create_connection((remote.host, remote.port), PATIENCE_S) as plain,
        context.wrap_socket(plain) as channel,
    ):
        certificate = channel.getpeercert()
        assert certificate is not None
        subject = (("organizationName", "hafw-lab"),), (("commonName", "tiny"),)
        assert certificate["subject"] == subject
        return knock(channel, password)


def test_only_a_ticket_of_now_is_let_in(tmp_path: Path) -> None:
    async def story() -> None:
        async with start_tiny(tmp_path) as machine:
            first = await make_ticket(machine)
            door = first.socket
            assert await asyncio.to_thread(knock_here, door, "") == PERMISSION_DENIED
            assert await asyncio.to_thread(knock_here, door, first.password[:-1]) == PERMISSION_DENIED
            second = await make_ticket(machine)
            assert await asyncio.to_thread(knock_here, door, first.password) == PERMISSION_DENIED
            assert await asyncio.to_thread(knock_here, door, second.password) == OK
            third = await make_ticket(machine, valid_s=1)
            await asyncio.sleep(3)  # nothing tells that a time is over
            assert await asyncio.to_thread(knock_here, door, third.password) == PERMISSION_DENIED

    asyncio.run(story())


def test_nobody_is_let_in_before_the_first_ticket(tmp_path: Path) -> None:
    async def story() -> None:
        async with start_tiny(tmp_path) as machine:
            door = machine.files.directory / SPICE_SOCKET
            assert door.stat().st_mode & 0o077 == 0
            assert await asyncio.to_thread(knock_here, door, "") == PERMISSION_DENIED

    asyncio.run(story())


def test_a_ticket_ends_when_its_client_is_in(tmp_path: Path) -> None:
    async def story() -> None:
        async with start_tiny(tmp_path) as machine:
            ticket = await make_ticket(machine)
            with connect(ticket.socket) as client:
                assert await asyncio.to_thread(knock, client, ticket.password) == OK
                until = time.monotonic() + PATIENCE_S
                answer = BAD_CONNECTION
                while answer == BAD_CONNECTION:
                    assert time.monotonic() < until, "the ticket is still good"
                    await asyncio.sleep(0.5)  # nothing tells that a time is over
                    answer = await asyncio.to_thread(knock_here, ticket.socket, ticket.password, DISPLAY)
                assert answer == PERMISSION_DENIED
                assert await screen_of(machine).find_viewers() == ["this machine"]

    asyncio.run(story())


def wait_hung_up(channel: socket.socket) -> None:
    """Whatever the server still says is let go."""
    with contextlib.suppress(ConnectionResetError):
        while channel.recv(4096):
            pass


def test_a_second_client_with_the_same_ticket_closes_both(tmp_path: Path) -> None:
    async def story() -> None:
        async with start_tiny(tmp_path) as machine:
            ticket = await make_ticket(machine)
            with connect(ticket.socket) as first, connect(ticket.socket) as second:
                assert await asyncio.to_thread(knock, first, ticket.password) == OK
                await asyncio.to_thread(knock, second, ticket.password)
                await asyncio.to_thread(wait_hung_up, first)
                await asyncio.to_thread(wait_hung_up, second)
            assert await asyncio.to_thread(knock_here, ticket.socket, ticket.password) == PERMISSION_DENIED
            assert not await screen_of(machine).find_viewers()
            again = await make_ticket(machine)
            assert await asyncio.to_thread(knock_here, again.socket, again.password) == OK

    asyncio.run(story())


def test_no_port_without_remote(tmp_path: Path) -> None:
    async def story() -> None:
        async with start_tiny(tmp_path) as machine:
            assert machine.pid is not None
            assert not find_listening_ports(machine.pid)
            assert screen_of(machine).describe_remote() is None

    asyncio.run(story())


def test_the_network_comes_in_with_tls_and_a_ticket_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with start_tiny(tmp_path, remote="127.0.0.1") as machine:
            ticket = await make_ticket(machine)
            remote = ticket.remote
            assert remote is not None
            assert machine.pid is not None
            assert not find_listening_ports(machine.pid)
            assert await asyncio.to_thread(knock_remotely, remote, "wrong") == PERMISSION_DENIED
            assert await asyncio.to_thread(knock_remotely, remote, ticket.password) == OK
            again = await make_ticket(machine)
            with (
                socket.create_connection((remote.host, remote.port), PATIENCE_S) as plain,
                pytest.raises(ConnectionError),
            ):
                await asyncio.to_thread(knock, plain, again.password)
            assert await asyncio.to_thread(knock_here, again.socket, again.password) == OK

    asyncio.run(story())


def test_other_authorities_are_not_believed(tmp_path: Path) -> None:
    async def story() -> None:
        async with start_tiny(tmp_path, remote="127.0.0.1") as machine:
            remote = (await make_ticket(machine)).remote
            assert remote is not None
            (tmp_path / "other").mkdir()
            async with start_tiny(tmp_path / "other", remote="127.0.0.1") as other:
                theirs = (await make_ticket(other)).remote
                assert theirs is not None
                mixed = replace(remote, authority=theirs.authority)
                with pytest.raises(ssl.SSLCertVerificationError):
                    await asyncio.to_thread(knock_remotely, mixed, "")

    asyncio.run(story())


async def take_picture(machine: PoweredMachine) -> Image.Image:
    with open(await screen_of(machine).dump(), "rb") as file:
        return decode(file.read())


@pytest.mark.parametrize("video", ["qxl", "virtio"])
def test_a_picture_of_the_first_screen(tmp_path: Path, video: str) -> None:
    async def story() -> None:
        async with start_tiny(tmp_path, video=video) as machine:
            assert min((await take_picture(machine)).size) > 100
            assert not list(machine.files.own.glob("*.png"))

    asyncio.run(story())


def test_a_machine_that_was_kept_comes_back_with_its_screen(tmp_path: Path) -> None:
    async def story() -> None:
        kept = tmp_path / "kept.qcow2"
        async with start_tiny(tmp_path) as machine:
            before = await make_ticket(machine)
            shown = await take_picture(machine)
            await machine.inject(PAUSE)
            await machine.save(kept)
        async with start_tiny(tmp_path, snapshot=str(kept)) as again:
            assert (await take_picture(again)).tobytes() == shown.tobytes()
            door = again.files.directory / SPICE_SOCKET
            assert await asyncio.to_thread(knock_here, door, before.password) == PERMISSION_DENIED
            now = await make_ticket(again)
            assert await asyncio.to_thread(knock_here, now.socket, now.password) == OK

    asyncio.run(story())


def test_nothing_is_left_of_a_lab_that_was_killed(tmp_path: Path) -> None:
    program = [sys.executable, "-P", "-m", "tests.desktop.tiny_desktop", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}"}
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        end = os.pidfd_open(facts["qemu"])
        socket.create_connection(("127.0.0.1", facts["port"]), PATIENCE_S).close()
        process.kill()
        process.wait()
    ready, _, _ = select.select([end], [], [], PATIENCE_S)
    os.close(end)
    assert ready, "its qemu lives on"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", facts["port"]), PATIENCE_S)
    clear_crashed()
    assert not Path(facts["directory"]).exists()
