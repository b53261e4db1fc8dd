"""Runs every benchmark and writes docs/performance.md: the machine, the commit, each table, and the goals with what was
measured for them.

    report.py [--quick] [--runs N] [--out FILE] [--only NAME,...]
"""
import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BIN = os.environ.get("KEEL_BIN", os.path.join(TOP, "build/release/bin"))
HERE = os.path.dirname(os.path.abspath(__file__))


def output(argv, **named):
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, cwd=TOP, **named)
    return done.returncode, done.stdout


def git(*args):
    return output(["git", *args], stderr=subprocess.DEVNULL)[1].strip()


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"^model name\s*: (.*)$", f.read(), re.M)
    with open("/etc/os-release") as f:
        system = re.search(r'^PRETTY_NAME="?([^"\n]*)', f.read(), re.M)
    return (f"{os.cpu_count()} cores, {model.group(1) if model else 'processor unknown'}, "
            f"{system.group(1) if system else 'Linux'}, kernel {os.uname().release}")


def spread(values, form):
    text = form.format(statistics.median(values))
    if len(values) > 1:
        text += f" ({form.format(min(values))} to {form.format(max(values))})"
    return text


def figures(text):
    """Name and unit to value, of what a program printed as `name  value unit`."""
    lines = (re.match(r"(.*?)\s{2,}([\d.]+)\s*(\S*)$", line) for line in text.splitlines())
    return {(m.group(1).strip(), m.group(3)): float(m.group(2)) for m in lines if m}


def guard(runs):
    """bench_guard once a run."""
    seen = {}
    for _ in range(runs):
        code, text = output([os.path.join(BIN, "bench_guard")])
        if code not in (0, 1):
            return f"bench_guard ended with {code}.\n", []
        for what, value in figures(text).items():
            seen.setdefault(what, []).append(value)
    rows = [f"| {name} | {spread(v, '{:.2f}' if unit == 'x' else '{:.1f}')} | {unit} |" for (name, unit), v in seen.items()]
    goals = []
    for (name, unit), v in seen.items():
        median = statistics.median(v)
        if name.startswith("guard admit + settle + clocks"):
            goals.append({"name": name, "goal": "<= 100 ns", "measured": spread(v, "{:.1f} ns"), "met": median <= 100})
        elif "/ two clock reads" in name:
            goals.append({"name": f"guard: {name}", "goal": "<= 2x", "measured": spread(v, "{:.2f}x"), "met": median <= 2})
        elif name == "allocations after start":
            goals.append({"name": f"guard: {name}", "goal": "0", "measured": f"{max(v):.0f}", "met": max(v) == 0})
    return "\n".join(["| what | median | unit |", "|---|---|---|", *rows]) + "\n", goals


def var(runs):
    """bench_var and numpy in turns; the ratio is made run by run."""
    goal = {"name": "Monte Carlo VaR 100,000 x 50 against numpy", "goal": ">= 2x"}
    large, seen, ratios, about = ("Monte Carlo, 100,000 x 50, normal", "ms"), {}, [], "numpy is not installed"
    for _ in range(runs):
        code, text = output([os.path.join(BIN, "bench_var")])
        if code != 0:
            return f"bench_var ended with {code}.\n", []
        ours = figures(text)
        code, text = output(["/usr/bin/python3", os.path.join(HERE, "peer_numpy.py")])
        if code not in (0, 3):
            return f"peer_numpy.py ended with {code}.\n", []
        for what, value in ours.items():
            seen.setdefault(what, []).append(value)
        if code == 0:
            about = text.splitlines()[0].strip("# ")
            seen.setdefault((f"{large[0]}: {about}", "ms"), []).append(figures(text)[large])
            ratios.append(figures(text)[large] / ours[large])
    if ratios:
        goal.update(measured=spread(ratios, "{:.2f}x"), met=statistics.median(ratios) >= 2)
    else:
        goal.update(measured=about, met=None)
    rows = [f"| {name} | {spread(v, '{:.3f}')} | {unit} |" for (name, unit), v in seen.items()]
    return "\n".join(["| what | median | unit |", "|---|---|---|", *rows]) + "\n", [goal]


def bus(runs, seconds):
    """bench_bus prints a table with goals of its own."""
    program = os.path.join(BIN, "bench_bus")
    if not os.path.exists(program):
        return "bench_bus is not built.\n", []
    code, text = output([program, str(runs), str(seconds)])
    if code != 0:
        return f"bench_bus ended with {code}.\n", []
    goals = []
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        m = re.match(r"(<=|>=) ([\d.]+)$", cells[3]) if len(cells) == 6 else None
        if m:
            value, bound = float(cells[1]), float(m.group(2))
            goals.append({"name": f"bus: {cells[0]}", "goal": f"{m.group(0)} {cells[2]}",
                          "measured": f"{cells[1]} {cells[2]} ({cells[4]} to {cells[5]})",
                          "met": value <= bound if m.group(1) == "<=" else value >= bound})
    return "\n".join(line for line in text.splitlines() if line.startswith("|")) + "\n", goals


