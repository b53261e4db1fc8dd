"""The bus between two small engines (bus_peer.c) over a real Redis: nothing durable is lost, nothing is applied twice,
whoever is killed, emptied or restarted, and the order of a key holds."""
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import threading
import time
import unittest
from http.client import HTTPException

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import keeltest  # noqa: E402
from keeltest import Engine, Folder, Redis, free_port, keel, wait_for  # noqa: E402

CRITICAL = "nautilus-strategy-hybrid-streams" + (":critical" if keeltest.HYBRID == "true" else "")
SIGNALS = "nautilus-strategy-hybrid-streams" + (":priority" if keeltest.HYBRID == "true" else "")


class UnixRedis(Redis):
    """The same on a unix socket besides, which is what the engines use."""

    def __init__(self, folder, fsync):
        super().__init__(folder, fsync)
        self.socket = os.path.join(folder, "redis.sock")
        self.argv += ["--unixsocket", self.socket]
        self.url = f"unix://{self.socket}"


class Peer(Engine):
    def __init__(self, role, folder, url, env, port):
        super().__init__(role, folder, url, env, (), port)
        self.argv = [os.path.join(keeltest.BIN, "bus_peer"), role] + self.argv[1:]


class Case(unittest.TestCase):
    fsync = "everysec"
    redis_class = Redis

    def setUp(self):
        self.folder = Folder(self).path
        self.redis = self.redis_class(self.folder, self.fsync).start()
        self.addCleanup(self.redis.stop)
        ports = {"strategy": free_port(), "portfolio": free_port()}
        urls = {f"{n.upper()}_URL": f"http://127.0.0.1:{p}" for n, p in ports.items()}
        self.sent = 0
        self.a = Peer("strategy", self.folder, self.redis.url, dict(urls, **self.env("strategy")), ports["strategy"])
        self.b = Peer("portfolio", self.folder, self.redis.url, dict(urls, **self.env("portfolio")), ports["portfolio"])
        for e in (self.a, self.b):
            self.addCleanup(e.stop)
            e.start()

    def env(self, role):
        return {}

    def emit(self, count, **more):
        got = self.a.post("/emit", dict({"count": count, "first": self.sent + 1, "portfolios": 5}, **more))
        self.assertEqual(got.status, 200, got)
        self.sent += count

    def emit_through(self, trouble):
        """Emits all the time: before trouble(), while it happens and after it; what fails is not counted as sent."""
        end = threading.Event()
        accepted = []

        def work():
            first = 1
            while not end.is_set():
                try:
                    if self.a.post("/emit", {"count": 20, "first": first, "portfolios": 5}).status == 200:
                        accepted.append(first)
                except (OSError, HTTPException):
                    time.sleep(0.05)
                first += 20
                time.sleep(0.005)
        def some(more=20):
            want = len(accepted) + more
            wait_for(lambda: len(accepted) >= want, 120)
        t = threading.Thread(target=work)
        t.start()
        try:
            some()
            trouble()
            some()
        finally:
            end.set()
            t.join()

    def rows(self, engine, sql):
        with sqlite3.connect(f"file:{os.path.join(self.folder, engine, engine)}.db?mode=ro", uri=True, timeout=30) as db:
            return db.execute(sql).fetchall()

    def applied(self):
        return self.rows("portfolio", "SELECT count(*) FROM got")[0][0]

    def journalled(self):
        return self.rows("strategy", "SELECT count(*) FROM sent")[0][0]

    def in_stream(self, key=CRITICAL):
        return int(self.redis.command("XLEN", key)[1:])

    def in_hand(self):
        """Records the consumer has and did not acknowledge."""
        return int(self.redis.command("XPENDING", CRITICAL, "portfolio-hybrid-group").split(b"\r\n")[1][1:])

    def agree(self, seconds=90, ordered=True):
        """What the producer committed is what the consumer applied, once each, in order within a key."""
        wait_for(lambda: self.applied() >= self.journalled(), seconds, 0.1)
        time.sleep(0.3)
        sent = sorted(r[0] for r in self.rows("strategy", "SELECT fill_no FROM sent"))
        got = self.rows("portfolio", "SELECT portfolio, fill_no FROM got ORDER BY at")
        self.assertEqual(sorted(n for _, n in got), sent)
        if ordered:
            by_key = {}
            for key, n in got:
                self.assertLess(by_key.get(key, 0), n, f"order of {key}")
                by_key[key] = n

    def counts(self, engine):
        return engine.get("/metrics", {"Accept": "application/json"}).json

    def figures(self, engine, lane):
        """Of one lane, from /metrics."""
        text = engine.get("/metrics").body.decode()
        gauges = re.findall(rf'keel_bus_(\w+){{engine="\w+",lane="{lane}"}} (\S+)', text)
        totals = re.findall(rf'keel_bus_records_total{{engine="\w+",lane="{lane}",what="(\w+)"}} (\S+)', text)
        return {k: float(v) for k, v in gauges + totals}

    def dead(self):
        return self.b.get("/bus/dead").json["dead"]


