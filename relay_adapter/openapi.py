"""The OpenAPI document and the interactive docs. Both are made at the first request, from the tables that the relay
itself goes by, and every byte is served from here: no other host is asked for anything.

OpenAPI 3.0.3, because that is what the bundled Swagger UI (4.15) reads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from relay_adapter.answers import ALWAYS, Answer, response_of
from relay_adapter.commands import COMMANDS, TASK_COMMAND, Command, text_command
from relay_adapter.envelope import DELIVERY_ID_PATTERN, MAX_BATCH_COMMANDS
from relay_adapter.errors import NotFoundError
from relay_adapter.fields import SHAPES, Field
from relay_adapter.tools import TOOLS

Schema = dict[str, Any]
Handler = Callable[[Request], Awaitable[Response]]

ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Offhand webhooks</title>
    <link rel="stylesheet" href="docs/assets/swagger-ui.css">
    <link rel="icon" type="image/png" href="docs/assets/favicon-32x32.png">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="docs/assets/swagger-ui-bundle.js"></script>
    <script src="docs/assets/start.js"></script>
  </body>
</html>
"""
# validatorUrl: null, because Swagger UI would else send the document to a validator on the internet.
_START = """window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  validatorUrl: null,
  persistAuthorization: false,
});
"""

_SECURITY: list[dict[str, list[str]]] = [{"apiKey": []}, {"bearer": []}]
_WAIT_PARAMETER = {
    "name": "wait",
    "in": "query",
    "description": "Seconds to wait for the end of a short task (default 10).",
    "schema": SHAPES["wait"].schema,
}
_STATUSES = {
    "400": "The body could not be read: malformed JSON, not UTF-8, not an object.",
    "401": "No key, or one that is not known.",
    "403": "Policy or scope does not allow it.",
    "404": "There is no record with this id.",
    "409": "The id is taken by another record, or the delivery id came before with another body.",
    "413": "The body or a content is too large.",
    "422": "A field cannot be used; `errors` names each with its remedy.",
    "429": "Too many requests; see Retry-After.",
    "500": "Something went wrong on the server.",
    "503": "Not now; see Retry-After.",
}


def docs_handlers(base_url: Callable[[Request], str]) -> dict[str, Handler]:
    """Path → handler. `base_url` says where a request reached this server."""

    async def document(request: Request) -> Response:
        return response_of(Answer(200, _document() | {"servers": [{"url": base_url(request)}]}))

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers=ALWAYS | {"Content-Security-Policy": _CONTENT_POLICY})

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "start.js":
            return Response(_START, headers=ALWAYS, media_type="text/javascript")
        if name not in ASSETS:
            raise NotFoundError
        return FileResponse(_assets_folder() / name, headers=ALWAYS)

    return {"/openapi.json": document, "/docs": page, "/docs/assets/{name:path}": asset}


@cache
def _assets_folder() -> Path:
    # Imported here: it reads package metadata, which no start of the server should wait for.
    from swagger_ui_bundle import swagger_ui_path  # pyright: ignore[reportMissingTypeStubs]

    return Path(str(swagger_ui_path))


@cache
def _document() -> dict[str, Any]:
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Offhand webhooks",
            "version": "1",
            "description": "Say it offhand; your own machine does it. Every answer has `say`, to be spoken.",
        },
        "paths": {"/webhook": {"post": _webhook_operation()}, "/tasks/{task_id}": {"get": _task_operation()}},
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": _schemas(),
        },
    }


def _webhook_operation() -> Schema:
    return {
        "operationId": "postWebhook",
        "summary": "Ask for something.",
        "security": _SECURITY,
        "parameters": [
            _WAIT_PARAMETER,
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The same as delivery_id in the body: sending it again does nothing twice.",
                "schema": {"type": "string", "pattern": f"^{DELIVERY_ID_PATTERN}$"},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("Request"), "examples": _examples()}},
        },
        "responses": {
            "200": _answer("The result, or the results of a batch.", {"oneOf": [_ref("Answer"), _ref("BatchAnswer")]}),
            "202": _answer("The work goes on: poll status_url.", _ref("Answer")),
            **_problems(),
        },
    }


def _task_operation() -> Schema:
    fields = {each.name: each for each in TOOLS["get_task"].fields}
    return {
        "operationId": "getTask",
        "summary": "State, result and output of a task.",
        "security": _SECURITY,
        "parameters": [
            {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}},
            _WAIT_PARAMETER,
            *(
                {"name": name, "in": "query", "description": fields[name].about, "schema": _schema_of(fields[name])}
                for name in ("output_offset", "stream")
            ),
        ],
        "responses": {"200": _answer("The task as it is now.", _ref("Answer")), **_problems()},
    }


