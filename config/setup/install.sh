#!/usr/bin/env bash
# npm runs this when the package is installed: compiles the addon for the Node.js and the libbpf of this machine, or says what
# that needs. Everything else in the package is compiled already. In a checkout config/setup.sh does it.
set -euo pipefail
export LC_ALL=C

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname -- "$(dirname -- "$here")")
cd -- "$root"
. "$here/say.sh"
. "$here/packages.sh"
. "$here/build.sh"

if is_checkout; then exit 0; fi

lacking=()
for name in g++ make pkg-config python3; do
  command -v "$name" >/dev/null 2>&1 || lacking+=("$name")
done
pkg-config --exists 'libbpf >= 1.1' libelf zlib 2>/dev/null || lacking+=('libbpf 1.1 or newer, libelf and zlib, with headers')
if [ "${#lacking[@]}" -gt 0 ]; then
  printf -v names '%s, ' "${lacking[@]}"
  die 'the native part of homeproxy cannot be compiled on this machine' "it lacks: ${names%, }" \
    "on Debian and the like: apt-get install ${addon_needs[*]}" 'then install homeproxy again'
fi
use_own_headers
quietly 'compiling the addon' node-gyp rebuild -C addon
node -e 'require(process.argv[1])' "$root/addon/build/Release/homeproxy.node" ||
  die 'the addon was compiled, but does not load (see above)'
