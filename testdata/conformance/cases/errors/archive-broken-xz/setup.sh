head -c 90000 /dev/urandom > r; tar -cJf b r; head -c 30000 b > a.tar.xz; rm b r
