mkdir s; echo 1 > s/one; tar -C s -cf x.tar one; echo 2 > s/two; tar -C s -cf y.tar two; rm -r s
