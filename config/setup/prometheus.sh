#!/usr/bin/env bash
# Prints on stdout the folder that holds the programs prometheus and promtool, after unpacking them from the distribution's
# package if the machine has none. Called by the tests that need them.
#
# The package is unpacked, not installed: installing it would start and enable a service. Debian's two programs need nothing
# but the C library.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname -- "$(dirname -- "$here")")
. "$here/say.sh"
. "$here/stamp.sh"
. "$here/packages.sh"

readonly prefix=$stamps/prometheus
work=

clean_up() {
  if [ -n "$work" ]; then rm -rf -- "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# Are both programs in the folder, and do they run?
complete() {
  "$1/prometheus" --version >/dev/null 2>&1 && "$1/promtool" --version >/dev/null 2>&1
}

download() {
  (cd -- "$work/archive" && apt-get -o Acquire::Retries=3 -q download prometheus)
}

unpack() {
  local deb
  mkdir -p -- "$work/archive" "$work/tree" || return 1
  chmod 755 -- "$work" || return 1
  if [ "$(id -u)" -eq 0 ] && id -u _apt >/dev/null 2>&1; then
    chown _apt -- "$work/archive" || return 1 # the user that apt downloads as
  fi
  # The index that is there usually knows a package that is still there too.
  download || { apt_install update && download; } || return 1
  for deb in "$work"/archive/*.deb; do
    dpkg -x "$deb" "$work/tree" || return 1
  done
  complete "$work/tree/usr/bin"
}

mkdir -p -- "$stamps"
exec 8>"$stamps/prometheus.lock"
flock 8
own=$(dirname -- "$(command -v promtool || printf /nowhere)")
if complete "$own"; then
  printf '%s\n' "$own"
  exit 0
fi
if ! complete "$prefix/usr/bin"; then
  command -v dpkg >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 ||
    die 'this is not a Debian-like system, and it lacks prometheus and promtool' \
      'install Prometheus 2.42 or newer so that both are on PATH, and try again'
  work=$(mktemp -d "${TMPDIR:-/tmp}/homeproxy-prometheus.XXXXXX")
  say prometheus 'unpacking prometheus and promtool'
  quietly 'unpacking Prometheus' unpack 8>&-
  rm -rf -- "$work/tree/usr/share" "$prefix"
  mv -T -- "$work/tree" "$prefix"
fi
printf '%s\n' "$prefix/usr/bin"
