#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The guest's first process once it has the host's files: run the command and tell its status.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export TRACEWHEEL_GUEST=1 # for tests of what no host should have done to it

# Show one of the host's folders in spite of the tmpfs on /tmp.
keep() {
	mkdir -p "$1"
	mount --bind "/run/files$1" "$1"
}

# Mount a folder of the host's, writable.
share() {
	mkdir -p "$2"
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none "$1" "$2"
}

mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
hostname vm
busybox ip link set lo up
modprobe loop # there is no udev to do it when a loop device is wanted

# Tests count what happens in a plain file system: an overlay opens each file twice.
mkdir /run/files
mount --bind / /run/files
mount -t tmpfs tmpfs /tmp

# A port can be opened once only, but a command may open /dev/stderr again: hence the pipes.
mkfifo /run/stdout /run/stderr
until [ -e /dev/vport0p1 ] && [ -e /dev/vport0p2 ]; do sleep 0.05; done
cat /run/stdout >/dev/vport0p1 &
copiers=$!
cat /run/stderr >/dev/vport0p2 &
copiers="$copiers $!"

. /run/vm/settings
cut -d ' ' -f 1 /proc/uptime >/run/vm/uptime
setsid --wait sh /run/vm/command </dev/null >/run/stdout 2>/run/stderr
status=$?
# What it has left behind would keep the pipes open.
for process in $(ls /proc | grep '^[0-9]'); do
	case " 1 $copiers " in
	*" $process "*) ;;
	*) kill -9 "$process" 2>/dev/null ;;
	esac
done
wait
echo $status >/run/vm/status
sync
busybox poweroff -f
