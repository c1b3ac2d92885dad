echo hello | gzip -n > f.gz
