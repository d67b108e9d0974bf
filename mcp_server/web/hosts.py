"""By which names this server is called: the Host and the Origin of a request, looked at before anything else.

A web page that makes its own name point at this machine (DNS rebinding) still sends that name as the Host, and a page
of another site sends itself as the Origin. Addresses that act on a key alone need neither check: no page can send one
without our consent, which no answer gives. See docs/configuration.md, "Names".
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server.callers import CALLER_KEY
from mcp_server.settings import Settings, is_loopback
from mcp_server.web.responses import refusal

EVERYWHERE = ("0.0.0.0", "::")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::([0-9]{1,5}))?")


class HostDoor:
    """Around what a browser must not be tricked into calling. Over the unix socket, where no browser is, all pass."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = {_plain(settings.host)} - set(EVERYWHERE)
        self._public: tuple[str, str, int | None] | None = None
        if settings.public_url is not None and settings.public_url.host is not None:
            public = settings.public_url
            self._public = (public.scheme, _plain(public.host or ""), public.port)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and CALLER_KEY not in scope:
            headers = Headers(scope=scope)
            refused = self._misdirected(headers, scope) or self._foreign(headers, scope)
            if refused is not None:
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _misdirected(self, headers: Headers, scope: Scope) -> Response | None:
        given = headers.getlist("host")
        if len(given) != 1:
            return refusal(400, "A request needs one Host header.", field="Host", fix="Send it once.")
        host = read_host(given[0])
        if host is not None and (self._is_ours(host[0], scope) or (self._public and host[0] == self._public[1])):
            return None
        name = f"the name {host[0]}" if host else "this Host"
        return refusal(
            421,
            f"This server does not answer to {name}.",
            field="Host",
            fix="If it is the name of your tunnel or proxy, set OFFHAND_PUBLIC_URL to its address, with https://. "
            "On your own network, set OFFHAND_HOST to that name, or to 0.0.0.0 and call by the IP address. "
            "Then restart the server.",
            say="This server does not answer to that name.",
        )

    def _foreign(self, headers: Headers, scope: Scope) -> Response | None:
        given = headers.getlist("origin")
        if not given:
            return None
        origin = read_origin(given[0]) if len(given) == 1 else None
        if origin is not None and (self._is_ours(origin[1], scope) or self._is_public(origin)):
            return None
        return refusal(
            403,
            "A web page of another site may not call this server.",
            field="Origin",
            fix="Call it from a program, which sends no Origin; or set OFFHAND_PUBLIC_URL to the address, "
            "with https://, that the page is at, and restart the server.",
            say="A web page of another site may not call this server.",
        )

    def _is_ours(self, name: str, scope: Scope) -> bool:
        """This machine, the address that we listen on, or the one that this very connection came to.

        The last is for who listens everywhere: a page's own name is never an IP address of ours.
        """
        if is_loopback(name) or name in self._names:
            return True
        server: tuple[str, int | None] | None = scope.get("server")
        return server is not None and name == _plain(server[0])

    def _is_public(self, origin: tuple[str, str, int | None]) -> bool:
        if self._public is None:
            return False
        scheme, name, port = self._public
        return origin[:2] == (scheme, name) and origin[2] in (port, _DEFAULT_PORTS[scheme])


def read_host(value: str) -> tuple[str, int | None] | None:
    """The name, without brackets or a closing dot, and the port of a Host header. None: it is no such thing."""
    match = _HOST.fullmatch(value.strip().lower())
    if match is None:
        return None
    address, name, port = match.groups()
    return _plain(address or name), int(port) if port else None


def read_origin(value: str) -> tuple[str, str, int | None] | None:
    """Scheme, name and port of an Origin that is a web address. None: `null`, an extension, nonsense."""
    scheme, separator, rest = value.strip().partition("://")
    host = read_host(rest)
    if not separator or host is None or scheme not in _DEFAULT_PORTS:
        return None
    return scheme, host[0], _DEFAULT_PORTS[scheme] if host[1] is None else host[1]


def _plain(name: str) -> str:
    """One spelling of a name or an address."""
    name = name.lower().strip("[]").partition("%")[0].removesuffix(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
