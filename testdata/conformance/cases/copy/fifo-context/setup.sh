mkfifo d/p