class Flow(Case):
    def test_flow(self):
        self.emit(500, signals=50)
        self.agree()
        wait_for(lambda: self.b.post("/hold", {"on": False}).json["signals"] == 50)
        self.assertEqual(self.dead(), [])
        page = self.a.get(f"/bus/outbox?stream={CRITICAL}&from_seq=490").json
        self.assertEqual((page["count"], page["next"], page["last_seq"]), (11, None, 500))
        self.assertEqual(self.a.stop(), 0)
        self.assertEqual(self.b.stop(), 0)
        self.a.start()
        self.b.start()
        self.emit(100)
        self.agree()

    def test_with_the_answer(self):
        """Critical records wait for the answer of the call that is about to give it, but not for long."""
        for path, waited in (("/pair", 1), ("/pair/high", 0)):
            got = []
            t = threading.Thread(target=lambda: got.append(self.a.post(path, {"first": self.sent + 1})))
            t.start()
            wait_for(lambda: self.applied() == self.sent + 1)
            self.assertEqual(got, [])
            wait_for(lambda: self.a.post("/release", {}).json["released"])
            t.join()
            self.assertEqual(got[0].status, 200, got)
            if keeltest.HYBRID == "true":
                self.assertEqual(got[0].json["waited"], waited)
            self.sent += 2
            self.agree()

    def test_retry_in_place(self):
        self.b.post("/hold", {"on": True})
        self.emit(50)
        wait_for(lambda: self.in_hand() == 50)
        time.sleep(0.5)
        self.assertEqual(self.applied(), 0)
        self.b.post("/hold", {"on": False})
        self.agree()
        self.assertEqual(self.dead(), [])

    def test_dead_letters(self):
        self.emit(3)
        self.emit(1, price="13")
        self.emit(3)
        wait_for(lambda: self.applied() == 6)
        letter = wait_for(self.dead)[0]
        self.assertEqual((letter["topic"], letter["reason"], letter["durable"]), ("strategy.critical.fill", "invalid", True))
        wait_for(lambda: self.b.get("/health").status == 503)
        again = self.b.post(f"/bus/dead/{letter['id']}/replay")
        self.assertEqual(again.status, 400, again)
        self.assertEqual(len(self.dead()), 1)
        self.assertEqual(self.b.post(f"/bus/dead/{letter['id']}/discard").status, 200)
        self.assertEqual(self.b.post(f"/bus/dead/{letter['id']}/discard").status, 404)
        self.assertEqual(self.dead(), [])
        wait_for(lambda: self.b.get("/health").status == 200)

    def test_dead_by_keel(self):
        """keel dead lists, shows, replays and discards."""
        env = {"PORTFOLIO_URL": f"http://127.0.0.1:{self.b.port}"}
        self.emit(2, price="13")
        wait_for(lambda: len(self.dead()) == 2, 30)
        code, text = keel("dead", "portfolio", env=env)
        self.assertEqual((code, text.count("strategy.critical.fill"), "2 dead letters" in text), (0, 2, True), text)
        ids = [d["id"] for d in self.dead()]
        code, text = keel("dead", "portfolio", "show", ids[0], env=env)
        self.assertEqual((code, f'"id":"{ids[0]}"' in text, '"reason":"invalid"' in text), (0, True, True), text)
        code, text = keel("dead", "portfolio", "replay", ids[0], env=env)
        self.assertEqual((code, "400" in text), (1, True), text)
        for code_wanted in (0, 1):
            code, text = keel("dead", "portfolio", "discard", ids[0], env=env)
            self.assertEqual(code, code_wanted, text)
        self.b.post("/hold", {"on": False, "any_price": True})
        self.assertEqual(keel("dead", "portfolio", "replay", ids[1], env=env)[0], 0)
        self.assertEqual((self.dead(), self.applied()), ([], 1))
        self.assertEqual(keel("dead", "portfolio", "show", ids[1], env=env)[0], 1)
        self.assertEqual(keel("dead", "replay", env=env)[0], 2)
        self.assertEqual(keel("dead", "--help")[0], 0)

    def test_figures(self):
        """Every figure of a lane is real: it moves when what it counts happens."""
        hybrid = keeltest.HYBRID == "true"
        fills, signals = ("critical", "priority") if hybrid else ("normal", "normal")
        self.b.post("/hold", {"on": True})
        self.emit(30, signals=3000)
        self.emit(1, price="13")

        def held():
            f, s = self.figures(self.b, fills), self.figures(self.b, signals)
            return (f["pending"] > 0 and f["backlog"] > 0 and f["lag"] > 0 and f["oldest_seconds"] > 0 and f["retried"] > 0 and
                    s["lag"] >= 3000 > s["backlog"] > 0 and s["oldest_seconds"] > 0)
        wait_for(held, 30, 0.1)
        # What nobody has read yet is gone: the reader finds a gap before the next one.
        self.redis.command("XTRIM", SIGNALS, "MAXLEN", "0")
        self.b.post("/hold", {"on": False})
        self.emit(1, signals=1)
        wait_for(lambda: self.figures(self.b, signals)["gaps"] > 0 and self.figures(self.b, signals)["lag"] == 0, 30, 0.1)
        self.assertGreater(self.figures(self.b, signals)["received"], 0)
        wait_for(lambda: self.figures(self.b, fills)["dead"] == 1, 30, 0.1)
        self.assertGreater(self.figures(self.a, signals)["sent"], 3000)
        self.redis.command("FLUSHALL")
        wait_for(lambda: self.figures(self.a, signals)["resent"] > 0, 30, 0.1)
        def at_rest():
            f = self.figures(self.b, fills)
            return f["pending"] == 0 and f["lag"] == 0
        wait_for(at_rest, 30, 0.1)
        # An entry that was delivered, not handled, and trimmed away meanwhile.
        self.b.post("/hold", {"on": True})
        self.emit(1)
        wait_for(lambda: self.figures(self.b, fills)["pending"] > 0, 30, 0.1)
        self.b.kill()
        self.redis.command("XTRIM", CRITICAL, "MAXLEN", "0")
        self.b.start()
        wait_for(lambda: self.figures(self.b, fills)["dropped"] > 0, 30, 0.1)
        if hybrid:
            lanes = self.b.get("/hybrid/performance").json["bus"]["lanes"]
            self.assertEqual(set(lanes["critical"]), {"lag", "pending", "oldest_ms", "sent", "received", "dropped", "gaps",
                                                      "resent", "retried", "dead", "conflated"})

    def deaths_until_applied(self, count):
        """Starts the consumer whenever it died, until so many records are applied and it has buried the one that is not."""
        deaths = 0

        def over():
            nonlocal deaths
            if self.b.p.poll() is not None:
                deaths += 1
                self.b.start(ready=False)
                return False
            try:
                return self.applied() == count and self.dead()
            except (OSError, HTTPException, sqlite3.Error):
                return False
        self.assertEqual([d["reason"] for d in wait_for(over, 120)], ["max_deliveries"])
        return deaths

    def test_poison(self):
        """A record that kills its process is buried after five deaths, and nothing that was in hand beside it."""
        self.b.post("/hold", {"on": True})
        self.emit(20)
        self.emit(1, price="14")
        self.emit(20)
        wait_for(lambda: self.in_hand() == 41)
        self.b.kill()
        self.b.start(ready=False)
        self.assertEqual(self.deaths_until_applied(40), 4)

    def test_poison_from_owner(self):
        """The same when the record is not in the stream any more."""
        self.emit(5)
        self.agree()
        self.b.kill()
        self.emit(20)
        self.emit(1, price="14")
        self.emit(20)
        wait_for(lambda: self.in_stream() >= 41)
        self.redis.command("XTRIM", CRITICAL, "MAXLEN", "0")
        self.b.start(ready=False)
        self.assertEqual(self.deaths_until_applied(45), 5)


