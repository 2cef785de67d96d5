# SPDX-License-Identifier: GPL-2.0-or-later
"""Real clients and servers of protocols that need a helper, as programs for nodes and namespaces.

FTP: vsftpd and Python's ftplib. vsftpd accepts no PORT but with the address that the session comes from, so
it notices a NAT that does not translate it; and it makes the data connection when something is fetched.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Start = Callable[[Sequence[str]], "subprocess.Popen[bytes]"]
LINES = "".join(f"line {number}\n" for number in range(20_000))
"""What is fetched: more than fits into the first window."""

FTP_SERVER = """
import os, sys
address, directory = sys.argv[1:]
os.makedirs(directory, mode=0o755)
with open(os.path.join(directory, "lines"), "w") as file:
    file.write("".join(f"line {number}\\n" for number in range(20_000)))
settings = {
    "listen": "YES",
    "listen_address": address,
    "background": "NO",
    "anonymous_enable": "YES",
    "anon_root": directory,
    "no_anon_password": "YES",
    "secure_chroot_dir": directory,
    "use_localtime": "YES",  # it need not look for the time zone
}
# what a node of namespaces does not allow it to do to itself once more
settings |= dict.fromkeys(("seccomp_sandbox", "isolate", "isolate_network"), "NO")
with open(directory + ".conf", "w") as file:
    file.write("".join(f"{name}={value}\\n" for name, value in settings.items()))
os.execv("/usr/sbin/vsftpd", ["vsftpd", directory + ".conf"])
"""

FTP_CLIENT = """
import ftplib, json, socket, sys, time
ftp = ftplib.FTP(timeout=60)
waiting = None

def opened(host):
    deadline = time.monotonic() + 60
    while True:
        try:
            ftp.connect(host)
            return ftp.login()
        except ConnectionRefusedError:  # the server has not begun to listen
            assert time.monotonic() < deadline
            time.sleep(0.05)

def listed(active):
    ftp.set_pasv(not active)
    return ftp.nlst()

def announced_passive():
    global waiting
    waiting = ftp.makepasv()
    ftp.voidcmd("NOOP")  # carries the acknowledgment: nothing of the announcement will be sent again
    return waiting

def fetched_passive(limit_s):
    try:
        data = socket.create_connection(waiting, float(limit_s))
    except TimeoutError:
        return "nobody answers"
    ftp.sendcmd("RETR lines")
    return whole(data)

def announced_active():
    global waiting
    waiting = ftp.makeport()
    ftp.voidcmd("NOOP")
    return waiting.getsockname()

def fetched_active():
    ftp.putcmd("RETR lines")
    data, _ = waiting.accept()
    ftp.getresp()
    return whole(data)

def whole(data):
    data.settimeout(60)
    with data, data.makefile("r") as file:
        text = file.read()
    ftp.voidresp()
    return len(text)

for line in sys.stdin:
    verb, *words = json.loads(line)
    try:
        print(json.dumps(globals()[verb](*words)), flush=True)
    except (OSError, EOFError, ftplib.Error) as error:
        print(json.dumps({"error": repr(error)}), flush=True)
"""


class Program:
    """A program that answers one line of JSON for each line of JSON."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def ask(self, *words: object) -> Any:  # decoded JSON
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the client has ended"
        return json.loads(answer)


@contextmanager
def start_ftp_client(start: Start) -> Iterator[Program]:
    process = start(["/usr/bin/python3", "-I", "-c", FTP_CLIENT])
    try:
        yield Program(process)
    finally:
        end(process)


@contextmanager
def start_ftp_server(start: Start, directory: str, address: str) -> Iterator[None]:
    """`directory` is made."""
    process = start(["/usr/bin/python3", "-I", "-c", FTP_SERVER, address, directory])
    try:
        yield
    finally:
        end(process)


def tftp_argv(server: str, wanted: str, kept: str) -> list[str]:
    """A client that asks once and waits: what it asks again makes good for what a failover has lost."""
    orders = f"mode octet\nrexmt 600\ntimeout 600\nget {wanted} {kept}\nquit\n"
    return ["sh", "-c", f'printf "{orders}" | exec tftp {server}']


@contextmanager
def start_tftp_server(start: Start, directory: str, pid_file: str) -> Iterator["subprocess.Popen[bytes]"]:
    """dnsmasq, which has written its number into `pid_file` when it listens."""
    options = ["--port=0", "--enable-tftp", f"--tftp-root={directory}", f"--pid-file={pid_file}"]
    alone = ["--keep-in-foreground", "--conf-file=/dev/null", "--user=root"]
    process = start(["/usr/sbin/dnsmasq", *alone, *options])
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()
