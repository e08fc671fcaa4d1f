"""The OpenAPI document: a valid one, of all that is served and of nothing else."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace
from openapi_spec_validator import OpenAPIV31SpecValidator

from dispatcher.config import ServerSettings
from dispatcher.config.shape import INTEGER_MAX, NUMBER_MAX
from dispatcher.web import App, Listener, make_app
from dispatcher.web.problems import MEDIA_TYPE
from tests.web.conftest import metrics
from tests.web.fakes import FakeEngine
from tests.web.test_api import ENDED


async def served(face) -> dict[str, Any]:
    async with face.get("/openapi.json") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        document: dict[str, Any] = await response.json()
        return document


async def described(app: App) -> dict[str, Any]:
    """Return the document of an application that nobody serves."""
    async with (
        Listener(app, ["127.0.0.1:0"]) as listener,
        aiohttp.ClientSession(f"http://{listener.addresses[0]}", headers=TOKEN) as session,
    ):
        return await served(session)


TOKEN = {"Authorization": "Bearer token"}


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


async def test_it_is_valid(face):
    OpenAPIV31SpecValidator(await served(face)).validate()


@pytest.mark.parametrize("with_metrics", [True, False])
async def test_it_tells_of_every_route_and_of_nothing_else(with_metrics):
    app = make_app(FakeEngine(), ServerSettings(), metrics=metrics if with_metrics else None)
    routes = {(route.method, route.path) for route in app.routes}
    document = await described(app)
    assert set(operations(document)) == routes
    assert (("GET", "/metrics") in routes) == with_metrics


async def test_it_tells_of_every_call_of_the_contract(face):
    calls = {
        "POST /v1/invocations",
        "GET /v1/invocations",
        "GET /v1/invocations/{id}",
        "DELETE /v1/invocations/{id}",
        "POST /v1/invocations/{id}/completion",
        "POST /v1/invocations/{id}/redrive",
        "POST /v1/dead/redrive",
        "GET /v1/accounts",
        "GET /v1/accounts/{account}",
        "PATCH /v1/accounts/{account}",
        "POST /v1/accounts/{account}/pause",
        "POST /v1/accounts/{account}/resume",
        "POST /v1/accounts/{account}/functions/{function}/pause",
        "POST /v1/accounts/{account}/functions/{function}/resume",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /openapi.json",
    }
    assert {f"{method} {path}" for method, path in operations(await served(face))} == calls


async def test_every_problem_has_its_media_type_and_every_name_is_used(face):
    document = await served(face)
    for response in document["components"]["responses"].values():
        assert list(response["content"]) == [MEDIA_TYPE]
        assert response["description"]
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(names)) == len(names)
    text = json.dumps(document)
    for kind in ("schemas", "responses"):
        for name in document["components"][kind]:
            assert f"#/components/{kind}/{name}" in text or name == "RefusedLine"


async def test_every_request_without_a_token_may_be_told_so(tmp_path):
    (tmp_path / "tokens").write_text("token")
    app = make_app(FakeEngine(), ServerSettings(token_file=str(tmp_path / "tokens")))
    document = await described(app)
    OpenAPIV31SpecValidator(document).validate()
    for (_, path), operation in operations(document).items():
        is_open = path in ("/healthz", "/readyz")
        assert ("401" in operation["responses"]) == (not is_open)
        assert (operation.get("security") == []) == is_open


def test_it_is_the_same_every_time():
    from dispatcher.web import openapi
    from dispatcher.web.api import Api

    routes = Api(FakeEngine.__new__(FakeEngine)).routes()
    first, second = (msgspec.json.encode(openapi.document(routes, tokens=False)) for _ in "ab")
    assert first == second


# -- What strangers make of it --------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.slow
async def test_schemathesis_finds_nothing_that_is_not_as_it_says(engine, face, tmp_path):
    """
    Every check of schemathesis, over requests that the document allows and others.

    The document cannot say which accounts there are, so the test narrows it to the one there is.
    """
    for i in range(3):
        engine.put(replace(ENDED, id=f"i{i}"))
    document = await served(face)
    narrow(document)
    place = tmp_path / "openapi.json"
    place.write_text(json.dumps(document))
    code, output = await schemathesis(place, str(face._base_url), tmp_path)
    print(output[-1500:])
    assert code == 0, output
    assert re.search(r"Tested: 18\b", output), output
    assert len(engine.invocations) > 20, "nothing of what it sent was accepted"


def narrow(document: dict[str, Any]) -> None:
    """Say what this engine in particular knows: its account, and that it calls nobody back."""
    fields = document["components"]["schemas"]["NewInvocation"]["properties"]
    fields["account"] = {"const": "cn"}
    fields["callback_url"] = {"type": "null"}
    # A key with another job is 422, and only the requests before say which job it has.
    del fields["idempotency_key"]
    listing = document["paths"]["/v1/invocations"]
    del listing["post"]["parameters"]
    [after] = [one for one in listing["get"]["parameters"] if one["name"] == "after"]
    after["schema"]["pattern"] = "^[0-9]{1,9}$"
    fields["function"]["pattern"] = "^[A-Za-z0-9_-]{1,64}$"
    # JSON Schema cannot compare it with `expires_s`.
    del fields["delay_s"]
    # Nor can it add reservations up, and what fits an account is left to the configuration's rules.
    rules = document["components"]["schemas"]["AccountPatch"]["properties"]
    for name in rules.keys() - {"limit", "requests_max", "rate_max_per_s"}:
        del rules[name]
    rules["requests_max"]["anyOf"][0]["maximum"] = INTEGER_MAX
    rules["rate_max_per_s"]["anyOf"][0]["maximum"] = int(NUMBER_MAX)


async def schemathesis(document: Path, url: str, folder: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", str(document), "--url", url, "--checks", "all", "--no-color"),
        # What is cancelled stays visible: DELETE ends an invocation, not the memory of it.
        *("--exclude-checks", "use_after_free"),
        *("--max-examples", "20", "--seed", "1", "--continue-on-failure", "--workers", "1"),
        *("--generation-database", "none", "--request-timeout", "10"),
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "COLUMNS": "160"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()
