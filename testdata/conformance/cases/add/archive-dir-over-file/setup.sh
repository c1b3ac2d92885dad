mkdir -p s/data/one; echo f > s/data/one/f; tar -C s -cf a.tar data --owner=0 --group=0; rm -r s
