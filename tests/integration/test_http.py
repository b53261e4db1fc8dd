"""Regressions of the server library's pitfalls: the listen socket at the limit, answers that wait, pipelining, stopping while
connections wait, slow clients, and memory limits. One engine, and a peer of ours that can be slow."""
import contextlib
import http.client
import json
import os
import select
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import Engine, Folder, free_port, wait_for  # noqa: E402

ORDER = {"symbol": "BTCUSDT", "side": "BUY", "quantity": "0.01", "price": "100", "valid_ms": 4000}


class SlowRisk:
    """Takes requests and answers when told to: what a call waits for."""

    def __init__(self, test):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.waiting, self.lock = [], threading.Lock()
        test.addCleanup(self.close)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        data = b""
        while b"\r\n\r\n" not in data:
            more = conn.recv(65536)
            if not more:
                conn.close()
                return
            data += more
        if data.startswith(b"GET"):
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            conn.close()
            return
        with self.lock:
            self.waiting.append(conn)

    def close(self):
        self.listener.close()
        for conn in self.waiting:
            conn.close()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def read_answers(s, n):
    """n whole answers from a kept-alive connection: [(status, body)]."""
    data, out = b"", []
    while len(out) < n:
        while b"\r\n\r\n" not in data:
            more = s.recv(65536)
            if not more:
                return out
            data += more
        head, data = data.split(b"\r\n\r\n", 1)
        length = int([h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")][0].split(b":")[1])
        while len(data) < length:
            data += s.recv(65536)
        out.append((int(head.split(b" ")[1]), data[:length]))
        data = data[length:]
    return out


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path, body):
    body = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            .encode() + body)


