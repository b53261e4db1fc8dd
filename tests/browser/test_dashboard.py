"""The dashboard in Chromium, against a real session (keel demo) and against an engine that asks for tokens."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from browser import drive, tools  # noqa: E402
from keeltest import BIN, ENGINES, Chain, Folder, Process, free_offset, wait_for  # noqa: E402


class Dashboard(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tools = tools()

    def drive(self, what, page, env=None):
        code, out = drive(self.tools, what, page, env)
        self.assertEqual(code, 0, out)
        print(out)

    def test_session(self):
        folder, offset = Folder(self).path, free_offset()
        demo = Process([os.path.join(BIN, "keel"), "demo", "--speed", "2", "--duration", "7200", "--port-offset", str(offset),
                        "--data-dir", os.path.join(folder, "data")], {"REDIS_URL": "", "ENABLE_HYBRID": "true"},
                       os.path.join(folder, "demo.log"))
        self.addCleanup(demo.stop, 60)
        demo.start()
        page = f"http://127.0.0.1:{ENGINES['websocket'] + offset}/dashboard"
        wait_for(lambda: "SIMULATED" in demo.log() or self.ended(demo), 60)
        self.assertEqual(demo.log().split("\n")[0], f"dashboard  {page}")
        self.drive("session", page, {"KEEL_RUN": os.path.join(folder, "data", "run")})

    def ended(self, demo):
        self.assertIsNone(demo.p.poll(), demo.log())

    def test_token(self):
        secret = "read/+=,%20;\"me"
        env = {"READ_TOKEN": secret, "ADMIN_TOKEN": "to-do-all"}
        websocket = Chain(self, ["websocket"], env=env)["websocket"]
        self.drive("token", f"http://127.0.0.1:{websocket.port}/dashboard", {"KEEL_TOKEN": secret})
        for form in (secret, "keel.bearer", "read%2F"):
            self.assertNotIn(form, websocket.log())


if __name__ == "__main__":
    unittest.main(verbosity=2)
