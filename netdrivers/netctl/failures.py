"""Errors as netctl shows them: one line, and an exit status that says of which kind."""

from __future__ import annotations

import sqlite3

import click

from netdrivers.errors import NetdriversError

OTHER, USAGE, NOT_FOUND, CONFLICT, HOST_LACKS, DIFFERENCES, KERNEL, BUSY, FOREIGN = range(1, 10)

_STATUS = {
    "config": USAGE,
    "request": USAGE,
    "decode": USAGE,
    "version": USAGE,
    "not-found": NOT_FOUND,
    "unknown-container": NOT_FOUND,
    "conflict": CONFLICT,
    "exhausted": CONFLICT,
    "host-lacks": HOST_LACKS,
    "not-available": HOST_LACKS,
    "check": DIFFERENCES,
    "kernel": KERNEL,
    "undo": KERNEL,
    "busy": BUSY,
    "delegate": FOREIGN,
}


def status(error: BaseException) -> int:
    """The exit status for an error."""
    if isinstance(error, NetdriversError):
        return _STATUS.get(error.code, OTHER)
    if isinstance(error, click.UsageError):
        return USAGE
    return error.exit_code if isinstance(error, click.ClickException) else OTHER


def line(error: BaseException) -> str:
    """What went wrong, and what to do about it, in one line."""
    return " ".join(_words(error).split())


def _words(error: BaseException) -> str:
    if isinstance(error, NetdriversError):
        return str(error)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message()} (see {error.ctx.command_path} --help)"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, PermissionError):
        return f"{error.filename or 'the kernel'}: permission denied (netctl needs root)"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if isinstance(error, sqlite3.Error):
        return f"the state cannot be read or written: {error} (NETDRIVERS_STATE_DIR says where it is)"
    return f"internal error: {type(error).__name__}: {error} (NETDRIVERS_DEBUG=1 shows where)"
