# Sourced by each `customize.sh`: what the packages' maintainer scripts would do and the real images have, less what
# nobody needs in an image.
set -e
root=$1

mkdir -p "$root/dev" "$root/etc" "$root/home" "$root/proc" "$root/root" "$root/run" "$root/sys" "$root/tmp"
chmod 0700 "$root/root"
chmod 1777 "$root/tmp"
rm -rf "$root/usr/share/doc" "$root/usr/share/info" "$root/usr/share/lintian" "$root/usr/share/locale" \
    "$root/usr/share/man" "$root/var/lib/dpkg"
# What belongs to the machine that makes the image.
rm -rf "$root/etc/apt/sources.list" "$root/etc/fstab" "$root/etc/hostname" "$root/etc/resolv.conf" "$root/var/log/apt"

# The commands of a small image, as links to busybox; a package's own come first.
for applet in $("$root/bin/busybox" --list); do
    [ -e "$root/usr/bin/$applet" ] || [ -e "$root/usr/sbin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
done

# accounts [NAME UID HOME]: root, nobody and the image's own account.
accounts() {
    {
        echo "root:x:0:0:root:/root:/bin/sh"
        [ -z "$1" ] || echo "$1:x:$2:$2:$1:$3:/sbin/nologin"
        echo "nobody:x:65534:65534:nobody:/:/sbin/nologin"
    } > "$root/etc/passwd"
    {
        echo "root:x:0:"
        [ -z "$1" ] || echo "$1:x:$2:"
        echo "nobody:x:65534:"
    } > "$root/etc/group"
}
