#!/busybox sh
# SPDX-License-Identifier: BSD-2-Clause
# The guest's first process: make a root of the host's files and a tmpfs over them.

busybox=/busybox

fail() {
	echo "cannot $*" >/dev/ttyS0
	$busybox poweroff -f
}

share() {
	$busybox mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2" || fail "mount $1"
}

$busybox mkdir -p /proc /sys /dev /host /new /root
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sysfs /sys
$busybox mount -t devtmpfs devtmpfs /dev

for module in /modules/*; do
	$busybox insmod "$module" || fail "load $module"
done

share host /host ro,cache=loose
$busybox mount -t tmpfs tmpfs /new || fail "mount a tmpfs"
$busybox mkdir /new/files /new/work
$busybox mount -t overlay -o lowerdir=/host,upperdir=/new/files,workdir=/new/work overlay /root ||
	fail "lay a tmpfs over the host's files"

$busybox mount --move /proc /root/proc
$busybox mount --move /sys /root/sys
$busybox mount --move /dev /root/dev
$busybox mount -t tmpfs -o mode=755 tmpfs /root/run
$busybox mkdir -p /root/run/vm /root/usr/lib/modules
share control /root/run/vm rw,cache=none
share modules /root/usr/lib/modules ro,cache=loose

exec $busybox switch_root /root /bin/sh /run/vm/guest.sh
