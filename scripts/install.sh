# Sourced by the other scripts: installs what is missing from Debian's packages, asking nothing.

keel_packages="gcc libc6-dev make cmake ninja-build pkg-config libmicrohttpd-dev libhiredis-dev libcjson-dev
libuv1-dev check libsubunit-dev libsqlite3-dev libcurl4-openssl-dev zlib1g-dev redis-server ca-certificates"

keel_install() {
  local missing=() p sudo=
  for p in "$@"; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
  done
  ((${#missing[@]} == 0)) && return 0
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "keel: missing packages (${missing[*]}) and neither root nor sudo to install them" >&2
      return 1
    fi
    sudo="sudo -n"
  fi
  command -v apt-get >/dev/null || { echo "keel: missing ${missing[*]} and no apt-get here" >&2; return 1; }
  echo "keel: installing ${missing[*]}" >&2
  # A package's own service must not start: the project brings up its own Redis on its own socket.
  if ! { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
      apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/tmp/keel-install.$$ 2>&1; then
    tail -n 5 /tmp/keel-install.$$ >&2
    rm -f /tmp/keel-install.$$
    echo "keel: could not install ${missing[*]}" >&2
    return 1
  fi
  rm -f /tmp/keel-install.$$
}

# What the browser test drives; a node or Chromium that is there already is kept.
keel_install_browser() {
  { command -v node && command -v npm; } >/dev/null || keel_install nodejs npm
  keel_install fonts-dejavu-core
  command -v chromium >/dev/null || keel_install chromium
}

# keel_build PRESET: configures and builds build/PRESET.
keel_build() {
  local log
  log=$(mktemp)
  if ! { cmake --preset "$1" ${CI:+-DKEEL_WERROR=ON} && cmake --build --preset "$1"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    echo "keel: the $1 build failed" >&2
    return 1
  fi
  rm -f "$log"
}
