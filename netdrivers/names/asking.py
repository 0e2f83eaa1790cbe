"""One question to a name server, to see that it is there (RFC 1035, section 4.1)."""

from __future__ import annotations

import os
import socket
import struct
import time

from netdrivers.names.text import DOMAIN

TIMEOUT_SECONDS = 1.0
TRIES, PAUSE_SECONDS = 3, 0.2
"""A server that was started just now needs a moment."""


def answers(address: str, port: int) -> bool:
    """Whether anybody answers a question for a name of ours, which no server asks others for."""
    number = os.urandom(2)
    labels = f"server.{DOMAIN}".split(".")
    name = b"".join(bytes([len(label)]) + label.encode("ascii") for label in labels) + b"\0"
    question = number + struct.pack("!5H", 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_SECONDS)
        for _ in range(TRIES):
            try:
                client.connect((address, port))
                client.send(question)
                return client.recv(512)[:2] == number
            except TimeoutError:
                continue
            except OSError:
                time.sleep(PAUSE_SECONDS)
    return False
