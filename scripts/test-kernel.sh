#!/usr/bin/env bash
# Runs tests of the lab on the kernel's datapath: Debian's kernel with openvswitch.ko, booted in QEMU over this machine's own files.
#
#   scripts/test-kernel.sh            the tests below, one after the other; says of each whether it passed
#   scripts/test-kernel.sh TEST...    these instead (as pytest takes them)
#
# As root, on Debian 12 after `make setup`. Installs what is missing of QEMU, cpio and busybox (no kernel is installed: its package is
# unpacked into build/kernel, 110 MB). The machine sees this one's files read-only, so do not change the checkout meanwhile; what it
# writes is in its memory and gone with it.
# It is emulated unless ACCEL=kvm says that /dev/kvm works: ten to twenty times slower than this machine, 15 minutes in all.
# MINUTES=30 is how long it may take. Ends with 0 if all passed, 1 if one did not, 2 if there is no machine to run them in.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly HERE=$PWD WORK=$PWD/build/kernel ACCEL=${ACCEL:-tcg} MINUTES=${MINUTES:-30} MEMORY=3072
readonly VIRTIOFSD=/usr/lib/qemu/virtiofsd
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

tests=("$@")
if [ $# -eq 0 ]; then
  tests=(
    tests/runtime/test_skeleton.py::test_vms_on_two_computes_reach_each_other
    tests/runtime/test_skeleton.py::test_a_migrating_vm_that_is_probed_throughout_loses_nothing
    tests/tenants/test_routers.py::test_subnets_meet_on_one_compute_and_on_two
    tests/tenants/test_outside.py::test_all_kinds_of_traffic_leave_under_the_routers_address_from_everywhere
    tests/tenants/test_outside.py::test_what_cannot_be_told_apart_behind_one_address_is_refused_and_counted
    tests/nat/test_nat_move.py::test_a_few_connections_open_and_silent_outlive_a_move
  )
fi

say() { printf 'test-kernel: %s\n' "$*"; }
die() { say "$*" >&2; exit 2; }

[ "$(id -u)" = 0 ] || die "needs root, as the lab does"
[ -x .venv/bin/pytest ] || die "run make setup first"
# command=package
missing=()
for pair in qemu-system-x86_64=qemu-system-x86 cpio=cpio busybox=busybox-static depmod=kmod; do
  command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installs ${missing[*]}"
  apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null || die "cannot install ${missing[*]}: apt-get update, then again"
fi
[ -x "$VIRTIOFSD" ] || die "$VIRTIOFSD is missing: QEMU of Debian 12 brings it (qemu-system-common)"

# ---- the kernel, and what boots it --------------------------------------------------------------------------------------

mkdir -p "$WORK"
if ! ls "$WORK"/unpacked/boot/vmlinuz-* >/dev/null 2>&1; then
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
  [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64: apt-get update, then again"
  say "fetches $package"
  (cd "$WORK" && apt-get -o APT::Sandbox::User=root download "$package" >/dev/null) || die "cannot fetch $package: apt-get update, then again"
  rm -rf "$WORK/new" && dpkg-deb -x "$WORK/$package"_*.deb "$WORK/new" && rm "$WORK/$package"_*.deb
  depmod -b "$WORK/new" "$(ls "$WORK/new/lib/modules")"
  rm -rf "$WORK/unpacked" && mv "$WORK/new" "$WORK/unpacked"
fi
release=$(ls "$WORK/unpacked/lib/modules")

rm -rf "$WORK/initrd" && mkdir -p "$WORK"/initrd/{bin,lib,proc,sys,dev,below,above,new}
cp "$(command -v busybox)" "$WORK/initrd/bin/busybox"
for module in $(modprobe -d "$WORK/unpacked" -S "$release" -a --show-depends virtio_pci virtiofs overlay |
  awk '/^insmod/ && !seen[$2]++ {print $2}'); do
  cp "$module" "$WORK/initrd/lib/" && echo "/lib/${module##*/}" >>"$WORK/initrd/modules"
done
cat >"$WORK/initrd/init" <<EOF
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module; do insmod \$module; done </modules
mount -t virtiofs -o ro host /below && mount -t tmpfs above /above && mkdir /above/upper /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/upper,workdir=/above/work new /new
for place in proc sys dev; do mount --move /\$place /new/\$place; done
exec switch_root /new /bin/bash $WORK/guest.sh
EOF
chmod +x "$WORK/initrd/init"
(cd "$WORK/initrd" && find . | cpio -o -H newc --quiet | gzip -1 >"$WORK/initrd.gz")

# ---- what the machine does ----------------------------------------------------------------------------------------------

cat >"$WORK/guest.sh" <<EOF
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C EBBTIDE_LAB_DATAPATH=system
mount -t tmpfs run /run; mkdir -p /run/netns /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm; mount -t devpts devpts /dev/pts
ip link set lo up
modprobe -d $WORK/unpacked -a openvswitch vport-vxlan tun veth bridge
cd $HERE
echo "booted: \$(uname -r), \$(nproc) processors"
for test in ${tests[*]@Q}; do
  begun=\$SECONDS
  if timeout 420 .venv/bin/pytest -q -n0 -p no:cacheprovider --tb=short -o timeout=400 "\$test" >/run/told 2>&1; then said=passed
  else said=FAILED; grep -v ' \[info ' /run/told | cut -c1-300 | tail -40; fi
  echo "result: \$said \$test (\$((SECONDS - begun)) s)"
done
echo "result: end"
sync; echo o >/proc/sysrq-trigger; sleep 10
EOF

server=
finish() { [ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -f "$WORK/files.sock"; }
trap finish EXIT
"$VIRTIOFSD" --socket-path="$WORK/files.sock" -o source=/ -o cache=auto -o sandbox=chroot >"$WORK/virtiofsd.log" 2>&1 &
server=$!
for _ in $(seq 100); do [ -S "$WORK/files.sock" ] && break; sleep 0.1; done
[ -S "$WORK/files.sock" ] || die "virtiofsd does not start: $(tail -1 "$WORK/virtiofsd.log")"

say "boots Linux $release ($ACCEL), for $MINUTES minutes at most"
[ "$ACCEL" = tcg ] && machine=(-accel tcg,thread=multi -cpu max) || machine=(-accel "$ACCEL" -cpu host)
timeout "$((MINUTES * 60))" qemu-system-x86_64 "${machine[@]}" -smp 2 -m "$MEMORY" -nodefaults -no-reboot -display none -serial stdio \
  -object "memory-backend-memfd,id=memory,size=${MEMORY}M,share=on" -numa node,memdev=memory \
  -chardev "socket,id=files,path=$WORK/files.sock" -device vhost-user-fs-pci,chardev=files,tag=host \
  -kernel "$WORK/unpacked/boot/vmlinuz-$release" -initrd "$WORK/initrd.gz" -append "console=ttyS0 quiet panic=-1" \
  </dev/null 2>&1 | sed -u 's/\r//' | tee "$WORK/console.log" || true

# ---- how far it got -----------------------------------------------------------------------------------------------------

grep -q '^booted: ' "$WORK/console.log" || die "the machine did not come up: see build/kernel/console.log"
passed=$(grep -c '^result: passed ' "$WORK/console.log" || true)
say "$passed of ${#tests[@]} passed on the kernel's datapath"
grep -q '^result: end' "$WORK/console.log" || say "it was not done in $MINUTES minutes: MINUTES=... gives it more"
[ "$passed" -eq ${#tests[@]} ]
