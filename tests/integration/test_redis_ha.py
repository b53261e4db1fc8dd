"""Redis behind Sentinel, with users and passwords, and addresses that are wrong."""
import os
import subprocess
import sys
import time
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from books import settle, verify  # noqa: E402
from keeltest import BIN, Chain, Engine, Folder, Process, Redis, free_port, wait_for  # noqa: E402

CHAIN = ["portfolio", "risk", "strategy", "marketdata"]


def lines(answer):
    return answer.decode(errors="replace").split("\r\n")


class Sentinels:
    """A master, a replica and three sentinels, which have a password; speaks to the engines' Chain as a Redis does."""

    PASSWORD = "sent in&el?"

    def __init__(self, test, folder):
        self.servers = []
        for name in ("a", "b"):
            r = Redis(os.path.join(folder, name))
            os.makedirs(os.path.join(folder, name), exist_ok=True)
            r.argv += ["--repl-diskless-sync-delay", "0"]
            if self.servers:
                r.argv += ["--replicaof", "127.0.0.1", str(self.servers[0].port)]
            test.addCleanup(r.stop)
            self.servers.append(r.start())
        wait_for(lambda: b"master_link_status:up" in self.servers[1].command("INFO", "replication"), 30)
        self.ports = []
        for k in range(3):
            port, conf = free_port(), os.path.join(folder, f"sentinel{k}.conf")
            with open(conf, "w") as f:
                f.write(f"port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass \"{self.PASSWORD}\"\n"
                        f"sentinel monitor keel 127.0.0.1 {self.servers[0].port} 2\n"
                        "sentinel down-after-milliseconds keel 1000\nsentinel failover-timeout keel 6000\n")
            p = Process(["redis-server", conf, "--sentinel"], log=os.path.join(folder, f"sentinel{k}.log")).start()
            test.addCleanup(p.stop)
            self.ports.append(port)
        # One that was never asked, and does not answer, stands first: the next is asked.
        self.url = "redis+sentinel://" + ",".join(f"127.0.0.1:{p}" for p in [free_port(), *self.ports]) + \
            "/keel?sentinel_password=" + urllib.parse.quote(self.PASSWORD)
        # Each must know both others and the replica, or the master's end finds them without a majority.
        wait_for(lambda: all(self.knows(p) for p in self.ports), 30)

    def ask(self, port, *words):
        r = Redis.__new__(Redis)
        r.port, r.password = port, self.PASSWORD
        return lines(r.command(*words))

    def knows(self, port):
        said = self.ask(port, "SENTINEL", "master", "keel")
        facts = dict(zip(said[2::4], said[4::4]))
        return facts.get("num-other-sentinels") == "2" and facts.get("num-slaves") == "1"

    def master(self):
        said = self.ask(self.ports[0], "SENTINEL", "get-master-addr-by-name", "keel")
        return next((s for s in self.servers if len(said) > 4 and str(s.port) == said[4]), None)


class Failover(unittest.TestCase):
    def test_engines_follow_the_master_and_lose_nothing(self):
        folder = Folder(self).path
        redis = Sentinels(self, folder)
        chain = Chain(self, CHAIN, redis=redis, folder=folder)
        chain["marketdata"].post("/data/ingest", {})
        ids = [self.filled(chain, "before")]
        old = redis.master()
        self.assertIs(old, redis.servers[0])
        old.kill()
        # The order is in the journal, and its records in the outbox; Redis gets them when there is one again.
        got = self.order(chain, "during")
        self.assertIn(got.status, (200, 422, 503), got)
        wait_for(lambda: redis.master() is redis.servers[1], 30)
        for e in chain.engines.values():
            wait_for(lambda e=e: e.get("/health").json["dependencies"]["redis"]["status"] == "healthy", 30)
            wait_for(lambda e=e: '"redis","status":"degraded"' in e.log().replace(" ", ""))  # health said that it was away
        ids.append(self.filled(chain, "after"))
        p = settle(chain, 60)
        verify(self, p)
        self.assertLessEqual(set(ids), {f["client_order_id"] for f in p["fills"]})
        self.assertTrue(redis.servers[1].command("XLEN", "nautilus-portfolio-hybrid-streams:priority").startswith(b":"))

    def test_sentinels_have_a_password_of_their_own(self):
        folder = Folder(self).path
        redis = Sentinels(self, folder)
        path, bare = os.path.join(folder, "password"), redis.url.split("?")[0]
        with open(path, "w") as f:
            f.write(Sentinels.PASSWORD + "\n")
        for env, why in (({"REDIS_SENTINEL_PASSWORD_FILE": path}, None), ({}, "NOAUTH"),
                         ({"REDIS_SENTINEL_PASSWORD": "wrong-one"}, "WRONGPASS")):
            e = Engine("features", folder, bare, env)
            self.addCleanup(e.stop)
            e.start()
            if why is None:
                wait_for(lambda e=e: e.get("/health").json["messagebus_connected"], 20)
            else:
                wait_for(lambda e=e, why=why: why in e.log().split('"event":"http_listening"')[-1], 20)
                self.assertFalse(e.get("/health").json["messagebus_connected"])
            shown = subprocess.run(e.argv + ["--print-config"], env=e.env, capture_output=True, text=True, timeout=20)
            self.assertEqual(shown.returncode, 0, shown.stderr)
            for secret in (Sentinels.PASSWORD, "%73%65", "wrong-one"):
                self.assertNotIn(secret, e.log() + shown.stdout + shown.stderr)
            e.stop()

    def order(self, chain, oid):
        return chain["strategy"].post("/orders", {"client_order_id": oid, "symbol": "BTCUSDT", "side": "BUY",
                                                  "quantity": "0.001", "price": "61660"})

    def filled(self, chain, prefix):
        ids = (f"{prefix}{k}" for k in range(10000))

        def one():
            chain["marketdata"].post("/data/ingest", {"data": [{
                "symbol": "BTCUSDT", "data_type": "quote", "source": "internal", "timestamp": int(time.time() * 1e9),
                "data": {"bid": "61659.7", "bid_size": "50", "ask": "61659.8", "ask_size": "50"}}]})
            oid = next(ids)
            return oid if self.order(chain, oid).json.get("status") == "executed" else None
        return wait_for(one, 30, 0.1)


