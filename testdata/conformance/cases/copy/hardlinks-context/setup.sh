ln d/f d/g
ln d/f out
