# Sourced by config/setup.sh: messages and privileges.
# Everything goes to stderr, because `npm run demo -- --json` and the like own stdout.

# One line per step: say <step> <what happened>
say() {
  printf 'setup: %-9s %s\n' "$1:" "$2" >&2
}

# Ends the set-up: die <message>...   (every argument on a line of its own)
die() {
  printf 'setup: error:    %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do
    printf '                 %s\n' "$line" >&2
  done
  exit 1
}

# Runs a command as root: as it is when we are root, else through sudo.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo -- "$@"
  else
    die "this step needs root: $*" \
      "run the set-up as root, or install sudo and allow this user to use it"
  fi
}

# Runs a command quietly; when it fails, shows all it said and ends the set-up.
# quietly <what it is> <command...>
quietly() {
  local what=$1 log status=0
  shift
  log=$(mktemp "${TMPDIR:-/tmp}/homeproxy-setup.XXXXXX")
  exec 7<>"$log"
  rm -f -- "$log" # so that nothing stays behind, whatever ends us
  "$@" >&7 2>&1 7>&- || status=$?
  if [ "$status" -ne 0 ]; then
    cat /proc/self/fd/7 >&2
    die "$what failed (exit status $status; its output is above)"
  fi
  exec 7>&-
}
