#!/usr/bin/env bash
# What `make test-numa` needs: QEMU, mmdebstrap and a few tools, installed; and below target/numa the parts of a virtual machine, made of
# Debian's packages, none of which is installed here: a root file system with DPDK, containers' runtimes and the cloud kernel
# (root.ext4), that kernel (vmlinuz), and an initramfs that mounts the root (initramfs.gz). Does only what is missing; remove target/numa to
# have it made anew. Where it can't be done it says so and the tests are skipped.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=$root/target/numa
. "$here/debian.sh"

skip() {
    echo "numa: $1; tests in the machine with two NUMA nodes will be skipped" >&2
    exit 0
}

installed() { # package
    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

# Of the guest. Only what the tests call; what these need comes along. libdpdk-dev says where the drivers are.
packages=(
    linux-image-cloud-amd64 kmod
    bash coreutils grep sed util-linux mount procps libc-bin base-files base-passwd usr-is-merged
    iproute2 ethtool busybox-static wireguard-tools
    dpdk dpdk-dev libdpdk-dev pkg-config
    runc crun
)

if [[ -e $target/root.ext4 && $target/root.ext4 -nt $0 && $target/initramfs.gz -nt $here/numa-init ]]; then
    exit 0
fi

missing=()
for package in qemu-system-x86 cpio busybox-static mmdebstrap e2fsprogs; do
    installed "$package" || missing+=("$package")
done
((EUID == 0)) || skip "making the guest's root file system needs root"
if ((${#missing[@]} > 0)); then
    echo "numa: installing ${missing[*]}"
    apt-get -qq update || skip "apt-get update failed"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null ||
        skip "apt-get install ${missing[*]} failed"
fi
uri=$(mirror)
[[ -n $uri ]] || skip "apt knows no source for Debian bookworm main, so there is no mirror to take the guest's packages from"

# Below /, as package files keep their owners; removed again in any case.
mkdir -p "$target"
tree=$target/root
trap 'rm -rf "$tree" "$target/initramfs"' EXIT
rm -rf "$tree" "$target"/run-*
echo "numa: making the guest's root file system of Debian's packages"
list=$(IFS=, && echo "${packages[*]}")
mmdebstrap --quiet --mode=root --format=directory --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --aptopt='APT::Install-Recommends "false"' --include="$list" bookworm "$tree" "deb $uri bookworm main" ||
    skip "mmdebstrap failed"
# What would be done by the packages' scripts, which did not run.
version=$(basename "$(echo "$tree"/boot/vmlinuz-*)" | sed 's/^vmlinuz-//')
chroot "$tree" /sbin/ldconfig
chroot "$tree" /sbin/depmod "$version"
for file in passwd group; do
    cp "$tree/usr/share/base-passwd/$file.master" "$tree/etc/$file"
done
echo "127.0.0.1 localhost numa" >"$tree/etc/hosts"
: >"$tree/etc/resolv.conf"
echo numa >"$tree/etc/hostname"
ln -sf /bin/bash "$tree/bin/sh"
# Never called there, and half of it all.
rm -rf "$tree"/usr/share/{doc,man,locale,info} "$tree"/usr/lib/x86_64-linux-gnu/*.a "$tree"/var/{cache,lib}/apt "$tree"/boot/initrd*
mkdir -p "$tree"/{proc,sys,dev,run,tmp,root}

echo "numa: making the guest's initramfs"
image=$target/initramfs
rm -rf "$image"
mkdir -p "$image"/{bin,dev,proc,sys,modules,base,built,over,new}
cp /bin/busybox "$image/bin/busybox"
install -m 0755 "$here/numa-init" "$image/init"
# In the order they depend on each other. What is built into the kernel is no file.
for module in crc32c_generic virtio_pci virtio_blk ext4 overlay; do
    chroot "$tree" /sbin/modprobe --set-version "$version" --show-depends "$module" || true
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
    cp "$tree$file" "$image/modules/"
    basename "$file" >>"$image/modules/order"
done
cp "$tree/boot/vmlinuz-$version" "$target/vmlinuz"
(cd "$image" && find . | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$target/initramfs.gz.new"

echo "numa: making its disk"
rm -f "$target/root.ext4.new"
mkfs.ext4 -q -O ^has_journal -d "$tree" "$target/root.ext4.new" "$(($(du -sk "$tree" | cut -f1) * 5 / 4 + 65536))k"
mv "$target/initramfs.gz.new" "$target/initramfs.gz"
mv "$target/root.ext4.new" "$target/root.ext4"
touch "$target/initramfs.gz"
