"""Starts real daemons and a real Redis on free ports for the integration tests, and stops them.

Binaries come from KEEL_BIN (default build/release/bin), reference files from KEEL_SHARED (default ../shared).
Only processes started here are ever signalled, by their pid.
"""
import http.client
import json
import os
import random
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


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def free_offset():
    """A port offset at which all nine engine ports are free."""
    for _ in range(200):
        offset = random.randrange(1000, 40000)
        try:
            for port in ENGINES.values():
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port + offset))
            return offset
        except OSError:
            continue
    raise AssertionError("no free range of ports")


def wait_for(what, seconds=15.0, every=0.02):
    """Polls until what() is true; its last value, or an AssertionError."""
    end = time.monotonic() + seconds
    while True:
        got = what()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        try:
            # Decimals stay text, so that a comparison is exact.
            self.json = json.loads(body)
            self.exact = json.loads(body, parse_float=str)
        except ValueError:
            self.json = self.exact = None

    def __repr__(self):
        return f"{self.status} {self.body[:600]!r}"


def request(port, method, path, body=None, headers=None, timeout=20):
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

    def stop(self, seconds=20):
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
        super().start()
        wait_for(lambda: self.command("PING").startswith(b"+PONG"))
        return self

    def command(self, *words):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as s:
                s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
                return s.recv(1 << 20)
        except OSError:
            return b""


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
        wait_for(up, 20)

    def call(self, method, path, body=None, headers=None, timeout=20):
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

    def __init__(self, test, names, fsync="everysec", env=None, plain=(), args=None):
        self.folder = Folder(test).path
        self.redis = Redis(self.folder, fsync).start()
        test.addCleanup(self.redis.stop)
        ports = {n: free_port() for n in ENGINES}
        urls = {f"{n.upper()}_URL": f"http://127.0.0.1:{p}" for n, p in ports.items()}
        self.engines = {}
        for n in names:
            own = dict(urls, KEEL_MODE="sim", **(env or {}))
            if n in plain:
                own["ENABLE_HYBRID"] = "false"
            self.engines[n] = Engine(n, self.folder, self.redis.url, own, (args or {}).get(n, ()), ports[n])
            test.addCleanup(self.engines[n].stop)
        for e in self.engines.values():
            e.start()

    def __getitem__(self, name):
        return self.engines[name]


def keel(*args, env=None, timeout=300):
    """Runs the program keel; its exit code and output."""
    full = {k: v for k, v in os.environ.items() if not k.endswith("_URL")}
    full.setdefault("ENABLE_HYBRID", HYBRID)
    full.update(env or {})
    p = subprocess.run([os.path.join(BIN, "keel"), *args], env=full, stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=timeout, cwd=TOP)
    return p.returncode, p.stdout + p.stderr
