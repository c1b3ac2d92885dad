#!/bin/sh
. "$(dirname "$0")/../common.sh"
accounts nginx 101 /var/cache/nginx

mkdir -p "$root/docker-entrypoint.d" "$root/var/cache/nginx" "$root/var/lib/nginx" "$root/var/log/nginx"
chown 101:101 "$root/var/cache/nginx" "$root/var/lib/nginx"
# The server's logs go to the container's output.
ln -sf /dev/stdout "$root/var/log/nginx/access.log"
ln -sf /dev/stderr "$root/var/log/nginx/error.log"
# nginx-common arranges sites in Debian's way and needs Perl for that.
rm -rf "$root"/etc/nginx/sites-* "$root"/etc/nginx/modules-* "$root"/usr/share/perl* "$root"/usr/lib/*/perl*
