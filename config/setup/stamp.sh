# Sourced by config/setup.sh: what a build was made from, so that nothing is built twice.
# A stamp holds a digest over the inputs' content and the outputs' identity; it is gone while a build is under way.

readonly stamps=$root/.setup

# Prints one digest over the content of the files below the paths given (paths that do not exist count as absent).
content_of() {
  { find "$@" -type f -print0 2>/dev/null || true; } | sort -z | xargs -0 -r sha256sum | sha256sum
}

# Prints one digest over path, size and modification time of the files below a path: identity_of <path...> [find tests]
identity_of() {
  { find "$@" -type f -printf '%p %s %T@\n' 2>/dev/null || true; } | sort | sha256sum
}

# stamped <step> <digest>: is the step's build the one of this digest?
stamped() {
  [ -f "$stamps/$1" ] && [ "$(<"$stamps/$1")" = "$2" ]
}

unstamp() {
  rm -f -- "$stamps/$1"
}

stamp() {
  printf '%s\n' "$2" >"$stamps/.$1.new"
  mv -f -- "$stamps/.$1.new" "$stamps/$1"
}
