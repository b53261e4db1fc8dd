"""What the benchmarks share: engines and peers on a core of their own, the load of `keel bench` on the other, medians
with their spread, and tables in Markdown.

Cores: with two or more, servers run on core 0 and the load on core 1 (pinned), so neither takes the other's time. There
the load never sleeps: waking another core costs a server several microseconds a request, and only a server that the load
has to wait for would pay it. On a machine that is busy otherwise it does sleep: the scheduler takes more from who always runs.

Where nothing is pinned (core=None) the clients stand for other machines, on the engine's own cores: who makes background load is
nice and takes what the engine leaves; the meter goes before all others, as far as it may, so that it reads the clock when
the answer comes and not when it gets a turn.
"""
import atexit
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
os.environ.setdefault("ENABLE_HYBRID", "true")
from keeltest import BIN, ENGINES, Engine, Process, Redis, free_port, request, wait_for  # noqa: E402,F401

SERVER_CORE, LOAD_CORE = 0, min(1, (os.cpu_count() or 1) - 1)
SPINS = LOAD_CORE != SERVER_CORE and os.getloadavg()[0] < 0.75 * os.cpu_count()


def pin(pid, cores):
    """Every thread of a process, those that are to come included."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cores)


class World:
    """Redis and engines that know one another, in a folder of their own; a context manager."""

    def __init__(self, names, hybrid=True, pinned=True, env=None):
        self.folder = tempfile.mkdtemp(prefix="keel-world-")
        self.cleanups = [lambda: shutil.rmtree(self.folder, ignore_errors=True)]
        self.redis = self.started(Redis(self.folder))
        ports = {n: free_port() for n in ENGINES}
        urls = {f"{n.upper()}_URL": f"http://127.0.0.1:{p}" for n, p in ports.items()}
        self.engines = {n: Engine(n, self.folder, self.redis.url, dict(
            urls, KEEL_MODE="sim", ENABLE_HYBRID=str(hybrid).lower(), **(env or {})), (), ports[n]) for n in names}
        for e in self.engines.values():
            self.started(e)
        if pinned:
            for p in [self.redis, *self.engines.values()]:
                pin(p.p.pid, {SERVER_CORE})

    def started(self, process):
        self.cleanups.append(process.stop)
        try:
            return process.start()
        except BaseException:
            self.__exit__()
            raise

    def __getitem__(self, name):
        return self.engines[name]

    def __enter__(self):
        return self

    def __exit__(self, *why):
        for undo in reversed(self.cleanups):
            undo()

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def session(self, seconds=60):
        """A simulated session to its end, as fast as it goes: books, vectors, a curve for analytics."""
        md = self["marketdata"]
        got = md.post("/feeds", {"kind": "simulate", "seed": 7, "duration_s": seconds, "speed": 0})
        assert got.status < 300, got

        def is_over():
            feeds = md.get("/feeds").json.get("feeds")
            return feeds and feeds[0]["state"] == "COMPLETED"
        wait_for(is_over, 120, 0.1)

    def slow_session(self):
        """One that goes on, so that marks stay fresh, until it is ended."""
        got = self["marketdata"].post("/feeds", {"kind": "simulate", "seed": 8, "duration_s": 36000, "speed": 1,
                                                 "start": "2026-01-02T20:30:00Z"})
        assert got.status < 300, got

    def end_session(self):
        md = self["marketdata"]
        for feed in md.get("/feeds").json["feeds"]:
            if feed["state"] != "COMPLETED":
                got = request(md.port, "DELETE", f"/feeds/{feed['feed_id']}")
                assert got.status < 300, got


bodies = tempfile.TemporaryDirectory(prefix="keel-bodies-")
atexit.register(bodies.cleanup)


def body_arg(body):
    """A long one goes by a file: an argument has at most 128 KiB."""
    if len(body) < 1 << 16:
        return body
    path = os.path.join(bodies.name, hashlib.sha256(body.encode()).hexdigest())
    if not os.path.exists(path):
        with open(path, "w") as f:
            f.write(body)
    return f"@{path}"


def load_argv(port, path, body=None, connections=16, seconds=0.4, rate=None, warm_up=0.1, target_ms=None, core=LOAD_CORE,
              obeys=False):
    argv = [os.path.join(BIN, "keel"), "bench", "--json", "--url", f"http://127.0.0.1:{port}{path}",
            "--connections", str(connections), "--duration", str(seconds), "--warm-up", str(warm_up)]
    for option, value in (("--body", body and body_arg(body)), ("--rate", rate), ("--target-ms", target_ms), ("--cpu", core)):
        if value is not None:
            argv += [option, str(value)]
    argv += ["--retry-after"] if obeys else []
    return argv + (["--spin"] if core is not None and SPINS else [])


def niced(argv, nice):
    """Less than 0 only where it is allowed."""
    return ["nice", "-n", str(nice), *argv] if nice > 0 or os.geteuid() == 0 else argv


def load(*args, **named):
    """One measurement: the object that `keel bench --json` prints."""
    argv = load_argv(*args, **named)
    if named.get("core", LOAD_CORE) is None:
        argv = niced(argv, -10)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"no measurement of port {args[0]} {args[1]}: {done.stdout}{done.stderr}")


class Background:
    """Load that goes on until it is stopped; like any good client it waits when it is told to. per_second: good answers."""

    def __init__(self, *args, seconds=3600, **named):
        argv = load_argv(*args, seconds=seconds, obeys=True, core=None, **named)
        self.p = subprocess.Popen(niced(argv, 19), stdout=subprocess.PIPE, text=True)
        self.per_second = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *why):
        self.p.terminate()
        got = json.loads(self.p.communicate(timeout=60)[0] or "null")
        if got:
            self.per_second = got["per_second"] * good(got)
        assert why[0] or self.per_second > 0, f"no load beside it: {got}"


def cpu_ns(pid):
    """Processor time of a process' first thread: the loop of an engine, all of a peer."""
    with open(f"/proc/{pid}/schedstat") as f:
        return int(f.read().split()[0])


