#!/usr/bin/env bash
# Prints on stdout the path of a Chromium, after installing the distribution's package if the machine has none. Called by the test
# that looks at the pages we write.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname -- "$(dirname -- "$here")")
. "$here/say.sh"
. "$here/stamp.sh"
. "$here/packages.sh"

find_browser() {
  local name
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name"; then return; fi
  done
  return 1
}

mkdir -p -- "$stamps"
exec 8>"$stamps/browser.lock"
flock 8
if find_browser; then exit 0; fi
command -v apt-get >/dev/null 2>&1 ||
  die 'this is not a Debian-like system, and it lacks a Chromium' 'install one, and try again'
say browser 'installing chromium'
{
  quietly 'apt-get update' apt_install update
  quietly 'apt-get install chromium' apt_install --no-install-recommends install chromium
} 8>&-
find_browser || die 'there is no chromium after its installation'
