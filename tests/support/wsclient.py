"""A WebSocket client on the standard library, for tests: it sends exactly the bytes it is told to and hides nothing."""
import base64
import calendar
import hashlib
import json
import os
import re
import socket
import struct
import time

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refused(Exception):
    def __init__(self, status, headers, body):
        super().__init__(f"{status} {body[:300]!r}")
        self.status, self.headers, self.body = status, headers, body


def frame(opcode, payload=b"", fin=True, mask=b"\x11\x22\x33\x44", rsv=0, length=None):
    """length None: the shortest form; else the extended one of 2 or 8 bytes. mask None: unmasked."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    n, masked = len(payload), 0x80 if mask else 0
    if length == 8 or (length is None and n > 0xFFFF):
        head += bytes([masked | 127]) + struct.pack(">Q", n)
    elif length == 2 or (length is None and n > 125):
        head += bytes([masked | 126]) + struct.pack(">H", n)
    else:
        head += bytes([masked | n])
    if not mask:
        return head + payload
    key = (mask * (n // 4 + 1))[:n]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(n, "big")


def stamped_frames(chunks):
    """(read at, sent at, seq) of every frame, in ns, from what was read piece by piece."""
    pattern, rest, stamps = re.compile(rb'"timestamp":"([^"]*)","epoch":"[^"]*","seq":(\d+)\}'), b"", {}
    for read_at, data in chunks:
        rest, end = rest + data, 0
        for m in pattern.finditer(rest):
            if m[1] not in stamps:
                stamps[m[1]] = (calendar.timegm(time.strptime(m[1][:19].decode(), "%Y-%m-%dT%H:%M:%S")) * 10**9 +
                                int(m[1][20:29]))
            yield read_at, stamps[m[1]], int(m[2])
            end = m.end()
        rest = rest[end:]


class Client:
    def __init__(self, port, path="/ws/stream", headers=None, first=b"", receive_buffer=None, timeout=60):
        self.s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.s.settimeout(timeout)
        self.s.connect(("127.0.0.1", port))
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16))
        send = {"Host": f"127.0.0.1:{port}", "Upgrade": "websocket", "Connection": "Upgrade",
                "Sec-WebSocket-Key": key.decode(), "Sec-WebSocket-Version": "13"}
        send.update(headers or {})
        lines = [f"GET {path} HTTP/1.1"] + [f"{k}: {v}" for k, v in send.items() if v is not None]
        self.s.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + first)
        self.buf = b""
        while b"\r\n\r\n" not in self.buf:
            got = self.s.recv(65536)
            if not got:
                raise Refused(0, {}, self.buf)
            self.buf += got
        head, self.buf = self.buf.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {k.lower(): v.strip() for k, v in (x.split(":", 1) for x in lines[1:])}
        if self.status != 101:
            body = self.buf + self.rest(int(self.headers.get("content-length", 0)))
            self.s.close()
            raise Refused(self.status, self.headers, body)
        want = base64.b64encode(hashlib.sha1(key + MAGIC).digest()).decode()
        assert self.headers["sec-websocket-accept"] == want, self.headers
        self.close_code = self.close_reason = None

    def rest(self, length):
        out = b""
        while len(self.buf) + len(out) < length:
            got = self.s.recv(65536)
            if not got:
                break
            out += got
        return out

    def send(self, raw):
        self.s.sendall(raw)

    def say(self, message):
        self.send(frame(TEXT, json.dumps(message).encode()))

    def need(self, n):
        while len(self.buf) < n:
            got = self.s.recv(262144)
            if not got:
                raise EOFError
            self.buf += got

    def recv_frame(self):
        """(opcode, payload) of the next frame; the server's are final, unmasked and in their shortest form."""
        self.need(2)
        assert self.buf[0] & 0xF0 == 0x80 and not self.buf[1] & 0x80, self.buf[:2]
        n, at = self.buf[1], 2
        if n == 126:
            self.need(4)
            n, at = struct.unpack(">H", self.buf[2:4])[0], 4
            assert n > 125
        elif n == 127:
            self.need(10)
            n, at = struct.unpack(">Q", self.buf[2:10])[0], 10
            assert n > 0xFFFF
        self.need(at + n)
        opcode, payload = self.buf[0] & 0x0F, self.buf[at:at + n]
        self.buf = self.buf[at + n:]
        return opcode, payload

    def recv(self):
        """The next message, parsed; answers pings. After a close frame: None, with close_code and close_reason."""
        while True:
            opcode, payload = self.recv_frame()
            if opcode == PING:
                self.send(frame(PONG, payload))
            elif opcode == CLOSE:
                self.close_code = struct.unpack(">H", payload[:2])[0] if payload else 1005
                self.close_reason = payload[2:].decode()
                return None
            elif opcode == TEXT:
                return json.loads(payload)

    def until(self, what, seconds=60):
        """The first message for which what(message) is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            got = self.recv()
            if got is None:
                raise AssertionError(f"closed: {self.close_code} {self.close_reason}")
            if what(got):
                return got
        raise AssertionError("it did not come")

    def at_eof(self):
        """True when the server has closed its side and nothing is left."""
        try:
            return not self.buf and self.s.recv(65536) == b""
        except ConnectionResetError:
            return False

    def close(self):
        self.s.close()

    def __del__(self):
        self.s.close()
