"""Let only the user of this machine, or who knows the password, read clips and write answers.

A page of another origin can send requests to a local server, also under a name that it has made resolve to 127.0.0.1.
Therefore each request needs a known ``Host`` and the cookie that the token of the start (or the password) is exchanged
for, and each write also the own origin and a second secret that only the own pages know.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ecmf_pipeline.core.files import hide_folder
from ecmf_pipeline.review.verdict_log import clean_reviewer

PASSWORD = "ECMF_REVIEW_PASSWORD"
"""Environment variable with the password that other machines need."""
CSRF_HEADER = "x-review-token"
REVIEWER_HEADER = "x-reviewer"

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_OPEN = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={address}"><title>Review clips</title></head>
<body><a href="{address}">Review clips</a></body></html>
"""
_SECRET_BYTES = 32
_FAILED_LOGIN_SECONDS = 1.0


def is_loopback(host: str) -> bool:
    """Return whether a server on this host is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def client_network(host: str) -> str:
    """Return what stands for one client: its IPv4 address, or its IPv6 network, of which it may use all addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(address if address.version == 4 else ipaddress.ip_network((int(address), 64), strict=False))


def read_secret(path: Path) -> bytes:
    """Return the secret of the cookies; it is created if it does not exist, readable for this user only.

    It outlives the server, so an open page continues after a restart.
    """
    hide_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if len(secret := path.read_bytes()) >= _SECRET_BYTES:
            return secret
        path.unlink()  # a crash left it empty
        return read_secret(path)
    secret = secrets.token_bytes(_SECRET_BYTES)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    return secret


