"""One question to a name server, to see that it is there (RFC 1035, section 4.1)."""

from __future__ import annotations

import os
import socket
import struct
import time

from netdrivers.names.text import DOMAIN

KINDS = {4: 1, 6: 28}
"""A and AAAA (RFC 1035, RFC 3596)."""

_TRY_SECONDS, _PAUSE_SECONDS = 0.5, 0.01


def answers(address: str, port: int, name: str, family: int, seconds: float) -> bool:
    """Whether a server knows, within some time, the address of a family (4 or 6) of a name of ours.

    For the name "" it is enough that somebody answers.
    """
    number = os.urandom(2)
    labels = f"{name or 'server'}.{DOMAIN}".split(".")
    encoded = b"".join(bytes([len(label)]) + label.encode("ascii") for label in labels) + b"\0"
    question = number + struct.pack("!5H", 0x0100, 1, 0, 0, 0) + encoded + struct.pack("!2H", KINDS[family], 1)
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_TRY_SECONDS)
        while time.monotonic() < deadline:
            try:
                client.connect((address, port))
                client.send(question)
                answer = client.recv(512)
                return answer[:2] == number and (not name or answer[6:8] != b"\0\0")  # how many records
            except OSError:  # nobody there yet, or the question was lost
                time.sleep(_PAUSE_SECONDS)
    return False
