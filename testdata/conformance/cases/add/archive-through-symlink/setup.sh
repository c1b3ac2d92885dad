python3 - <<'P'
import tarfile,io
t=tarfile.open('a.tar','w')
def f(n,d=b'x'):
    i=tarfile.TarInfo(n); i.size=len(d); t.addfile(i,io.BytesIO(d))
f('links/todir/new'); f('links/rel'); f('lib/zz')
t.close()
P
