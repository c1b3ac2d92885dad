mkdir -p src/sub; echo one > src/one; echo two > src/sub/two; ln -s one src/link; ln src/one src/hard; chmod 750 src/sub; chmod 600 src/sub/two
TAR="tar --owner=1000 --group=50 --numeric-owner --mtime=@1600000000 --sort=name"
$TAR -C src -cf a.tar one sub; rm -r src
