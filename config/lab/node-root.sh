#!/bin/sh
# node-root.sh <name> <folder> [<path>...] -- [<path>...]
# Pid 1 of a lab node: builds the node's root file system at <folder>, an empty folder, moves into it, says "ready" and
# becomes the init. It runs in the node's own mount, pid, net, uts, ipc and cgroup namespaces, so nothing it mounts
# is seen outside, and all of it goes with the node's last process.
# Before "--": mount points of the machine that the node sees, read-only, as the machine does. After it: folders that the
# node needs and that lie below one of the node's own; they are put back there, read-only.
set -eu
name=$1
root=$2
shift 2

echo "$name" >/proc/sys/kernel/hostname

mount --bind -o ro / "$root"
while [ "$1" != -- ]; do
	# One that root may not enter (FUSE) stays an empty folder: none is ever left writable.
	mount --bind -o ro "$1" "$root$1" 2>/dev/null || umount "$root$1" 2>/dev/null || :
	shift
done
shift

own() { # own <mode> <folder>
	[ -d "$root/$2" ] && [ ! -L "$root/$2" ] || return 0
	mount -t tmpfs -o "nosuid,nodev,mode=$1" lab "$root/$2"
}
own 0755 run
own 1777 tmp
own 0755 var
own 0700 root
own 0755 home
own 0755 mnt
mkdir -p "$root/run/lab/bin" "$root/var/lib" "$root/var/log" "$root/var/cache" "$root/var/spool"
mkdir -m 1777 "$root/run/lock" "$root/var/tmp"
ln -s /run "$root/var/run"
ln -s /run/lock "$root/var/lock"

# The tmpfs with the changes to /etc lies below the overlay that uses it: out of sight.
mount -t tmpfs -o mode=0755 lab "$root/etc"
mkdir "$root/etc/changes" "$root/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$root/etc/changes,workdir=$root/etc/work" lab "$root/etc"
rm -rf "$root/etc/homeproxy"
mkdir -m 0755 "$root/etc/homeproxy" # commands of ordinary users read the configuration; keys have a mode of their own

# Device nodes of its own: those of the machine would share their mode and owner.
mount -t tmpfs -o nosuid,mode=0755 lab "$root/dev"
mkdir -m 0755 "$root/dev/net" "$root/dev/pts" "$root/dev/mqueue"
mkdir -m 1777 "$root/dev/shm"
device() { # device <mode> <name> <major> <minor>
	mknod -m "$1" "$root/dev/$2" c "$3" "$4"
}
device 666 null 1 3
device 666 zero 1 5
device 666 full 1 7
device 666 random 1 8
device 666 urandom 1 9
device 666 tty 5 0
device 600 net/tun 10 200
if minor=$(grep -w userfaultfd /proc/misc); then device 600 userfaultfd 10 ${minor% userfaultfd}; fi
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t devpts -o newinstance,nosuid,noexec,ptmxmode=0666,mode=0620,gid=5 lab "$root/dev/pts"
mount -t tmpfs -o nosuid,nodev,mode=1777 lab "$root/dev/shm"
mount -t mqueue -o nosuid,nodev,noexec lab "$root/dev/mqueue"

mount -t proc -o nosuid,nodev,noexec lab "$root/proc"
mount -t sysfs -o nosuid,nodev,noexec lab "$root/sys"
mount -t bpf -o nosuid,nodev,noexec,mode=0700 lab "$root/sys/fs/bpf"
mount -t cgroup2 -o nosuid,nodev,noexec lab "$root/sys/fs/cgroup"

for path; do
	mkdir -p "$root$path"
	mount --bind -o ro "$path" "$root$path"
done

mkdir "$root/run/machine"
cd "$root"
pivot_root . run/machine
cd /
umount -l /run/machine
rmdir /run/machine

echo ready
exec catatonit -P </dev/null >/dev/null 2>&1
