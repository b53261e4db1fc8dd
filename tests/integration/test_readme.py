"""Runs every curl of README.md against `keel up`, as printed but for the ports."""
import os
import re
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import BIN, ENGINES, TOP, Folder, Process, free_offset, request, wait_for  # noqa: E402


def blocks():
    """The ```sh blocks whose first line is `# against keel up`, each as a list of curl commands."""
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as f:
        fenced = re.findall(r"^```sh\n# against keel up\n(.*?)^```$", f.read(), re.M | re.S)
    return [re.split(r"^(?=curl )", block, flags=re.M)[1:] for block in fenced]


class Readme(unittest.TestCase):
    def setUp(self):
        self.offset = free_offset()
        folder = Folder(self).path
        self.up = Process([os.path.join(BIN, "keel"), "up", "--data-dir", os.path.join(folder, "data"), "--port-offset",
                           str(self.offset)], {"ENABLE_HYBRID": "true", "REDIS_URL": ""},
                           os.path.join(folder, "up.log"))
        self.addCleanup(self.up.stop, 120)
        self.up.start()
        wait_for(self.ready, 120, 0.1)

    def ready(self):
        self.assertIsNone(self.up.p.poll(), self.up.log())
        try:
            return all(request(port + self.offset, "GET",
                               "/health").json["status"] == "healthy" for port in ENGINES.values())
        except (OSError, TypeError):
            return False

    def run_curl(self, command):
        """Repeated as a user would, while the answer says that the machine was too busy and nothing happened."""
        return wait_for(lambda: not (got := self.run_once(command)).stdout.endswith(("\n503", "\n504")) and got)

    def run_once(self, command):
        shifted = re.sub(r"127\.0\.0\.1:(\d+)", lambda m: f"127.0.0.1:{int(m[1]) + self.offset}", command.rstrip())
        return subprocess.run(["sh", "-c", shifted + " -w '\\n%{http_code}'"], capture_output=True, text=True,
                              timeout=60)

    def test_every_curl(self):
        ports = set()
        for block in blocks():
            for command in block:
                with self.subTest(command):
                    ports.update(map(int, re.findall(r"127\.0\.0\.1:(\d+)", command)))
                    got = self.run_curl(command)
                    self.assertEqual(got.returncode, 0, got.stderr)
                    self.assertLess(int(got.stdout.rsplit("\n", 1)[1]), 300, got.stdout)
            # The next block is about what this one put on the bus.
            wait_for(self.settled)
        self.assertLessEqual({8200, 8500, 8700, 8800, 8900}, ports)
        fills = wait_for(lambda: request(8700 + self.offset, "GET", "/fills?after=0").json["fills"])
        self.assertEqual([f["client_order_id"] for f in fills], ["readme-1"])

    def settled(self):
        """Everything sent has reached strategy and portfolio, by their own counts of handled records."""
        sent = self.count("marketdata", "published")
        return all(self.count(e, "received") >= sent for e in ("strategy", "portfolio"))

    def count(self, engine, what):
        got = request(ENGINES[engine] + self.offset, "GET", "/metrics", None,
                      {"Accept": "application/json"}).json["bus"]
        return got[what].get("marketdata.quote", 0)


class Table(unittest.TestCase):
    def test_ports_and_length(self):
        with open(os.path.join(TOP, "README.md"), encoding="utf-8") as f:
            text = f.read()
        self.assertEqual({n: int(p) for n, p in re.findall(r"^\| (\w+) \| (\d{4}) \|", text, re.M)}, ENGINES)
        self.assertLess(text.count("\n"), 250)


if __name__ == "__main__":
    unittest.main(verbosity=2)
