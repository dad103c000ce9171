#!/usr/bin/env bash
# Prints on stdout the folder with the programs that only the benchmarks in the lab need (traffic tools, and what homeproxy
# is compared with), after unpacking those that the machine lacks; empty when it has them all.
#
# The packages are unpacked, not installed: haproxy's would start and enable a service, and all of them would change which
# firewall tools the machine has.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname -- "$(dirname -- "$here")")
. "$here/say.sh"
. "$here/stamp.sh"
. "$here/packages.sh"

readonly bench_packages=(iperf3 sockperf haproxy socat nftables iptables)
readonly bench_programs=(iperf3 sockperf haproxy socat nft iptables-nft-restore)
readonly prefix=$stamps/bench
work=

clean_up() {
  if [ -n "$work" ]; then rm -rf -- "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# Prints the programs that are neither on the machine nor below the folder: lacking <folder>
lacking() {
  local name
  for name in "${bench_programs[@]}"; do
    PATH=$PATH:$1/usr/bin:$1/usr/sbin command -v "$name" >/dev/null 2>&1 || printf '%s\n' "$name"
  done
}

# Unpacks what the machine lacks of the packages and of what they need: unpack <folder>
unpack() {
  local deb
  mkdir -p -- "$work/archives/partial" "$1" || return 1
  chmod 755 -- "$work" "$work/archives" || return 1
  if id -u _apt >/dev/null 2>&1; then
    as_root chown _apt -- "$work/archives/partial" || return 1 # the user that apt downloads as
  fi
  apt_install update || return 1
  apt_install --no-install-recommends --download-only -o "Dir::Cache::archives=$work/archives" install \
    "${bench_packages[@]}" || return 1
  for deb in "$work"/archives/*.deb; do
    dpkg -x "$deb" "$1" || return 1
  done
}

mkdir -p -- "$stamps"
exec 8>"$stamps/bench.lock"
flock 8
if [ -z "$(lacking /nonexistent)" ]; then
  exit 0
fi
if [ -n "$(lacking "$prefix")" ]; then
  command -v dpkg >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 ||
    die "this is not a Debian-like system, and it lacks $(lacking /nonexistent | tr '\n' ' ')" \
      "install what these Debian packages hold, and try again: ${bench_packages[*]}"
  work=$(mktemp -d "${TMPDIR:-/tmp}/homeproxy-bench.XXXXXX")
  say bench "unpacking $(lacking /nonexistent | tr '\n' ' ')"
  quietly 'unpacking the packages for the benchmarks' unpack "$work/prefix" 8>&-
  rm -rf -- "$prefix"
  mv -T -- "$work/prefix" "$prefix"
  [ -z "$(lacking "$prefix")" ] || die "after unpacking ${bench_packages[*]} there still is no $(lacking "$prefix")"
fi
printf '%s\n' "$prefix"