def good(got):
    """Share of answers that were 2xx."""
    ok = sum(n for code, n in got["status"].items() if code.startswith("2"))
    return ok / got["answered"] if got["answered"] else 0.0


def within_target(got):
    """Percent of what was asked. What was refused or not answered was not within target, whatever time it took."""
    asked = max(1, got["answered"] + got["unanswered"] + got["broken"])
    return 100 * max(0.0, got["answered"] - max(got["over_target"], got["answered"] * (1 - good(got)))) / asked


class Series:
    """One figure over the runs."""

    def __init__(self):
        self.values = []

    def add(self, v):
        self.values.append(v)

    @property
    def median(self):
        return statistics.median(self.values) if self.values else float("nan")

    def text(self, form="{:,.0f}"):
        """Median, and from which to which value the runs went."""
        if not self.values:
            return "-"
        if len(self.values) == 1:
            return form.format(self.median)
        return f"{form.format(self.median)} ({form.format(min(self.values))} to {form.format(max(self.values))})"


def ratio(a, b):
    """Run by run, so that a slow spell of the machine falls on both."""
    out = Series()
    for x, y in zip(a.values, b.values):
        if y:
            out.add(x / y)
    return out


def table(title, head, rows):
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in r) + " |" for r in rows]) + "\n"


class Goals:
    """What was asked for, what was measured; written as JSON for the report."""

    def __init__(self):
        self.rows = []

    def add(self, name, goal, measured, met):
        self.rows.append({"name": name, "goal": goal, "measured": measured, "met": met})


def finish(goals, tables):
    """Prints the tables; the goals go to the file that KEEL_BENCH_GOALS names."""
    print("\n".join(tables))
    path = os.environ.get("KEEL_BENCH_GOALS")
    if path:
        with open(path, "w") as f:
            json.dump(goals.rows, f)
    else:
        for g in goals.rows:
            print(f"{'met   ' if g['met'] else 'MISSED'} {g['name']}: {g['measured']} (goal {g['goal']})")
