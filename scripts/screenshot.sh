#!/usr/bin/env bash
# Makes docs/dashboard.png: builds, runs a simulated session, and takes the picture in Chromium when all figures agree.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh
scripts/build.sh
keel_install python3
keel_install_browser
python3 tests/browser/picture.py docs/dashboard.png
