"""Starts real daemons and a real Redis on free ports for the integration tests, and stops them.

Binaries come from KEEL_BIN (default build/release/bin), reference files from KEEL_SHARED (default ../shared).
Only processes started here are ever signalled, by their pid.
"""
import atexit
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BIN = os.path.abspath(os.environ.get("KEEL_BIN", os.path.join(TOP, "build/release/bin")))
SHARED = os.path.abspath(os.environ.get("KEEL_SHARED", os.path.join(TOP, "../shared")))
HYBRID = os.environ.get("ENABLE_HYBRID", "true")
ENGINES = {"analytics": 8100, "risk": 8200, "factor": 8300, "ml": 8400, "features": 8500,
           "websocket": 8600, "strategy": 8700, "marketdata": 8800, "portfolio": 8900}


def shared(path):
    """Path below KEEL_SHARED; skips with a reason where it is missing, which fails in CI."""
    full = os.path.join(SHARED, path)
    if not os.path.exists(full):
        if os.environ.get("CI"):
            raise AssertionError(f"{path} is missing below KEEL_SHARED, and in CI a skip is a failure")
        raise unittest.SkipTest(f"{path} is not below KEEL_SHARED")
    return full


# Ports lie below the range from which the system takes the near ends of connections: nothing takes one between our
# choice of it and the engine's listen. Other tests are kept off by names that live as long as this process.
PORTS, BLOCK = range(20000, 32000), 100
OFFSETS = range(1000, 10000)
held = []
atexit.register(lambda: [s.close() for s in held])


def is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engines do
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def hold(name):
    """True when no other process holds the name; from then on this one does."""
    s = socket.socket(socket.AF_UNIX)
    try:
        s.bind("\0keel-test-" + name)
    except OSError:
        s.close()
        return False
    held.append(s)
    return True


def ports():
    """Every port that is free and this process's own, each once."""
    blocks = list(range(PORTS.start, PORTS.stop, BLOCK))
    random.shuffle(blocks)
    for first in blocks:
        if hold(f"ports-{first}"):
            yield from filter(is_free, range(first, first + BLOCK))
    raise AssertionError("no free port")


free_ports = ports()


def free_port():
    return next(free_ports)


def free_offset():
    """A port offset at which all nine engine ports are free, and no other test's: those are a multiple of 100 apart."""
    for offset in random.sample(OFFSETS, 500):
        if all(is_free(port + offset) for port in ENGINES.values()) and hold(f"offset-{offset % 100}"):
            return offset
    raise AssertionError("no free range of ports")


def wait_for(what, seconds=30.0, every=0.02):
    """Polls until what() is true; its last value, or an AssertionError. It is asked once more after the time is over."""
    end = time.monotonic() + seconds
    while True:
        over = time.monotonic() > end
        got = what()
        if got:
            return got
        if over:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        self.again = False  # it had to be asked more than once
        try:
            # Decimals stay text, so that a comparison is exact.
            self.json = json.loads(body)
            self.exact = json.loads(body, parse_float=str)
        except ValueError:
            self.json = self.exact = None

    def code(self):
        return self.json.get("code") if isinstance(self.json, dict) else None

    def is_busy(self):
        """Nothing happened, for want of time."""
        shed = isinstance(self.json, dict) and self.json.get("title") == "refused to protect more critical work"
        return self.status == 504 or self.status == 503 and shed

    def __repr__(self):
        return f"{self.status} {self.body[:600]!r}"


def request(port, method, path, body=None, headers=None, timeout=60):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        send = {"Content-Type": "application/json"}
        send.update(headers or {})
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        conn.request(method, path, body, {k: v for k, v in send.items() if v is not None})
        got = conn.getresponse()
        return Answer(got.status, dict(got.getheaders()), got.read())
    finally:
        conn.close()


