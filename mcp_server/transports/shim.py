"""`offhand mcp`: what a desktop client launches. It copies lines between stdin/stdout and the server's socket.

Standard library only, and little of it: 40 ms are all there is from process start to the first answer.
What is needed later (json, the launcher) is imported later, when nobody waits for us.

When the server goes away, open requests are answered with an error; the client's next message finds the
server again, or starts it. A client that follows something may never speak again: for it we wait for the next
server, but start none. Whoever stops the server on purpose shall not see it come back.
"""

from __future__ import annotations

# `socket` itself costs 8 ms, for its enums and wrappers; all that we need of it is in the C module.
import _socket
import os
import select
import sys
import time

from mcp_server.paths import home_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mcp_server.transports.ledger import Ledger

CHUNK_BYTES = 256 * 1024
HIGH_WATER_BYTES = 1024 * 1024
"""While this much waits to go out on one side, nothing is read from the other."""

PIPE_WRITE_BYTES = 4096
"""A pipe or socket that polls as writable takes this much without blocking. It is not ours to make non-blocking."""

LAST_ANSWERS_SECONDS = 3.0
"""After the client closed stdin, how long we wait for the answers that it is still owed."""

LONGEST_LINE_BYTES = 16 * 1024 * 1024 + 1
"""One more than the server takes. Of a longer line the middle is left out: it refuses that one just the same."""

LINE_END_BYTES = 512
"""Of a line that is too long, its end is kept, since the id may stand there."""

FAREWELL_SECONDS = 0.5
IDLE_SECONDS = 0.02
UNNOTED_LINES = 32
FRUITLESS_CONNECTIONS = 3
"""So many connections in a row without a single answer mean that something is wrong with the server."""

FIRST_LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 5.0
"""Between two looks for the next server, which become rarer."""

RESTARTED = "Offhand's server was restarted or has ended. Nothing is known of this request: ask again."


class ShimError(Exception):
    """There will be no connection. The message says why, and what to do."""


class ClientGoneError(Exception):
    """Nobody reads our stdout any more."""


def main(argv: list[str] | None = None) -> int:
    """Serve the MCP client at stdin and stdout until it goes. 0: it went; 1: no server to be had; 130: ^C."""
    if sys.argv[1:] if argv is None else argv:
        _tell("usage: offhand mcp\nIt takes no arguments: an MCP client starts it and speaks to it on stdin.")
        return 2
    if sys.stdin is None or sys.stdout is None:
        # Started without them: nobody to serve, and the next file that we open would take their place.
        return 0
    try:
        return Shim(home_path()).run()
    except ClientGoneError:
        return 0
    except KeyboardInterrupt:
        return 130


def connect(home: str) -> _socket.socket | None:
    """A connection to the server of `home`; None where nobody listens."""
    try:
        with open(os.path.join(home, "server.json"), encoding="utf-8") as file:
            path = _mcp_socket_in(file.read())
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    except (OSError, ValueError):
        return None
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return None
    connection.setblocking(False)
    return connection


def _mcp_socket_in(server_file: str) -> str:
    # By hand where nothing is escaped, since importing json takes longer than all the rest of connecting.
    value = server_file.partition('"mcp_socket":')[2].lstrip().removeprefix('"').partition('"')[0]
    if value and "\\" not in value:
        return value
    import json

    return str(json.loads(server_file).get("mcp_socket"))


