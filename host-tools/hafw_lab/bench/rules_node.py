# SPDX-License-Identifier: GPL-2.0-or-later
"""One measurement of `bench rules`, in a network namespace of its own: this program is started inside one.

Arguments: `load RULES ELEMENTS RUNS` or `forward SLICES SECONDS`. Prints one JSON object.

Hard facts
* The highest memory use that wait4() reports of a child begins with that of its parent, and VmHWM does not;
  it goes with the process, so it is read while that runs.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

from agent.adapters.nftables import Nftables
from agent.config import loader
from agent.core.roles import RuleSet
from agent.model.pair import Pair
from agent.rules.compile import compile_pair
from agent.rules.delta import compile_change, model_of
from agent.rules.gate import BEFORE_DEFRAG, BEFORE_POLICY, CLOSED, GATE, ROLE
from agent.rules.nft_json import command_text
from agent.rules.objects import FAMILY, GATE_TABLE, TABLE, TABLES
from hafw_lab.bench.rules_forward import measure_forward
from hafw_lab.compose import pair_file
from hafw_lab.errors import LabError
from hafw_lab.model.options import LabOptions
from hafw_lab.model.topology import DEFAULT
from hafw_lab.process import run

_FLIPS = 100
_FIRST_ADDRESS = 0x0A00_0001  # 10.0.0.1
_BIG = "big"
_WAY = "from: client, to: server"
_RENEW = "".join(f"table {FAMILY} {table}\ndelete table {FAMILY} {table}\n" for table in TABLES)
_CLOSE = f"""
table {FAMILY} {GATE_TABLE} {{
    chain {GATE} {{ type filter hook prerouting priority {BEFORE_DEFRAG}; jump {CLOSED}; }}
    chain {ROLE} {{ type filter hook forward priority {BEFORE_POLICY}; counter name "backup" drop; }}
}}
"""
_OPEN = "".join(f"delete chain {FAMILY} {GATE_TABLE} {chain}\n" for chain in (GATE, ROLE))


def described() -> Pair:
    """The pair of the described system."""
    return loader.parse(_described_text())


def _described_text() -> str:
    return pair_file.compose(DEFAULT, LabOptions())


def make_pair(rules: int, elements: int) -> Pair:
    """The described pair with so many further rules, and one that asks a set of so many addresses, read from
    what an administrator would write."""
    further = [
        f"- {{{_WAY}, allow: [{{tcp: {_port(one)}}}], source: {_address(one)}}}" for one in range(rules)
    ]
    sets = ""
    if elements:
        further.append(f"- {{{_WAY}, allow: [{{tcp: {_port(rules)}}}], source: {_BIG}}}")
        sets = f"sets: {{{_BIG}: {{file: {_BIG}.txt}}}}\n"
    texts = {
        "further.yaml": "\n".join((f"{sets}policy:", *further, "")),
        # every second address, or they would be merged into a few ranges
        f"{_BIG}.txt": "".join(f"{_address(2 * number)}\n" for number in range(elements)),
    }
    return loader.parse(f"{_described_text()}include: further.yaml\n", texts=texts)


def _port(number: int) -> int:
    return 10_000 + number % 50_000


def _address(number: int) -> IPv4Address:
    return IPv4Address(_FIRST_ADDRESS + number)


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds: on the clock, and of processors in this process and its children."""

    wall: float
    cpu: float


