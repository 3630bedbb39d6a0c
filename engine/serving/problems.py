"""Errors as a caller sees them: RFC 9457 problems that also hold the `error` object OpenAI's clients read."""

from __future__ import annotations

import logging
import traceback
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from engine.models.errors import ModelError
from storage.errors import DamagedDataset, InputError

log = logging.getLogger("syncytium.serving")

_TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Invalid request",
    429: "Too many requests",
    500: "Internal error",
    501: "Not loaded",
    502: "Language model failed",
    503: "Overloaded",
    504: "Timed out",
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


# What any route may answer.
_ANYWHERE = (400, 401, 403, 408, 413, 422, 429, 503)
_SCHEMAS = "#/components/schemas/{model}"
# Their page shows what a 400 says, and knows no 422.
_CELLXGENE = "/api/v0.2/"


class ErrorObject(BaseModel):
    """As OpenAI's clients read it."""

    message: str
    type: str
    code: str
    param: str | None = None


class ProblemBody(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    error: ErrorObject


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems in the API's own description: those any route may answer, and these."""
    content = {"application/problem+json": {"schema": {"$ref": _SCHEMAS.format(model="ProblemBody")}}}
    return {
        status: {"description": _TITLES[status], "content": content} for status in (*_ANYWHERE, *statuses)
    }


class Problem(Exception):
    """A refusal. code: stable, for programs; detail: one sentence for the caller."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, headers or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Problem, (self.status, self.code, self.detail, self.headers)

    def response(self) -> JSONResponse:
        kind = _OPENAI_TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        body = {
            "type": f"urn:syncytium:problem:{self.code}",
            "title": _TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "error": {"message": self.detail, "type": kind, "code": self.code, "param": None},
        }
        return JSONResponse(body, self.status, self.headers, media_type="application/problem+json")


def not_loaded(what: str, flag: str) -> Problem:
    return Problem(501, "not_loaded", f"this server has no {what}; start it with {flag}")


def install(api: FastAPI) -> None:
    """Every error of the API leaves it as a problem, and its description says once what one looks like."""
    describe = api.openapi

    def described() -> dict[str, Any]:
        found, problem = describe(), ProblemBody.model_json_schema(ref_template=_SCHEMAS)
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(problem.pop("$defs", {}), ProblemBody=problem)
        return found

    api.openapi = described  # type: ignore[method-assign]

    @api.exception_handler(Problem)
    async def refused(_: Request, problem: Problem) -> JSONResponse:
        return problem.response()

    @api.exception_handler(InputError)
    @api.exception_handler(ModelError)
    async def bad_input(_: Request, error: Exception) -> JSONResponse:
        return Problem(400, "bad_input", _sentence(error)).response()

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]]
        status = 400 if request.url.path.startswith(_CELLXGENE) else 422
        return Problem(status, "invalid_request", "; ".join(found)).response()

    @api.exception_handler(HTTPException)
    async def by_framework(_: Request, error: HTTPException) -> JSONResponse:
        code = _TITLES.get(error.status_code, "error").lower().replace(" ", "_")
        return Problem(error.status_code, code, str(error.detail), dict(error.headers or {})).response()

    @api.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return of_error(request.url.path, error).response()


def of_error(path: str, error: Exception) -> Problem:
    """The problem that an error of a deployment is: Ray wraps what a replica raised."""
    cause = _cause(error)
    if isinstance(cause, Problem):
        return cause
    if isinstance(cause, InputError | ModelError):
        return Problem(400, "bad_input", _sentence(cause))
    if isinstance(cause, DamagedDataset):
        log.error("request to %s met damage: %s", path, cause)
        return Problem(
            503, "damaged", "what this needs is damaged on the server's disk; its log has the name"
        )
    if type(cause).__name__ == "BackPressureError":
        return Problem(
            503, "overloaded", "all replicas are busy; come back in a second", {"Retry-After": "1"}
        )
    number = uuid.uuid4().hex[:12]
    # What was asked is not logged, and an error's message may hold it: questions are the caller's own.
    where = "".join(traceback.format_tb(cause.__traceback__))
    log.error("request to %s failed, error %s: %s at\n%s", path, number, type(cause).__name__, where)
    return Problem(500, "internal", f"something failed here; the server's log has it as {number}")


def _cause(error: Exception) -> Any:
    return getattr(error, "cause", None) or error


def _sentence(error: Exception) -> str:
    """The message itself: an error that crossed Ray carries a traceback before it."""
    cause = _cause(error)
    return str(cause.args[0]) if getattr(cause, "args", ()) else str(cause)
