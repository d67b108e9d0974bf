"""The OpenAPI document says what the relay takes, and the interactive docs ask no other host for anything."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from relay_adapter.commands import COMMANDS
from relay_adapter.envelope import read_order
from relay_adapter.settings import RelaySettings
from tests.relay.harness import Arguments, RelayClient, served, task_record

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.json"))


async def document(client: RelayClient) -> dict[str, Any]:
    response = await client.anonymous("GET", "/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return response.json()


def errors_of(document: dict[str, Any], schema: str, value: Any) -> list[str]:
    """What is wrong with `value`. OpenAPI 3.0 schemas are of the draft-04 family."""
    root = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    return [error.message for error in Draft4Validator(root).iter_errors(value)]  # pyright: ignore[reportUnknownMemberType]


async def test_the_document_is_openapi_3_0_3_with_both_ways_to_give_a_key(relay_client: RelayClient) -> None:
    found = await document(relay_client)
    assert found["openapi"] == "3.0.3"
    assert found["servers"] == [{"url": "http://desk.test:8787"}]
    assert set(found["paths"]) == {"/webhook", "/tasks/{task_id}"}
    schemes = found["components"]["securitySchemes"]
    assert schemes["apiKey"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}


async def test_every_reference_in_the_document_leads_somewhere(relay_client: RelayClient) -> None:
    found = await document(relay_client)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(found)))
    assert references <= set(found["components"]["schemas"])
    assert references


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_every_example_is_valid_by_the_document(relay_client: RelayClient, path: Path) -> None:
    assert errors_of(await document(relay_client), "Request", json.loads(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"command": "nope"},
        {"command": "create_session", "data": {"foo": 1}},
        {"command": "list_agents", "foo": 1},
        {"command": "get_task", "data": {"task_id": "a b"}},
        {"command": "list_tasks", "data": {"limit": "5"}},
        {"command": "batch", "data": {"commands": []}},
        {"type": "webhook", "payload": {"type": "webhook", "payload": {}}},
        {"text": 7},
    ],
)
async def test_what_the_relay_refuses_is_invalid_by_the_document(relay_client: RelayClient, body: Any) -> None:
    assert (await relay_client.post(body)).status_code == 422
    assert errors_of(await document(relay_client), "Request", body)


async def test_every_command_is_in_the_document(relay_client: RelayClient) -> None:
    found = await document(relay_client)
    names = {
        name
        for schema in found["components"]["schemas"].values()
        for name in schema.get("properties", {}).get("command", {}).get("enum", [])
    }
    assert names == {*COMMANDS, "batch"}


async def test_the_examples_of_the_document_are_understood_and_valid(relay_client: RelayClient) -> None:
    found = await document(relay_client)
    content = found["paths"]["/webhook"]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    for example in content["examples"].values():
        assert read_order(example["value"], "echo").calls
        assert errors_of(found, "Request", example["value"]) == []


async def test_answers_are_as_the_document_says(relay_client: RelayClient) -> None:
    async def running(_: Arguments) -> dict[str, Any]:
        return task_record(status="running", link="https://desk.test/t1")

    found = await document(relay_client)
    relay_client.tools.script["delegate_task"] = running
    batch = {"command": "batch", "data": {"commands": [{"command": "list_agents"}]}}
    assert errors_of(found, "Answer", (await relay_client.post({"text": "x"})).json()) == []
    assert errors_of(found, "BatchAnswer", (await relay_client.post(batch)).json()) == []
    for problem in (await relay_client.post({}), await relay_client.anonymous("POST", "/webhook")):
        assert errors_of(found, "Problem", problem.json()) == []
        assert str(problem.status_code) in found["paths"]["/webhook"]["post"]["responses"]


async def test_the_server_in_the_document_is_the_public_one_where_there_is_one() -> None:
    async with served(RelaySettings(public_url="https://me.example/", default_agent="echo")) as client:
        assert (await document(client))["servers"] == [{"url": "https://me.example"}]


async def test_the_docs_page_loads_nothing_from_elsewhere(relay_client: RelayClient) -> None:
    page = await relay_client.anonymous("GET", "/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in page.text
    assert "<script>" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "http" not in policy
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for link in loaded:
        asset = await relay_client.anonymous("GET", f"/{link}")
        assert asset.status_code == 200
        assert asset.headers["cache-control"] == "no-store"
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert asset.content
    start = await relay_client.anonymous("GET", "/docs/assets/start.js")
    assert start.headers["content-type"].startswith("text/javascript")
    assert "validatorUrl: null" in start.text
    assert "//" not in start.text
    assert '"openapi.json"' in start.text


@pytest.mark.parametrize(
    "name", ["", "swagger-ui.js.map", "../__init__.py", "%2e%2e%2f__init__.py", "index.html", "a/b"]
)
async def test_only_the_assets_of_the_page_are_served(relay_client: RelayClient, name: str) -> None:
    response = await relay_client.anonymous("GET", f"/docs/assets/{name}")
    assert response.status_code == 404


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/assets/swagger-ui.css"])
async def test_the_docs_can_only_be_read(relay_client: RelayClient, path: str) -> None:
    response = await relay_client.request("POST", path)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"
    assert response.json()["ok"] is False
    read = await relay_client.anonymous("GET", path)
    assert read.headers["cache-control"] == "no-store"
    assert read.headers["x-content-type-options"] == "nosniff"


def test_the_relay_imports_neither_the_server_nor_anything_unexpected() -> None:
    allowed = {"relay_adapter", "mcp", "starlette", "pydantic", "swagger_ui_bundle", *sys.stdlib_module_names}
    for path in (ROOT / "relay_adapter").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


def test_importing_the_relay_imports_nothing_heavy() -> None:
    heavy = ["mcp", "pydantic", "swagger_ui_bundle", "fastapi", "jinja2", "httpx2", "jsonschema"]
    code = f"import sys; import relay_adapter.relay; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.strip() == "[]"
