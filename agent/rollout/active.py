"""Which rules are in force on this node: what the kernel has, of which pair file that was made, and who put
it in place.

How nft lists what was loaded is remembered in /run, which ends with the machine as the rules do. By that the
next process (an agent that was killed, upgraded or only restarted, a hook's run) knows the table again and
changes what differs from its own. All else lives on: counts, and the elements of dynamic sets and limits.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agent.adapters import process
from agent.adapters.nftables import Apart, Nftables, Seal, in_place
from agent.adapters.ruleset_dump import read_table
from agent.config import loader
from agent.config.files import Files
from agent.errors import ConfigError, HafwError, ToolError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.regular_file import read_regular, replace_file
from agent.rollout.generations import Generation, Generations, same_files
from agent.rules import compile_pair

MOST_SEAL = 64 * 1024


def rules_of(pair: Pair) -> str:
    return compile_pair(pair).digest


def load_files(files: Files) -> Pair:
    """The pair that a generation describes. Raises ConfigError as config.load()."""
    (_, text), *included = files
    return loader.parse(text, "pair file", dict(included))


def forget_compiled() -> None:
    """What adapters have in use they keep; of policies from before nothing is left."""
    compile_pair.cache_clear()


@dataclass(slots=True)
class Taken:
    """`files`: what `pair` was made of. `instead_of`: why it is not what the pair file says, or None."""

    pair: Pair
    files: Files
    instead_of: str | None = None


def take(paths: Paths, named: Path | None, require_node: Callable[[Pair], object]) -> Taken:
    """What the agent starts with: the pair file, or the last good generation where that cannot be used.

    Raises HafwError when there is neither, and when the file was `named` by whoever started the agent: the
    generations are those of the installed one.
    """
    try:
        found = process.in_child(lambda: loader.load_with_files(named or paths.pair_file))
        return _usable(*found, require_node)
    except HafwError as error:
        for one in () if named is not None else _best_first(paths):
            with contextlib.suppress(HafwError):
                good = _usable(load_files(one.files), one.files, require_node)
                return replace(good, instead_of=f"{error}; generation {one.number} is in use instead")
        raise


def _usable(pair: Pair, files: Files, require_node: Callable[[Pair], object]) -> Taken:
    require_node(pair)
    rules_of(pair)  # compiled now: what cannot be is not usable
    return Taken(pair, files)


def _best_first(paths: Paths) -> Iterator[Generation]:
    """The generations: first those whose rules the kernel has, then the newest."""
    known = [*reversed(Generations(paths.state_dir).known())]
    loaded = _loaded_digest()
    yield from (one for one in known if one.rules == loaded)
    yield from (one for one in known if one.rules != loaded)


def adapter_of(paths: Paths, pair: Pair, apart: Apart = in_place) -> Nftables:
    """For the rules of `pair`. Its first load() lets be what is the same in the table that a process before
    this one has left, if nobody has touched that table since. `apart` as Nftables() has it."""
    seal = _recall(paths)
    before = _find_pair(paths, pair, seal.rules) if seal is not None else None
    if seal is not None and before is not None:
        rules = Nftables(before, apart=apart)
        if rules.recognise(seal):
            return rules.succeed(pair)
    return Nftables(pair, apart=apart)


def remember(paths: Paths, rules: Nftables) -> None:
    """What `rules` has loaded, for adapter_of() of another process."""
    seal = rules.seal()
    if seal is None or seal == _recall(paths):
        return
    # without it the next process loads its whole table, which is as safe
    with contextlib.suppress(OSError):
        replace_file(paths.loaded_rules, json.dumps(asdict(seal)))


def _recall(paths: Paths) -> Seal | None:
    try:
        found = json.loads(read_regular(paths.loaded_rules, MOST_SEAL))
        return Seal(str(found["rules"]), str(found["listed"]))
    except (HafwError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _find_pair(paths: Paths, pair: Pair, rules: str) -> Pair | None:
    """Of which these rules are made, by this program: another version may make others of the same file."""
    if rules_of(pair) == rules:
        return pair
    one = _find_generation(paths, rules)
    try:
        found = load_files(one.files) if one is not None else None
    except ConfigError:
        return None
    return found if found is not None and rules_of(found) == rules else None


def _find_generation(paths: Paths, rules: str | None) -> Generation | None:
    known = reversed(Generations(paths.state_dir).known())
    return next((one for one in known if one.rules == rules), None)


def note_in_force(paths: Paths, pair: Pair, why: str, files: Files) -> str:
    """`pair`, made of `files`, has been taken: what is known of it, for a record."""
    rules = rules_of(pair)
    try:
        found = Generations(paths.state_dir).note(files, "hafw", why, rules)
    except HafwError as error:
        return f"{why}: rules {rules}, of which no generation can be kept: {error}"
    return f"{why}: generation {found.number} (by {found.who}: {found.why}), rules {found.rules}"


def find_in_force(paths: Paths) -> Pair:
    """The pair whose rules the kernel has. HafwError when none is loaded, or nobody knows what from."""
    loaded = read_table().digest
    one = _find_generation(paths, loaded)
    if one is not None:
        return load_files(one.files)
    with contextlib.suppress(HafwError):
        pair = loader.load(paths.pair_file)
        if rules_of(pair) == loaded:
            return pair
    raise HafwError(
        f"the rules in force ({loaded}) were made neither from the installed pair file nor from a "
        "generation that is kept",
        "see them with: hafw rules show",
    )


def find_generation_in_force(paths: Paths) -> Generation | None:
    """By what the kernel has: the newest generation may be one that a kill has kept from its place."""
    loaded = _loaded_digest()
    fitting = [one for one in reversed(Generations(paths.state_dir).known()) if one.rules == loaded]
    try:
        installed = loader.read_files(paths.pair_file)
    except ConfigError:
        return next(iter(fitting), None)
    same = [one for one in fitting if same_files(one.files, installed)]
    return next(iter((*same, *fitting)), None)


def _loaded_digest() -> str | None:
    try:
        return read_table().digest
    except ToolError:
        return None  # without a table nothing is in force
