"""One blob on its way into a file, whatever the connection does meanwhile."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any, Protocol

import requests

from vimto.errors import ImageError
from vimto.oci.manifest import Descriptor
from vimto.oci.session import BROKEN, Pace, Patience, read_some, show_reason

_PIECE = 1 << 20


class BlobServer(Protocol):
    """What a download needs of a registry."""

    patience: Patience
    stop: threading.Event

    def get_blob_at(self, digest: str, start: int) -> requests.Response: ...
    def check(self, response: requests.Response, what: str) -> None: ...
    def pause(self, failure: str, attempt: int) -> None: ...


class Download:
    """One blob on its way to a file. State: `have` bytes are in the file and in the hash."""

    def __init__(
        self, registry: BlobServer, blob: Descriptor, file: Any, progress: Callable[[int], None]
    ) -> None:
        self._registry = registry
        self._blob = blob
        self._file = file
        self._progress = progress
        self._hash = hashlib.sha256()
        self._have = 0
        self._what = f"the blob {blob.digest[:19]}…"

    def run(self) -> None:
        """Fetch what is missing, and verify all."""
        self._recover()
        resumed = self._have > 0
        failures, mark = 0, self._have
        while self._have < self._blob.size:
            try:
                self._continue()
            except BROKEN as exc:
                if self._have - mark >= _PIECE:
                    failures, mark = 0, self._have
                failures += 1
                if failures >= self._registry.patience.attempts:
                    raise ImageError(f"{self._what} cannot be fetched: {show_reason(exc)}") from exc
                resumed = True
                self._registry.pause(f"{self._what}: {show_reason(exc)}", failures)
        if f"sha256:{self._hash.hexdigest()}" == self._blob.digest:
            return
        if not resumed:
            raise ImageError(f"{self._what} is damaged: its content is not {self._blob.digest}")
        self._restart()  # what was there may have been another's; once more, from the beginning
        self._fetch_whole()

    def _fetch_whole(self) -> None:
        try:
            while self._have < self._blob.size:
                self._continue()
        except BROKEN as exc:
            raise ImageError(f"{self._what} cannot be fetched: {show_reason(exc)}") from exc
        if f"sha256:{self._hash.hexdigest()}" != self._blob.digest:
            raise ImageError(f"{self._what} is damaged: its content is not {self._blob.digest}")

    def _recover(self) -> None:
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            self._take(piece)
        if self._have > self._blob.size:
            self._restart()

    def _take(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._have += len(piece)
        self._progress(len(piece))

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._progress(-self._have)
        self._hash, self._have = hashlib.sha256(), 0

    def _continue(self) -> None:
        response = self._registry.get_blob_at(self._blob.digest, self._have)
        with response:
            if self._have and response.status_code in (200, 416):
                self._restart()  # the server knows no ranges
                if response.status_code == 416:
                    return
            elif response.status_code == 206:
                start = response.headers.get("Content-Range", "").partition("-")[0]
                if start != f"bytes {self._have}":
                    raise ImageError(f"{self._what}: the registry sent another part than asked for")
            self._registry.check(response, self._what)
            pace = Pace(self._registry.patience)
            while piece := read_some(response, _PIECE):
                if self._registry.stop.is_set():  # the file may be another vimto's any moment
                    raise ImageError("the pull was given up")
                if self._have + len(piece) > self._blob.size:
                    raise ImageError(f"{self._what} is longer than its {self._blob.size} bytes")
                try:
                    self._file.write(piece)
                except OSError as exc:
                    raise ImageError(f"{self._what} cannot be stored: {exc.strerror}") from exc
                self._take(piece)
                pace.count(len(piece))
            if self._have < self._blob.size:
                raise requests.ConnectionError("the connection ended too early")
