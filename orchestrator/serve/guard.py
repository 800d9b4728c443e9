"""Who is answered: by which name the server was asked, with which token, and what a browser may do with the answer."""

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "llmcbench"
TOKEN = "token"  # noqa: S105  the name of a field
_METHODS = ("GET", "HEAD")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Of what has no policy of its own."""


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches what is bound to a host; so of none that has no address."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(one[4][0]).partition("%")[0]).is_loopback for one in found)


@dataclass(frozen=True)
class Access:
    """`host` is what the server is bound to. `token` None asks for none."""

    host: str
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, host: str, *, always: bool = False) -> "Access":
        """With a new token wherever others than this machine could ask, and with `always` on loopback as well."""
        return cls(host, secrets.token_urlsafe(24) if always or not is_loopback(host) else None)

    def may_be_called(self, name: str) -> bool:
        """Whether a browser that was led here under another site's name could not have sent this one.

        An address is never such a name; beyond loopback, so is this machine's own name.
        """
        name = name.lower().rstrip(".")
        if name in ("localhost", self.host.lower()):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not is_loopback(self.host) and name in (socket.gethostname().lower(), socket.getfqdn().lower())
        return address.is_loopback or not is_loopback(self.host)

    def is_token(self, given: str | None) -> bool:
        return self.token is None or hmac.compare_digest((given or "").encode(), self.token.encode())


class Guard:
    """Passes on who may ask. Every answer gets headers that keep other sites and frames away from it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", _POLICY)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered in the page's place, a cookie for the token among it."""
        headers = Headers(scope=scope)
        if scope["method"] not in _METHODS:
            return _told("Nothing can be changed here: this page only reads.", 405, {"Allow": ", ".join(_METHODS)})
        if not self._access.may_be_called(_name(headers.get("host", ""))):
            return _told("This page is not served under that name: open the address that `serve` printed.", 403)
        if self._access.token is None:
            return None
        asked = parse_qsl(scope["query_string"].decode("latin-1"))
        if given := dict(asked).get(TOKEN):
            if self._access.is_token(given):
                return self._welcome(scope, [one for one in asked if one[0] != TOKEN])
        elif self._access.is_token(_cookie(headers.get("cookie", ""))):
            return None
        return _told("This page needs the token: open the whole address that `serve` printed.", 403)

    def _welcome(self, scope: Scope, rest: list[tuple[str, str]]) -> Response:
        """The token goes into a cookie and out of the address, which others may see."""
        query = f"?{urlencode(rest)}" if rest else ""
        path = "/" + scope["path"].lstrip("/")  # `//other` would be an address of another host
        answer = RedirectResponse(f"{path}{query}", status_code=303)
        answer.set_cookie(COOKIE, self._access.token or "", httponly=True, samesite="lax", path="/")
        return answer


def _told(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers)


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _cookie(header: str) -> str | None:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value
