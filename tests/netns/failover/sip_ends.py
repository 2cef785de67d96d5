# SPDX-License-Identifier: GPL-2.0-or-later
"""A phone as a program for nodes and namespaces: sipp speaks SIP, and the program itself is the voice.

sipp plays one half of a scenario for each call. The caller's half waits for a third party before it hangs up
(sipp's 3PCC), which is the program; so a call lasts as long as a test wants. Nothing is sent twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.netns.failover.helped_ends import Program, Start, end

_DIALOG = """
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:caller@[local_ip]:[local_port]>;tag=[call_number]
To: <sip:callee@[remote_ip]>[peer_tag_param]
Call-ID: [call_id]
Contact: <sip:caller@[local_ip]:[local_port]>
Max-Forwards: 70
"""
_ANSWER = """
[last_Via:]
[last_From:]
[last_To:];tag=[call_number]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:callee@[local_ip]:[local_port]>
"""
_VOICE = """Content-Type: application/sdp
Content-Length: [len]

v=0
o=phone 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [local_ip]
t=0 0
m=audio {port} RTP/AVP 0
"""
_EMPTY = "Content-Length: 0\n\n"

CALLER = f"""<?xml version="1.0" ?>
<scenario name="caller">
<send><![CDATA[
INVITE sip:callee@[remote_ip] SIP/2.0{_DIALOG}CSeq: 1 INVITE
{_VOICE}]]></send>
<recv response="180" optional="true"/>
<recv response="200"/>
<send><![CDATA[
ACK sip:callee@[remote_ip] SIP/2.0{_DIALOG}CSeq: 1 ACK
{_EMPTY}]]></send>
<sendCmd><![CDATA[
Call-ID: [call_id]

]]></sendCmd>
<recvCmd/>
<send><![CDATA[
BYE sip:callee@[remote_ip] SIP/2.0{_DIALOG}CSeq: 2 BYE
{_EMPTY}]]></send>
<recv response="200"/>
</scenario>
"""
CALLEE = f"""<?xml version="1.0" ?>
<scenario name="callee">
<recv request="INVITE">
<action>
<ereg regexp="c=IN IP4 {{seen}}" search_in="msg" assign_to="1"/>
</action>
</recv>
<nop next="1" test="1"/>
<send><![CDATA[
SIP/2.0 488 Not Acceptable Here{_ANSWER}{_EMPTY}]]></send>
<label id="1"/>
<send><![CDATA[
SIP/2.0 180 Ringing{_ANSWER}{_EMPTY}]]></send>
<send><![CDATA[
SIP/2.0 200 OK{_ANSWER}{_VOICE}]]></send>
<recv request="ACK"/>
<recv request="BYE"/>
<send><![CDATA[
SIP/2.0 200 OK{_ANSWER}{_EMPTY}]]></send>
</scenario>
"""

PHONE = f"""
import json, os, select, signal, socket, subprocess, sys, time
CALLER = {CALLER!r}
CALLEE = {CALLEE!r}
voices = {{}}
third = call = control = callee = None
address = sys.argv[1]

def sipp(scenario, *arguments):
    file = os.memfd_create("scenario")
    os.write(file, scenario.encode())
    leash = ["setpriv", "--pdeathsig", "KILL", "--"]
    argv = [*leash, "sipp", "-sf", f"/proc/self/fd/{{file}}", "-i", address, "-nostdin", *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, pass_fds=[file], stdout=quiet, stderr=quiet)

def opened(port):
    voices[port] = socket.socket(type=socket.SOCK_DGRAM)
    voices[port].bind((address, port))

def answers(seen):
    global callee
    callee = sipp(CALLEE.format(seen=seen, port="90[call_number]0"), "-p", "5060")
    deadline = time.monotonic() + 60
    while ":13C4 " not in open("/proc/net/udp").read():  # 5060
        assert time.monotonic() < deadline
        time.sleep(0.02)

def asleep():
    callee.send_signal(signal.SIGSTOP)

def awake():
    callee.send_signal(signal.SIGCONT)

def dialled(address, port):
    global third, call
    third = socket.create_server(("127.0.0.1", 0))
    third.settimeout(60)
    twin = f"127.0.0.1:{{third.getsockname()[1]}}"
    call = sipp(CALLER.format(port=port), "-p", str(port + 2), "-m", "1", "-3pcc", twin, f"{{address}}:5060")

def connected():
    global control
    control, _ = third.accept()
    control.settimeout(60)
    command = control.recv(4096).decode()
    assert command.startswith("Call-ID"), "the call was not accepted"
    return command

def hung_up(command):
    control.sendall(command.encode())
    return call.wait(60)

def said(port, target, target_port):
    voices[port].sendto(b"hello", (target, target_port))

def heard(port, limit_s):
    ready, _, _ = select.select([voices[port]], [], [], limit_s)
    return voices[port].recvfrom(64)[1] if ready else None

for line in sys.stdin:
    verb, *words = json.loads(line)
    print(json.dumps(globals()[verb](*words)), flush=True)
"""


@contextmanager
def start_phone(start: Start, address: str) -> Iterator[Program]:
    """`answers` names the caller's address that it must see; `hung_up` is told what `connected` returned;
    `heard` gives the place where a voice came from, or None."""
    process = start(["/usr/bin/python3", "-I", "-c", PHONE, address])
    try:
        yield Program(process)
    finally:
        end(process)
