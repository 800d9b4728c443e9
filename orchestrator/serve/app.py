"""The routes: what is asked for, by names that are looked up in the store and never made into paths of it."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from orchestrator.images.catalog import ImageCatalog
from orchestrator.serve.answers import Answers
from orchestrator.serve.guard import Access, Guard
from orchestrator.serve.views import Pages, Written
from orchestrator.serve.watching import Watch
from orchestrator.store import Store, Unreadable

KNOWN = "llmcbench-known"
"""The header by which a page's script says which parts it has, by their versions."""
_MOST_KNOWN = 20


def make_app(store: Store, catalog: ImageCatalog, access: Access) -> Guard:
    """The pages of a store as an ASGI application. It creates nothing, and the store may come or go meanwhile."""
    pages = Pages(Watch(store), Answers(store, catalog))

    def runs(request: Request) -> Response:
        return _answer(pages.runs(_known(request)))

    def run(request: Request) -> Response:
        only = request.query_params.get("state", "")
        at_once = "now" in request.query_params
        return _answer(pages.run(request.path_params["run"], only, _known(request), at_once=at_once))

    def stage(request: Request) -> Response:
        return _answer(pages.stage(request.path_params["run"], request.path_params["stage"], _known(request)))

    def report(request: Request) -> Response:
        return _answer(pages.report(request.path_params["run"]))

    def refused(request: Request, failure: Exception) -> Response:
        assert isinstance(failure, HTTPException)  # noqa: S101  it is registered for no other
        told = _NOT_THERE if failure.status_code == 404 else failure.detail
        return _answer(pages.message("Not there", told, status=failure.status_code))

    def unreadable(request: Request, failure: Exception) -> Response:
        assert isinstance(failure, Unreadable)  # noqa: S101  it is registered for no other
        return _answer(pages.unreadable(failure))

    def failed(request: Request, failure: Exception) -> Response:
        told = f"The store cannot be read: {failure}"
        return _answer(pages.message("The store cannot be read", told, status=503))

    app = Starlette(
        routes=[
            Route("/", runs),
            Route("/runs/{run}", run),
            Route("/runs/{run}/report", report),
            Route("/runs/{run}/stages/{stage:path}", stage),
        ],
        exception_handlers={HTTPException: refused, Unreadable: unreadable, OSError: failed},
    )
    return Guard(app, access)


_NOT_THERE = "There is no such run or stage in this store, or it is not there any more."


def _answer(written: Written | None) -> Response:
    if written is None:
        raise HTTPException(404)
    headers = {"Content-Security-Policy": written.policy}
    if written.version:
        headers["ETag"] = f'"{written.version}"'
    return HTMLResponse(written.html or None, written.status, headers)


def _known(request: Request) -> frozenset[str]:
    return frozenset(request.headers.get(KNOWN, "").split()[:_MOST_KNOWN])
