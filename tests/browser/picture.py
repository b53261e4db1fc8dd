"""docs/dashboard.png from a real session: python3 picture.py FILE. scripts/screenshot.sh calls it."""
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from browser import drive, tools  # noqa: E402
from keeltest import BIN, ENGINES, Process, free_offset, wait_for  # noqa: E402


def main():
    folder, offset = tempfile.mkdtemp(prefix="keel-picture-"), free_offset()
    demo = Process([os.path.join(BIN, "keel"), "demo", "--speed", "2", "--duration", "7200", "--port-offset", str(offset),
                    "--data-dir", os.path.join(folder, "data")], {"REDIS_URL": "", "ENABLE_HYBRID": "true"},
                   os.path.join(folder, "demo.log")).start()
    try:
        wait_for(lambda: "SIMULATED" in demo.log(), 60)
        code, out = drive(tools(), "picture", f"http://127.0.0.1:{ENGINES['websocket'] + offset}/dashboard",
                          {"KEEL_PICTURE": os.path.abspath(sys.argv[1])})
        print(out, end="")
        return code
    finally:
        demo.stop(60)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
