"""The systemd units of the service, as text, for ``netctl install --systemd``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from netdrivers.launcher import wire

SOCKET_UNIT = "netdrivers.socket"
SERVICE_UNIT = "netdrivers.service"

_SOCKET = """\
# Written by netctl install --systemd.
[Unit]
Description=Socket of the netdrivers service

[Socket]
ListenStream={socket}
SocketMode=0600
DirectoryMode=0700
Backlog=1024
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""

_SERVICE = """\
# Written by netctl install --systemd.
# No sandboxing that makes a mount namespace: calls name files of the host (namespaces, CNI_PATH).
[Unit]
Description=netdrivers: container network drivers, warm
Requires={socket_unit}
After={socket_unit} network-pre.target
# Docker restores its containers as it starts, and waits only some seconds for its plugins.
Before=docker.service

[Service]
Type=notify
ExecStart={command}
Environment={environment}
WatchdogSec=30
Restart=on-failure
RestartSec=100ms
TimeoutStopSec=45
# aardvark-dns, which it may have started, answers containers while it is away.
KillMode=process
LimitNOFILE=65536
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""


def units(command: Sequence[str], state_dir: Path) -> dict[str, str]:
    """File name to text of both units. command: how the service is started, the first word an absolute path."""
    environment = _quoted(f"NETDRIVERS_STATE_DIR={state_dir}")
    return {
        SOCKET_UNIT: _SOCKET.format(socket=_escaped(str(state_dir / wire.SOCKET))),
        SERVICE_UNIT: _SERVICE.format(
            command=" ".join(_quoted(word).replace("$", "$$") for word in command),
            socket_unit=SOCKET_UNIT,
            environment=environment,
        ),
    }


def _escaped(word: str) -> str:
    """Percent signs are specifiers in units (systemd.unit(5))."""
    return word.replace("%", "%%")


def _quoted(word: str) -> str:
    """A word of a command line or assignment (systemd.service(5), systemd.syntax(7))."""
    word = _escaped(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{word}"' if any(character in word for character in " \t\"'\\;") or not word else word
