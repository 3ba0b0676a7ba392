"""Errors ↔ status codes: one table, no error without a place."""

from __future__ import annotations

import grpc
import pytest

from primia import errors
from primia.wire.errors_table import CODES, OWN_FAULT, error_of, status_of

OWN = {errors.ConfigError, errors.DataError, errors.StateError}


class Failed(grpc.RpcError):
    def __init__(self, code, details="", name=None):
        self._code, self._details, self._name = code, details, name

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        if self._name is None:
            return ()
        return (_Entry("primia-error", self._name),)


class _Entry:
    def __init__(self, key, value):
        self.key, self.value = key, value


def test_every_error_is_either_for_the_caller_or_the_coordinators_own():
    leaves = {
        e
        for e in vars(errors).values()
        if isinstance(e, type) and issubclass(e, errors.PrimiaError)
    } - {errors.PrimiaError}
    assert set(CODES) | OWN == leaves
    assert not set(CODES) & OWN
    assert len(set(CODES.values()) | {OWN_FAULT}) == len(CODES) + 1


@pytest.mark.parametrize("cls", list(CODES))
def test_there_and_back_is_the_same_error(cls):
    code, message, name = status_of(cls("cause; remedy"))
    back = error_of(Failed(code, message, name))
    assert type(back) is cls
    assert str(back) == "cause; remedy"


@pytest.mark.parametrize("error", [errors.StateError("/srv/x"), ValueError("/srv/x")])
def test_a_fault_of_our_own_is_not_told_to_peers(error):
    code, message, name = status_of(error)
    assert code is OWN_FAULT
    assert "/srv/x" not in message
    assert type(error_of(Failed(code, message, name))) is errors.Unreachable


@pytest.mark.parametrize("name", ["SystemExit", "builtins.eval", "PrimiaError", ""])
def test_a_class_name_outside_the_table_is_never_looked_up(name):
    back = error_of(Failed(grpc.StatusCode.PERMISSION_DENIED, "x", name))
    assert type(back) is errors.PeerError


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_every_bare_status_becomes_an_error_of_ours(code):
    assert type(error_of(Failed(code))) in {errors.Unreachable, errors.PeerError}


def test_a_broken_link_is_unreachable_not_the_peers_fault():
    for code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN"):
        assert type(error_of(Failed(grpc.StatusCode[code]))) is errors.Unreachable


def test_a_subclass_crosses_as_the_class_in_the_table():
    class Fine(errors.RoundFailed):
        pass

    assert status_of(Fine("x"))[2] == "RoundFailed"