class Redis9(Case):
    """kill -9 of Redis, and its restart."""

    def restart(self, empty=False, away=0.5):
        def trouble():
            self.redis.kill()
            if empty:
                shutil.rmtree(os.path.join(self.folder, "redis"))
                os.makedirs(os.path.join(self.folder, "redis"))
            time.sleep(away)
            self.redis.start()
        return trouble

    def test_everysec(self):
        self.emit_through(self.restart())
        self.agree()

    def test_empty(self):
        self.emit_through(self.restart(empty=True, away=2))
        self.agree()

    def test_flushall(self):
        self.emit_through(lambda: self.redis.command("FLUSHALL"))
        self.agree()

    def test_memory_records_come_back(self):
        """Critical and priority records that lie in memory for 60 s are sent again to an emptied Redis."""
        self.emit(1, signals=100)
        length = lambda: self.redis.command("XLEN", SIGNALS)  # noqa: E731
        want = b":101\r\n" if SIGNALS == CRITICAL else b":100\r\n"
        wait_for(lambda: length() == want)
        self.redis.command("FLUSHALL")
        wait_for(lambda: length() == want)
        time.sleep(2.5)
        self.assertEqual(length(), want)
        self.agree()

    def test_flushed_while_away(self):
        self.emit(200)
        self.agree()
        self.b.kill()
        self.emit(200)
        wait_for(lambda: self.in_stream() >= 200)
        self.redis.command("FLUSHALL")
        self.a.kill()
        self.a.start()
        self.b.start()
        self.emit(50)
        self.agree()

    def test_trimmed_away(self):
        """The stream lost its end to somebody's XTRIM while the consumer was down: the owner still has it."""
        self.emit(200)
        self.agree()
        self.b.kill()
        self.emit(1200)
        wait_for(lambda: self.in_stream() >= 1200)
        for suffix in (":critical", ""):
            self.redis.command("XTRIM", f"nautilus-strategy-hybrid-streams{suffix}", "MAXLEN", "5")
        self.b.start()
        self.agree()

    def test_hanging(self):
        """SIGSTOP: connections stay open and say nothing."""
        def trouble():
            self.redis.p.send_signal(signal.SIGSTOP)
            try:
                for e in (self.a, self.b):
                    wait_for(lambda e=e: e.get("/health").json["dependencies"]["redis"]["status"] != "healthy", 60)
            finally:
                self.redis.p.send_signal(signal.SIGCONT)
        self.emit_through(trouble)
        self.agree()


