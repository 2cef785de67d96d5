# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rules are in force on this node: what the kernel has, of which pair file that was made, and who put
it in place.

How nft lists what was loaded is remembered in /run, which ends with the machine as the rules do. By that the
next process (an agent that was killed, upgraded or only restarted, a hook's run) knows the table again and
changes what differs from its own. All else lives on: counts, and the elements of dynamic sets and limits.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

from agent.adapters import atomic_file, process
from agent.adapters.nftables import Apart, Nftables, Seal, in_place
from agent.adapters.ruleset_dump import read_table
from agent.config import loader
from agent.config.files import Files, PairFiles, digest_of, of_texts, read
from agent.errors import ConfigError, HafwError, NoCopyError, ToolError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.regular_file import read_regular
from agent.rollout.generations import Generation, Generations, same_files
from agent.rules.compile import Compiled, compile_pair

MAX_SEAL = 64 * 1024


def load_files(files: Files) -> Pair:
    """The pair that a generation describes. Raises ConfigError as loader.load()."""
    return loader.parse_files(of_texts(files))


@dataclass(frozen=True, slots=True)
class Checked:
    """A pair that may be put in force: what was read, parsed and compiled once is what is kept and loaded.
    `files`: what it was made of."""

    pair: Pair
    files: Files
    table: Compiled
    digest: str
    """Of the files."""

    @property
    def rules(self) -> str:
        """The digest of its table."""
        return self.table.digest


def check(files: PairFiles) -> Checked:
    """Raises ConfigError; the kernel is not asked."""
    return checked(loader.parse_files(files), files.readable)


def checked(pair: Pair, files: Files) -> Checked:
    """Raises ConfigError when `pair` cannot be compiled."""
    return Checked(pair, files, compile_pair(pair), digest_of(files))


class OnDisk:
    """The pair files and generations of this node, as one command finds them: each is read and parsed when
    it is first asked for, and not again. read() is not for what is there after something was put in
    place."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.generations = Generations(paths.state_dir)
        self._read: dict[str, PairFiles] = {}
        self._pairs: dict[int, Pair] = {}

    def read(self, path: Path) -> PairFiles:
        """Raises ConfigError when the pair file at `path` cannot be read."""
        place = os.path.realpath(path)  # not resolve(), which raises where links go in a circle
        if place not in self._read:
            self._read[place] = read(path)
        return self._read[place]

    def pair_of(self, generation: Generation) -> Pair:
        """Raises ConfigError as loader.load()."""
        number = generation.number
        if number not in self._pairs:
            # mostly it is what is installed, which was parsed to see what it names
            same = (one for one in self._read.values() if same_files(one.readable, generation.files))
            self._pairs[number] = loader.parse_files(next(same, None) or of_texts(generation.files))
        return self._pairs[number]

    def is_installed(self, path: Path) -> bool:
        return os.path.realpath(path) == os.path.realpath(self.paths.pair_file)

    def find_made(self, rules: str | None) -> Generation | None:
        """The generation that the table with this digest was made of: the one that is installed, or else the
        newest."""
        fitting = (one for one in self.generations.newest_first() if one.rules == rules)
        first = next(fitting, None)
        if first is None:
            return None
        try:
            installed = self.read(self.paths.pair_file).readable
        except ConfigError:
            return first
        return next((one for one in chain((first,), fitting) if same_files(one.files, installed)), first)

    def find_in_force(self) -> Generation | None:
        """By what the kernel has: the newest generation may be one that a kill has kept from its place."""
        return self.find_made(_loaded_digest())


@dataclass(slots=True)
class Taken:
    """`files`: what `pair` was made of. `instead_of`: why it is not what the pair file says, or None."""

    pair: Pair
    files: Files
    table: Compiled
    instead_of: str | None = None


def take(paths: Paths, named: Path | None, require_node: Callable[[Pair], object]) -> Taken:
    """What the agent starts with: the pair file, or the last good generation where that cannot be used.

    Raises HafwError when there is neither, and when the file was `named` on the command line: the
    generations are those of the installed one. NoCopyError says nothing of the file: systemd starts the
    agent again.
    """
    try:
        found = process.in_child(lambda: loader.load_with_files(named or paths.pair_file))
        return _usable(*found, require_node)
    except NoCopyError:
        raise
    except HafwError as error:
        for one in () if named is not None else _best_first(paths):
            with contextlib.suppress(HafwError):
                good = _usable(load_files(one.files), one.files, require_node)
                return replace(good, instead_of=f"{error}; generation {one.number} is in use instead")
        raise


def _usable(pair: Pair, files: Files, require_node: Callable[[Pair], object]) -> Taken:
    require_node(pair)
    return Taken(pair, files, compile_pair(pair))


def _best_first(paths: Paths) -> Iterator[Generation]:
    """The generations: first those whose rules the kernel has, then the newest."""
    generations = Generations(paths.state_dir)
    loaded = _loaded_digest()
    yield from (one for one in generations.newest_first() if one.rules == loaded)
    yield from (one for one in generations.newest_first() if one.rules != loaded)


def adapter_of(on_disk: OnDisk, table: Compiled, apart: Apart = in_place) -> Nftables:
    """Its first load() lets be what is the same in the table that a process before
    this one has left, if that table has not changed since. `apart` as Nftables() has it."""
    seal = _recall(on_disk.paths)
    before = _find_table(on_disk, table, seal.rules) if seal is not None else None
    if seal is not None and before is not None:
        rules = Nftables(before, apart=apart)
        if rules.recognize(seal):
            return rules.succeed(table)
    return Nftables(table, apart=apart)


def remember(paths: Paths, rules: Nftables) -> None:
    """What `rules` has loaded, for adapter_of() of another process."""
    seal = rules.seal()
    if seal is None or seal == _recall(paths):
        return
    # without it the next process loads its whole table, which is as safe
    with contextlib.suppress(OSError):
        atomic_file.write(paths.loaded_rules, json.dumps(asdict(seal)))


def _recall(paths: Paths) -> Seal | None:
    try:
        found = json.loads(read_regular(paths.loaded_rules, MAX_SEAL))
        return Seal(str(found["rules"]), str(found["listed"]), found.get("sets_lost") is True)
    except (HafwError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _find_table(on_disk: OnDisk, table: Compiled, rules: str) -> Compiled | None:
    """With this digest, as this program makes it: another version may make another of the same file."""
    if table.digest == rules:
        return table
    one = next((one for one in on_disk.generations.newest_first() if one.rules == rules), None)
    try:
        found = compile_pair(on_disk.pair_of(one)) if one is not None else None
    except ConfigError:
        return None
    return found if found is not None and found.digest == rules else None


def note_in_force(generations: Generations, why: str, files: Files, rules: str) -> tuple[int | None, str]:
    """A pair file has been taken, and the table with the digest `rules` was made of it: the number of its
    generation, None where none can be kept, and what is known of it, for a record."""
    try:
        found = generations.note(files, "hafw", why, rules)
    except HafwError as error:
        return None, f"{why}: rules {rules}, of which no generation can be kept: {error}"
    return (
        found.number,
        f"{why}: generation {found.number} (by {found.who}: {found.why}), rules {found.rules}",
    )


def find_in_force(on_disk: OnDisk) -> Checked:
    """What the kernel has the rules of. HafwError when none are loaded, or their origin is unknown."""
    loaded = read_table().digest
    one = on_disk.find_made(loaded)
    if one is not None:
        return checked(on_disk.pair_of(one), one.files)
    with contextlib.suppress(HafwError):
        found = check(on_disk.read(on_disk.paths.pair_file))
        if found.rules == loaded:
            return found
    raise HafwError(
        f"the rules in force ({loaded}) were made neither from the installed pair file nor from a "
        "generation that is kept",
        "see them with: hafw rules show",
    )


def _loaded_digest() -> str | None:
    try:
        return read_table().digest
    except ToolError:
        return None  # without a table nothing is in force
