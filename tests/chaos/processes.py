"""Processes, looked at and ended."""

from __future__ import annotations

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