class UserRedis(Redis):
    """Another user, another database, and a host that has to be looked up."""

    def __init__(self, folder, fsync):
        super().__init__(folder, fsync)
        self.argv += ["--user", "keel", "on", ">se@cret", "~*", "&*", "+@all"]
        self.url = f"redis://keel:se%40cret@localhost:{self.port}/3"


class User(Case):
    redis_class = UserRedis

    def test_flow(self):
        self.emit(50, signals=5)
        self.agree()
        self.assertEqual(self.redis.command("DBSIZE"), b":0\r\n")
        got = self.counts(self.b)["bus"]
        self.assertEqual(got["received"], {"strategy.critical.fill": 50, "strategy.priority.signal": 5})
        self.assertEqual([got[k] for k in ("dropped", "duplicates", "dead", "unsent", "backlog")], [0] * 5)
        self.assertEqual(got["by_producer"]["strategy"]["seq"], 5)
        self.assertEqual(self.counts(self.a)["bus"]["published"], got["received"])
        self.assertIn("keel_bus_records_total", self.a.get("/metrics").body.decode())


class Small(Case):
    """A replay is held back by its slowest reader, and what has no room in memory goes out from the file."""

    def env(self, role):
        return {"READER_WINDOW": "2048", "MAX_BUFFER_SIZE": "4096"}

    def lanes(self, engine, what):
        return sum(lane[what] for lane in engine.get("/hybrid/performance").json["bus"]["lanes"].values())

    def test_window(self):
        total = 50000
        self.b.post("/hold", {"on": True})
        self.a.post("/flood", {"count": total})
        wait_for(lambda: self.in_stream(SIGNALS) > 1000)
        time.sleep(1)
        # Read is only what is below the backlog mark; the rest stays in Redis.
        self.assertLessEqual(self.counts(self.b)["bus"]["backlog"], 512 + 256)
        # The window, what was handed out before the first answer, and one slice.
        self.assertLess(self.in_stream(SIGNALS), 2048 + 4096)
        begin = time.monotonic()
        self.b.post("/hold", {"on": False})
        wait_for(lambda: self.b.post("/hold", {"on": False}).json["signals"] >= total, 120, 0.1)
        print(f"{total / (time.monotonic() - begin):.0f} records/s", end=" ")
        self.assertEqual(self.b.post("/hold", {"on": False}).json["signals"], total)
        if keeltest.HYBRID == "true":
            self.assertEqual([self.lanes(self.b, w) for w in ("gaps", "dropped", "dead")], [0, 0, 0])

    def test_from_the_file(self):
        self.redis.kill()
        self.emit(10000)
        self.redis.start()
        self.agree()


