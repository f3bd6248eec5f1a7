"""The pages for operators, asked by clients that do not behave."""

from __future__ import annotations

import asyncio

import pytest

from optserve_server.operations.http_server import HttpRequest, HttpResponse, HttpServer


async def here(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, "text/plain", b"it is\n")


async def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, "text/plain", repr((request.query, request.headers)).encode())


PAGES = {"/here": here, "/echo": echo}


async def ask(*requests: bytes) -> list[bytes]:
    """What each request gets, on a connection of its own."""
    pages = HttpServer(PAGES)
    port = await pages.start("127.0.0.1", 0)
    answers = []
    for request in requests:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        try:
            answers.append(await asyncio.wait_for(reader.read(), 10))
        except ConnectionResetError:
            answers.append(b"")
        writer.close()
    await pages.stop()
    return answers


@pytest.mark.parametrize(
    ("request_", "begins", "ends"),
    [
        (b"GET /here?x=1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\nit is\n"),
        (
            b"GET /echo?id=a%2Fb&id=c&empty= HTTP/1.1\r\nHost: x:1\r\nauthorization:  Bearer a:b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"({'id': 'c'}, {'host': 'x:1', 'authorization': 'Bearer a:b', '': ''})",
        ),
        (b"HEAD /here HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n"),
        (b"GET /elsewhere HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found\r\n", b"no such page\n"),
        (b"POST /here HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 Method Not Allowed\r\n", b"only GET and HEAD\n"),
        (b"nonsense\r\n\r\n", b"", b""),
        (b"GET /here HTTP/1.1\r\n" + b"x" * 20_000, b"", b""),
        (b"\xff\x00\r\n\r\n", b"", b""),
    ],
)
def test_what_is_answered(request_: bytes, begins: bytes, ends: bytes) -> None:
    answer, after = asyncio.run(ask(request_, b"GET /here HTTP/1.1\r\n\r\n"))
    assert answer.startswith(begins)
    assert answer.endswith(ends)
    assert bool(answer) == bool(begins)
    assert after.startswith(b"HTTP/1.1 200 OK\r\n")
