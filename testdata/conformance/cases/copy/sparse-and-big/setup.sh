head -c 3000000 /dev/zero > big; printf end >> big
