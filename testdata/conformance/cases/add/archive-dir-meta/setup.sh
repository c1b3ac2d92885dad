mkdir -p s/own s/perm; chmod 711 s/own; tar -C s -cf a.tar --mode=0711 --owner=7 --group=8 own; rm -r s
