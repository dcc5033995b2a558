"""Who is let through to the viewer, and what every answer says, by the bytes of requests."""

from __future__ import annotations

import asyncio
import json

import pytest

from histofast.viewer import Access
from histofast.viewer.guard import LOCAL, MOST_BODY_BYTES, Guard

HOST = (b"host", b"127.0.0.1:8000")
JSON = (b"content-type", b"application/json")
OWN = (b"sec-fetch-site", b"same-origin")


class Behind:
    """An application that tells what reached it."""

    def __init__(self):
        self.paths, self.bodies = [], []

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect":
                self.bodies.append(None)
                return
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"let through"})


class Answer:
    def __init__(self, sent):
        self.status = sent[0]["status"] if sent else None
        self.headers = [(k.decode(), v.decode()) for k, v in sent[0]["headers"]] if sent else []
        self.body = b"".join(message.get("body", b"") for message in sent[1:])

    def __getitem__(self, name):
        (value,) = [v for k, v in self.headers if k == name]
        return value


def ask(guard, path="/", *, query="", method="GET", headers=(HOST,), body=(b"",)):
    scope = {
        "type": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode("latin-1"),
        "method": method,
        "headers": list(headers),
    }
    parts, sent = list(body), []

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return Answer(sent)


@pytest.fixture
def behind():
    return Behind()


@pytest.fixture
def guard(behind):
    return Guard(behind, Access())


def cookie(guard, token=None):
    return (b"cookie", f"{guard.access.cookie}={token or guard.access.token}".encode())


def test_the_token_opens_the_page_and_leaves_a_cookie(guard, behind):
    answer = ask(guard, query=f"t={guard.access.token}")
    assert answer.status == 200
    held, *flags = answer["set-cookie"].split("; ")
    assert set(flags) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert held == f"{guard.access.cookie}={guard.access.token}"
    assert ask(guard, "/api/slides", headers=[HOST, (b"cookie", held.encode())]).status == 200
    assert behind.paths == ["/", "/api/slides"]


def test_tokens_are_long_and_of_one_server(guard):
    other = Access()
    assert len(guard.access.token) >= 43
    assert other.token != guard.access.token
    assert other.cookie != guard.access.cookie
    assert guard.access.token not in guard.access.cookie


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/", ""),
        ("/", "t="),
        ("/", "t=wrong"),
        ("/", "t=\xe4\xf6"),
        ("/", "t=" + "x" * 1000),
        ("/api/slides", "t=TOKEN"),  # of the page alone
        ("/tile/0/0/0_0.jpg", "t=TOKEN"),
        ("/static/app.css", ""),
        ("/t/TOKEN/", ""),  # unless frames are asked for
        ("//", "t=TOKEN"),
    ],
)
def test_without_the_token_nothing_is_reached(guard, behind, path, query):
    token = guard.access.token
    answer = ask(guard, path.replace("TOKEN", token), query=query.replace("TOKEN", token))
    assert answer.status == 403
    assert "set-cookie" not in dict(answer.headers)
    assert "token" in json.loads(answer.body)["error"]
    assert token not in answer.body.decode()
    assert behind.paths == []


@pytest.mark.parametrize(
    "held",
    [
        b"",
        b"NAME=",
        b"NAME=wrong",
        b"NAME=TOKENx",
        b"other=TOKEN",
        b"\xff\xfe=\x80",
        b"NAME=" + b"x" * 9000,
        b"a=NAME=TOKEN",
        b"NAME TOKEN",
        b'NAME="\\777"',
    ],
)
def test_another_cookie_opens_nothing(guard, behind, held):
    text = held.replace(b"NAME", guard.access.cookie.encode())
    text = text.replace(b"TOKEN", guard.access.token.encode())
    assert ask(guard, "/api/slides", headers=[HOST, (b"cookie", text)]).status == 403
    assert behind.paths == []


@pytest.mark.parametrize("before", [b"", b"a=b; ", b"\xff=\x80; ", b'odd="{;}"; ', b"NAME=old; "])
def test_cookies_of_other_servers_are_in_nobodys_way(guard, before):
    before = before.replace(b"NAME", guard.access.cookie.encode())
    name, held = cookie(guard)
    assert ask(guard, "/a", headers=[HOST, (name, before + held)]).status == 200


def test_a_token_of_one_time_opens_the_page_once(guard):
    once = guard.one_time.make()
    first = ask(guard, query=f"t={once}")
    assert first.status == 200
    assert once not in first["set-cookie"]
    assert ask(guard, query=f"t={once}").status == 403
    assert ask(guard, query=f"t={guard.access.token}").status == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8000",
        b"127.0.0.1.evil.example",
        b"127.0.0.1@evil.example",
        b"localhost.evil.example",
        b"",
        b"0.0.0.0:8000",
        b"[::1]:8000",
        b"127.0.0.1:x",
        b"127.0.0.1 evil",
        b"\xff",
    ],
)
def test_another_host_is_refused_with_the_token_too(guard, behind, host):
    """A page whose name is made to lead to this machine (DNS rebinding)."""
    headers = [(b"host", host), cookie(guard)]
    assert ask(guard, "/api/slides", headers=headers).status == 400
    assert ask(guard, headers=[(b"host", host)], query=f"t={guard.access.token}").status == 400
    assert behind.paths == []