class Access(unittest.TestCase):
    SECRET = "pa ss@/?#"

    def setUp(self):
        self.folder = Folder(self).path
        self.redis = Redis(self.folder)
        self.redis.start()
        self.addCleanup(self.redis.stop)
        words = ["ACL", "SETUSER", "keel", "on", ">" + self.SECRET, "~nautilus-*", "&*", "+@all", "-@dangerous", "+info",
                 "+role"]
        self.assertTrue(self.redis.command(*words).startswith(b"+OK"))
        self.assertTrue(self.redis.command("ACL", "SETUSER", "default", "off").startswith(b"+OK"))

    def engine(self, url, env=None):
        e = Engine("risk", self.folder, url, env)
        self.addCleanup(e.stop)
        return e.start()

    def hides(self, e):
        secrets = (self.SECRET, "pa%20ss", "%40%2f", "%70%61")
        shown = subprocess.run(e.argv + ["--print-config"], env=e.env, capture_output=True, text=True, timeout=20)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertNotIn("NOPERM", e.log(), "docs/containers.md says which rights are enough")
        for text in (e.log(), e.get("/health").body.decode(), shown.stdout, shown.stderr):
            for s in secrets:
                self.assertNotIn(s, text)

    def test_user_and_password_in_the_url(self):
        e = self.engine(f"redis://keel:pa%20ss%40%2f%3f%23@127.0.0.1:{self.redis.port}/0")
        wait_for(lambda: e.get("/health").json["messagebus_connected"], 20)
        self.hides(e)

    def test_password_from_a_file(self):
        path = os.path.join(self.folder, "password")
        with open(path, "w") as f:
            f.write(self.SECRET + "\n")
        e = self.engine(f"redis://keel@127.0.0.1:{self.redis.port}/0", {"REDIS_PASSWORD_FILE": path})
        wait_for(lambda: e.get("/health").json["messagebus_connected"], 20)
        self.hides(e)
        e.stop()
        # A wrong one: up and degraded, and the log says why.
        e = self.engine(f"redis://keel@127.0.0.1:{self.redis.port}/0", {"REDIS_PASSWORD": "wrong-one"})
        self.assertFalse(e.get("/health").json["messagebus_connected"])
        wait_for(lambda: "WRONGPASS" in e.log(), 20)
        self.assertNotIn("wrong-one", e.log())


def openssl(*words):
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


