#!/usr/bin/env bash
# Installs what is missing and builds build/release (or the presets named): build/release/bin/ holds the programs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh
# shellcheck disable=SC2086
keel_install $keel_packages
for preset in "${@:-release}"; do
  keel_build "$preset"
done
