"""A client of etcd's JSON gateway: calls with failover, transactions, leases and watches.

The gateway is part of every etcd from 3.4 on (on by default) and speaks plain HTTP, so the standard library is all
it takes: nothing to import but http.client and ssl, no thread, and sockets in the calling thread's network namespace.
Source: etcd.io/docs, "Why gRPC gateway"; messages: etcd's api/etcdserverpb/rpc.proto, with int64 as
text and bytes in base64. docs/dependencies.md says why none of the ready-made clients is used.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from netdrivers.cluster.messages import Changes, Header, Outcome, Range, text
from netdrivers.cluster.options import EtcdOptions
from netdrivers.errors import Busy, ConfigError, MissingField, NetdriversError

Answer = TypeVar("Answer")

BUDGET_SECONDS = 2.5
"""A failed add says so within 3 s."""

CONNECT_SECONDS, LEAST_SHARE_SECONDS = 1.0, 0.3
"""At most for a connection, and at least for all that is asked of one endpoint."""

PAGE = 2000
"""Keys in one answer: some 500 kB."""

UNAUTHENTICATED, PERMISSION_DENIED, INVALID, NOT_FOUND = 16, 7, 3, 5
"""Codes of gRPC's status, which the gateway passes on (google.golang.org/grpc/codes)."""

_RETRY = frozenset({1, 2, 4, 8, 13, 14})
"""Codes of trouble at one member: try the next."""


class Unreachable(Busy):
    """No endpoint gave an answer in time; each is named with its reason."""


class Compacted(Exception):
    """A watch asked for a revision that etcd no longer has."""


class ForeignCluster(ConfigError):
    """An endpoint belongs to another etcd cluster than the rest, or than the network joined."""


class _Trouble(Struct, frozen=True):
    message: str = ""
    code: int = 0
    grpc_code: int = 0


class _Message(Struct, frozen=True):
    result: Changes | None = None
    error: _Trouble | None = None


class _Token(Struct, frozen=True):
    token: str = ""


class _Granted(Struct, frozen=True):
    ID: int = 0
    TTL: int = 0
    grantedTTL: int = 0
    result: dict[str, Any] | None = None


class _Failed(Exception):
    """One endpoint gave no answer that counts; the text says why."""


