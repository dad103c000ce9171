#!/usr/bin/env bash
# Prints on stdout the folder with what only `npm run test:apps` needs: the servers that the machine lacks, and a compiler for Java.
#
# The packages are unpacked, not installed: installing them would start and enable six services.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname -- "$(dirname -- "$here")")
. "$here/say.sh"
. "$here/stamp.sh"
. "$here/packages.sh"
. "$here/unpack.sh"

# Packages by their programs. caddy is written in Go; the Eclipse compiler is a tenth of a JDK. libuid-wrapper lets a server believe
# that it has left root, on machines where root itself may not look at the limits of others (CAP_SYS_RESOURCE).
declare -rA app_packages=(
  [nginx]=nginx [apache2]=apache2-bin [icecast2]=icecast2 [haproxy]=haproxy [caddy]=caddy
  [java]=openjdk-17-jre-headless
)
readonly app_programs=("${!app_packages[@]}")
readonly libraries=(libeclipse-jdt-core-java libuid-wrapper)
readonly compiler=usr/share/java/eclipse-jdt-core.jar
readonly prefix=$stamps/apps
work=

clean_up() {
  if [ -n "$work" ]; then rm -rf -- "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# An unpacked package's absolute links lead out of the folder, and some to what only its installation makes: relink <folder>
relink() {
  local link target
  find "$1" -type l -lname '/*' -print0 | while IFS= read -r -d '' link; do
    target=$(readlink -- "$link")
    if [ -e "$1$target" ]; then ln -sfnr -- "$1$target" "$link"; fi
  done
  find "$1" -xtype l -delete
}

# Prints the packages that the folder must be made of: wanted
wanted() {
  local program
  printf '%s\n' "${libraries[@]}"
  while read -r program; do printf '%s\n' "${app_packages[$program]}"; done < <(lacking /nonexistent "${app_programs[@]}")
}

# Java's programs are reached by links that its installation would make.
unpack() {
  local java chosen
  mapfile -t chosen < <(wanted)
  unpack_packages "$work" "$work/prefix" "${chosen[@]}" || return 1
  relink "$work/prefix" || return 1
  for java in "$work"/prefix/usr/lib/jvm/java-*/bin/java; do
    if [ -x "$java" ]; then ln -sfr -- "$java" "$work/prefix/usr/bin/java"; fi
  done
}

mkdir -p -- "$stamps"
exec 8>"$stamps/apps.lock"
flock 8
if [ ! -e "$prefix/$compiler" ] || [ -n "$(lacking "$prefix" "${app_programs[@]}")" ]; then
  command -v dpkg >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 ||
    die "this is not a Debian-like system, and it lacks $(lacking /nonexistent "${app_programs[@]}" | tr '\n' ' ')" \
      "install what these Debian packages hold, and try again: ${app_packages[*]}"
  work=$(mktemp -d "${TMPDIR:-/tmp}/homeproxy-apps.XXXXXX")
  say apps "unpacking $(wanted | tr '\n' ' ')"
  quietly 'unpacking the packages for the servers' unpack 8>&-
  rm -rf -- "$prefix"
  mv -T -- "$work/prefix" "$prefix"
  [ -e "$prefix/$compiler" ] && [ -z "$(lacking "$prefix" "${app_programs[@]}")" ] ||
    die "after unpacking them not all is there: $compiler $(lacking "$prefix" "${app_programs[@]}" | tr '\n' ' ')"
fi
printf '%s\n' "$prefix"
