# SPDX-License-Identifier: GPL-2.0-or-later
"""What the other node has asked for, carried out on this one: `hafw rules serve`, a process for one request.

It is started for the agent, which has handed over what came by the channel, and does what an administrator
would do here with `hafw rules`. The agent itself may do none of that.
"""

from ipaddress import ip_address
from pathlib import Path

from agent.adapters import control
from agent.adapters.nftables import Nftables
from agent.core.roles import RuleSet
from agent.errors import HafwError
from agent.paths import Paths
from agent.rollout.active import OnDisk, check
from agent.rollout.apply import Order, apply, confirm_number, refusal_of, take_back
from agent.rollout.forbidden import cut_forbidden
from agent.rollout.generations import Generations, same_files
from agent.rollout.request import MAX_AHEAD, Request, RulesAnswer, RulesVerb, pack_answer, unpack_request
from agent.rollout.sets import DOING
from agent.rollout.staged import staged


def answer_request(paths: Paths, data: bytes) -> bytes:
    """An answer for every request, also for one that is none."""
    try:
        request = unpack_request(data)
        _require_near(paths, request.number)
        return pack_answer(_carry_out(paths, request))
    except HafwError as error:
        return pack_answer(RulesAnswer(error=str(error)[:2000]))


def _carry_out(paths: Paths, request: Request) -> RulesAnswer:
    match request.verb:
        case RulesVerb.CHECK:
            with staged(paths, request.files) as place:
                return _check(paths, place)
        case RulesVerb.APPLY:
            with staged(paths, request.files) as place:
                applied = apply(paths, place, _order_of(request))
            waits = applied.pending.number if applied.pending is not None else None
            number = applied.generation.number
            return RulesAnswer(newest=number, same=True, waits=waits, rules=applied.generation.rules)
        case RulesVerb.CONFIRM | RulesVerb.BACK:
            return _end_waiting(paths, request)
        case RulesVerb.CUT:
            return RulesAnswer(ended=cut_forbidden(OnDisk(paths)))
        case RulesVerb.ADD | RulesVerb.DELETE:
            DOING[request.verb](request.set_name, tuple(map(ip_address, request.elements)))
            return RulesAnswer()
        case RulesVerb.REACH:
            return RulesAnswer()
        case RulesVerb.HAND_OVER:
            return _hand_over(paths)


def _hand_over(paths: Paths) -> RulesAnswer:
    """Asks the agent of this node, which refuses as it would refuse `hafw handover` here."""
    found = control.ask_handover(paths.control_socket, lambda _: None, force=False)
    if "error" in found:
        raise HafwError(str(found["error"]))
    took_ms, gap_ms = round(found["seconds"] * 1000), round(found["gap_ms"])
    return RulesAnswer(text=str(found["text"]), took_ms=took_ms, gap_ms=gap_ms)


def _check(paths: Paths, place: Path) -> RulesAnswer:
    on_disk = OnDisk(paths)
    new = check(on_disk.read(place))
    Nftables(new.table).check(RuleSet.BACKUP)
    newest, pending, in_force = on_disk.generations.newest(), on_disk.generations.pending(), None
    refusal = refusal_of(on_disk, new.pair)
    if refusal is None and newest is not None and same_files(newest.files, new.files):
        in_force = on_disk.find_in_force()
    return RulesAnswer(
        refusal,
        newest.number if newest is not None else 0,
        newest is not None and in_force == newest,
        pending.number if pending is not None else None,
        new.rules,
    )


def _order_of(request: Request) -> Order:
    """The peer's rules never come in for good by themselves: they are confirmed, or go."""
    if request.confirm_s is None:
        raise HafwError("the other node did not say when its rules go unless they are confirmed")
    return Order(request.confirm_s, number=request.number, who=request.who, why=request.why, count=False)


def _require_near(paths: Paths, number: int) -> None:
    """No number of the peer's brings ours to their end."""
    newest = Generations(paths.state_dir).newest()
    if number > (newest.number if newest is not None else 0) + MAX_AHEAD:
        raise HafwError(f"generation {number} is too far from those that are known here")


def _end_waiting(paths: Paths, request: Request) -> RulesAnswer:
    """Asked twice it is done once: the answer to the first one may have been lost."""
    if request.verb is RulesVerb.CONFIRM:
        confirm_number(paths, request.number)
        return RulesAnswer()
    done = take_back(paths, request.number, Order(who=request.who, why=request.why))
    return RulesAnswer(waits=request.number if done is not None else None)