def python(name, *args):
    with tempfile.NamedTemporaryFile(prefix="keel-goals-") as f:
        code, text = output([sys.executable, os.path.join(HERE, name), *map(str, args)],
                            env=dict(os.environ, KEEL_BENCH_GOALS=f.name, KEEL_BIN=BIN))
        if code != 0:
            return f"{name} ended with {code}.\n", [{"name": name, "goal": "ends", "measured": f"exit {code}", "met": False}]
        return text, json.load(open(f.name))


def verdict(met):
    return {True: "met", False: "**missed**", None: "not measured"}[met]


def write(path, sections, runs, load):
    goals = [g for _, _, _, own in sections for g in own]
    missed = sum(g["met"] is False for g in goals)
    dirty = " with changes that are not committed" if git("status", "--porcelain", "--untracked-files=no") else ""
    lines = ["# Performance", "",
             "Written by `scripts/bench.sh`; every figure is one that a program under `tests/bench` printed. Figures are medians "
             f"of {runs} runs, in brackets the lowest and the highest of them: where these lie far apart, other work on the "
             "machine hid the figure, and a ratio (made run by run, between servers that took turns) says more than either "
             "side of it. Processor time a request is what noise moves least.", "",
             f"* machine: {machine()}", f"* load average when it began: {load}",
             f"* date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
             f"* commit: {git('rev-parse', '--short', 'HEAD') or 'unknown'}{dirty}", "",
             "## Goals", "", f"{len(goals) - missed} of {len(goals)} met or not measured, {missed} missed.", "",
             "| what | goal | measured | |", "|---|---|---|---|",
             *(f"| {g['name']} | {g['goal']} | {g['measured']} | {verdict(g['met'])} |" for g in goals)]
    for title, about, text, _ in sections:
        lines += ["", f"## {title}", "", about, "", text.rstrip()]
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")
    return goals


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--quick", action="store_true", help="one short run of each: some 4 minutes")
    p.add_argument("--runs", type=int)
    p.add_argument("--out", default=os.path.join(TOP, "docs/performance.md"))
    p.add_argument("--only", default="guard,var,bus,http,ws,hybrid")
    a = p.parse_args()
    runs = a.runs or (1 if a.quick else 5)
    with open("/proc/loadavg") as f:
        load = f.read().split()[0]
    quick = a.quick
    parts = {
        "guard": ("Guard", "What a call pays for breaker, tracker and the whole guard, beside two clock reads.",
                  lambda: guard(runs)),
        "var": ("Monte Carlo", "Value at risk of 50 positions by simulation, factors and figures included, on one thread; numpy does "
                "the same with the same covariance, in turns with it.", lambda: var(runs)),
        "bus": ("Bus", "Two engines over a Redis on a unix socket, beside plain hiredis on the same socket.",
                lambda: bus(runs, 1 if quick else 2)),
        "http": ("HTTP", "Servers on one core, the load on another, keep-alive; engines in hybrid mode. The bare libmicrohttpd "
                 "handler reads a body and answers a fixed one of the same bytes; the handlers with cJSON parse and print.",
                 lambda: python("bench_http.py", "--runs", runs, "--seconds", 0.15 if quick else 0.4)),
        "ws": ("WebSocket", "Delivery, of which up to 25 ms are `BUFFER_INTERVAL_MS`: quotes wait for one another at most so long.",
               lambda: python("bench_ws.py", "--runs", runs, "--seconds", 1 if quick else 2)),
        "hybrid": ("Hybrid against plain", "The same engine with and without its protection, on all cores.",
                   lambda: python("bench_hybrid.py", "--runs", runs, "--seconds", 1 if quick else 2,
                                  "--samples", 200 if quick else 1000)),
    }
    sections = []
    for name in a.only.split(","):
        title, about, run = parts[name]
        print(f"== {name}", file=sys.stderr, flush=True)
        text, goals = run()
        sections.append((title, about, text, goals))
    for g in write(a.out, sections, runs, load):
        print(f"{verdict(g['met']):12} {g['name']}: {g['measured']} (goal {g['goal']})")
    print(f"written: {a.out}")


if __name__ == "__main__":
    sys.exit(main())
