#!/usr/bin/env bash
# bench-programs.sh datapath|migration
# Prints on stdout the folder with the programs that only this benchmark in the lab needs (traffic tools, and what homeproxy is
# compared with), after unpacking those that the machine lacks; empty when it has them all.
#
# The packages are unpacked, not installed: haproxy's and podman's would start and enable services, and others would change which
# firewall tools the machine has.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname -- "$(dirname -- "$here")")
. "$here/say.sh"
. "$here/stamp.sh"
. "$here/packages.sh"
. "$here/unpack.sh"

case ${1-} in
  datapath)
    bench_packages=(iperf3 sockperf haproxy socat nftables iptables)
    bench_programs=(iperf3 sockperf haproxy socat nft iptables-nft-restore)
    ;;
  migration)
    bench_packages=(podman runc conmon)
    bench_programs=(podman runc conmon)
    ;;
  *) die 'say for which benchmark: bench-programs.sh datapath|migration' ;;
esac
readonly bench_packages bench_programs prefix=$stamps/bench-$1
work=

clean_up() {
  if [ -n "$work" ]; then rm -rf -- "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

mkdir -p -- "$stamps"
exec 8>"$prefix.lock"
flock 8
if [ -z "$(lacking /nonexistent "${bench_programs[@]}")" ]; then
  exit 0
fi
if [ -n "$(lacking "$prefix" "${bench_programs[@]}")" ]; then
  command -v dpkg >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 ||
    die "this is not a Debian-like system, and it lacks $(lacking /nonexistent "${bench_programs[@]}" | tr '\n' ' ')" \
      "install what these Debian packages hold, and try again: ${bench_packages[*]}"
  work=$(mktemp -d "${TMPDIR:-/tmp}/homeproxy-bench.XXXXXX")
  say bench "unpacking $(lacking /nonexistent "${bench_programs[@]}" | tr '\n' ' ')"
  quietly 'unpacking the packages for the benchmarks' unpack_packages "$work" "$work/prefix" "${bench_packages[@]}" 8>&-
  rm -rf -- "$prefix"
  mv -T -- "$work/prefix" "$prefix"
  [ -z "$(lacking "$prefix" "${bench_programs[@]}")" ] || die "after unpacking ${bench_packages[*]} there still is no $(lacking "$prefix" "${bench_programs[@]}")"
fi
printf '%s\n' "$prefix"
