"""Delivery to WebSocket subscribers: from the moment a quote's client hands it to marketdata over HTTP, through the bus,
until a subscriber of the websocket engine has read it, with 1, 100 and 500 of them.

    bench_ws.py [--runs N] [--seconds S]

One subscriber, the last that is served, reads the clock; the others are read by a process of their own, which looks at nothing.
"""
import argparse
import os
import selectors
import socket
import subprocess
import sys
import threading
import time

from bench_http import ENV, QUOTE
from world import LOAD_CORE, Goals, Series, World, finish, load_argv, niced, pin, table
from wsclient import Client, stamped_frames

TOPIC = "marketdata.quote:BENCHUSDT"
SUBSCRIBERS = (1, 100, 500)
RATE, TARGET_MS = 100, 40


def subscribed(port):
    c = Client(port)
    c.say({"type": "subscribe", "topics": [TOPIC]})
    c.until(lambda m: m["type"] == "subscription")
    return c


def drain(port, n):
    clients = [subscribed(port) for _ in range(n)]
    with selectors.DefaultSelector() as sel:
        for c in clients:
            sel.register(c.s, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in sel.select():
                if not key.fileobj.recv(1 << 18):
                    return


def measure(world, n, seconds):
    """p50, p99 and the share within the target, of what the last of n subscribers reads."""
    port = world["websocket"].port
    others = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--drain", str(port), str(n - 1)],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert others.stdout.readline() == "ready\n"
        pin(others.pid, {LOAD_CORE})
        probe = subscribed(port)
        chunks = [(0, probe.buf)]

        def read():
            while data := probe.s.recv(1 << 16):
                chunks.append((time.time_ns(), data))
        reader = threading.Thread(target=read)
        reader.start()
        argv = load_argv(world["marketdata"].port, "/data/ingest", QUOTE, 4, seconds, rate=RATE, warm_up=0, core=None)
        subprocess.run(niced(argv, -10), stdout=subprocess.DEVNULL, check=True)
        time.sleep(0.2)
        probe.s.shutdown(socket.SHUT_RDWR)
        reader.join()
        probe.close()
    finally:
        others.kill()
        others.wait()
        others.stdout.close()
    late = sorted((read_ns - sent_ns) * 1e-6 for read_ns, sent_ns, _ in stamped_frames(chunks))
    assert len(late) > 0.9 * RATE * seconds, f"{len(late)} frames in {seconds} s"
    return late[len(late) // 2], late[len(late) * 99 // 100], 100 * sum(x <= TARGET_MS for x in late) / len(late)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--seconds", type=float, default=2.0)
    p.add_argument("--drain", nargs=2, type=int, metavar=("PORT", "N"))
    a = p.parse_args()
    if a.drain:
        return drain(*a.drain)
    seen = {n: (Series(), Series(), Series()) for n in SUBSCRIBERS}
    with World(["marketdata", "websocket"], env=ENV) as w:
        for _ in range(a.runs):
            for n in SUBSCRIBERS:
                for series, value in zip(seen[n], measure(w, n, a.seconds)):
                    series.add(value)
    goals = Goals()
    p99 = seen[SUBSCRIBERS[-1]][1]
    goals.add(f"delivery to {SUBSCRIBERS[-1]} subscribers, p99", f"<= {TARGET_MS} ms", p99.text("{:.2f} ms"), p99.median <= TARGET_MS)
    finish(goals, [table(f"Quotes at {RATE}/s, from the feed's request to the last subscriber's read",
                         ("subscribers", "p50 ms", "p99 ms", f"within {TARGET_MS} ms, %"),
                         [(n, *(s.text("{:.2f}") for s in seen[n])) for n in SUBSCRIBERS])])


if __name__ == "__main__":
    sys.exit(main())
