"""An input's address, and the error for one that cannot be used."""

from __future__ import annotations

from render_farm.errors import InputError
from render_farm.uris import Address, AddressError, read_address, shown_uri


def read_input_address(uri: str) -> Address:
    """Where an input is. InputError when the address cannot be used."""
    try:
        return read_address(uri)
    except AddressError as error:
        raise InputError(error.problem, advice=error.advice) from None


def refusal(uri: str, problem: str, advice: str = "") -> InputError:
    """The error for an input that cannot be used: which, what is wrong, and what would work."""
    return InputError(f"{shown_uri(uri)}: {problem}", advice=advice)
