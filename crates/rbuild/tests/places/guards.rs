//! Builds in place happen where every sign allows them and nowhere else, and leave the root as they found it. All of it is
//! tried in containers that are thrown away.

use std::fs;

use libtest_mimic::Failed;

use crate::container::{Container, Rights};
use crate::fixture::Fixture;

/// `sh GUARDS OUT STORE SHARED`, in a container of `examples/ci-image`. Each `NAME.said` ends with an exit code.
pub(crate) const SCRIPT: &str = r#"
out=$1 store=$2 shared=$3 rbuild=/rbuild/rbuild marker=/rbuild/.in-place
for program in cp mv rm ls cat touch chmod mkdir sleep grep timeout; do
    eval "$program() { /rbuild/busybox $program \"\$@\"; }"
done
doctor() { "$1" --root "$store" --isolation=in-place doctor; }
try() { name=$1; shift; { "$@"; echo "code $?"; } >"$out/$name.said" 2>&1; }
build() {
    $rbuild --root "$store" --progress plain --build-context base=oci-layout://$shared/base:latest \
        --secret id=key,src=$shared/key "$@" -f - $shared/cases/copy
}
try in-place doctor $rbuild

touch /precious
try stranger doctor $rbuild
try stranger-build build --isolation=in-place <<END
FROM base
RUN true
END
test -e /precious && echo kept >"$out/precious"
rm /precious

mv $marker /rbuild/marker
try unmarked doctor $rbuild
# Without being asked to it is a place like any other.
try unmarked-auto $rbuild --root "$store" doctor
mv /rbuild/marker $marker
chmod 666 $marker
try open-marker doctor $rbuild
chmod 644 $marker
cp $rbuild /dev/rbuild
try other-program doctor /dev/rbuild
rm /dev/rbuild

ls -A / >"$out/before"
try leftovers build <<'END'
FROM base
RUN (sleep 777 >/dev/null 2>&1 &) ; (setsid sleep 778 >/dev/null 2>&1 &) ; sleep 0.1; true
RUN ! grep -l sle[e]p.77 /proc/[0-9]*/cmdline
END
try failed build <<'END'
FROM base
RUN --mount=type=secret,id=key,target=/run/key sleep 779 & exit 9
END
try cut-off timeout -s INT 3 $rbuild --root "$store" --progress plain \
    --build-context base=oci-layout://$shared/base:latest -f - $shared/cases/copy <<'END'
FROM base
RUN (setsid sleep 780 &); sleep 780
END
ls -A / >"$out/after"
ls -A /dev/shm >"$out/memory"
try killed timeout -s KILL 3 $rbuild --root "$store" --progress plain \
    --build-context base=oci-layout://$shared/base:latest -f - $shared/cases/copy <<'END'
FROM base
RUN (setsid sleep 781 &); sleep 781
END
sleep 0.3
grep -l sle[e]p.7 /proc/[0-9]*/cmdline >"$out/processes" 2>/dev/null
# Killed in the middle it leaves its root behind, and the container is of no use any more.
try after-kill doctor $rbuild
"#;

/// What is to be found in the answers: words, and the exit code.
const SAID: [(&str, &str, u8); 12] = [
    ("in-place", "in place: RUN works in this container's own root", 0),
    ("stranger", "/precious is no part of an image for builds in place", 3),
    ("stranger-build", "/precious is no part", 3),
    ("unmarked", "there is no /rbuild/.in-place", 3),
    ("unmarked-auto", "no user namespace", 3),
    ("open-marker", "is not a file that only root may write", 3),
    ("other-program", "rbuild itself lies at /dev/rbuild", 3),
    ("leftovers", "DONE", 0),
    ("failed", "exit code: 9", 1),
    ("cut-off", "sleep 780", 130),
    ("killed", "sleep 781", 137),
    ("after-kill", "is no part of an image for builds in place", 3),
];

/// Runs the script, and looks at what it wrote.
pub(crate) fn hold(fixture: &Fixture) -> Result<(), Failed> {
    let own = fixture.own("guards");
    let rights = Rights::Docker { uid: 0 };
    let container = Container { rights, volume: false, in_place: true, script: "guards", own: &own, fixture };
    let output = container.command("guards")?.output()?;
    let read = |name: &str| fs::read_to_string(own.join("out").join(name)).unwrap_or_default();
    if read("in-place.said").is_empty() {
        eprintln!("\nSKIP guards: {}\n", String::from_utf8_lossy(&output.stderr));
        return Ok(());
    }
    let mut faults = Vec::new();
    for (name, words, code) in SAID {
        let said = read(&format!("{name}.said"));
        if !said.contains(words) || !said.ends_with(&format!("code {code}\n")) {
            faults.push(format!("{name}: no `{words}` with {code} in\n{said}"));
        }
    }
    for (name, expected) in [
        ("precious", "kept\n"),
        ("before", "dev\nproc\nrbuild\nsys\n"),
        ("after", "dev\nproc\nrbuild\nsys\n"),
        ("processes", ""),
        ("memory", ""),
    ] {
        if read(name) != expected {
            faults.push(format!("{name}: {:?}", read(name)));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n\n").into()) }
}
