# Sourced by set-up steps that need programs of packages which are not to be installed (they would start and enable a service, or
# change which firewall tools the machine has).

# Prints the programs that are neither on the machine nor below the folder: lacking <folder> <program...>
lacking() {
  local folder=$1 name
  shift
  for name in "$@"; do
    PATH=$PATH:$folder/usr/bin:$folder/usr/sbin command -v "$name" >/dev/null 2>&1 || printf '%s\n' "$name"
  done
}

# Unpacks what the machine lacks of the packages and of what they need: unpack_packages <scratch folder> <folder> <package...>
unpack_packages() {
  local scratch=$1 folder=$2 deb
  shift 2
  mkdir -p -- "$scratch/archives/partial" "$folder" || return 1
  chmod 755 -- "$scratch" "$scratch/archives" || return 1
  if id -u _apt >/dev/null 2>&1; then
    as_root chown _apt -- "$scratch/archives/partial" || return 1 # the user that apt downloads as
  fi
  apt_install update || return 1
  apt_install --no-install-recommends --download-only -o "Dir::Cache::archives=$scratch/archives" install "$@" || return 1
  for deb in "$scratch"/archives/*.deb; do
    dpkg -x "$deb" "$folder" || return 1
  done
}
