"""What the browser tests need beside the engines: node, Chromium, and playwright-core from tests/browser's lock file."""
import filecmp
import os
import shutil
import subprocess
import unittest

from keeltest import BIN, TOP

SOURCE = os.path.join(TOP, "tests", "browser")


def missing(what):
    if os.environ.get("CI"):
        raise AssertionError(f"{what}, and in CI a skip is a failure")
    raise unittest.SkipTest(what)


def tools():
    """(node, chromium, folder of node_modules); packages are installed below the build, never in the tree."""
    node, npm = shutil.which("node"), shutil.which("npm")
    chromium = os.environ.get("KEEL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not node or not npm or not chromium:
        missing("node, npm or Chromium is not installed")
    folder = os.path.join(os.path.dirname(BIN), "browser")
    os.makedirs(folder, exist_ok=True)
    lock = os.path.join(SOURCE, "package-lock.json")
    have = os.path.join(folder, "package-lock.json")
    if not (os.path.isdir(os.path.join(folder, "node_modules", "playwright-core")) and os.path.exists(have) and
            filecmp.cmp(have, lock, shallow=False)):
        for name in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(SOURCE, name), folder)
        got = subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, capture_output=True,
                             text=True, timeout=300)
        if got.returncode != 0:
            os.unlink(have)  # not taken for good the next time
            missing(f"npm could not fetch playwright-core: {got.stderr.strip()[-300:]}")
    return node, chromium, folder


def drive(found, what, page, env=None):
    """Runs a part of dashboard.mjs; its exit code and output."""
    node, chromium, folder = found
    full = dict(os.environ, KEEL_NODE=folder, KEEL_CHROMIUM=chromium, KEEL_PAGE=page, **(env or {}))
    p = subprocess.run([node, os.path.join(SOURCE, "dashboard.mjs"), what], env=full, stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=800)
    return p.returncode, p.stdout + p.stderr
