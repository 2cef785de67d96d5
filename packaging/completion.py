# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes what bash completes for `hafw` and `hafw-lab`, from their own parsers, when the packages are built.

completion.py hafw >FILE
"""

import argparse
import sys
from collections.abc import Iterator
from string import Template

Kinds = dict[str, str]

_NODES_OF_PAIR = """\
_${function}_nodes() {
    # the keys below `nodes:`, not those below them
    awk '/^[^[:space:]#]/ { inside = /^nodes:/; next }
        inside && /:/ && !/^[[:space:]]*#/ && match($$0, /^[[:space:]]+/) {
            if (!depth) depth = RLENGTH
            if (RLENGTH == depth) { sub(/:.*/, ""); print $$1 }
        }' /etc/hafw/hafw.yaml 2>/dev/null
}"""
_NODES_OF_LAB = """\
_${function}_nodes() { echo '$nodes'; }"""
_LABS = """\
_${function}_labs() {
    local path
    for path in /run/hafw-lab/*.sock "$${XDG_RUNTIME_DIR:-/nowhere}"/hafw-lab/*.sock; do
        [[ -S $$path ]] && path=$${path##*/} && echo "$${path%.sock}"
    done
}"""
_SCRIPT = Template(r"""# bash completion for $program; made from its parser by packaging/completion.py

$helpers

# What may follow the words of a command: commands, options, and the kinds of its arguments in their order.
_${function}_follow() {
    case $$1 in
$follow
    esac
}

# The kind of an option's value; nothing for an option that takes none.
_${function}_value() {
    case $$1 in
$values
    esac
}

_${function}() {
    local cur prev words cword split
    _init_completion -s -n : || return
    local path='' commands='' options='' kinds=() value='' position=0 index word
    _${function}_follow ''
    for ((index = 1; index < cword; index++)); do
        word=$${words[index]}
        if [[ -n $$value ]]; then
            value=''
        elif [[ $$word == -- ]]; then
            :
        elif [[ $$word == -* ]]; then
            _${function}_value "$$path $$word"
        elif [[ " $$commands " == *" $$word "* ]]; then
            path=$${path:+$$path }$$word
            _${function}_follow "$$path"
        elif [[ $${kinds[position]} == command ]]; then
            _command_offset "$$index"
            return
        else
            ((position++))
        fi
    done
    [[ $$split != true ]] || _${function}_value "$$path $$prev" # --option=value, all in one word
    [[ -n $$value ]] || case $$cur in
        -*) value="words $$options" ;;
        *) [[ -n $$commands ]] && value="words $$commands" || value=$${kinds[position]} ;;
    esac
    case $$value in
        file) _filedir ;;
        nodes) mapfile -t COMPREPLY < <(compgen -W "$$(_${function}_nodes)" -- "$$cur") ;;
        labs) mapfile -t COMPREPLY < <(compgen -W "$$(_${function}_labs)" -- "$$cur") ;;
        command) _command_offset "$$cword" ;;
        words\ *) mapfile -t COMPREPLY < <(compgen -W "$${value#words }" -- "$$cur") ;;
    esac
    __ltrim_colon_completions "$$cur"
} &&
    complete -F _$function $program
""")


def main(program: str) -> int:
    function = program.replace("-", "_")
    parser, kinds, helpers = _hafw() if program == "hafw" else _hafw_lab()
    follow, values = [], []
    for path, one in walk(parser):
        name = " ".join(path)
        commands = " ".join(_commands(one))
        options = " ".join(option for action in _options(one) for option in action.option_strings)
        arguments = " ".join(f"'{_kind(action, kinds)}'" for action in _arguments(one))
        follow.append(f"        '{name}') commands='{commands}' options='{options}' kinds=({arguments}) ;;")
        for action in _options(one):
            if action.nargs != 0:
                spots = " | ".join(f"'{name} {option}'" for option in action.option_strings)
                values.append(f"        {spots}) value='{_kind(action, kinds)}' ;;")
    text = _SCRIPT.substitute(
        program=program,
        function=function,
        helpers=Template(helpers).substitute(function=function),
        follow="\n".join(follow),
        values="\n".join(values),
    )
    print(text, end="")
    return 0


def walk(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command with its words, the program itself first."""
    yield path, parser
    for name, below in _commands(parser).items():
        yield from walk(below, (*path, name))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [one for one in parser._actions if one.option_strings and one.help != argparse.SUPPRESS]


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        one
        for one in parser._actions
        if not one.option_strings and not isinstance(one, argparse._SubParsersAction)
    ]


def _kind(action: argparse.Action, kinds: Kinds) -> str:
    from agent.arguments import parse_path

    if action.choices is not None:
        return f"words {' '.join(map(str, action.choices))}"
    if action.nargs == argparse.REMAINDER:
        return "command"
    if action.type is parse_path:
        return "file"
    return kinds.get(action.dest, "none")


def _hafw() -> tuple[argparse.ArgumentParser, Kinds, str]:
    from agent.cli.main import make_parser

    return make_parser(), {"node": "nodes"}, _NODES_OF_PAIR


def _hafw_lab() -> tuple[argparse.ArgumentParser, Kinds, str]:
    from hafw_lab.model.fault import FaultKind
    from hafw_lab.model.topology import DEFAULT
    from hafw_lab.verbs import main as lab

    parser = lab.make_parser()
    verbs = _commands(parser)
    for name in lab.LATE_VERBS:  # their arguments are known only once they are asked for
        lab.load_verb(name).add_arguments(verbs[name])
    faults = [kind.value for kind in FaultKind if kind is not FaultKind.LINK]
    links = sorted({f"link:{link.name}" for node in DEFAULT.firewalls for link in node.links})
    kinds = {
        "node": "nodes",
        "host": "nodes",
        "name": "labs",
        "how": f"words {' '.join((*faults, *links))}",
        "service": "words bus conntrackd agent keepalived syslog",
    }
    nodes = " ".join(node.name for node in DEFAULT.nodes)
    helpers = Template(_NODES_OF_LAB).safe_substitute(nodes=nodes) + "\n\n" + _LABS
    return parser, kinds, helpers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
