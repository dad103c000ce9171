#!/usr/bin/env bash
# Proves a CRIU on this machine's kernel: it must dump and restore a process with a connected TCP socket.
# (`criu check` can say "Looks good" where that fails.) Everything happens in namespaces of its own.
#
#   criu-proof.sh [--cached] <path of criu>
#
# Exit status 0: one line on stdout, "<version>, proven". 1: CRIU failed; the reason and the telling lines of its log
# on stderr. 2: wrong use, or the proof itself cannot run here. Needs root, except that with --cached a proof of the
# same binary on the same kernel that root has recorded is enough.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

readonly record=/var/cache/homeproxy/criu-proven

cannot() {
  printf 'criu-proof: %s\n' "$1" >&2
  exit 2
}

# Prints the parts of CRIU's logs that tell why it failed.
show_logs() {
  local file
  for file in "$1"/dump.out "$1"/restore.out "$1"/dump.log "$1"/restore.log; do
    [ -s "$file" ] || continue
    grep -E 'Error|error|BUG|Unexpected|fail' "$file" | tail -n 12 | sed "s|^|  $(basename -- "$file"): |" || true
  done >&2
}

# Remembers this binary and kernel for --cached; newest last, a handful is plenty.
record_proof() {
  local new
  install -d -m 755 -- "$(dirname -- "$record")" || return 1
  new=$(mktemp -- "$record.XXXXXX") || return 1
  { grep -svxF -- "$digest" "$record" | tail -n 15 || true; } >"$new"
  printf '%s\n' "$digest" >>"$new"
  chmod 644 -- "$new" && mv -f -- "$new" "$record"
}

cached=no
if [ "${1-}" = --cached ]; then
  cached=yes
  shift
fi
[ $# -eq 1 ] || cannot "usage: criu-proof.sh [--cached] <path of criu>"
criu=$(readlink -f -- "$1") && [ -x "$criu" ] || cannot "no program $1"

digest=$({ cat -- "$criu" && uname -r; } | sha256sum)
digest=${digest%% *}

if ! version=$("$criu" --version 2>&1 | sed -n 's/^Version: //p') || [ -z "$version" ]; then
  printf 'criu-proof: %s does not start:\n' "$criu" >&2
  "$criu" --version 2>&1 | tail -n 5 | sed 's/^/  /' >&2 || true
  exit 1
fi

if [ "$cached" = yes ] && grep -qsxF -- "$digest" "$record"; then
  printf '%s, proven\n' "$version"
  exit 0
fi

[ "$(id -u)" -eq 0 ] || cannot 'must run as root'
for program in unshare python3 ip timeout; do
  command -v "$program" >/dev/null || cannot "$program is not installed"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/criu-proof.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
prover=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/criu-proof.py

status=0
# A /run of its own: CRIU caches its probe of the kernel there.
# shellcheck disable=SC2016 # $0 and $@ are the inner shell's
timeout --kill-after=5 40 unshare --net --mount --pid --fork --kill-child --mount-proc \
  sh -c 'mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up && exec python3 -I "$0" "$@"' \
  "$prover" "$criu" "$work" >"$work/prover.out" 2>&1 || status=$?
if [ "$status" -ne 0 ]; then
  printf 'criu-proof: %s (%s) fails on kernel %s: %s\n' "$criu" "$version" "$(uname -r)" \
    "$(tail -n 1 "$work/prover.out")" >&2
  show_logs "$work"
  exit 1
fi

record_proof || printf 'criu-proof: cannot write %s, so the next proof will be run again\n' "$record" >&2
printf '%s, proven\n' "$version"
