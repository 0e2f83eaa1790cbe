"""The program itself: help, errors in one line, exit statuses, exec, completion, doctor, drivers, what it imports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest

from netdrivers import errors
from netdrivers.netctl import failures
from netdrivers.netctl.main import COMMANDS, cli
from tests.lab import Namespace
from tests.netctl.runner import Netctl, bridge

SILENT = {"exec", "serve", "completion"}
"""Commands that print nothing of their own, or a script."""


def commands() -> list[tuple[str, click.Command]]:
    """Every command with its words, those of groups included."""
    found = []
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += [(f"{name} {inner}", item) for inner, item in command.commands.items()]
        else:
            found.append((name, command))
    return found


def test_every_command_has_help_and_json(netctl: Netctl) -> None:
    overview = netctl.ok("--help")
    for words, command in commands():
        assert words.split()[0] in overview
        assert command.help, words
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in options) == (words not in SILENT), words
    assert "Exit status" in overview
    assert "Attach the namespace NETNS to NETWORK" in netctl.ok("add", "--help")
    assert netctl.ok("--version").startswith("netctl, version ")


def test_every_command_is_in_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "netctl.md").read_text()
    for words, command in commands():
        assert f"netctl {words}" in text, words
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "as_json":
                assert max(parameter.opts, key=len) in text, (words, parameter.opts)


@pytest.mark.parametrize(
    "words", [("lits",), ("network", "lst"), ("ls", "--nonsense"), ("add",), ("gc", "--linger", "x")]
)
def test_usage_errors_are_one_line(netctl: Netctl, words: tuple[str, ...]) -> None:
    assert "--help" in netctl.fails(2, *words)


def test_a_wrong_command_suggests_the_near_one(netctl: Netctl) -> None:
    assert "did you mean inspect?" in netctl.fails(2, "inspet", "x")


def test_every_error_of_ours_has_an_exit_status() -> None:
    kinds = {value.code for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "code")}
    for kind in kinds - {"internal"}:
        error = errors.NetdriversError("words")
        error.code = kind
        assert 2 <= failures.status(error) <= 9, kind
    assert failures.status(errors.NetdriversError("words")) == 1
    assert failures.line(errors.NetdriversError("two\nlines", "a hint")) == "two lines (a hint)"


def test_a_state_directory_that_cannot_be(netctl: Netctl, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = netctl.run("ls", env={"NETDRIVERS_STATE_DIR": str(tmp_path / "file")})
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "state.db").write_bytes(b"no database" * 1000)
    done = netctl.run("ls", env={"NETDRIVERS_STATE_DIR": str(broken)})
    assert done.returncode == 1
    assert "state" in done.stderr


def test_a_traceback_only_when_asked_for(netctl: Netctl, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = netctl.host.env(NETDRIVERS_STATE_DIR=str(tmp_path / "file"), NETDRIVERS_DEBUG="1")
    done = netctl.host.run(sys.executable, "-m", "netdrivers.netctl", "ls", env=env, check=False)
    assert "Traceback" in done.stderr


def test_a_reader_that_leaves_early_is_no_fault(netctl: Netctl) -> None:
    env = netctl.host.env()
    script = f"{sys.executable} -m netdrivers.netctl drivers --json | head -c 1"
    done = netctl.host.run("sh", "-c", script, env=env)
    assert (done.stdout, done.stderr) == ("[", "")


def test_exec(netctl: Netctl, container: Namespace) -> None:
    netctl.conflist("net1", bridge())
    netctl.ok("add", "net1", container.path)
    assert "10.70.0.2/24" in netctl.ok("exec", container.path, "--", "ip", "address", "show", "dev", "eth0")
    assert netctl.run("exec", container.path, "--", "sh", "-c", "exit 42").returncode == 42
    assert netctl.run("exec", container.path, "sh", "-c", "kill -9 $$").returncode == -9
    assert netctl.ok("exec", container.path, "--", "echo", "--json", "-p") == "--json -p\n"
    assert netctl.run("exec", container.path, "--", "no-such-command").returncode == 127
    assert netctl.run("exec", container.path, "--", "/etc/passwd").returncode == 126
    netctl.fails(2, "exec", container.path, "--")
    netctl.fails(3, "exec", "no-such-namespace", "--", "true")


def test_drivers(netctl: Netctl) -> None:
    found = {item["name"]: item for item in netctl.json("drivers")}
    assert {"bridge", "host", "macvlan", "none"} <= set(found)
    options = {option["key"]: option for option in found["bridge"]["options"]}
    assert (options["isGateway"]["type"], options["isGateway"]["default"]) == ("bool", False)
    assert "hostShim" in netctl.ok("drivers")


def test_doctor_probes_and_changes_nothing(netctl: Netctl) -> None:
    before = netctl.host.snapshot()
    found = {item["subject"]: item for item in netctl.json("doctor")}
    assert netctl.host.snapshot() == before
    assert found["rights"]["state"] == found["kernel bridge"]["state"] == found["kernel veth"]["state"] == "ok"
    assert found["firewall"]["words"] == "nftables"
    assert found["forwarded packets"]["state"] == "ok"
    assert found["service"]["state"] == "note"


def test_doctor_finds_a_firewall_that_drops(netctl: Netctl) -> None:
    rules = "table inet other { chain forward { type filter hook forward priority 0; policy drop; }; }"
    netctl.host.run("nft", rules)
    (found,) = (item for item in netctl.json("doctor") if item["subject"] == "forwarded packets")
    assert found["state"] == "note"
    assert "chain forward of table other" in found["words"]


def test_completion(netctl: Netctl) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_NETCTL_COMPLETE" in netctl.ok("completion", shell)
    netctl.conflist("shop", bridge())
    netctl.conflist("other", bridge("10.71.0.0/24"))
    env = {"_NETCTL_COMPLETE": "bash_complete", "COMP_WORDS": "netctl add sh", "COMP_CWORD": "2"}
    assert netctl.run(env=env).stdout.split() == ["plain,shop"]
    env = {"_NETCTL_COMPLETE": "bash_complete", "COMP_WORDS": "netctl ins", "COMP_CWORD": "1"}
    assert netctl.run(env=env).stdout.split() == ["plain,inspect", "plain,install"]


def imported(netctl: Netctl, *words: str) -> set[str]:
    """The modules that a run of netctl imported."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv[1:] = {list(words)!r}\n"
        "from netdrivers.netctl.main import main\n"
        "main()\n"
    )
    done = netctl.host.run(sys.executable, "-c", code, env=netctl.host.env())
    return set(done.stderr.split())


def test_help_imports_little(netctl: Netctl) -> None:
    for words in (("--help",), ("--version",)):
        modules = imported(netctl, *words)
        heavy = {"rich", "pyroute2", "netaddr", "msgspec", "iptc", "sqlite3", "netdrivers.lifecycle"}
        assert not heavy & modules


def test_a_listing_needs_no_netlink_library(netctl: Netctl) -> None:
    assert not {"pyroute2", "netaddr", "iptc", "rich"} & imported(netctl, "ls", "--json")


def test_json_is_json_where_there_is_nothing(netctl: Netctl) -> None:
    for words in (("ls",), ("ports",), ("network", "ls"), ("check",), ("reload",)):
        done = netctl.run(*words, "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, [])
