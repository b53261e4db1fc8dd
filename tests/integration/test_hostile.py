"""Every route of every engine against garbage, oversize, slow and half-open requests and foreign web pages."""
import concurrent.futures
import os
import socket
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import ENGINES, Chain, request, wait_for  # noqa: E402

SAMPLE = {"portfolio_id": "main", "symbol": "BTCUSDT", "strategy_id": "manual"}
GARBAGE = [b"", b"{", b"[]", b"null", b"42", b'"x"', b"\xff\xfe", b"{\"a\":" * 40 + b"1" + b"}" * 40, b'{"a":1}garbage',
           b'{"unheard_of_field":1}', b'{"quantity":"NaN","price":1e999}', b'{"a":"\\u0000"}', b"[" * 5000]


def routes(engine):
    """(method, path with parameters filled in) of everything the engine itself says it serves."""
    out = []
    for path, methods in engine.get("/openapi.json").json["paths"].items():
        filled = path
        while "{" in filled:
            a, b = filled.index("{"), filled.index("}")
            filled = filled[:a] + SAMPLE.get(filled[a + 1:b], "x1") + filled[b + 1:]
        out += [(m.upper(), filled) for m in methods if m in ("get", "post", "put", "patch", "delete")]
    return out


def raw(port, data, read_for=60.0, half_close=False):
    """Sends bytes as they are; what came back until the server closed or read_for passed, and whether it closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        s.settimeout(read_for)
        got = b""
        try:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            while True:
                more = s.recv(65536)
                if not more:
                    return got, True
                got += more
        except (socket.timeout, ConnectionError) as e:
            return got, isinstance(e, ConnectionError)


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.holder = cls("test_nothing_is_5xx")
        cls.chain = Chain(cls.holder, list(ENGINES), env={"HEADER_TIMEOUT_MS": "700", "BODY_TIMEOUT_MS": "900",
                                                          "IDLE_TIMEOUT_MS": "2500"})

    @classmethod
    def tearDownClass(cls):
        try:
            for e in cls.chain.engines.values():
                assert e.p.poll() is None, f"{e.name} died: {e.log()[-3000:]}"
                assert e.stop() == 0, f"{e.name} did not drain cleanly: {e.log()[-3000:]}"
                assert "ERROR: " not in e.log() and "runtime error" not in e.log(), e.log()[-3000:]
        finally:
            cls.holder.doCleanups()

    def each(self):
        for e in self.chain.engines.values():
            for method, path in routes(e):
                yield e, method, path

    def test_nothing_is_5xx(self):
        n = 0
        for e, method, path in self.each():
            if method == "GET":
                bodies = [None]
                path += "?limit=-1&unheard_of=1"
            else:
                bodies = GARBAGE
            for body in bodies:
                got = e.call(method, path, body)
                n += 1
                self.assertLess(got.status, 500, f"{e.name} {method} {path} {body!r}: {got}")
                if got.status >= 400 and got.json is not None:
                    self.assertEqual(got.headers.get("Content-Type"), "application/problem+json", f"{path} {got}")
                    for field in ("type", "title", "status", "detail", "code"):
                        self.assertIn(field, got.json)
        self.assertGreater(n, 300)

    def test_oversize_is_413_before_it_is_read(self):
        for e, method, path in self.each():
            if method == "GET":
                continue
            head = (f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    "Content-Length: 99999999\r\n\r\n").encode()
            got, closed = raw(e.port, head)
            self.assertEqual(status_of(got), 413, f"{e.name} {method} {path}: {got[:200]!r}")
            self.assertTrue(closed)

    def test_foreign_pages_are_refused(self):
        for e, method, path in self.each():
            if method == "GET":
                continue
            for headers, want in (({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example"}, 403),
                                  ({"Content-Type": "text/plain"}, 415),
                                  ({"Content-Type": "application/x-www-form-urlencoded"}, 415)):
                got = request(e.port, method, path, "{}", headers)
                self.assertEqual(got.status, want, f"{e.name} {method} {path} {headers}: {got}")

    def test_wrong_methods_name_the_right_ones(self):
        for e in self.chain.engines.values():
            got = e.call("DELETE", "/health")
            self.assertEqual(got.status, 405)
            self.assertIn("GET", got.headers["Allow"])
            self.assertEqual(e.get("/no/such/path").status, 404)

    def test_slow_and_half_open(self):
        # All nine at once: most of it is waiting.
        with concurrent.futures.ThreadPoolExecutor(len(ENGINES)) as pool:
            list(pool.map(self.slow_and_half_open, self.chain.engines.values()))

    def slow_and_half_open(self, e):
        cut, closed = raw(e.port, b"GET /hea")
        self.assertTrue(closed, f"{e.name}: a header that never ends kept its connection")
        self.assertIn(status_of(cut), (0, 400, 408))
        cut, closed = raw(e.port, b"POST /feeds HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                                  b"Content-Length: 100\r\n\r\n{")
        self.assertTrue(closed, f"{e.name}: a body that never ends kept its connection")
        got, closed = raw(e.port, b"")
        self.assertTrue(closed, f"{e.name}: an idle connection was kept for ever")
        raw(e.port, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", half_close=True)
        for junk in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"A" * 40000, b"\r\n" * 1000,
                     b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
            got, _ = raw(e.port, junk)
            self.assertIn(status_of(got) // 100, (0, 4, 5))
            self.assertIn(status_of(got), (0, 400, 404, 405, 408, 411, 413, 414, 431, 505), f"{e.name} {junk[:30]!r}")
        self.assertEqual(e.get("/health/live").status, 200)

    def test_256_at_once(self):
        """Good requests on 256 connections: each is answered; on a slow machine by 503 with Retry-After, or by 504."""
        wait_for(lambda: self.chain["risk"].post("/risk/critical-check/main").status == 200)  # heard of it over the bus
        for name, method, path, body in (("risk", "POST", "/risk/critical-check/main", "{}"),
                                         ("portfolio", "GET", "/portfolios/main", None),
                                         ("marketdata", "GET", "/symbols", None)):
            port = self.chain[name].port
            head = (f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body or '')}\r\nConnection: close\r\n\r\n{body or ''}").encode()
            with concurrent.futures.ThreadPoolExecutor(256) as pool:
                answers = list(pool.map(lambda _: raw(port, head), range(256)))
            for got, _ in answers:
                self.assertIn(status_of(got), (200, 503, 504), got[:300])
                if status_of(got) == 503:
                    self.assertIn(b"Retry-After", got)
            wait_for(lambda: self.chain[name].get("/health/ready").status == 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