class Process:
    def __init__(self, argv, env=None, log=None):
        self.argv, self.log_path = argv, log
        self.env = {k: v for k, v in os.environ.items() if not k.endswith("_URL") and k != "PORT"}
        self.env.update(env or {})
        self.p = None

    def start(self):
        log = open(self.log_path, "ab") if self.log_path else subprocess.DEVNULL
        self.p = subprocess.Popen(self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=subprocess.STDOUT,
                                  # Not the checkout's top: its config/ would be read.
                                  cwd=os.path.dirname(self.log_path) if self.log_path else None)
        if self.log_path:
            log.close()
        return self

    def kill(self, sig=signal.SIGKILL):
        if self.p and self.p.poll() is None:
            self.p.send_signal(sig)
            if sig == signal.SIGKILL:
                self.p.wait()

    def stop(self, seconds=60):
        """SIGTERM and the exit code; 0 is a clean drain."""
        if self.p is None:
            return 0
        if self.p.poll() is None:
            self.p.terminate()
            try:
                self.p.wait(seconds)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()
                raise AssertionError(f"{self.argv[0]} did not stop within {seconds} s\n{self.log()[-3000:]}")
            if self.p.returncode < 0 and self.p.returncode != -signal.SIGTERM:
                raise AssertionError(f"{self.argv[0]} crashed while it stopped: {self.p.returncode}\n{self.log()[-3000:]}")
        return self.p.returncode

    def log(self):
        if not self.log_path or not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, errors="replace") as f:
            return f.read()


