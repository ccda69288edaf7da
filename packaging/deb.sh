#!/usr/bin/env bash
# Makes a Debian package of the binaries of a folder: deb.sh target/release. It lies beside that folder afterwards.
#
# Depends on what the binaries are linked to here, so build it on the release it is for.
set -euo pipefail
cd "$(dirname "$0")/.."

built="$(realpath "$1")"
version="$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)"
architecture="$(dpkg --print-architecture)"
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
chmod 0755 "$stage"

DESTDIR="$stage" PREFIX=/usr packaging/install.sh "$built"
# Both daemons hold good defaults without a file; these are the samples, in which nothing is set.
install -d "$stage/etc/ringway"
install -m 0644 config/samples/*.toml "$stage/etc/ringway/"
documents="$stage/usr/share/doc/ringway"
install -d "$documents"
install -m 0644 README.md ARCHITECTURE.md docs/*.md "$documents/"
install -m 0644 packaging/copyright "$documents/copyright"
gzip -9n >"$documents/changelog.gz" <<CHANGELOG
ringway ($version) unstable; urgency=medium

  * Made from its source tree; the history there says what changed.

 -- Ringway maintainers <maintainers@ringway.dev>  $(date -R -r Cargo.toml)
CHANGELOG
strip --strip-unneeded "$stage"/usr/bin/*

# dpkg-shlibdeps asks for a source tree; an empty one will do.
install -d "$stage/debian"
: >"$stage/debian/control"
depends="$(cd "$stage" && dpkg-shlibdeps -O --ignore-missing-info usr/bin/* 2>/dev/null | sed -n 's/^shlibs:Depends=//p')"
rm -r "$stage/debian"
# Drivers are loaded at run time, so nothing is linked to them: memory pools, and devices that are no pods.
abi="$(sed -n 's/.*librte-eal\([0-9.]*\) .*/\1/p' <<<"$depends")"
depends+=", librte-mempool-ring$abi, librte-bus-vdev$abi"

install -d "$stage/DEBIAN"
cat >"$stage/DEBIAN/control" <<CONTROL
Package: ringway
Version: $version
Architecture: $architecture
Maintainer: Ringway maintainers <maintainers@ringway.dev>
Section: net
Priority: optional
Depends: $depends
Recommends: containerd | containerd.io, librte-meta-net, librte-meta-bus
Suggests: containernetworking-plugins
Installed-Size: $(du -k -s --exclude=DEBIAN "$stage" | cut -f1)
Description: fast-path networking for ordinary containers
 A pod opts in with one annotation and gets a private vhost-user socket,
 CPUs and memory of one NUMA node and hugepage limits; the node's DPDK
 virtual router serves the socket. No CNI plugin, no sidecar, no privileged
 pod.
CONTROL
(cd "$stage" && find etc -type f -printf '/%p\n' | sort) >"$stage/DEBIAN/conffiles"
(cd "$stage" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
for script in postinst prerm postrm; do
    install -m 0755 "packaging/deb/$script" "$stage/DEBIAN/$script"
done

package="$(dirname "$built")/ringway_${version}_$architecture.deb"
dpkg-deb --root-owner-group --build "$stage" "$package"
