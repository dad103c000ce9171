#!/bin/bash
# in-cgroup.sh <cgroup folder> <command...>: becomes the command, as a member of that cgroup from its first instruction
# (so that whatever a lab starts can be found and ended by the lab's cgroup).
# Only the standard streams go along, and the descriptor on which a daemon says that it is ready: whatever else our caller
# left open would be held open as long as the lab lives, and would be in the way of a checkpoint.
set -eu
echo 0 >"$1/cgroup.procs"
shift
for path in "/proc/$$/fd/"*; do
	descriptor=${path##*/}
	case $descriptor in
	0 | 1 | 2 | 255 | "${HOMEPROXY_READY_FD-}") ;; # 255: bash reads this file there, and closes it when it becomes the command
	*) exec {descriptor}>&- ;;
	esac
done
exec "$@"
