# SPDX-License-Identifier: GPL-2.0-or-later
"""What bash completes, asked of bash."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tests.programs import PROGRAMS, commands_of, options_of, walk

# For each line of its input: sets the words as readline would, calls the function that is registered, and
# prints what that offers.
DRIVER = r"""
source /usr/share/bash-completion/bash_completion
source "$1"
while IFS= read -r line; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9 COMPREPLY=()
    read -ra COMP_WORDS < <(sed 's/[:=]/ & /g' <<<"$line")
    [[ $line != *' ' ]] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    function=$(complete -p "${COMP_WORDS[0]}" | sed 's/.* -F \([^ ]*\).*/\1/')
    $function 2>/dev/null # compopt complains when no completion is running
    echo "${COMPREPLY[@]}"
done
"""


@pytest.fixture(scope="module", params=sorted(PROGRAMS))
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def complete(program: str, directory: Path, *lines: str) -> list[set[str]]:
    made = directory / program
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT}/host-tools", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    with made.open("w") as file:
        generator = [sys.executable, "-P", str(ROOT / "packaging" / "completion.py"), program]
        subprocess.run(generator, stdout=file, env=environment, timeout=60, check=True)
    made.write_text(made.read_text().replace("/etc/hafw/hafw.yaml", str(directory / "pair.yaml")))
    done = subprocess.run(
        ["bash", "-c", DRIVER, "bash", made],
        input="".join(f"{line}\n" for line in lines),
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_every_command_and_option_is_offered_where_it_can_stand(program: str, tmp_path: Path) -> None:
    asked: dict[str, set[str]] = {}
    for path, parser in walk(PROGRAMS[program]()):
        line = " ".join((program, *path))
        asked[f"{line} -"] = set(options_of(parser))
        if commands_of(parser):
            asked[f"{line} "] = set(commands_of(parser))
    offered = complete(program, tmp_path, *asked)
    assert dict(zip(asked, offered, strict=True)) == asked


PAIR = """\
pair: G1 # nodes:
nodes:
  # gone: a comment
  fw-1:
    priority: 150
  gw.example.org: {priority: 140}
interfaces: {}
"""
CASES = {
    "hafw rend": {"render"},
    "hafw render keep": {"keepalived"},
    "hafw render keepalived pa": {"pair.yaml"},
    "hafw check pa": {"pair.yaml"},
    "hafw status --j": {"--json"},
    "hafw pair jo": {"join"},
    "hafw pair join pa": {"pair.yaml"},
    "hafw agent --node ": {"fw-1", "gw.example.org"},
    "hafw agent --file=pa": {"pair.yaml"},
    "hafw plan backup prim": {"primary"},
    "hafw history -n ": set(),
    "hafw-lab exec om": {"omarine"},
    "hafw-lab exec client -- cat pa": {"pair.yaml"},
    "hafw-lab fail fw-1 --how keepalived-": {"keepalived-stop"},
    "hafw-lab fail fw-1 --how=po": {"power"},
    # readline takes the colon for the end of a word
    "hafw-lab fail fw-1 --how link:": {"eth0", "eth1", "eth2"},
    "hafw-lab bench flap --sec": {"--seconds"},
    "hafw-lab up --agent stock-": {"stock-drop"},
    "hafw-lab logs fw-1 keep": {"keepalived"},
}


def test_values_and_files(program: str, tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(PAIR)
    mine = {line: wanted for line, wanted in CASES.items() if line.split()[0] == program}
    assert dict(zip(mine, complete(program, tmp_path, *mine), strict=True)) == mine


def test_shellcheck(program: str, tmp_path: Path) -> None:
    complete(program, tmp_path)
    done = subprocess.run(
        ["shellcheck", "--shell=bash", tmp_path / program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
