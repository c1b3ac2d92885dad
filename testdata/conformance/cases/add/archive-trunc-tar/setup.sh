head -c 20000 /dev/zero > f; tar -cf b.tar f; head -c 5000 b.tar > a.tar; rm b.tar
