"""The one way a test says what this machine lacks: a skip whose reason starts with "needs <thing>:"."""

from __future__ import annotations

import importlib
import shutil
from types import ModuleType
from typing import NoReturn

import pytest


class Missing(Exception):
    """Something that a test needs is not here; becomes a skip at the fixture that wanted it."""

    def __init__(self, thing: str, reason: str) -> None:
        super().__init__(f"needs {thing}: {reason}")
        self.thing, self.reason = thing, reason


def needs(thing: str, reason: str) -> NoReturn:
    """Skip the test; the test command counts and lists these by ``thing``."""
    pytest.skip(f"needs {thing}: {reason}")


def program(name: str, thing: str = "") -> str:
    """The path of an executable, or a skip."""
    found = shutil.which(name)
    return found or needs(thing or name, f"no {name} on the PATH")


def module(name: str, package: str) -> ModuleType:
    """A Python module, or a skip naming the package that has it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        needs(package, f"no Python module {name}")
