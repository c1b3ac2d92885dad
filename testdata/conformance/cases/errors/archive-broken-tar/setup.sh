echo x > f; tar -cf a.tar f; printf "garbage" | dd of=a.tar bs=1 seek=1024 conv=notrunc 2>/dev/null; head -c 600 /dev/urandom >> a.tar
