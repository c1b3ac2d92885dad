mkdir -p s/data; echo f > s/opt; echo new > s/data/one; tar -C s -cf a.tar opt data/one --owner=0 --group=0; rm -r s
