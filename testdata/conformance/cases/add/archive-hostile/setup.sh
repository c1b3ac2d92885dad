python3 - <<'P'
import tarfile,io
t=tarfile.open('a.tar','w')
def f(n,d=b'x',**k):
    i=tarfile.TarInfo(n); i.size=len(d)
    for a,b in k.items(): setattr(i,a,b)
    t.addfile(i,io.BytesIO(d))
f('../up'); f('/abs/file'); f('a/../../b'); f('./dot')
i=tarfile.TarInfo('l'); i.type=tarfile.SYMTYPE; i.linkname='/'; t.addfile(i)
t.close()
P
