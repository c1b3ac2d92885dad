mkdir e; tar -cf a.tar -T /dev/null; rmdir e
