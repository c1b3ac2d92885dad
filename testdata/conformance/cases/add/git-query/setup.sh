mkdir -p $W/_http/r; cd $W/_http; rm -rf r; git init -q -b main r; cd r; git config user.email a@b; git config user.name n
export GIT_AUTHOR_DATE="2024-01-01T00:00:00Z" GIT_COMMITTER_DATE="2024-01-01T00:00:00Z"
mkdir sub; echo one > one; echo two > sub/two; printf '#!/bin/sh\n' > x; chmod +x x; ln -s one l; git add .; git commit -qm one; git tag v1
echo changed > one; git commit -qam two; git checkout -qb dev; echo dev > dev; git add dev; git commit -qm dev; git checkout -q main; cd ..; git clone -q --bare r r.git; rm -rf r
