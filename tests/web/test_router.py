"""Which path leads where, and that no spelling leads around a rule."""

import pytest

from dispatcher.web.response import Response
from dispatcher.web.router import Router
from dispatcher.web.routes import Route


async def handler(_: object) -> Response:
    return Response()


def route(method: str, path: str) -> Route:
    return Route(method=method, path=path, handler=handler, name=path, summary="", replies=())


ROUTER = Router(
    [
        route("GET", "/a/{id}"),
        route("DELETE", "/a/{id}"),
        route("GET", "/a/known"),
        route("POST", "/a/{id}/stop"),
        route("POST", "/v1.0/{f}/run"),
        route("*", "/v1.0/{rest:.*}"),
        route("GET", "/"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "leads_to", "parameters"),
    [
        ("GET", "/", "/", {}),
        ("GET", "/a/known", "/a/known", {}),
        ("HEAD", "/a/known", "/a/known", {}),
        ("GET", "/a/%6bnown", "/a/known", {}),
        ("DELETE", "/a/known", "/a/{id}", {"id": "known"}),
        ("GET", "/a/7", "/a/{id}", {"id": "7"}),
        ("GET", "/a/x%2Fy%25z%3Aq", "/a/{id}", {"id": "x/y%z:q"}),
        ("GET", "/a/%252F", "/a/{id}", {"id": "%2F"}),
        ("POST", "/a/7/stop", "/a/{id}/stop", {"id": "7"}),
        ("POST", "/v1.0/f/run", "/v1.0/{f}/run", {"f": "f"}),
        ("GET", "/v1.0/f/run", "/v1.0/{rest:.*}", {"rest": "f/run"}),
        ("PUT", "/v1.0/", "/v1.0/{rest:.*}", {"rest": ""}),
    ],
)
def test_a_path_leads_to_its_route(method, path, leads_to, parameters):
    found = ROUTER.find(method, path)
    assert found.route is not None
    assert (found.route.path, found.parameters) == (leads_to, parameters)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/a/known", {"GET", "DELETE"}),
        ("GET", "/a/7/stop", {"POST"}),
        ("GET", "/a", set()),
        ("GET", "/a/", set()),
        ("GET", "/a/7/", set()),
        ("GET", "/a/b/../known", set()),
        ("GET", "/a%2Fknown", set()),
        ("GET", "//", set()),
        ("GET", "/v1x0/f", set()),
    ],
)
def test_others_lead_nowhere_but_say_which_methods_there_are(method, path, allowed):
    found = ROUTER.find(method, path)
    assert found.route is None
    assert set(found.allowed) == allowed


def test_what_is_remembered_is_bounded():
    for number in range(3000):
        ROUTER.find("GET", f"/a/{number}")
    assert ROUTER.find.cache_info().currsize <= 1024
