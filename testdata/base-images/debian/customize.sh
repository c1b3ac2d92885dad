#!/bin/sh
# /pool: packages for the tests to install from, so that they need no network. Setgid programs, a system group, file
# capabilities.
set -e
root=$1
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get install --yes --download-only --no-install-recommends cron iputils-ping openssh-client
mkdir "$root/pool"
mv "$root"/var/cache/apt/archives/*.deb "$root/pool"
cd "$root/pool"
for package in *.deb; do
    dpkg-deb --field "$package"
    echo "Filename: ./$package"
    echo "Size: $(stat -c %s "$package")"
    echo "SHA256: $(sha256sum "$package" | cut -d ' ' -f 1)"
    echo
done > Packages
rm -f "$root"/etc/apt/sources.list.d/* "$root/etc/resolv.conf" "$root/etc/hostname"
echo "deb [trusted=yes] file:/pool ./" > "$root/etc/apt/sources.list"
rm -rf "$root/usr/share/doc" "$root/usr/share/man" "$root/usr/share/locale" "$root/usr/share/info"