class Redis(Process):
    def __init__(self, folder, fsync="everysec"):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        os.makedirs(os.path.join(folder, "redis"), exist_ok=True)
        super().__init__(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir",
                          os.path.join(folder, "redis"), "--appendonly", "yes", "--appendfsync", fsync, "--save", "",
                          "--maxmemory", "1gb", "--maxmemory-policy", "noeviction"],
                         log=os.path.join(folder, "redis.log"))

    def start(self):
        def up():
            if self.p.poll() is not None:
                raise AssertionError(f"redis-server ended with {self.p.returncode}\n{self.log()[-3000:]}")
            return self.command("PING").startswith(b"+PONG")
        super().start()
        wait_for(up, 60)
        return self

    password = None

    def command(self, *words):
        """The reply as it is on the wire; b"" when Redis is away."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as s, s.makefile("rb") as f:
                for said in ([("AUTH", self.password)] if self.password else []) + [words]:
                    s.sendall(b"*%d\r\n" % len(said) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in said))
                    got = self.reply(f)
                return got
        except OSError:
            return b""

    def reply(self, f):
        line = f.readline()
        if line[:1] == b"$" and int(line[1:]) >= 0:
            return line + f.read(int(line[1:]) + 2)
        if line[:1] == b"*":
            return line + b"".join(self.reply(f) for _ in range(int(line[1:])))
        return line


class Engine(Process):
    def __init__(self, name, folder, redis_url="", env=None, args=(), port=None):
        self.name, self.port = name, port or free_port()
        base = {"ENABLE_HYBRID": HYBRID}
        base.update(env or {})
        super().__init__([os.path.join(BIN, f"{name}-engine"), "--port", str(self.port), "--data-dir",
                          os.path.join(folder, name), "--redis-url", redis_url, *args], base,
                         os.path.join(folder, f"{name}.log"))

    def start(self, ready=True):
        super().start()
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self):
        def up():
            if self.p.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.p.returncode}\n{self.log()[-3000:]}")
            try:
                return self.get("/health/ready").status == 200
            except OSError:
                return False
        wait_for(up, 60)

    def call(self, method, path, body=None, headers=None):
        """
        Asks as a patient user does. On a busy machine 503 (shed), 503 `risk_unavailable` and 504 are honest answers that
        say nothing happened, and 202 `unknown` is an order that is under way: the same id again is answered in the end.
        """
        end, tries = time.monotonic() + 60, 0
        while True:
            got, tries = self.ask(method, path, body, headers), tries + 1
            got.again = tries > 1
            under_way = got.status == 202 and isinstance(got.json, dict) and got.json.get("status") == "unknown"
            if under_way and "client_order_id" in got.json and "Idempotency-Key" not in (headers or {}):
                body = dict(body, client_order_id=got.json["client_order_id"])  # it has one, given or not
            if not (got.is_busy() or under_way) and got.code() != "risk_unavailable" or time.monotonic() > end:
                return got
            time.sleep(0.05)

    def ask(self, method, path, body=None, headers=None, timeout=60):
        """Asks once, whatever comes."""
        return request(self.port, method, path, body, headers, timeout)

    def get(self, path, headers=None):
        return self.call("GET", path, None, headers)

    def post(self, path, body=None, headers=None):
        return self.call("POST", path, {} if body is None else body, headers)


class Folder:
    """A temporary folder that is kept, and named, when the test fails."""

    def __init__(self, test):
        self.path = tempfile.mkdtemp(prefix="keel-test-")
        test.addCleanup(self.remove, test)

    def remove(self, test):
        outcome = getattr(test, "_outcome", None)
        result = getattr(outcome, "result", None)
        failed = result is not None and any(t is test for t, _ in result.failures + result.errors)
        if failed:
            print(f"files and logs of {test.id()} are kept in {self.path}")
        else:
            shutil.rmtree(self.path, ignore_errors=True)


class Chain:
    """Engines on one Redis, wired to one another; peers' addresses are known before any of them starts."""
    # On a busy machine an order may reach the venue after 48 ms, and a price be a minute old when it is needed.
    patience = {"KEEL_MODE": "sim", "SEND_DEADLINE_MS": "20000", "MARK_STALE_MS": "3600000",
                "VENUE_MAX_AGE_MS": "3600000"}

    def __init__(self, test, names, fsync="everysec", env=None, plain=(), args=None, redis=None, folder=None):
        self.folder = folder or Folder(test).path
        self.redis = redis
        if redis is None:
            self.redis = Redis(self.folder, fsync).start()
            test.addCleanup(self.redis.stop)
        ports = {n: free_port() for n in ENGINES}
        urls = {f"{n.upper()}_URL": f"http://127.0.0.1:{p}" for n, p in ports.items()}
        self.engines = {}
        for n in names:
            own = dict(urls, **dict(self.patience, **(env or {})))
            if n in plain:
                own["ENABLE_HYBRID"] = "false"
            self.engines[n] = Engine(n, self.folder, self.redis.url, own, (args or {}).get(n, ()), ports[n])
            test.addCleanup(self.engines[n].stop)
        for e in self.engines.values():
            e.start()
        if {"risk", "portfolio"} <= set(names):  # risk hears of main over the bus; with tokens it does not say so
            wait_for(lambda: self["risk"].post("/risk/report/main").status != 404)

    def __getitem__(self, name):
        return self.engines[name]


def handled(engine, op):
    """How many calls of an op the engine has finished well, by its own count, which both guards keep."""
    text = engine.get("/metrics").body.decode()
    found = re.findall(r'^keel_op_calls_total\{[^}]*op="%s",outcome="(?:ok|slow)"\} (\d+)$' % op, text, re.M)
    return sum(map(int, found))


def heard(chain, op, tell, names):
    """Tells something over the bus and returns when those of the engines that run have handled it."""
    before = [(chain[n], handled(chain[n], op)) for n in names if chain[n].p.poll() is None]
    tell()
    for engine, count in before:
        wait_for(lambda: handled(engine, op) > count)


def keel(*args, env=None, timeout=900):
    """Runs the program keel; its exit code and output."""
    full = {k: v for k, v in os.environ.items() if not k.endswith("_URL")}
    full.setdefault("ENABLE_HYBRID", HYBRID)
    full.update(env or {})
    p = subprocess.run([os.path.join(BIN, "keel"), *args], env=full, stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=timeout, cwd=TOP)
    return p.returncode, p.stdout + p.stderr