class Lanes(Case):
    def test_no_lane_starves(self):
        """While the critical lane has more than it can handle, the others move."""
        slow = {"on": False, "slow_us": 2000}
        self.b.post("/hold", {"on": True})
        self.emit(1500, portfolios=100)
        self.b.post("/hold", slow)
        self.emit(1, signals=2000)
        # They need some fifty turns of the loop, the fills 1,500 of 2 ms each.
        wait_for(lambda: self.b.post("/hold", slow).json["signals"] == 2000, 60)
        self.assertLess(self.applied(), 1500)
        self.b.post("/hold", {"on": False})
        self.agree()


class Live(Case):
    """A live feed: on its normal topics the oldest gives way, or the latest of a key replaces one that waits."""

    def env(self, role):
        return {"MAX_BUFFER_SIZE": "512"}

    def feed(self, **env):
        ports = {k: v for k, v in self.a.env.items() if k.endswith("_URL")}
        f = Peer("marketdata", self.folder, self.redis.url, dict(ports, MAX_BUFFER_SIZE="512", **env), free_port())
        self.addCleanup(f.stop)
        return f.start()

    def push(self, feed):
        """2,000 quotes of 5 symbols while Redis is away; then it is back and everything that is left has come."""
        self.assertEqual(feed.post("/quotes", {"count": 5, "portfolios": 5}).status, 200)
        wait_for(lambda: self.quotes()["quotes"] == 5, 30)
        self.redis.kill()
        wait_for(lambda: self.figures_of(feed)["keel_bus_connected"] == 0, 30)
        for first in range(6, 2006, 20):
            got = feed.post("/quotes", {"count": 20, "first": first, "portfolios": 5})
            self.assertEqual(got.status, 200, got)
        bus = self.counts(feed)["bus"]
        self.redis.start()
        wait_for(lambda: self.counts(feed)["bus"]["unsent"] == 0, 30, 0.1)
        topic = "marketdata.quote"
        lost = bus["dropped_by_topic"].get(topic, 0)
        left = bus["published"][topic] - lost
        self.assertEqual(bus["published"][topic] + bus["conflated_by_topic"].get(topic, 0), 2005)
        wait_for(lambda: self.quotes()["quotes"] >= left, 30, 0.1)
        self.assertEqual(self.quotes()["quotes"], left)
        self.assertEqual(self.quotes()["bids"][:5], [2005, 2001, 2002, 2003, 2004])
        return bus, lost

    def quotes(self):
        return self.b.post("/hold", {"on": False}).json

    def figures_of(self, engine):
        return {k: float(v) for k, v in re.findall(r"^(keel_\w+){engine=\"\w+\"} (\S+)$", engine.get("/metrics").body.decode(),
                                                   re.M)}

    def test_oldest_gives_way(self):
        feed = self.feed()
        bus, lost = self.push(feed)
        self.assertGreater(lost, 1000)
        self.assertEqual(bus["conflated_by_topic"], {})
        self.assertEqual(self.figures(feed, "normal")["dropped"], lost)
        self.assertGreater(self.figures(self.b, "normal")["gaps"], 0)

    def test_latest_wins(self):
        feed = self.feed(CONFLATE_TOPICS="marketdata.quote")
        bus, lost = self.push(feed)
        self.assertEqual(lost, 0)
        self.assertGreater(bus["conflated_by_topic"]["marketdata.quote"], 1000)
        self.assertEqual(self.figures(feed, "normal")["conflated"], bus["conflated_by_topic"]["marketdata.quote"])
        self.assertEqual(self.figures(self.b, "normal")["gaps"], 0)


class Commits(Case):
    def test_failed_commits(self):
        """A commit that fails, on either side, loses nothing and repeats nothing."""
        def trouble():
            for engine in (self.b, self.a, self.b, self.a):
                engine.post("/fail", {"commits": 2})
                time.sleep(0.4)
        self.emit_through(trouble)
        self.agree()
        self.assertEqual(self.dead(), [])


class Always9(Redis9):
    fsync = "always"
    redis_class = UnixRedis