class Shim:
    """One client, and one connection to the server after another."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._server: _socket.socket | None = None
        self._fruitless = 0
        self._look_seconds = FIRST_LOOK_SECONDS
        self._look_at = 0.0
        self._stdin_is_open = True
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._to_server: list[bytes] = []
        self._to_server_bytes = 0
        self._prelude: list[bytes] = []
        self._sent = 0
        self._to_client = bytearray()
        self._ledger: Ledger | None = None
        self._unnoted: list[tuple[bool, bytes]] = []

    def run(self) -> int:
        try:
            self._connect()
            self._copy()
        except ShimError as error:
            return self._give_up(str(error))
        return 0

    def _copy(self) -> None:
        deadline: float | None = None
        while True:
            if self._server is None and (self._has_request or self._book.awaits_initialize):
                self._connect()
            now = time.monotonic()
            if self._waits_for_server and now >= self._look_at:
                self._look_for_server(now)
            if not self._stdin_is_open:
                deadline = now + LAST_ANSWERS_SECONDS if deadline is None else deadline
                if self._server is None or now >= deadline or not (self._outgoing or self._book.owed):
                    self._say_farewell()
                    return
            until = [deadline] if deadline is not None else []
            until += [self._look_at] if self._waits_for_server else []
            self._step(min(until) - time.monotonic() if until else None)

    @property
    def _has_request(self) -> bool:
        """Whether the client wants an answer. For a notification, such as a cancellation, no server is started."""
        while self._to_server and self._book.note_notification(self._to_server[0]):
            self._to_server_bytes -= len(self._to_server.pop(0))
        return bool(self._to_server)

    @property
    def _waits_for_server(self) -> bool:
        return self._server is None and self._book.follows

    def _step(self, timeout_seconds: float | None) -> None:
        """Wait until something can be read or written, and do it."""
        poll = select.poll()
        if self._stdin_is_open and self._to_server_bytes < HIGH_WATER_BYTES:
            poll.register(0, select.POLLIN)
        # Always: even with nothing to write, its error is how we learn that the client is gone.
        poll.register(1, select.POLLOUT if self._to_client else 0)
        wanted = select.POLLIN if len(self._to_client) < HIGH_WATER_BYTES else 0
        wanted |= select.POLLOUT if self._outgoing else 0
        if self._server is not None and wanted:
            poll.register(self._server.fileno(), wanted)
        if self._unnoted:
            timeout_seconds = IDLE_SECONDS if timeout_seconds is None else min(IDLE_SECONDS, timeout_seconds)
        ready = poll.poll(None if timeout_seconds is None else max(0, timeout_seconds) * 1000)
        if not ready and self._unnoted:
            self._open_book()
        for descriptor, events in ready:
            if descriptor == 1:
                if events & ~select.POLLOUT:
                    raise ClientGoneError
                self._write_to_client()
            elif descriptor == 0:
                self._read_from_client()
            elif self._server is not None:
                self._serve_socket(events)

    def _serve_socket(self, events: int) -> None:
        try:
            if events & select.POLLOUT:
                self._write_to_server()
        except OSError:
            # It is gone. Its last words, such as why it refused us, may still be there to read.
            events |= select.POLLIN
        if events & ~select.POLLOUT:
            self._read_from_server()

    # From the client to the server

    def _read_from_client(self) -> None:
        try:
            data = os.read(0, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stdin_is_open = False
            # A last message without its newline is still a message.
            data = b"\n" if self._from_client else b""
        lines = _take_lines(self._from_client, data)
        self._to_server += lines
        self._to_server_bytes += sum(map(len, lines))
        if len(self._from_client) > LONGEST_LINE_BYTES + LINE_END_BYTES:
            del self._from_client[LONGEST_LINE_BYTES:-LINE_END_BYTES]
        if self._server is not None and self._to_server:
            self._serve_socket(select.POLLOUT)

    @property
    def _outgoing(self) -> list[bytes]:
        return self._prelude or self._to_server

    def _write_to_server(self) -> None:
        assert self._server is not None
        while self._outgoing:
            line = self._outgoing[0]
            try:
                self._sent += self._server.send(memoryview(line)[self._sent :])
            except BlockingIOError:
                return
            if self._sent == len(line):
                self._count_as_sent()

    def _count_as_sent(self) -> None:
        self._sent = 0
        if self._prelude:
            self._prelude.pop(0)
            return
        line = self._to_server.pop(0)
        self._to_server_bytes -= len(line)
        if self._ledger is None and len(self._unnoted) < UNNOTED_LINES:
            self._unnoted.append((True, line))
        else:
            self._book.note_from_client(line)

    # From the server to the client

    def _read_from_server(self) -> None:
        assert self._server is not None
        try:
            data = self._server.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose_server()
            return
        # Only whole lines go on: half an answer of a dying server must not reach the client.
        for line in _take_lines(self._from_server, data):
            self._fruitless = 0
            self._look_seconds = FIRST_LOOK_SECONDS
            self._to_client += self._noted(line)

    def _noted(self, line: bytes) -> bytes:
        """Note a line of the server. What the client shall see instead of it: most often the line itself."""
        if self._ledger is None and b'"result"' in line[:64] and len(self._unnoted) < UNNOTED_LINES:
            self._unnoted.append((False, line))
            return line
        return self._book.note_from_server(line)

    def _write_to_client(self) -> None:
        try:
            written = os.write(1, self._to_client[:PIPE_WRITE_BYTES])
        except BlockingIOError:
            return
        except OSError as error:
            raise ClientGoneError from error
        del self._to_client[:written]

    # What is remembered

    @property
    def _book(self) -> Ledger:
        return self._ledger or self._open_book()

    def _open_book(self) -> Ledger:
        """Import the ledger, which takes a third of our start, and note what has gone to and fro so far."""
        from mcp_server.transports.ledger import Ledger

        self._ledger = Ledger(_tell)
        for from_client, line in self._unnoted:
            if from_client:
                self._ledger.note_from_client(line)
            else:
                self._ledger.note_from_server(line)
        self._unnoted.clear()
        return self._ledger

    # The server comes and goes

    def _connect(self) -> None:
        self._server = connect(self._home)
        if self._server is None:
            from mcp_server.transports.launch import LaunchError, start_server

            try:
                self._server = start_server(self._home, lambda: connect(self._home))
            except LaunchError as error:
                raise ShimError(str(error)) from error
        self._begin()

    def _look_for_server(self, now: float) -> None:
        """Go on with the next server, if there is one by now."""
        self._server = connect(self._home)
        self._look_at = now + self._look_seconds
        self._look_seconds = min(self._look_seconds * 1.5, LONGEST_LOOK_SECONDS)
        if self._server is not None:
            self._begin()

    def _begin(self) -> None:
        if self._ledger is not None:
            self._prelude = self._ledger.replay()

    def _lose_server(self) -> None:
        assert self._server is not None
        self._server.close()
        self._server = None
        self._from_server.clear()
        if self._sent:
            # Half of it was sent: whether it was read, nobody knows.
            self._count_as_sent()
        if self._book.refusal is not None:
            raise ShimError(self._book.refusal)
        self._fruitless += 1
        if self._fruitless >= FRUITLESS_CONNECTIONS and self._book.owed:
            raise ShimError(f"Offhand's server ends every connection at once. Its log is in {self._home}/logs.")
        self._to_client += self._book.answer_all(RESTARTED)

    def _say_farewell(self) -> None:
        """Let the server finish its sentence, then write what the client has not taken yet."""
        from contextlib import suppress

        until = time.monotonic() + FAREWELL_SECONDS
        if self._server is not None:
            with suppress(OSError):
                self._server.shutdown(_socket.SHUT_WR)
        while (left := until - time.monotonic()) > 0 and (self._server is not None or self._to_client):
            try:
                self._step(left)
            except ShimError:
                return

    def _give_up(self, message: str) -> int:
        """Answer what the client has asked, or will ask first, with what is wrong."""
        _tell(message)
        while True:
            for line in self._to_server:
                self._book.note_from_client(line)
            self._to_server.clear()
            if not self._book.is_idle or not self._stdin_is_open:
                break
            self._read_from_client()
        self._to_client += self._book.answer_all(message, last=True)
        while self._to_client:
            self._write_to_client()
        return 1


def _take_lines(rest: bytearray, data: bytes) -> list[bytes]:
    """The lines, each with its newline, that `data` completes; what comes after the last one stays in `rest`."""
    end = data.rfind(b"\n") + 1
    if not end:
        rest += data
        return []
    whole = bytes(rest) + data[:end]
    rest[:] = data[end:]
    # Not splitlines(): a carriage return inside a line is not ours to cut at.
    return [line + b"\n" for line in whole[:-1].split(b"\n")]


def _tell(message: str) -> None:
    from contextlib import suppress

    if sys.stderr is None:
        return
    with suppress(OSError):
        os.write(2, f"{message}\n".encode(errors="backslashreplace"))


if __name__ == "__main__":
    raise SystemExit(main())
