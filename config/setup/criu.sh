# Sourced by config/setup.sh: a CRIU that is proven to work on this kernel.

readonly private_criu=/usr/local/lib/homeproxy/criu/sbin/criu

# Prints "<version>, proven" when the CRIU at the path passes; asks for root only when no proof is on record.
proven() {
  "$here/setup/criu-proof.sh" --cached "$1" 2>/dev/null || {
    [ "$(id -u)" -ne 0 ] && as_root "$here/setup/criu-proof.sh" "$1"
  }
}

setup_criu() {
  local path=$private_criu result
  [ -x "$path" ] || path=$(command -v criu || true)
  if [ -n "$path" ] && result=$(proven "$path"); then
    say criu "$result ($path)"
    return
  fi
  say criu 'looking for one that works on this kernel'
  path=$(as_root "$here/setup/criu-private.sh") || exit 1
  result=$(proven "$path") || die "$path passed the proof and now fails it"
  say criu "$result ($path)"
}
