# Sourced by config/setup.sh: npm packages, the addon, the BPF objects, TypeScript.

# npm's own settings of an outer `npm run --silent` would hide why an inner one fails.
run_npm() {
  env -u npm_config_loglevel npm "$@"
}

setup_node() {
  local version
  version=$(node --version 2>/dev/null) || die 'Node.js is not installed' 'install Node.js 20.11 or newer, with npm'
  node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 11) ? 0 : 1)' ||
    die "Node.js $version is too old" 'install Node.js 20.11 or newer'
  command -v npm >/dev/null 2>&1 || die 'npm is not installed' 'install the npm that belongs to your Node.js'
}

setup_modules() {
  local why
  if why=$(node "$here/setup/modules-match.mjs"); then
    say modules ok
    return
  fi
  say modules "npm ci ($why)"
  quietly 'npm ci' run_npm ci --include=dev --no-audit --no-fund
  why=$(node "$here/setup/modules-match.mjs") || die "npm ci has run, but: $why"
  say modules ok
}

# The headers that came with this Node.js, where they did: node-gyp would download them.
use_own_headers() {
  local headers
  headers=$(dirname -- "$(dirname -- "$(readlink -f -- "$(command -v node)")")")
  if [ -z "${npm_config_nodedir-}" ] && [ -f "$headers/include/node/node_api.h" ]; then
    export npm_config_nodedir=$headers
  fi
}

setup_addon() {
  [ -f addon/binding.gyp ] || die 'addon/binding.gyp is missing'
  local inputs
  inputs() { # what the build depends on, and what it made
    content_of addon/binding.gyp addon/src bpf/abi.h node_modules/node-addon-api/package.json
    node -p 'process.version + process.arch'
    pkg-config --modversion libbpf
    identity_of addon/build/Release -maxdepth 1 '(' -name '*.node' -o -name pager ')'
  }
  if compgen -G 'addon/build/Release/*.node' >/dev/null && stamped addon "$(inputs)"; then
    say addon ok
    return
  fi
  say addon building
  unstamp addon
  use_own_headers
  quietly 'building the addon' run_npm run build:addon
  stamp addon "$(inputs)"
  say addon ok
}

setup_bpf() {
  compgen -G 'bpf/*.bpf.c' >/dev/null || die 'bpf/*.bpf.c are missing'
  if make -s -q -C bpf 2>/dev/null && make -s -q -C test/bench 2>/dev/null; then
    say bpf ok
    return
  fi
  say bpf building
  quietly 'building the BPF objects' run_npm run build:bpf
  say bpf ok
}

# Prints the paths below dist/ that the sources compile to, sorted.
expected_output() {
  find cli addon/lib config test -name '*.ts' ! -name '*.d.ts' -printf 'dist/%p\n' | sed 's/\.ts$/.js/' | sort
}

actual_output() {
  { find dist -type f -name '*.js' 2>/dev/null || true; } | sort
}

setup_typescript() {
  local sources output stale
  sources() { identity_of cli addon/lib config/grafana test tsconfig.json node_modules/typescript/package.json; }
  output() { identity_of dist oclif.manifest.json '(' -name '*.js' -o -name oclif.manifest.json ')'; }
  if stamped typescript "$(sources; output)" && [ "$(expected_output)" = "$(actual_output)" ]; then
    say typescript ok
    return
  fi
  say typescript compiling
  unstamp typescript
  mapfile -t stale < <(comm -13 <(expected_output) <(actual_output))
  [ "${#stale[@]}" -eq 0 ] || rm -f -- "${stale[@]}"
  # The compiler's own record would have it skip output that was lost or changed since.
  stamped output "$(output)" && [ -z "$(comm -23 <(expected_output) <(actual_output))" ] || rm -f dist/.tsbuildinfo
  quietly 'compiling TypeScript' run_npm run build:ts
  find dist -mindepth 1 -type d -empty -delete
  stamp output "$(output)"
  stamp typescript "$(sources; output)"
  say typescript ok
}
