#!/usr/bin/env bash
# Installs a CRIU that passes the proof, as root: the distribution's own package where that passes, else the one of a
# newer Debian suite in a private prefix that shares nothing with the system (its own libc and libraries beside it).
#
# The system's apt state is not touched by the latter: sources, lists, cache and package states are all temporary,
# only the mirror's address and the archive's keyring are the system's, and signatures are verified.
# Prints one line on stdout: the path of the CRIU that passed.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
. "$here/say.sh"
. "$here/packages.sh"

readonly home=/usr/local/lib/homeproxy
readonly prefix=$home/criu # a link, so that a new CRIU takes the place of an old one in one step
readonly oldest=3.18       # the first that knows --network-lock skip
work=
unfinished=

clean_up() {
  if [ -n "$work" ]; then rm -rf -- "$work"; fi
  if [ -n "$unfinished" ]; then rm -rf -- "$unfinished"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# Prints "<mirror> <suite's code name>" of the system's Debian archive.
system_source() {
  local format='$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)|$(CODENAME)'
  apt-get indextargets --format "$format" 'Created-By: Packages' 2>/dev/null |
    awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 == "main" && $5 !~ /-/ { print $4, $5; exit }'
}

# apt with a state of its own, for one suite: private_apt <program> <arguments...>
private_apt() {
  local program=$1
  shift
  "$program" -c="$work/apt.conf" -q "$@"
}

# Writes the temporary apt configuration for a suite and reads the suite's index.
use_suite() { # <mirror> <suite>
  local keyring='' file
  for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
    if [ -r "$file" ]; then keyring=$file; fi
  done
  rm -rf -- "$work/apt"
  mkdir -p -- "$work"/apt/{parts,lists/partial,cache/archives/partial}
  if id -u _apt >/dev/null 2>&1; then
    chown _apt -- "$work"/apt/{lists,cache/archives}/partial # the user that apt downloads as
  fi
  : >"$work/apt/status"
  printf '%s\n' 'Types: deb' "URIs: $1" "Suites: $2" 'Components: main' ${keyring:+"Signed-By: $keyring"} \
    >"$work/apt/suite.sources"
  # An empty package state makes apt's own solver list the whole closure, libc included.
  cat >"$work/apt.conf" <<END
Dir::Etc::SourceList "$work/apt/suite.sources";
Dir::Etc::SourceParts "$work/apt/parts";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "$work/apt/parts";
Dir::State "$work/apt";
Dir::State::Lists "$work/apt/lists";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt/cache";
Dir::Cache::Archives "$work/apt/cache/archives";
Dir::Log "$work/apt";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::AllowInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";
APT::Install-Recommends "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
END
  private_apt apt-get update >"$work/log" 2>&1 || return 1
}

candidate() {
  private_apt apt-cache policy criu 2>/dev/null | sed -n 's/^ *Candidate: //p'
}

# Copies a library and what it needs into a directory: gather <unpacked tree> <into> <file that needs>
gather() {
  local name file
  while read -r name; do
    [ ! -e "$2/$name" ] || continue
    file=$(find "$1/lib" "$1/lib64" "$1/usr/lib" "$1/usr/lib64" -name "$name" -print -quit 2>/dev/null)
    [ -n "$file" ] || { printf 'no package has %s, which %s needs\n' "$name" "$3" >&2; return 1; }
    cp -L -- "$file" "$2/$name"
    gather "$1" "$2" "$2/$name" || return 1
  done < <(patchelf --print-needed "$3")
}

# Puts the suite's CRIU with its loader and libraries into a directory: build <directory>
build() {
  local target=$1 tree=$work/tree interpreter deb outside
  if ! private_apt apt-get -y --download-only install criu >"$work/log" 2>&1; then
    tail -n 5 "$work/log" >&2
    return 1
  fi
  rm -rf -- "$tree"
  mkdir -- "$tree"
  for deb in "$work"/apt/cache/archives/*.deb; do
    dpkg -x "$deb" "$tree" || return 1
  done
  install -d -m 755 -- "$target" "$target/sbin" "$target/lib" || return 1
  cp -L -- "$tree/usr/sbin/criu" "$target/sbin/criu" || return 1
  interpreter=$(basename -- "$(patchelf --print-interpreter "$target/sbin/criu")") || return 1
  gather "$tree" "$target/lib" "$target/sbin/criu" || return 1
  if [ ! -e "$target/lib/$interpreter" ]; then
    cp -L -- "$(find "$tree" -name "$interpreter" -print -quit)" "$target/lib/$interpreter" || return 1
  fi
  chmod 755 -- "$target/lib/$interpreter"
  patchelf --set-interpreter "$target/lib/$interpreter" --force-rpath --set-rpath "$target/lib" \
    "$target/sbin/criu" || return 1
  outside=$("$target/lib/$interpreter" --list "$target/sbin/criu" | grep -vF -e "$target/lib/" -e linux-vdso) || true
  [ -z "$outside" ] || { printf 'libraries from outside the private prefix:\n%s\n' "$outside" >&2; return 1; }
  (cd "$work/apt/cache/archives" && printf '%s\n' *.deb) >"$target/packages"
}

# Tries one suite's CRIU; leaves the built directory's path in $unfinished when it passes: try_suite <mirror> <suite>
try_suite() {
  local version
  use_suite "$1" "$2" || { say criu "suite $2: no index: $(grep -E '^[EW]:' "$work/log" | tail -n 1)"; return 1; }
  version=$(candidate)
  case $version in
    '' | '(none)') say criu "suite $2 has none"; return 1 ;;
  esac
  if dpkg --compare-versions "$version" lt "$oldest"; then
    say criu "suite $2 has $version, too old (needs $oldest or newer)"
    return 1
  fi
  say criu "trying $version of suite $2"
  unfinished=$(mktemp -d -- "$home/criu-${version//[^A-Za-z0-9.+]/-}.XXXXXX") # a colon would split the rpath
  if build "$unfinished" && "$here/criu-proof.sh" "$unfinished/sbin/criu" >&2; then
    return 0
  fi
  say criu "$version of suite $2 is of no use here"
  rm -rf -- "$unfinished"
  unfinished=
  return 1
}

# Removes the private CRIU, which is only reached when it fails the proof: it would be preferred otherwise.
drop_private() {
  local old
  old=$(readlink -f -- "$prefix" || true)
  rm -rf -- "$prefix"
  case $old in "$home"/criu-*) rm -rf -- "$old" ;; esac
}

[ "$(id -u)" -eq 0 ] || die 'criu-private.sh must run as root'
install -d -m 755 -- "$home"
exec 8<"$home"
flock 8 # one at a time on this machine, whichever checkout they come from
work=$(mktemp -d "${TMPDIR:-/tmp}/homeproxy-criu.XXXXXX")
chmod 755 -- "$work"
find "$home" -mindepth 1 -maxdepth 1 -name 'criu-*' ! -path "$(readlink -f -- "$prefix" || true)" \
  -exec rm -rf -- {} + # what a killed run left

# Another run may have finished while we waited for the lock.
if [ -x "$prefix/sbin/criu" ] && "$here/criu-proof.sh" --cached "$prefix/sbin/criu" >/dev/null 2>&1; then
  printf '%s\n' "$prefix/sbin/criu"
  exit 0
fi

# One that somebody installed, or that came with a newer package, makes a private one that fails superfluous.
installed=$(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v criu || true)
if [ -n "$installed" ] && "$here/criu-proof.sh" "$installed" >&2; then
  drop_private
  printf '%s\n' "$installed"
  exit 0
fi

read -r mirror own < <(system_source) || true
[ -n "${mirror-}" ] || die 'no Debian archive among the apt sources of this system to take a working CRIU from' \
  'install CRIU 4.2.1 or newer, so that config/setup/criu-proof.sh <path of criu> passes, and run the set-up again'

if try_suite "$mirror" "$own"; then
  rm -rf -- "$unfinished"
  unfinished=
  quietly 'apt-get install criu' apt_install --no-install-recommends install criu
  drop_private
  "$here/criu-proof.sh" /usr/sbin/criu >&2 || die 'the criu package just installed fails the proof'
  printf '%s\n' /usr/sbin/criu
  exit 0
fi

for suite in testing unstable; do
  try_suite "$mirror" "$suite" || continue
  old=$(readlink -f -- "$prefix" || true)
  [ -L "$prefix" ] || rm -rf -- "$prefix"
  link=$home/.criu-link.$$
  ln -s -- "$(basename -- "$unfinished")" "$link"
  mv -fT -- "$link" "$prefix"
  unfinished=
  case $old in "$home"/criu-*) rm -rf -- "$old" ;; esac
  printf '%s\n' "$prefix/sbin/criu"
  exit 0
done
die 'no CRIU of this distribution or of a newer Debian suite works on this kernel (see above)'