class Shared(Case):
    """Two instances of one subscriber share its group."""

    def env(self, role):
        return {"CLAIM_IDLE_MS": "3000", **({"INSTANCE": "one"} if role == "portfolio" else {})}

    def setUp(self):
        super().setUp()
        os.makedirs(os.path.join(self.folder, "two"))
        self.c = Peer("portfolio", os.path.join(self.folder, "two"), self.redis.url,
                      dict(self.b.env, INSTANCE="two"), free_port())
        self.addCleanup(self.c.stop)
        self.c.start()

    def backlog(self, engine):
        return self.counts(engine)["bus"]["backlog"]

    def test_order_under_reclaim(self):
        """The records of a killed instance come before later ones of their key that the other has in hand."""
        for engine in (self.b, self.c):
            engine.post("/hold", {"on": True})
        for _ in range(10):
            self.emit(6)
        wait_for(lambda: self.backlog(self.b) + self.backlog(self.c) == 60, 30)
        # The one that is killed must have had something, which is up to Redis.
        killed, left = (self.b, self.c) if self.backlog(self.b) > 0 else (self.c, self.b)
        killed.kill()
        wait_for(lambda: self.backlog(left) == 60, 30, 0.1)
        left.post("/hold", {"on": False})
        path = os.path.join(os.path.dirname(left.log_path), "portfolio", "portfolio.db")

        def got():
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as db:
                return db.execute("SELECT portfolio, fill_no FROM got ORDER BY at").fetchall()
        wait_for(lambda: len(got()) >= 60, 30, 0.1)
        by_key = {}
        for key, n in got():
            by_key.setdefault(key, []).append(n)
        self.assertEqual(by_key, {f"p{k}": [n for n in range(1, 61) if n % 5 == k] for k in range(5)})


class Engines9(Case):
    def test_consumer(self):
        def trouble():
            for _ in range(3):
                self.b.kill()
                time.sleep(0.2)
                self.b.start()
        self.emit_through(trouble)
        self.agree()

    def test_producer(self):
        def trouble():
            for _ in range(3):
                self.a.kill()
                time.sleep(0.1)
                self.a.start()
                time.sleep(0.3)
        self.emit_through(trouble)
        self.agree()

    def test_everything(self):
        def trouble():
            self.redis.kill()
            self.a.kill()
            self.b.kill()
            self.redis.start()
            self.b.start()
            self.a.start()
        self.emit_through(trouble)
        self.agree()


class Soak(Case):
    """Random kills of producer, consumer and Redis; KEEL_SOAK_S makes it long."""
    fsync = "always"
    redis_class = UnixRedis

    def test_delivery(self):
        seconds = float(os.environ.get("KEEL_SOAK_S", "6"))
        seed = int(os.environ.get("KEEL_SOAK_SEED", random.randrange(1 << 30)))
        dice = random.Random(seed)
        victims = {"producer": self.a, "consumer": self.b, "redis": self.redis}
        killed = dict.fromkeys(victims, 0)

        def trouble():
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                # Each at least once, then whoever it hits; two at a time now and then.
                unhurt = [n for n in victims if killed[n] == 0]
                names = unhurt[:1] or dice.sample(sorted(victims), dice.choice((1, 1, 2)))
                for name in names:
                    victims[name].kill()
                    killed[name] += 1
                time.sleep(dice.uniform(0, 0.5))
                for name in names:
                    if name == "redis":
                        self.redis.start()
                for name in names:
                    if name != "redis":
                        victims[name].start(ready=False)
                time.sleep(dice.uniform(0.1, 1.2))
            for name in ("producer", "consumer"):
                victims[name].wait_ready()
        self.emit_through(trouble)
        print(f"seed {seed}, {self.journalled()} records, killed {killed}", end=" ")
        self.agree()
        self.assertEqual(self.dead(), [])


class Mixed(Case):
    def env(self, role):
        return {"ENABLE_HYBRID": "false" if role == "strategy" else "true"}

    def test_plain_producer(self):
        self.emit(300, signals=10)
        self.agree()
        wait_for(lambda: self.b.post("/hold", {"on": False}).json["signals"] == 10)
        self.a.stop()
        self.a.env["ENABLE_HYBRID"] = "true"
        self.a.start()
        self.emit(100)
        self.agree(ordered=False)


class Foreign(Case):
    def env(self, role):
        return {"KEEL_MODE": "sim" if role == "strategy" else "paper"}

    def test_foreign_mode(self):
        self.emit(3)
        wait_for(lambda: len(self.dead()) >= 3)
        self.assertEqual({d["reason"] for d in self.dead()}, {"foreign_mode"})
        self.assertEqual(self.applied(), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