@dataclass(frozen=True)
class Access:
    """Who may use the page.

    Attributes:
        secret: Secret of the cookies.
        host: Host that the server listens on.
        port: Its port.
        password: Password for hosts other than loopback; empty on loopback, where the token of the start is needed.
        token: Token in the first URL.
    """

    secret: bytes = field(repr=False)
    host: str
    port: int
    password: str = field(default="", repr=False)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(_SECRET_BYTES), repr=False)

    @property
    def session_cookie(self) -> str:
        """Name of the cookie; browsers share cookies among the ports of a host."""
        return f"ecmf_review_{self.port}"

    @property
    def reviewer_cookie(self) -> str:
        """Name of the cookie with the name of the reviewer."""
        return f"ecmf_reviewer_{self.port}"

    @property
    def csrf(self) -> str:
        """Secret that the pages send with each write."""
        return self._derived("csrf")

    @property
    def session(self) -> str:
        """Value of the cookie."""
        return self._derived("session")

    @property
    def project_id(self) -> str:
        """Name under which a browser keeps unsent answers of this project."""
        return hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:16]

    def _derived(self, purpose: str) -> str:
        return hmac.new(self.secret, f"{purpose} {self.password}".encode(), hashlib.sha256).hexdigest()

    def url(self) -> str:
        """Return the URL that opens the page, with the token if no password is needed."""
        host = self.host
        if host in {"0.0.0.0", "::"}:
            host = socket.gethostname()
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + ("" if self.password else f"?token={self.token}")

    def knows_host(self, header: str) -> bool:
        """Return whether a ``Host`` header is one of this server.

        On loopback these are its names. Elsewhere addresses and the names of this machine are accepted: a name that
        somebody else makes resolve to this machine is not among them.
        """
        name, _, port = header.rpartition(":") if not header.endswith("]") else (header, "", "80")
        if not name:
            name, port = header, "80"
        if port != str(self.port):
            return False
        name = name.strip("[]").lower()
        if not self.password:
            return is_loopback(name)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in {"localhost", self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return True

    def has_session(self, request: Request) -> bool:
        """Return whether the request has the cookie."""
        return _equal(request.cookies.get(self.session_cookie, ""), self.session)

    def is_own_write(self, request: Request) -> bool:
        """Return whether a write comes from a page of this server that has the secret."""
        own = f"{request.url.scheme}://{request.headers.get('host', '')}"
        return (
            request.headers.get("origin", "") == own
            and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
            and _equal(request.headers.get(CSRF_HEADER, ""), self.csrf)
        )

    def reviewer(self, request: Request, default: str) -> str:
        """Return the name of the reviewer.

        A page names the reviewer that it shows: all tabs of the browser share the cookie, and the next server may have
        another default.
        """
        name = request.headers.get(REVIEWER_HEADER, "") or request.cookies.get(self.reviewer_cookie, "")
        return clean_reviewer(unquote(name)) or default

    def set_session(self, response: Response) -> None:
        """Add the cookie to a response."""
        response.set_cookie(self.session_cookie, self.session, httponly=True, samesite="strict")

    def set_reviewer(self, response: Response, name: str) -> None:
        """Add the cookie with the name of the reviewer to a response."""
        response.set_cookie(
            self.reviewer_cookie, quote(name), httponly=True, samesite="strict", max_age=365 * 24 * 3600
        )

    async def check_password(self, given: str) -> bool:
        """Return whether this is the password; a wrong one takes a second."""
        if self.password and _equal(given, self.password):
            return True
        await asyncio.sleep(_FAILED_LOGIN_SECONDS)
        return False


class Guard:
    """ASGI middleware that rejects requests without access and adds the security headers.

    Args:
        app: The application.
        access: Who may use it.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *_missing(_HEADERS, present)]
            await send(message)

        response = self._rejection(Request(scope))
        await (response or self._app)(scope, receive, send_with_headers)

    def _rejection(self, request: Request) -> Response | None:
        access = self._access
        if not access.knows_host(request.headers.get("host", "")):
            return PlainTextResponse(
                "Use the host and port of the URL that `ecmf-pipe review` prints, the same port if ssh forwards it.\n",
                421,
            )
        path = request.url.path
        if path.startswith("/static/") or path == "/favicon.ico":
            return None
        if request.method not in {"GET", "HEAD", "POST"}:
            return PlainTextResponse("This method is not allowed.", 405)
        if path == "/login" and access.password:
            own = f"{request.url.scheme}://{request.headers.get('host', '')}"
            is_own = request.method != "POST" or request.headers.get("origin") == own
            return None if is_own else PlainTextResponse("This form was sent from another site.", 403)
        if path == "/" and not access.password and _equal(request.query_params.get("token", ""), access.token):
            # Not a redirect: after a link on another site, such as a terminal in the browser, it would lack the cookie.
            response = HTMLResponse(_OPEN.format(address="/"), headers={"cache-control": "no-store"})
            access.set_session(response)
            return response
        if path == "/" and _is_link(request):
            # The browser sends the cookie with the next request, which comes from this page.
            address = "/?clip=" + quote(request.query_params["clip"], safe="")
            return HTMLResponse(_OPEN.format(address=address), headers={"cache-control": "no-store"})
        if not access.has_session(request):
            if access.password and request.method == "GET" and path in {"/", "/progress"}:
                return RedirectResponse("/login", 303)
            return PlainTextResponse(
                "Open the page by the URL that `ecmf-pipe review` prints: it holds a token.\n", 403
            )
        if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            return PlainTextResponse("This request comes from another site.", 403)
        if request.method == "POST" and not access.is_own_write(request):
            return PlainTextResponse("This request does not come from the review page.", 403)
        return None


def _missing(headers: Mapping[str, str], present: set[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items() if name.encode() not in present]


def _equal(given: str, expected: str) -> bool:
    return bool(given) and hmac.compare_digest(given.encode(), expected.encode())


def _is_link(request: Request) -> bool:
    """Return whether somebody followed a link to a clip, such as those of the report; the answer holds no secret."""
    fetch = tuple(request.headers.get(f"sec-fetch-{name}", "") for name in ("site", "mode", "dest"))
    is_get = request.method == "GET" and list(request.query_params) == ["clip"]
    return is_get and fetch == ("cross-site", "navigate", "document")
