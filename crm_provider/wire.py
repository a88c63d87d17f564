"""One request and its answer with ``requests``: the key, the timeouts, what is never done with either."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING

from crm_provider import errors as e
from crm_provider.bodies import ACCEPTED, BodyRefused, whole_body
from crm_provider.mishaps import transport_error
from crm_provider.responses import Answer
from crm_provider.settings import Settings

if TYPE_CHECKING:
    import requests

    from crm_provider.transport import Call

CONNECT_TIMEOUT = 5.0
"""Seconds."""

MAX_CONNECTIONS = 64
"""Connections that are kept open: as many as a load has threads at most."""


class Wire:
    """A ``requests`` session that sends calls and reads answers.

    :param clock: monotonic seconds, for the time that an answer may take
    """

    def __init__(self, settings: Settings, *, user_agent: str, clock: Callable[[], float] = time.monotonic) -> None:
        import requests

        from crm_provider.connections import Progress, WatchedAdapter

        _hide_paths_in_logs()
        self._settings, self._progress = settings, Progress()
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            adapter = WatchedAdapter(
                seconds=settings.timeout,
                clock=clock,
                progress=self._progress,
                pool_maxsize=MAX_CONNECTIONS,  # for each thread of a load: a discarded one costs a handshake
            )
            self._session.mount(scheme, adapter)
        self._session.trust_env = not settings.is_local  # a proxy cannot reach this machine's loopback
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # else requests reads the body of a redirect, of any size, and breaks on an address that makes no sense
        self._session.get_redirect_target = _nowhere  # type: ignore[method-assign, assignment]
        headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": ACCEPTED}
        self._session.headers.update(headers)
        if settings.developer_mode:
            self._session.headers["x-developer-mode"] = "true"

    def close(self) -> None:
        self._session.close()

    def round_trip(self, call: Call) -> Answer:
        """Send one request and read its whole answer.

        :raises CrmTransientError: if no whole answer came
        :raises CrmTlsError: if the server's certificate is not trusted
        """
        import requests
        from urllib3.exceptions import HTTPError

        self._progress.start()
        try:
            with self._session.request(
                call.method,
                self._settings.base_url + call.path,
                params=dict(call.query),
                json=call.body,
                auth=_ApiKey(self._settings.api_key if call.with_key else None),
                timeout=(min(CONNECT_TIMEOUT, self._settings.timeout), self._settings.timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                body, unread = _body(response, call)
                return Answer(
                    method=call.method,
                    path=call.shown,
                    status=response.status_code,
                    headers=dict(response.headers),
                    body=body,
                    unread=unread,
                    sent=(self._settings.api_key, *call.sent),
                    loose=call.loose,
                    exact=call.exact,
                )
        except (requests.RequestException, HTTPError) as broken:
            error = transport_error(broken, call, sent=self._progress.sent, proxied=self._progress.proxied)
        # outside of the handler: the exception of requests holds the URL, and must not hang on ours
        raise error


def _nowhere(_answer: requests.Response) -> None:
    """Where a redirect leads, for who would follow it."""


class _ApiKey:
    """Puts the key on the request; as ``auth`` it also keeps requests from looking into ``.netrc``."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["x-api-key"] = self._key
        return request


def _body(response: requests.Response, call: Call) -> tuple[bytes, str]:
    """The body of an answer, or why it was not read: what is no success is told by its status and headers too."""
    if response.status_code < 200:
        return b"", ""  # more is to come on this connection, which is closed: never to be taken for the next answer
    try:
        return whole_body(response), ""
    except BodyRefused as refused:
        if response.status_code >= 300:
            return b"", str(refused)
        raise e.CrmProtocolError(
            str(refused),
            type=f"HTTP_{response.status_code}",
            status=response.status_code,
            method=call.method,
            path=call.shown,
            outcome_known=not call.is_write,
        ) from None


# -- logs ---------------------------------------------------------------------------------------------------


class _HidePaths(logging.Filter):
    """urllib3 logs whole paths and URLs, and headers it cannot read: emails and webhook secrets must not get there."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_without_path, record.args))
        record.exc_info = None
        return True


def _without_path(argument: object) -> object:
    if isinstance(argument, BaseException):
        return type(argument).__name__
    return "/..." if isinstance(argument, str) and (argument.startswith("/") or "://" in argument) else argument


_HIDE_PATHS = _HidePaths()


def _hide_paths_in_logs() -> None:
    for name in ("urllib3.connectionpool", "urllib3.connection"):
        logging.getLogger(name).addFilter(_HIDE_PATHS)  # a second time it does nothing