class Etcd:
    """One connection to a cluster, opened when first needed and again when lost; for one thread at a time.

    cluster: the id that the cluster must have, 0 for any (the first answer's is kept). budget_seconds:
    what a call may take, whatever the number of endpoints. Every call raises Unreachable, ConfigError for
    what etcd refuses us (credentials, certificates) and ForeignCluster. Calls may be sent twice when a
    connection breaks.
    """

    def __init__(self, options: EtcdOptions, cluster: int = 0, budget_seconds: float = BUDGET_SECONDS) -> None:
        self.options = options
        self.cluster = cluster
        self._budget = budget_seconds
        self._current = 0
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._token = ""
        self._interrupted = False

    def __enter__(self) -> Etcd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """The endpoint that answered last."""
        return self.options.endpoints[self._current]

    def close(self) -> None:
        """Close the connection; the next call opens one."""
        connection, self._connection, self._socket = self._connection, None, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """From another thread: whatever this connection waits for fails now, and so will what comes after."""
        self._interrupted = True
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, which is not for two threads

    # Calls

    def transaction(
        self,
        operations: Sequence[dict[str, Any]],
        compare: Sequence[dict[str, Any]] = (),
        otherwise: Sequence[dict[str, Any]] = (),
    ) -> Outcome:
        """All the operations at once if all comparisons hold, else the others."""
        body = {"compare": list(compare), "success": list(operations), "failure": list(otherwise)}
        return self._call("/v3/kv/txn", body, Outcome)

    def read(self, key: bytes, end: bytes = b"") -> Iterator[Range]:
        """A key, or all keys from key up to end, page by page, all as of the first page's revision."""
        revision = 0
        while True:
            body: dict[str, Any] = {"key": text(key), "limit": str(PAGE), "revision": str(revision)}
            if end:
                body["range_end"] = text(end)
            page = self._call("/v3/kv/range", body, Range)
            yield page
            if not page.more:
                return
            revision = revision or page.header.revision
            key = page.kvs[-1].key + b"\0"

    def grant(self, seconds: int) -> int:
        """A new lease's id."""
        return self._call("/v3/lease/grant", {"TTL": str(seconds), "ID": "0"}, _Granted).ID

    def keep_alive(self, lease: int, budget_seconds: float = BUDGET_SECONDS) -> bool:
        """Renew a lease, within some time; whether it was still there."""
        answer = self._call("/v3/lease/keepalive", {"ID": str(lease)}, _Granted, budget=budget_seconds).result or {}
        return int(answer.get("TTL", 0)) > 0

    def silent_for(self, lease: int) -> int | None:
        """Seconds since a lease was renewed; None when it has ended."""
        answer = self._call("/v3/lease/timetolive", {"ID": str(lease)}, _Granted)
        return max(0, answer.grantedTTL - answer.TTL) if answer.TTL > 0 else None

    def revoke(self, lease: int) -> None:
        """End a lease, and all keys with it; one that has ended is success."""
        self._call("/v3/lease/revoke", {"ID": str(lease)}, _Granted, ignore=NOT_FOUND)

    def watch(self, key: bytes, end: bytes, revision: int) -> Iterator[Changes]:
        """Changes from key up to end, from a revision on; the connection is for this alone from then on.

        Ends with Compacted, or Unreachable when the connection or the member's leader is lost.
        """
        create = {"key": text(key), "range_end": text(end), "start_revision": str(revision)}
        data = msgspec.json.encode({"create_request": create})
        try:
            response = self._everywhere(lambda share: self._send("/v3/watch", data, share, stream=True), self._budget)
        except _Refused as refused:
            raise self._refusal(refused) from None
        assert self._socket is not None
        self._socket.settimeout(None)  # a dead peer is noticed by TCP's keep-alive
        while True:
            try:
                line = response.readline()
                message = _messages.decode(line) if line else _Message()
            except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
                raise Unreachable(f"the watch at {self.endpoint} broke: {_words(error)}") from None
            if message.result is None:
                why = message.error.message if message.error else "the connection was closed"
                raise Unreachable(f"the watch at {self.endpoint} ended: {why}")
            changes = message.result
            if changes.compact_revision:
                raise Compacted
            if changes.canceled:
                self._token = ""
                raise Unreachable(f"the watch at {self.endpoint} ended: {changes.cancel_reason}")
            self._check_cluster(changes.header)
            yield changes

    def survey(self, key: bytes) -> None:
        """Ask every endpoint that answers soon for a key, and see which cluster it is of. ForeignCluster."""
        body = msgspec.json.encode({"key": text(key)})
        answering = self._current
        for i in range(len(self.options.endpoints)):
            self.close()
            self._current = i
            try:
                self._on_endpoint("/v3/kv/range", body, Range, LEAST_SHARE_SECONDS)
            except (_Failed, _Refused):
                continue
        self.close()
        self._current = answering

    # Below the calls

    def _call(
        self, path: str, body: dict[str, Any], kind: type[Answer], ignore: int = -1, budget: float = 0.0
    ) -> Answer:
        data = msgspec.json.encode(body)
        try:
            return self._everywhere(lambda share: self._on_endpoint(path, data, kind, share), budget or self._budget)
        except _Refused as refused:
            if refused.code == ignore:
                return kind()
            raise self._refusal(refused) from None

    def _everywhere(self, attempt: Callable[[float], Answer], budget: float) -> Answer:
        """Try an endpoint after the other, from the one that answered last on; each has its share of the time."""
        deadline = time.monotonic() + budget
        reasons = []
        count = len(self.options.endpoints)
        for left in range(count, 0, -1):
            share = max(LEAST_SHARE_SECONDS, (deadline - time.monotonic()) / left)
            try:
                return attempt(share)
            except _Failed as failed:
                reasons.append(f"{self.endpoint}: {failed}")
                self.close()
                self._current = (self._current + 1) % count
        raise Unreachable(f"etcd is not to be had: {'; '.join(reasons)}")

    def _on_endpoint(self, path: str, data: bytes, kind: type[Answer], share: float) -> Answer:
        try:
            raw = self._send(path, data, share)
        except _Refused as refused:
            if refused.code != UNAUTHENTICATED or not self._token:
                raise
            self._token = ""  # it has expired
            raw = self._send(path, data, share)
        try:
            answer = msgspec.json.decode(raw, type=kind, strict=False)
        except msgspec.DecodeError as error:
            raise _Failed(f"an answer that is not etcd's ({error})") from None
        header = getattr(answer, "header", None)
        if isinstance(header, Header):
            self._check_cluster(header)
        return answer

    def _check_cluster(self, header: Header) -> None:
        if self.cluster and header.cluster_id and header.cluster_id != self.cluster:
            known = f"an etcd of cluster {self.cluster:x}, as the others are or as this network joined"
            hint = "netctl network rm lets a network forget the cluster that it joined"
            raise ForeignCluster("etcd.endpoints", f"{self.endpoint} (cluster {header.cluster_id:x})", known, hint)
        self.cluster = self.cluster or header.cluster_id

    def _send(self, path: str, data: bytes, share: float, stream: bool = False) -> Any:
        """One request to the current endpoint: the answer's body, or the response to read on from."""
        deadline = time.monotonic() + share
        for fresh in (self._connection is None, True):
            try:
                if self._connection is None:
                    self._connect(min(share, CONNECT_SECONDS))
                if self.options.username and not self._token:
                    self._authenticate(max(deadline - time.monotonic(), LEAST_SHARE_SECONDS))
                return self._exchange(path, data, max(deadline - time.monotonic(), LEAST_SHARE_SECONDS), stream)
            except (ConnectionError, http.client.RemoteDisconnected, http.client.CannotSendRequest) as error:
                self.close()
                if fresh:
                    raise _Failed(self._reason(error)) from None
            except (OSError, http.client.HTTPException) as error:
                self.close()
                self._refuse_certificate(error)
                raise _Failed(self._reason(error)) from None
        raise AssertionError("unreachable")

    def _connect(self, seconds: float) -> None:
        parts = urlsplit(self.endpoint)
        assert parts.hostname is not None
        if parts.scheme == "https":
            context = self._tls()
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=seconds, context=context
            )
        else:
            made = http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)
        made.connect()
        self._connection, self._socket = made, made.sock
        if self._interrupted:
            raise _Failed("interrupted")
        for option, value in (
            (socket.TCP_KEEPIDLE, 5),
            (socket.TCP_KEEPINTVL, 2),
            (socket.TCP_KEEPCNT, 3),
            (socket.TCP_USER_TIMEOUT, 10_000),
        ):
            made.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        made.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _tls(self) -> Any:
        """Read anew for each connection, so that a renewed certificate is taken up."""
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.options.ca or None)
        except OSError as error:
            raise ConfigError("etcd.ca", self.options.ca, f"a readable PEM file ({_words(error)})") from None
        if self.options.cert:
            try:
                context.load_cert_chain(self.options.cert, self.options.key)
            except OSError as error:
                words = f"a readable PEM file with its key in etcd.key ({_words(error)})"
                raise ConfigError("etcd.cert", self.options.cert, words) from None
        return context

    def _reason(self, error: Exception) -> str:
        """In words; a server that does not like our certificate may just hang up."""
        import ssl

        hung_up = isinstance(error, ssl.SSLError | ConnectionResetError | http.client.RemoteDisconnected)
        if not (hung_up and self.endpoint.startswith("https:")):
            return _words(error)
        whom = f"the certificate {self.options.cert}" if self.options.cert else "clients without a certificate"
        return f"{_words(error)}; does it accept {whom} (etcd.cert)?"

    def _refuse_certificate(self, error: Exception) -> None:
        """ConfigError where the trouble is a certificate, ours or etcd's."""
        import ssl

        if isinstance(error, ssl.SSLCertVerificationError):
            words = f"the authority that the certificate of {self.endpoint} is of ({error.verify_message})"
            raise ConfigError("etcd.ca", self.options.ca, words) from None
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            reason = (error.reason or "").replace("_", " ").lower()
            words = f"a certificate that {self.endpoint} accepts ({reason})"
            raise ConfigError("etcd.cert", self.options.cert, words) from None

    def _authenticate(self, seconds: float) -> None:
        body = {"name": self.options.username, "password": self.options.password}
        try:
            raw = self._exchange("/v3/auth/authenticate", msgspec.json.encode(body), seconds, False)
        except _Refused as refused:
            if "not enabled" in refused.message:
                self._token = "none"  # etcd asks nobody for a password
                return
            raise
        self._token = msgspec.json.decode(raw, type=_Token).token

    def _exchange(self, path: str, data: bytes, seconds: float, stream: bool) -> Any:
        assert self._connection is not None
        assert self._socket is not None
        self._socket.settimeout(seconds)
        headers = {"Content-Type": "application/json", "Grpc-Metadata-hasleader": "true"}
        if self._token and not path.endswith("/authenticate"):
            headers["Authorization"] = self._token
        self._connection.request("POST", path, data, headers)
        response = self._connection.getresponse()
        if response.status == 200 and stream:
            return response
        raw = response.read()
        if response.status == 200:
            return raw
        try:
            trouble = msgspec.json.decode(raw, type=_Trouble, strict=False)
        except msgspec.DecodeError:
            hint = ", its gateway may be off (--enable-grpc-gateway)" if response.status == 404 else ""
            raise _Failed(f"no answer of etcd's gateway (HTTP {response.status}{hint})") from None
        if trouble.code in _RETRY:
            raise _Failed(trouble.message)
        raise _Refused(trouble.code, trouble.message)

    def _refusal(self, refused: _Refused) -> NetdriversError:
        """What etcd's refusal means to people; never with a password."""
        username = self.options.username
        if "authentication failed" in refused.message:
            return ConfigError("etcd.username", username, "a user that etcd knows, with its password")
        if "user name is empty" in refused.message:
            return MissingField("etcd.username", "a user, with its password: etcd asks for one")
        if refused.code == PERMISSION_DENIED:
            return ConfigError("etcd.username", username, "a user that may read and write all below /netdrivers/")
        return NetdriversError(f"etcd at {self.endpoint} refused: {refused.message}")


class _Refused(Exception):
    """etcd's own refusal of a call: a gRPC code and words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_messages = msgspec.json.Decoder(_Message, strict=False)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
