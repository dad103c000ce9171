#!/usr/bin/env bash
# Makes this checkout ready to run: packages, a CRIU that works here, npm packages, addon, BPF objects, TypeScript.
# Idempotent and quick when nothing is missing; every step looks at the real state first. Called by npm run setup,
# npm run demo and npm test. Works as root, or as an ordinary user who may use sudo (for packages and CRIU only).
# In an installed package (`homeproxy setup`) the first two are all there is to do.
# What only some tests need is named after it: browser, prometheus, app-programs, bench-programs (scripts in setup/).
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname -- "$here")
cd -- "$root"

. "$here/setup/say.sh"
. "$here/setup/stamp.sh"
. "$here/setup/packages.sh"
. "$here/setup/criu.sh"
. "$here/setup/build.sh"

mkdir -p -- "$stamps" && [ -w "$stamps" ] ||
  die "$stamps cannot be written by $(id -un)" 'run the set-up as the user who owns this checkout'
exec 9>"$stamps/lock"
if ! flock --nonblock 9; then
  say lock 'waiting for another set-up of this checkout'
  flock 9
fi

# The steps do not inherit the lock: a daemon that a package starts would hold it for ever.
{
  setup_packages
  setup_criu
  if is_checkout; then
    setup_node
    setup_modules
    setup_addon
    setup_bpf
    setup_typescript
  fi
  for extra in "$@"; do
    [ -f "$here/setup/$extra.sh" ] || die "there is nothing called $extra to set up"
    bash "$here/setup/$extra.sh" >/dev/null # it prints where it is
    say "$extra" ok
  done
} 9>&-
