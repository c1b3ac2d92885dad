mkdir s; echo 1 > s/one; tar --mtime=@1600000000 --owner=3 --group=4 -C s -cf $W/_http/a.tar one; rm -r s
