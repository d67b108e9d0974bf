"""Errors as every door shows them: RFC 9457 problem details."""

from __future__ import annotations

import json

import pytest

from mcp_server import errors
from mcp_server.problems import problem, unexpected

STATUSES = {
    errors.MalformedError: (400, "malformed"),
    errors.UnauthenticatedError: (401, "unauthenticated"),
    errors.ForbiddenError: (403, "forbidden"),
    errors.NotFoundError: (404, "not-found"),
    errors.ConflictError: (409, "conflict"),
    errors.TooLargeError: (413, "too-large"),
    errors.InvalidError: (422, "invalid"),
    errors.UnavailableError: (503, "unavailable"),
    errors.StoreFullError: (503, "unavailable"),
    errors.StoreError: (500, "internal"),
    errors.OffhandError: (500, "internal"),
}


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
def test_each_error_has_its_status_and_type(kind: type[errors.OffhandError]):
    status, name = STATUSES[kind]
    details = problem(kind())
    assert (details["ok"], details["status"], details["type"]) == (False, status, f"urn:offhand:problem:{name}")
    assert details["detail"] == kind.__doc__
    assert details["title"]
    assert details["say"]
    assert details["errors"] == []
    json.dumps(details)


def test_every_error_of_ours_has_a_status():
    ours = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.OffhandError)
    }
    assert all(400 <= problem(kind())["status"] < 600 for kind in ours)
    told_at_start = {errors.ForeignStoreError, errors.NewerStoreError, errors.AlreadyServingError}
    assert ours - told_at_start == set(STATUSES)


def test_a_problem_names_the_field_and_the_remedy():
    details = problem(errors.InvalidError("It is bad.", field="title", fix="Make it good."))
    assert details["errors"] == [{"field": "title", "message": "It is bad.", "fix": "Make it good."}]
    assert details["say"] == "It is bad. Make it good."


def test_a_conflict_shows_the_existing_record():
    details = problem(errors.ConflictError(existing={"id": "s1"}, field="session_id", fix="Choose another id."))
    assert details["existing"] == {"id": "s1"}
    assert "existing" not in problem(errors.ConflictError())


def test_what_is_spoken_may_be_said_otherwise():
    assert problem(errors.InvalidError("x" * 500, say="That is too long."))["say"] == "That is too long."


def test_at_most_forty_words_are_spoken():
    assert len(problem(errors.InvalidError("word " * 100))["say"].split()) <= 40


def test_an_unexpected_fault_tells_nothing_of_itself():
    details = unexpected()
    assert details["status"] == 500
    assert details["errors"] == []