def measure_load(rules: int, elements: int, runs: int) -> dict[str, object]:
    """Ours and nft's, in turns, on the same table. Ours is in force when a load is done but for its reading
    back, which is timed apart."""
    parsed = _cost(partial(make_pair, rules, elements))
    pair = make_pair(rules, elements)
    compiled = _cost(lambda: Nftables(compile_pair(pair)))
    table = compile_pair(pair)
    ours = Nftables(table)
    ours.load(RuleSet.BACKUP)
    peak_kib = read_peak_kib("self")
    with tempfile.TemporaryDirectory() as directory:
        whole, flips = Path(directory, "whole.nft"), [Path(directory, name) for name in ("open", "close")]
        listed = [run(["nft", "list", "table", FAMILY, table], timeout_s=120) for table in TABLES]
        whole.write_text("".join((_RENEW, *listed)))
        for file, text in zip(flips, (_OPEN, _CLOSE), strict=True):
            file.write_text(text)
        turns: list[tuple[Cost, Cost, Cost]] = []
        for _ in range(runs):
            nft = _cost_of_nft(whole)
            ours = Nftables(table)  # the one that has loaded before would only look for what to repair
            turns.append((_cost(partial(ours.load, RuleSet.BACKUP)), _cost(ours.read), nft))
        loaded, read_back, nft = (_middle(costs) for costs in zip(*turns, strict=True))
        found: dict[str, object] = {
            "rules": rules,
            "elements": elements,
            "parse_ms": parsed.wall,
            "compile_ms": compiled.wall,
            "apply_ms": {"hafw": loaded.wall - read_back.wall, "nft": nft.wall},
            "apply_cpu_ms": {"hafw": loaded.cpu - read_back.cpu, "nft": nft.cpu},
            "read_back_ms": read_back.wall,
            "read_back_cpu_ms": read_back.cpu,
            "flip_ms": {
                "hafw": median(_cost(partial(ours.flip, role)).wall for role in _roles()),
                "nft": median(_cost_of_nft(flips[number % 2]).wall for number in range(2 * runs)),
            },
            "peak_mib": {"hafw": peak_kib / 1024, "nft": _peak_of_nft(whole) / 1024},
        }
        if elements:
            found["element"] = _measure_element(ours, pair, elements, runs)
    return found


def _roles() -> Iterator[RuleSet]:
    for _ in range(_FLIPS // 2):
        yield from RuleSet


def _measure_element(ours: Nftables, pair: Pair, elements: int, runs: int) -> dict[str, float]:
    """One address more in the set, by our own way of changing a policy and by nft alone."""
    (big,) = pair.sets
    fresh = IPv4Network(_address(2 * elements))
    grown = replace(pair, sets=(replace(big, networks=(*big.networks, fresh)),))
    tables = tuple(compile_pair(one) for one in (pair, grown))
    before, after = (model_of(one.objects(RuleSet.BACKUP)) for one in tables)
    change = compile_change(before, after, {})
    if change is None:
        raise LabError("one address more in a set reloads the whole table")
    times = []
    for number in range(runs):
        ours = ours.succeed(tables[(number + 1) % 2])
        times.append(_cost(partial(ours.load, RuleSet.BACKUP)).wall)
    element = [FAMILY, TABLE, f"{_BIG}/4", "{", str(_address(2 * elements + 2)), "}"]
    nft = [_cost(partial(run, ["nft", verb, "element", *element])).wall for verb in ("add", "delete")]
    return {
        "commands": len(change),
        "bytes": len(command_text(change)),
        "hafw_ms": median(times),
        "nft_ms": median(nft),
    }


def _cost(what: Callable[[], object]) -> Cost:
    start, used = time.perf_counter(), _processors_s()
    what()
    return Cost((time.perf_counter() - start) * 1000, (_processors_s() - used) * 1000)


def _processors_s() -> float:
    children = getrusage(RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _cost_of_nft(file: Path) -> Cost:
    return _cost(lambda: run(["nft", "-f", str(file)], timeout_s=120))


def _middle(costs: Iterable[Cost]) -> Cost:
    every = list(costs)
    return Cost(median(one.wall for one in every), median(one.cpu for one in every))


def _peak_of_nft(file: Path) -> int:
    """KiB, as seen a thousand times a second."""
    peak = 0
    with subprocess.Popen(["nft", "-f", str(file)]) as process:
        while process.poll() is None:
            with suppress(OSError, LabError):
                peak = max(peak, read_peak_kib(str(process.pid)))
            time.sleep(0.001)  # nothing reports memory use
    return peak


def read_peak_kib(pid: str) -> int:
    """VmHWM of a process. LabError for one that is on its way out."""
    for line in Path("/proc", pid, "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise LabError(f"process {pid} has ended")


def main(words: list[str]) -> None:
    match words:
        case ["load", rules, elements, runs]:
            found = measure_load(int(rules), int(elements), int(runs))
        case ["forward", slices, seconds]:
            found = measure_forward(described(), int(slices), float(seconds))
        case _:
            raise LabError(f"{' '.join(words)!r} is not a measurement")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
