# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the files that are installed on this node are what the pair file in force wants of them.

They may be older than the pair file, or than this release. A file that hafw rendered is compared setting by
setting. A keepalived.conf or conntrackd.conf that was made by hand may say the same in other words: only
what `hafw setup` would ask to be changed counts, and of a file that cannot be followed nothing is said.
"""

from collections import Counter
from collections.abc import Collection, Iterator

from agent.channel.local import MAX_KEY_FILE
from agent.errors import HafwError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.regular_file import read_regular
from agent.render import conntrackd
from agent.render.networkd import tunnel_key_file
from agent.setup.blocks import NotUnderstoodError
from agent.setup.changes import is_made_by_hafw, read_file
from agent.setup.foreign import unfit_for_agent
from agent.setup.key_rights import how_open
from agent.setup.plan import PlannedFile, plan_setup

Contents = tuple[bytes | None, ...]


class InstalledFiles:
    """Judges again only when the pair or a file has changed."""

    def __init__(self, node: str, paths: Paths) -> None:
        self._node = node
        self._paths = paths
        self._judged: tuple[Pair, Contents] | None = None
        self._pair_key: str | None = None
        self._plan: tuple[PlannedFile, ...] = ()
        self._found: tuple[str, ...] = ()

    def find_outdated(self, pair: Pair) -> tuple[str, ...]:
        """A sentence for each file. Raises HafwError for one that cannot be read."""
        key = self._find_key(pair)
        if self._judged is None or self._judged[0] is not pair or self._pair_key != key:
            self._plan, self._pair_key = self._make_plan(pair, key), key
            self._judged = None
        contents = tuple(read_file(file.path) for file in self._plan)
        if self._judged is None or self._judged[1] != contents:
            pairs = zip(self._plan, contents, strict=True)
            self._found = tuple(said for one in pairs for said in self._judge(pair, *one))
            self._judged = pair, contents
        return (*self._found, *self._find_open_keys(pair))

    def find_unfit(self, pair: Pair) -> Iterator[tuple[str, str]]:
        """Every finding, not only the first one of a file made by hand, each with the command that repairs
        it. Raises as find_outdated()."""
        for file in self._make_plan(pair, self._find_key(pair)):
            there = read_file(file.path)
            if there and not is_made_by_hafw(there):
                name, command = file.path.name, f"hafw setup --replace {file.path.name}"
                for one in self._unfit_in(file, there.decode(errors="replace")):
                    yield f"{name} is not suitable for a pair with the agent: {one}", command
            else:
                for text in self._judge(pair, file, there):
                    yield text, "hafw setup"
        for text in self._find_open_keys(pair):
            yield text, "hafw setup"

    def _find_open_keys(self, pair: Pair) -> Iterator[str]:
        for one in pair.tunnels:
            key = tunnel_key_file(self._paths, one.inside.name)
            if how := how_open(key):
                yield f"{key}, the private key of a tunnel, {how}, so that others than its owners may use it"

    def _find_key(self, pair: Pair) -> str | None:
        """Only root may read it, and only tunnels are made of it."""
        if not pair.tunnels:
            return None
        try:
            return read_regular(self._paths.pair_key, MAX_KEY_FILE).decode("ascii", "replace")
        except HafwError:
            return None

    def _make_plan(self, pair: Pair, key: str | None) -> tuple[PlannedFile, ...]:
        """Without secrets: what is made of the same key beside them tells as much, and may be shown."""
        try:
            plan = plan_setup(pair, self._node, self._paths, pair_key=key)
        except HafwError:  # of a key that is none the agent says so itself
            plan = plan_setup(pair, self._node, self._paths)
        return tuple(one for one in plan if not one.secret)

    def _unfit_in(self, file: PlannedFile, text: str) -> tuple[str, ...]:
        if file.path not in (self._paths.keepalived_config, self._paths.conntrackd_config):
            return ()
        try:
            return unfit_for_agent(file.path.name, text, file.text, str(self._paths.hook))
        except NotUnderstoodError:
            return ()

    def _judge(self, pair: Pair, file: PlannedFile, there: bytes | None) -> Iterator[str]:
        if not there:
            return
        text = there.decode(errors="replace")
        if is_made_by_hafw(there):
            difference = _difference(text, file.text)
            if difference and not self._is_unprivileged(pair, file, text):
                yield f"{file.path} was rendered from another pair file or by another release ({difference})"
        else:
            found = self._unfit_in(file, text)
            if found:
                more = f", and {len(found) - 1} more" if len(found) > 1 else ""
                yield f"{file.path} is not suitable for a pair with the agent: {found[0]}{more}"

    def _is_unprivileged(self, pair: Pair, file: PlannedFile, there: str) -> bool:
        """Where a daemon has no rights outside of its namespace, its file has less."""
        if file.path != self._paths.conntrackd_config:
            return False
        less = conntrackd.render(pair, self._node, self._paths, privileged=False)
        return _difference(there, less) is None


def _difference(there: str, wanted: str) -> str | None:
    """The first setting that is missing, or that is too much; comments are none."""
    old, new = _settings(there), _settings(wanted)
    if old == new:
        return None
    missing, extra = Counter(new) - Counter(old), Counter(old) - Counter(new)
    if missing:
        return f"without: {_telling(missing)}"
    return f"with: {ascii(_telling(extra))[1:-1]}" if extra else "in another order"


def _telling(settings: Collection[str]) -> str:
    """The first one, and that of a brace only where there is no other."""
    return next((one for one in settings if one[-1] not in "{}"), next(iter(settings)))


def _settings(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
