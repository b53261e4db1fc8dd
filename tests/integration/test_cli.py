"""The program keel: options, the supervisor, the client commands and a demo on a system that already runs."""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import BIN, ENGINES, Folder, HYBRID, free_offset, keel, request, wait_for  # noqa: E402


class Up:
    """keel up in a folder of the test's."""

    def __init__(self, test):
        self.folder, self.offset = os.path.join(Folder(test).path, "data"), free_offset()
        env = {k: v for k, v in os.environ.items() if not k.endswith("_URL")}
        env["ENABLE_HYBRID"] = HYBRID
        self.p = subprocess.Popen([os.path.join(BIN, "keel"), "up", "--data-dir", self.folder, "--port-offset", str(self.offset),
                                   "--mode", "sim"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        test.addCleanup(self.stop)
        wait_for(lambda: all(self.ready(n) for n in ENGINES), 90)

    def ready(self, name):
        try:
            return self.get(name, "/health/ready").status == 200
        except OSError:
            return False

    def get(self, name, path):
        return request(ENGINES[name] + self.offset, "GET", path)

    def pid(self, name):
        with open(os.path.join(self.folder, "run", f"{name}.pid")) as f:
            return int(f.read())

    def stop(self):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGINT)
            try:
                self.p.wait(120)
            except subprocess.TimeoutExpired:
                self.p.kill()
                raise
        if self.p.stdout:
            self.out = self.p.stdout.read()
            self.p.stdout.close()
            self.p.stdout = None
        return self.p.returncode


class Options(unittest.TestCase):
    def test_help_and_mistakes(self):
        code, out = keel("--help")
        self.assertEqual(code, 0)
        for command in ("up", "demo", "status", "order", "models", "tail", "logs", "bench"):
            self.assertIn(command, out)
            code, text = keel(command, "--help")
            self.assertEqual(code, 0)
            self.assertIn("usage: keel " + command, text)
        for args, word in ((("sell",), "sell"), (("demo", "--sped", "3"), "--sped"), (("demo", "--speed", "-1"), "--speed"),
                           (("demo", "--seed", "x"), "--seed"), (("demo", "--data", "/no/such/file"), "/no/such/file"),
                           (("demo", "--seed"), "--seed"), (("up", "--port-offset", "99999"), "--port-offset"),
                           (("order", "BUY"), "order"), (("bench", "--rate", "0"), "--rate"),
                           (("bench", "--engine", "strategy", "--op", "execute"), "--orders"), (("bench", "--op", "x"), "--list"),
                           (("bench", "--url", "ftp://x"), "http://"), (("bench", "--body", "@none/such"), "none/such"),
                           (("bench", "--body", "@/dev/zero"), "16 MiB"), (("tail", "nothing"), "topic")):
            code, out = keel(*args)
            self.assertEqual(code, 2, out)
            self.assertIn(word, out)
            self.assertLessEqual(len(out.strip().splitlines()), 16, out)

    def test_demo_keeps_out_of_a_strangers_folder(self):
        folder = Folder(self).path
        mine = os.path.join(folder, "precious.txt")
        with open(mine, "w") as f:
            f.write("keep me")
        code, out = keel("demo", "--once", "--data-dir", folder)
        self.assertEqual(code, 2, out)
        self.assertIn("not a demo's", out)
        self.assertEqual(os.listdir(folder), ["precious.txt"])

    def test_every_engine_explains_itself(self):
        for name in ENGINES:
            program = os.path.join(BIN, f"{name}-engine")
            for args, words in ((["--help"], "--redis-url"), (["--version"], "0."), (["--describe"], '"ops"'),
                                (["--print-config"], '"redis_url"'), (["--check-config"], "")):
                p = subprocess.run([program, *args], capture_output=True, text=True, timeout=60, cwd=Folder(self).path)
                self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
                self.assertIn(words, p.stdout)
            for args, env, words in ((["--prot", "1"], {}, "prot"), (["--port", "70000"], {}, "port"),
                                     ([], {"ENABLE_HYBRID": "perhaps"}, "ENABLE_HYBRID"), (["--http-host", "0.0.0.0"], {}, "READ_TOKEN")):
                p = subprocess.run([program, "--data-dir", Folder(self).path, "--redis-url", "", "--port", "0", *args],
                                   capture_output=True, text=True, timeout=60, env=dict(os.environ, **env))
                self.assertNotEqual(p.returncode, 0, f"{name} {args} {env}")
                self.assertIn(words, p.stdout + p.stderr)


class Supervisor(unittest.TestCase):
    def test_restarts_reports_and_stops(self):
        up = Up(self)
        code, out = keel("status", "--port-offset", str(up.offset))
        self.assertIn("portfolio", out)
        old = up.pid("risk")
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: up.pid("risk") != old and up.ready("risk"), 60)
        redis = up.pid("redis")
        os.kill(redis, signal.SIGKILL)
        wait_for(lambda: up.pid("redis") != redis, 60)
        wait_for(lambda: all(up.get(n, "/health").json["status"] == "healthy" for n in ENGINES), 90)

        def all_well():
            """An engine that is slow to answer is not there for once."""
            code, out = keel("status", "--port-offset", str(up.offset))
            return code == 0 and out
        out = wait_for(all_well)
        self.assertEqual(out.count("healthy"), 9, out)
        self.assertEqual(keel("order", "BUY", "BTCUSDT", "0", "--port-offset", str(up.offset))[0], 1)
        self.bench(up)
        pids = [up.pid(n) for n in list(ENGINES) + ["redis"]]
        self.assertEqual(up.stop(), 0)
        self.assertNotIn("did not stop", up.out)
        for pid in pids:
            self.assertFalse(os.path.exists(f"/proc/{pid}"), f"{pid} is left over")
        self.assertIn("ready", keel("logs", "risk", "--data-dir", up.folder)[1])
        self.assertEqual(keel("status", "--port-offset", str(up.offset))[0], 1)

    def bench(self, up):
        def load(*args):
            code, out = keel("bench", "--port-offset", str(up.offset), "--warm-up", "0", "--json", *args)
            self.assertEqual(code, 0, out)
            return json.loads(out)
        for body in ((), ("--engine", "features"), ("--engine", "portfolio", "--op", "health")):
            got = load("--connections", "3", "--duration", "0.2", *body)
            self.assertEqual(sum(got["status"].values()), got["answered"], got)
            self.assertGreater(got["status"]["200"], 0, got)
            self.assertLessEqual(got["p50_us"], got["p99_us"], got)
            self.assertLessEqual(got["p99_us"], got["p999_us"], got)
            if got["answered"] < 1000:
                self.assertEqual(got["p999_us"], got["max_us"], "exact")
        got = load("--rate", "50", "--duration", "0.5", "--engine", "strategy", "--op", "execute", "--orders")
        self.assertEqual(got["answered"] + got["broken"] + got["unanswered"], 25, got)
        orders = request(ENGINES["strategy"] + up.offset, "GET", "/orders?limit=100").json["orders"]
        placed = [o for o in orders if o["client_order_id"].startswith("bench-")]
        self.assertEqual(len({o["client_order_id"] for o in placed}), len(placed), "an id was used twice")
        self.assertGreater(len(placed), 0, got)

    def test_bench_charges_a_server_for_what_it_delayed(self):
        """One connection, an answer takes 20 ms, every 5 ms one is due: the last of the 100 is answered 1.5 s late."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        with socket.create_server(("127.0.0.1", 0)) as server:
            def serve():
                peer = server.accept()[0]
                with peer:
                    while peer.recv(4096):
                        time.sleep(0.02)
                        peer.sendall(answer)
            t = threading.Thread(target=serve)
            t.start()
            code, out = keel("bench", "--url", f"http://127.0.0.1:{server.getsockname()[1]}/", "--connections", "1",
                             "--rate", "200", "--duration", "0.5", "--warm-up", "0", "--json")
            t.join()
        self.assertEqual(code, 0, out)
        got = json.loads(out)
        self.assertEqual(got["answered"], 100, got)
        self.assertGreaterEqual(got["max_us"], 1.4e6, got)
        self.assertGreaterEqual(got["p50_us"], 0.7e6, got)
        self.assertLessEqual(got["late_p50_us"], got["late_p99_us"], got)

    def test_bench_shows_what_it_has_when_it_is_stopped(self):
        """A server that answers each request at once; two connections, since it is asked before it can be told to stop."""
        counted = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as server:
            def serve(peer):
                with peer:
                    while peer.recv(4096):
                        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                        counted.set()
            p = subprocess.Popen([os.path.join(BIN, "keel"), "bench", "--url", f"http://127.0.0.1:{server.getsockname()[1]}/",
                                  "--connections", "2", "--duration", "600", "--warm-up", "0", "--json"],
                                 stdout=subprocess.PIPE, text=True)
            self.addCleanup(p.kill)
            threads = [threading.Thread(target=serve, args=(server.accept()[0],)) for _ in range(2)]
            for t in threads:
                t.start()
            self.assertTrue(counted.wait(30))
            p.send_signal(signal.SIGINT)
            got = json.loads(p.communicate(timeout=30)[0])
            for t in threads:
                t.join()
        self.assertEqual(p.returncode, 0)
        self.assertEqual(got["answered"], got["status"]["200"])
        self.assertLess(got["seconds"], 60)
        self.assertAlmostEqual(got["per_second"], got["answered"] / got["seconds"], delta=0.1)
        self.assertEqual((got["broken"], got["unanswered"]), (0, 0), got)

    def test_demo_attached_to_a_running_system(self):
        up = Up(self)
        report = os.path.join(os.path.dirname(up.folder), "report.json")
        code, out = keel("demo", "--attach", "--once", "--duration", "60", "--speed", "20", "--report", report,
                         "--port-offset", str(up.offset))
        self.assertEqual(code, 0, out)
        with open(report) as f:
            got = json.load(f)
        self.assertTrue(got["ok"], out)
        self.assertGreater(sum(got["orders"].values()), 0)
        main = up.get("portfolio", "/portfolios/main").json
        self.assertEqual((main["fills"], main["account"]["cash"]), (0, "1000000"), "the session has a portfolio of its own")


if __name__ == "__main__":
    unittest.main(verbosity=2)