def _answer(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems() -> Schema:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {status: {"description": words, "content": content} for status, words in _STATUSES.items()}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Schema:
    commands = {_name_of(name): _command_schema(command) for name, command in COMMANDS.items()}
    of_batch = {"oneOf": [*map(_ref, commands), _ref("TaskCommand"), _ref("Text")]}
    to_do = {"oneOf": [*map(_ref, commands), _ref("Batch"), _ref("TaskCommand"), _ref("Text")]}
    return {
        "Request": {"oneOf": [*to_do["oneOf"], _ref("Webhook")]},
        **commands,
        "Batch": _batch_schema(of_batch),
        "TaskCommand": _closed(
            {"type": _only("task_command"), "session_id": SHAPES["id"].schema, "data": _data_schema(TASK_COMMAND)},
            ("type", "data"),
        ),
        "Webhook": _closed(
            {"type": _only("webhook"), "event": SHAPES["text"].schema, "payload": to_do}, ("type", "payload")
        ),
        "Text": _text_schema(),
        "Answer": _answer_schema(),
        "BatchAnswer": _object(
            {
                "ok": {"type": "boolean", "description": "false if any command failed"},
                "say": SHAPES["text"].schema,
                "results": {"type": "array", "items": {"type": "object"}, "description": "One per command that ran."},
            },
            ("ok", "say", "results"),
        ),
        "Problem": _problem_schema(),
    }


def _name_of(command: str) -> str:
    return "".join(part.title() for part in command.split("_"))


def _only(value: str) -> Schema:
    return {"type": "string", "enum": [value]}


def _object(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


def _closed(properties: Schema, required: tuple[str, ...]) -> Schema:
    """A form: nothing beside what it names, and a delivery id and a timestamp where the sender has them."""
    always = {
        "delivery_id": {"type": "string", "pattern": f"^{DELIVERY_ID_PATTERN}$"},
        "timestamp": SHAPES["moment"].schema,
    }
    return _object(properties | always, required) | {"additionalProperties": False}


def _command_schema(command: Command) -> Schema:
    return _closed(
        {
            "type": _only("collaborative_session_command"),
            "command": _only(command.name),
            "session_id": SHAPES["id"].schema,
            "data": _data_schema(command),
        },
        ("command",),
    ) | {"description": TOOLS[command.tool].about}


def _data_schema(command: Command) -> Schema:
    fields = {each.name: each for each in command.fields}
    # What is required is left to the relay: a required field may come under another name, or from the envelope.
    properties = {name: _schema_of(fields[argument]) for name, argument in command.names().items()}
    return _object(properties) | {"additionalProperties": False}


def _schema_of(field: Field) -> Schema:
    schema = dict(SHAPES[field.kind].schema)
    if field.choices:
        schema["enum"] = list(field.choices)
    return schema | {"description": field.about} if field.about else schema


def _batch_schema(of_batch: Schema) -> Schema:
    data = _object(
        {
            "commands": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH_COMMANDS, "items": of_batch},
            "continue_on_error": {"type": "boolean", "default": False},
        },
        ("commands",),
    )
    return _closed(
        {
            "type": _only("collaborative_session_command"),
            "command": _only("batch"),
            "session_id": SHAPES["id"].schema,
            "data": data | {"additionalProperties": False},
        },
        ("command", "data"),
    ) | {"description": "Several commands, run in order."}


def _text_schema() -> Schema:
    command = text_command("")
    fields = {each.name: each for each in command.fields}
    properties = {name: _schema_of(fields[argument]) for name, argument in command.names().items()}
    return _closed(properties, ("text",)) | {"description": "What was dictated goes to the default agent."}


def _answer_schema() -> Schema:
    text = SHAPES["text"].schema
    return _object(
        {
            "ok": {"type": "boolean", "enum": [True]},
            "say": text | {"description": "At most 40 words, to be spoken."},
            "task_id": text | {"description": "While the work goes on."},
            "status_url": text | {"format": "uri", "description": "While the work goes on: read it again here."},
            "result": {"type": "object", "description": "The tool's record."},
            "link": text | {"nullable": True, "description": "Where to read more."},
        },
        ("ok", "say", "result", "link"),
    )


def _problem_schema() -> Schema:
    text = SHAPES["text"].schema
    issue = _object({"field": text, "message": text, "fix": text}, ("field", "message", "fix"))
    return _object(
        {
            "ok": {"type": "boolean", "enum": [False]},
            "type": text | {"example": "urn:offhand:problem:invalid"},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "say": text,
            "errors": {"type": "array", "items": issue},
            "existing": {"type": "object", "description": "With 409: the record that is there."},
        },
        ("ok", "type", "title", "status", "detail", "say", "errors"),
    )


def _examples() -> Schema:
    git = {"agent": "git", "params": {"command": ["git", "status"]}}
    bodies: dict[str, Schema] = {
        "Run git status": {"command": "delegate_task", "data": git},
        "Say it": {"text": "review the open PR in offhand and tell me what is risky"},
        "Start a session": {"command": "create_session", "session_id": "test_001", "data": {"title": "Test Session"}},
        "Keep an idea": {
            "command": "store_memory",
            "session_id": "test_001",
            "data": {"type": "idea", "content": "Track carbon", "tags": ["feature"]},
        },
        "Several at once": {
            "command": "batch",
            "data": {"commands": [{"command": "list_agents"}, {"command": "delegate_task", "data": git}]},
        },
    }
    return {name: {"value": body} for name, body in bodies.items()}