def test_no_host_and_the_second_of_two_are_no_way_in(guard, behind):
    assert ask(guard, "/api/slides", headers=[cookie(guard)]).status == 400
    assert ask(guard, "/a", headers=[(b"host", b"evil"), HOST, cookie(guard)]).status == 400
    assert behind.paths == []


@pytest.mark.parametrize("host", [b"127.0.0.1", b"localhost:1", b"LOCALHOST", b"hub.example:443"])
def test_hosts_that_are_allowed(behind, host):
    guard = Guard(behind, Access(hosts={*LOCAL, "hub.example"}))
    assert ask(guard, "/a", headers=[(b"host", host), cookie(guard)]).status == 200


def test_every_answer_says_what_the_browser_must_not_do(guard):
    for answer in (
        ask(guard, query=f"t={guard.access.token}"),
        ask(guard, query="t=wrong"),
        ask(guard, headers=[(b"host", b"evil")]),
        ask(guard, method="DELETE"),
    ):
        assert answer["x-content-type-options"] == "nosniff"
        assert answer["referrer-policy"] == "no-referrer"
        assert answer["cross-origin-resource-policy"] == "same-origin"
        assert answer["cross-origin-opener-policy"] == "same-origin"
        assert answer["x-frame-options"] == "DENY"
        assert answer["cache-control"] == "no-store"
        policy = dict(part.split(" ", 1) for part in answer["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in answer["content-security-policy"]
        assert not [name for name, _ in answer.headers if name.startswith("access-control")]


def test_what_an_answer_says_itself_stands(behind):
    async def app(scope, receive, send):
        headers = [(b"Cache-Control", b"private")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    guard = Guard(app, Access())
    answer = ask(guard, "/tile", headers=[HOST, cookie(guard)])
    assert [v for k, v in answer.headers if k.lower() == "cache-control"] == ["private"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "X"])
def test_other_methods_are_refused(guard, behind, method):
    assert ask(guard, "/a", method=method, headers=[HOST, cookie(guard)]).status == 405
    assert behind.paths == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((JSON,), 403),
        ((JSON, (b"sec-fetch-site", b"cross-site")), 403),
        ((JSON, (b"sec-fetch-site", b"same-site")), 403),
        ((JSON, (b"sec-fetch-site", b"none")), 403),
        ((OWN,), 415),
        ((OWN, (b"content-type", b"text/plain")), 415),
        ((OWN, (b"content-type", b"application/x-www-form-urlencoded")), 415),
        ((OWN, (b"content-type", b"application/json; charset=utf-8")), 200),
        ((OWN, JSON, (b"content-length", str(MOST_BODY_BYTES + 1).encode())), 413),
        ((OWN, JSON, (b"content-length", b"9" * 5000)), 413),
        ((OWN, JSON, (b"content-length", b"-1")), 413),
        ((OWN, JSON, (b"content-length", b"x")), 413),
        ((OWN, JSON, (b"content-length", b"2")), 200),
    ],
)
def test_only_the_page_itself_may_write(guard, behind, headers, status):
    asked = [HOST, cookie(guard), *headers]
    answer = ask(guard, "/api/export", method="POST", headers=asked, body=[b"{}"])
    assert answer.status == status
    assert len(behind.paths) == (status == 200)


def test_a_body_longer_than_it_said_is_cut_off(guard, behind):
    part = b"x" * (1 << 18)
    headers = [HOST, cookie(guard), OWN, JSON]
    ask(guard, "/api/export", method="POST", headers=headers, body=[part] * 8)
    assert behind.bodies == [None]
    ask(guard, "/api/export", method="POST", headers=headers, body=[part] * 3)
    assert behind.bodies[1] == part * 3


def test_long_addresses_are_refused(guard, behind):
    headers = [HOST, cookie(guard)]
    assert ask(guard, "/" + "9" * 3000, headers=headers).status == 414
    assert ask(guard, "/", query="&" * 3000, headers=headers).status == 414
    assert behind.paths == []


def test_paths_behind_a_proxy(behind):
    guard = Guard(behind, Access(base_path="/user/me/proxy/8000"))
    answer = ask(guard, "/user/me/proxy/8000/", query=f"t={guard.access.token}")
    assert "Path=/user/me/proxy/8000/;" in answer["set-cookie"]
    for path in ("/user/me/proxy/8000/api/slides", "/api/slides", "/user/me/proxy/80001"):
        ask(guard, path, headers=[HOST, cookie(guard)])
    assert behind.paths == ["/", "/api/slides", "/api/slides", "/user/me/proxy/80001"]


def test_a_frame_of_another_page_has_the_token_in_its_path(behind):
    guard = Guard(behind, Access(framed_by=("https://hub.example",), in_path=True))
    token = guard.access.token
    answer = ask(guard, f"/t/{token}/api/slides")
    assert answer.status == 200
    assert "frame-ancestors https://hub.example;" in answer["content-security-policy"]
    assert "x-frame-options" not in dict(answer.headers)
    assert ask(guard, f"/t/{token}").status == 200
    for path in (f"/t/{token}x/", "/t//", "/t/", f"/t/{token[:-1]}/api/slides", f"/x/t/{token}/"):
        assert ask(guard, path).status == 403
    assert behind.paths == ["/api/slides", "/"]


def test_a_websocket_is_closed(guard, behind):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert behind.paths == []
