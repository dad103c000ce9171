#!/bin/sh
# detach.sh <output file> <command...>: starts the command in a session of its own and prints its pid. When this script ends,
# the command becomes a child of pid 1. A shell without job control lets its background jobs ignore SIGINT and SIGQUIT:
# env undoes that.
set -eu
output=$1
shift
command -v "$1" >/dev/null || {
	echo "$1: command not found" >&2
	exit 127
}
env --default-signal=INT,QUIT setsid -- "$@" </dev/null >>"$output" 2>&1 &
echo "$!"
