#!/bin/sh
. "$(dirname "$0")/../common.sh"
accounts node 1000 /home/node

mkdir -p "$root/home/node" "$root/etc/ssl/certs"
chown 1000:1000 "$root/home/node"
# Debian's node trusts what OpenSSL trusts; update-ca-certificates would write this file.
cat "$root"/usr/share/ca-certificates/mozilla/*.crt > "$root/etc/ssl/certs/ca-certificates.crt"
ln -sf /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
# npm brings node-gyp, and that Python and headers to compile native modules with; there is no compiler here, as there
# is none in the real image.
rm -rf "$root"/usr/bin/*python3* "$root"/usr/bin/py3* "$root"/usr/bin/pdb3* "$root"/usr/bin/pydoc3* \
    "$root"/usr/bin/pygettext3* "$root"/usr/lib/python3* "$root"/usr/share/python3* "$root"/usr/lib/*/libpython3* \
    "$root"/usr/include "$root"/usr/lib/*/*.a "$root/etc/python3.11"