class Tls(unittest.TestCase):
    """Only where hiredis has TLS, and redis-server and openssl are there with it."""

    def setUp(self):
        self.folder = Folder(self).path
        for k in ("ca", "other"):
            openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={k}",
                    "-keyout", self.path(f"{k}.key"), "-out", self.path(f"{k}.crt"))
        got = self.check(f"rediss://127.0.0.1?ca={self.path('ca.crt')}")
        if "built without" in got.stderr:
            self.skipTest("this hiredis has no TLS")
        self.assertEqual(got.returncode, 0, got.stderr)
        with open(self.path("san"), "w") as f:
            f.write("subjectAltName=DNS:localhost\n")
        for name in ("server", "client"):
            openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", self.path(f"{name}.key"),
                    "-out", self.path(f"{name}.csr"))
            openssl("x509", "-req", "-in", self.path(f"{name}.csr"), "-CA", self.path("ca.crt"), "-CAkey",
                    self.path("ca.key"), "-CAcreateserial", "-days", "2", "-extfile", self.path("san"),
                    "-out", self.path(f"{name}.crt"))
        self.redis = Redis(self.folder)
        self.tls_port = free_port()
        self.redis.argv += ["--tls-port", str(self.tls_port), "--tls-cert-file", self.path("server.crt"),
                            "--tls-key-file", self.path("server.key"), "--tls-ca-cert-file", self.path("ca.crt"),
                            "--tls-auth-clients", "yes"]
        self.addCleanup(self.redis.stop)
        self.redis.start()

    def path(self, name):
        return os.path.join(self.folder, name)

    def check(self, url):
        return subprocess.run([os.path.join(BIN, "risk-engine"), "--check-config", "--redis-url", url],
                              capture_output=True, text=True, timeout=20, cwd="/")

    def engine(self, host, files):
        e = Engine("risk", self.folder, f"rediss://{host}:{self.tls_port}/0?" +
                   "&".join(f"{k}={self.path(v)}" for k, v in files.items()))
        self.addCleanup(e.stop)
        return e.start()

    def test_sentinel_over_tls(self):
        tls = (f'tls-cert-file {self.path("server.crt")}\ntls-key-file {self.path("server.key")}\n'
               f'tls-ca-cert-file {self.path("ca.crt")}\ntls-auth-clients yes\ntls-replication yes\n')
        port, conf = free_port(), self.path("sentinel.conf")
        with open(conf, "w") as f:
            f.write(f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {self.folder}\n{tls}"
                    "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
                    f"sentinel monitor keel localhost {self.tls_port} 1\n")
        p = Process(["redis-server", conf, "--sentinel"], log=self.path("sentinel.log")).start()
        self.addCleanup(p.stop)
        files = "&".join(f"{k}={self.path(v)}" for k, v in self.GOOD.items())
        for scheme, connects in (("rediss", True), ("redis", False)):
            e = Engine("risk", self.folder, f"{scheme}+sentinel://localhost:{port}/keel" + (f"?{files}" if connects else ""))
            self.addCleanup(e.stop)
            e.start()
            wait_for(lambda e=e, connects=connects: e.get("/health").json["messagebus_connected"] if connects else
                     "redis_away" in e.log().split('"event":"http_listening"')[-1], 20)
            self.assertEqual(e.get("/health").json["messagebus_connected"], connects)
            e.stop()

    GOOD = {"ca": "ca.crt", "cert": "client.crt", "key": "client.key"}

    def test_both_sides_prove_who_they_are(self):
        good = self.GOOD
        e = self.engine("localhost", good)
        wait_for(lambda: e.get("/health").json["messagebus_connected"], 20)
        self.assertIn(b"nautilus-risk", self.redis.command("KEYS", "*"))
        e.stop()
        for host, files, why in (("localhost", dict(good, ca="other.crt"), "another authority"),
                                 ("127.0.0.1", good, "a certificate of another host"),
                                 ("localhost", {"ca": "ca.crt"}, "no certificate of our own")):
            e = self.engine(host, files)
            wait_for(lambda e=e: "redis_away" in e.log().split('"event":"http_listening"')[-1], 20)
            self.assertFalse(e.get("/health").json["messagebus_connected"], why)
            e.stop()

    def test_files_that_cannot_be_read_stop_the_start(self):
        for query in ("ca=/nowhere", "cert=/nowhere&key=/nowhere",
                      f"cert={self.path('client.crt')}&key={self.path('server.key')}"):
            got = self.check("rediss://localhost?" + query)
            self.assertEqual(got.returncode, 1, query)
            self.assertRegex(got.stderr, "redis_url.*(ca|cert|key)")


class Wrong(unittest.TestCase):
    def test_it_stops_the_start(self):
        for url, what in (("http://h", "begin with"), ("redis://u:geheim@h:70000", "1 to 65535"),
                          ("redis+sentinel://u:geheim@h:1", "service"),
                          ("redis://u:geheim@h?pool=3", "unknown parameter pool"),
                          ("rediss://u:geheim@h?ca=/nowhere/ca.pem", "TLS|ca"),
                          ("rediss+sentinel://h/s?sentinel_password=geheim&ca=/nowhere/ca.pem", "TLS|ca"),
                          ("redis://:geheim@" + 600 * "h", "512")):
            got = subprocess.run([os.path.join(BIN, "risk-engine"), "--check-config", "--redis-url", url],
                                 capture_output=True, text=True, timeout=20, cwd="/")
            self.assertEqual(got.returncode, 1, url)
            self.assertIn("redis_url", got.stderr)
            self.assertRegex(got.stderr, what)
            self.assertNotIn("geheim", got.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
