#!/usr/bin/env bash
# What the tests with a Linux guest need: QEMU and cpio from the distribution, installed; a Debian kernel, fetched and unpacked below
# target/qemu, never installed; and an initramfs made of that kernel's virtio modules, busybox and integration/setup/guest-init.
# Does only what is missing. Where it can't be done it says so and the tests are skipped.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=$root/target/qemu

skip() {
    echo "qemu: $1; tests with a QEMU guest will be skipped" >&2
    exit 0
}

installed() { # package
    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

missing=()
for package in qemu-system-x86 cpio busybox-static; do
    installed "$package" || missing+=("$package")
done
if ((${#missing[@]} > 0)); then
    ((EUID == 0)) || skip "as root, run: apt-get install --no-install-recommends ${missing[*]}"
    echo "qemu: installing ${missing[*]}"
    apt-get -qq update || skip "apt-get update failed"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null ||
        skip "apt-get install ${missing[*]} failed"
fi

if [[ ! -e $target/kernel/done ]]; then
    # The meta package names the current kernel of the release.
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
    [[ -n $package ]] || skip "apt knows no linux-image-cloud-amd64"
    echo "qemu: fetching $package, the guest's kernel"
    rm -rf "$target/kernel" "$target/deb"
    mkdir -p "$target/deb"
    (cd "$target/deb" && apt-get -qq -o APT::Sandbox::User=root download "$package") ||
        skip "apt-get download $package failed"
    dpkg-deb -x "$target"/deb/*.deb "$target/kernel"
    rm -rf "$target/deb" "$target/initramfs.gz"
    touch "$target/kernel/done"
fi

image=$target/initramfs.gz
if [[ -e $image && $image -nt $here/guest-init && $image -nt $0 ]]; then
    exit 0
fi
echo "qemu: making the guest's initramfs"
tree=$target/tree
rm -rf "$tree"
mkdir -p "$tree"/{bin,dev,proc,sys,tmp,modules}
cp /bin/busybox "$tree/bin/busybox"
install -m 0755 "$here/guest-init" "$tree/init"
# Modules in the order they depend on each other. One that is not there is built into the kernel.
for module in failover net_failover virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_net; do
    file=$(find "$target/kernel" -name "$module.ko" -print -quit)
    if [[ -n $file ]]; then
        cp "$file" "$tree/modules/"
        echo "$module" >>"$tree/modules/order"
    fi
done
cp "$(find "$target/kernel/boot" -name 'vmlinuz-*' -print -quit)" "$target/vmlinuz"
(cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$image.new"
mv "$image.new" "$image"
rm -rf "$tree"
