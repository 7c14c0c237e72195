"""Processes, looked at and ended."""

from __future__ import annotations

import contextlib
import os

import psutil


def descendants(pid: int) -> list[psutil.Process]:
    """A process and everything below it, children first."""
    try:
        root = psutil.Process(pid)
        return [*reversed(root.children(recursive=True)), root]
    except psutil.NoSuchProcess:
        return []


def kill(process: psutil.Process) -> None:
    """SIGKILL, unless it is gone."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def command_of(process: psutil.Process) -> str:
    """Its command line; empty when it has ended."""
    try:
        return " ".join(process.cmdline()) if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def reap() -> None:
    """Take leave of ended processes that this one has inherited (it is the first of its namespace): thousands of them
    would make every look at processes slow. Not while a child is waited for elsewhere."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)
