# Sourced by config/setup.sh: the distribution's packages.

# redis-tools rather than redis-server: the latter starts and enables a service on installation, and the
# same binary comes with redis-tools (redis-check-rdb is redis-server under another name).
# nftables plays the strict networks of the lab's tests; systemd verifies our unit; tmux and vim-tiny move with their terminals;
# zsh completes our commands, and man shows our manual.
# python3 is for node-gyp and the CRIU proof; patchelf for the private CRIU; catatonit is pid 1 of pods.
# An installed package (npm pack) comes compiled but for the addon, and runs no tests.
is_checkout() {
  [ -f "$(dirname -- "${BASH_SOURCE[0]}")/../../tsconfig.json" ]
}
readonly running_needs=(iproute2 ethtool util-linux procps catatonit patchelf ca-certificates python3 libbpf1)
readonly addon_needs=(g++ make pkg-config python3 libbpf-dev libelf-dev zlib1g-dev)
readonly checkout_needs=(clang llvm tcpdump redis-tools nftables systemd tmux vim-tiny zsh man-db)
if is_checkout; then
  readonly packages=("${running_needs[@]}" "${addon_needs[@]}" "${checkout_needs[@]}")
else
  readonly packages=("${running_needs[@]}")
fi

# Prints those of the packages given that are not installed, one per line.
missing_packages() {
  local installed name
  installed=$(dpkg-query -W -f '${binary:Package} ${db:Status-Status}\n' -- "$@" 2>/dev/null |
    sed -n 's/^\([^ :]*\).* installed$/\1/p') || true
  for name in "$@"; do
    grep -qxF -- "$name" <<<"$installed" || printf '%s\n' "$name"
  done
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -q -y "$@"
}

# On a system that is not Debian-like nothing can be installed, but somebody may have done so.
setup_without_apt() {
  local name lacking=() programs=(python3 ip ethtool unshare ps catatonit)
  if is_checkout; then programs+=(clang llvm-strip make g++ pkg-config tcpdump redis-benchmark); fi
  for name in "${programs[@]}"; do
    command -v "$name" >/dev/null 2>&1 || lacking+=("$name")
  done
  if is_checkout && ! pkg-config --exists libbpf libelf zlib 2>/dev/null; then
    lacking+=('the headers of libbpf, libelf and zlib')
  fi
  if [ "${#lacking[@]}" -gt 0 ]; then
    die 'this is not a Debian-like system, so packages cannot be installed automatically' \
      "it lacks: ${lacking[*]}" \
      "install what these Debian packages hold, and run the set-up again: ${packages[*]}" \
      'and a CRIU for which config/setup/criu-proof.sh <path of criu> passes'
  fi
  say packages 'ok (not a Debian-like system; all programs are there)'
}

setup_packages() {
  if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    setup_without_apt
    return
  fi
  local missing
  mapfile -t missing < <(missing_packages "${packages[@]}")
  if [ "${#missing[@]}" -eq 0 ]; then
    say packages ok
    return
  fi
  say packages "installing ${missing[*]}"
  quietly 'apt-get update' apt_install update
  quietly 'apt-get install' apt_install --no-install-recommends install "${missing[@]}"
  mapfile -t missing < <(missing_packages "${packages[@]}")
  [ "${#missing[@]}" -eq 0 ] || die "still not installed: ${missing[*]}"
  say packages ok
}
