"""Which requests go to an image handler, and how refusals are answered."""

from __future__ import annotations

from xenvol.simulator.failure import Failure
from xenvol.simulator.hooks import Answer
from xenvol.simulator.images import exporting, importing
from xenvol.simulator.images.refusals import NoSuchTask, Unauthorised, printed
from xenvol.simulator.images.visit import Visit

IMPORT, EXPORT = "/import_raw_vdi", "/export_raw_vdi"
_HANDLERS = {("PUT", IMPORT): importing, ("GET", EXPORT): exporting}


def name_of(verb: str, path: str) -> str | None:
    """Return the journal's name of an image request (``PUT /import_raw_vdi``); None for any other request.

    A path may continue after a slash (trace sm/30#226).
    """
    return next(
        (
            f"{verb} {route}"
            for known, route in _HANDLERS
            if known == verb and f"{path}/".startswith(f"{route}/")
        ),
        None,
    )


def serve(name: str, visit: Visit) -> Answer:
    """Answer the request, and return the outcome for the journal; OSError if the client closed the connection."""
    verb, _, path = name.partition(" ")
    handler = _HANDLERS[verb, path]
    exchange = visit.exchange
    try:
        with visit.logged_in() as call:
            handler.serve(visit, call)
    except Unauthorised:
        realm = f'WWW-Authenticate: Basic realm="{handler.REALM}"'
        exchange.page("HTTP/1.1 401 Unauthorised", 401, "", realm)
        return Answer(error=("HTTP_401",))
    except exporting.NoVDI:
        exchange.page("HTTP/1.1 500 Internal Error", 500, 'Failure("Missing vdi query parameter")')
        return Answer(error=("INTERNAL_ERROR",))
    except NoSuchTask as error:
        exchange.page("HTTP/1.1 500 Internal Error", 500, printed(error))
        return Answer(error=("HANDLE_INVALID", "task", error.task))
    except Failure as failure:
        exchange.page("HTTP/1.1 500 Internal Error", 500, printed(failure))
        return Answer(error=tuple(failure.description))
    return Answer()