class Http(unittest.TestCase):
    def engine(self, args=(), risk=None):
        env = {"RISK_URL": f"http://127.0.0.1:{risk.port if risk else free_port()}"}
        e = Engine("strategy", Folder(self).path, "", env, args).start()
        self.addCleanup(e.stop)
        return e

    def test_never_deaf_after_the_limit(self):
        e = self.engine(["--max-connections", "8", "--idle-timeout-ms", "300"])
        for _ in range(3):
            idle = [connect(e.port) for _ in range(24)]
            with connect(e.port) as s:
                s.sendall(get("/orders"))
                status, _ = read_answers(s, 1)[0]
                self.assertIn(status, (200, 503))
            wait_for(lambda: e.get("/orders").status == 200)
            for s in idle:
                s.close()
        wait_for(lambda: e.get("/health/ready").status == 200)

    def test_pipelined_requests_are_answered_in_order(self):
        e = self.engine()
        with connect(e.port) as s:
            paths = ["/orders", "/no/such", "/strategies", "/orders/none", "/health/live"] * 4
            s.sendall(b"".join(get(p) for p in paths))
            got = [status for status, _ in read_answers(s, len(paths))]
        self.assertEqual(got, [200, 404, 200, 404, 200] * 4)

    def test_each_answer_is_its_own(self):
        """Answers as long as one another, on connections that ask at the same time: own body, trace and row each."""
        risk = Engine("risk", Folder(self).path, "", {}, ()).start()
        self.addCleanup(risk.stop)
        connections = [http.client.HTTPConnection("127.0.0.1", risk.port, timeout=60) for _ in range(4)]
        for turn in range(50):
            names = [f"p{turn:03}{i}" if turn % 5 else "same" for i in range(len(connections))]
            traces = [f"{turn + 1:016x}{i + 1:016x}" for i in range(len(connections))]
            for c, name, trace in zip(connections, names, traces):
                body = {"portfolio_value": 100000, "positions": [{"symbol": "BTCUSDT", "market_value": 100}]}
                c.request("POST", f"/risk/critical-check/{name}", json.dumps(body), {
                    "Content-Type": "application/json", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
            for c, name, trace in zip(connections, names, traces):
                got = c.getresponse()
                headers, body = got.getheaders(), json.loads(got.read())
                self.assertEqual((got.status, body["portfolio_id"]), (200, name))
                self.assertEqual([v for k, v in headers if k == "X-Trace-Id"], [trace])
                self.assertEqual(sorted(k for k, _ in headers), [
                    "Cache-Control", "Content-Length", "Content-Type", "Date", "Server-Timing",
                    "X-Content-Type-Options", "X-Trace-Id"])
            other = connections[turn % 4]
            other.request("GET", "/risk/critical-check/same" if turn % 2 else "/no/such")
            got = other.getresponse()
            self.assertEqual((got.status, len(got.read()) > 0), (405 if turn % 2 else 404, True))
        for c in connections:
            c.close()

    def test_large_answers(self):
        """They leave in pieces: each whole, in order with small ones, while others read slowly or leave halfway."""
        ml = Engine("ml", Folder(self).path, "", {}, ()).start()
        self.addCleanup(ml.stop)
        n = 1000
        batch = post("/ml/batch-inference", {"model_id": "price_model", "inputs": [{"symbol": f"S{i}USDT"} for i in range(n)]})

        def check(status, body):
            self.assertEqual((status, len(body) > 200000), (200, True))
            self.assertEqual([r["index"] for r in json.loads(body)["results"]], list(range(n)))

        with connect(ml.port) as slow, connect(ml.port) as fast:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            slow.sendall(batch)
            for _ in range(8):  # their memory is needed until they are gone, and not longer
                with connect(ml.port) as leaves:
                    leaves.sendall(batch)
                    leaves.recv(1000)
            fast.sendall(batch + get("/models") + batch + get("/no/such"))
            got = read_answers(fast, 4)
            self.assertEqual([status for status, _ in got], [200, 200, 200, 404])
            check(*got[0])
            check(*got[2])
            slow.sendall(get("/models"))
            got = read_answers(slow, 2)
            check(*got[0])
            self.assertEqual(got[1][0], 200)
            fast.sendall(get("/openapi.json").replace(b"GET", b"HEAD"))
            head = fast.recv(65536).lower()
            self.assertIn(b"content-length", head)
            self.assertTrue(head.endswith(b"\r\n\r\n"), "no body")

    def test_answers_that_wait_do_not_hold_others(self):
        """64 orders wait for a peer that says nothing; the engine answers others meanwhile, and all of them in the end."""
        risk = SlowRisk(self)
        e = self.engine(risk=risk)
        socks = [connect(e.port) for _ in range(64)]
        for i, s in enumerate(socks):
            s.sendall(post("/orders", dict(ORDER, client_order_id=f"o{i}")))
        # On a busy machine the 48 ms of an order may be over before the peer has read anything.
        wait_for(lambda: len(risk.waiting) > 0 or select.select(socks, [], [], 0)[0])
        self.assertEqual(e.get("/orders").status, 200)
        if os.environ.get("ENABLE_HYBRID") == "false":  # there an order waits for seconds: the answer came meanwhile
            self.assertEqual(select.select(socks, [], [], 0)[0], [])
        for s in socks:
            status, _ = read_answers(s, 1)[0]
            self.assertIn(status, (503, 504), "risk's budget or the order's own ended first; nothing was sent either way")
            s.close()
        self.assertEqual(e.get("/fills?after=0").json["fills"], [])

    def test_stopped_while_connections_wait(self):
        risk = SlowRisk(self)
        e = self.engine(["--drain-ms", "800"], risk=risk)
        socks = [connect(e.port) for _ in range(8)]
        for i, s in enumerate(socks):
            s.sendall(post("/orders", dict(ORDER, client_order_id=f"w{i}")))
        # Each waits for risk, or its own deadline ended it first.
        wait_for(lambda: len(risk.waiting) + len(select.select(socks, [], [], 0)[0]) >= 8)
        # Less than what the orders would wait for risk (30 s in the plain engine): they were not waited for.
        self.assertEqual(e.stop(25), 0, e.log()[-2000:])
        for s in socks:
            status, _ = read_answers(s, 1)[0]
            self.assertIn(status, (503, 504))
            s.close()
        self.assertNotIn("panic", e.log())

    def test_a_second_signal_ends_at_once(self):
        e = self.engine(["--drain-ms", "30000"])
        with connect(e.port) as s:
            # The drain waits for the rest of the body, of which the engine knows once it answers who came later.
            s.sendall(post("/orders", ORDER)[:-5])
            self.assertEqual(e.get("/health/live").status, 200)
            e.p.terminate()
            wait_for(lambda: "draining" in e.log())
            self.assertIsNone(e.p.poll())
            e.p.terminate()
            e.p.wait(25)
        self.assertEqual(e.p.returncode, 130)

    def test_nobody_takes_the_log(self):
        """Neither a disk nor a pipe that takes no more lines holds the loop; what there was no room for is counted."""
        folder, n, lines = Folder(self).path, 3000, []
        pipe = os.path.join(folder, "risk.log")
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        e = Engine("risk", folder, "", {"LOG_LEVEL": "debug"})
        self.addCleanup(e.stop)
        e.start()
        with connect(e.port) as s:
            for _ in range(n // 100):  # a line each: more than the pipe and the engine's memory for lines hold
                s.sendall(b"".join(get("/risk/breaches?limit=" + "x" * 100) for _ in range(100)))
                self.assertEqual([status // 100 for status, _ in read_answers(s, 100)], [4] * 100)

        def read():
            with contextlib.suppress(BlockingIOError):
                while more := os.read(reader, 1 << 20):
                    lines.append(more)
            return b"log_lines_left_out" in b"".join(lines)
        wait_for(read)
        e.p.terminate()
        wait_for(lambda: read() and e.p.poll() is not None)
        self.assertEqual(e.p.returncode, 0)
        rows = [json.loads(line) for line in b"".join(lines).decode().splitlines()]
        left_out = sum(r["lines"] for r in rows if r["event"] == "log_lines_left_out")
        self.assertEqual(sum(r["event"] == "call_failed" for r in rows) + left_out, n)
        self.assertEqual(rows[-1]["event"], "stopped")

    def test_how_long_a_header_may_be(self):
        """Risk answers engines and desks, websocket browsers, which bring the cookies of every page of localhost."""
        for name, good, bad in (("risk", 3500, 6000), ("portfolio", 7500, 12000), ("websocket", 15500, 24000)):
            e = Engine(name, Folder(self).path)
            self.addCleanup(e.stop)
            e.start()
            for size, want in ((good, b"200"), (bad, b"431")):
                with connect(e.port) as s:
                    s.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nCookie: a=" + b"a" * size + b"\r\n\r\n")
                    self.assertEqual(s.recv(65536).split(b" ")[1], want, f"{name} {size}")

    def test_header_and_body_limits(self):
        e = self.engine()
        with connect(e.port) as s:
            s.sendall(b"GET /orders HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 60000 + b"\r\n\r\n")
            self.assertIn(s.recv(65536).split(b" ")[1], (b"431", b"413"))
        with connect(e.port) as s:
            s.sendall(b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            try:
                for _ in range(200):
                    s.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
            except OSError:
                pass
            try:
                answer = s.recv(65536)
            except ConnectionError:
                answer = b""
            self.assertIn(answer.split(b" ")[1] if answer else b"closed", (b"413", b"closed"))
        whole = {"symbol": "BTCUSDT", "side": "BUY", "quantity": "1", "price": "1", "client_order_id": "x"}
        self.assertIn(e.ask("POST", "/orders", json.dumps(whole) + " " * (65536 - len(json.dumps(whole)))).status, (422, 503))
        self.assertEqual(e.ask("POST", "/orders", json.dumps(whole) + " " * (65537 - len(json.dumps(whole)))).status, 413)


if __name__ == "__main__":
    unittest.main(verbosity=2)
