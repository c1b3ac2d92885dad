//! Other owners and users in a place with a single id.

use std::sync::Arc;

use rbuild_executor::PlaceKind;
use rbuild_fs::{FileKind, FileSidecar, Journal, Meta, Root, RootfsPath};

use crate::fixture::{Box, Ran, Test, place, run_spec};

pub(crate) fn tests() -> Vec<Test> {
    if place().kind() != PlaceKind::SingleId {
        return Vec::new();
    }
    vec![
        ("supervised::chown_is_seen_by_all", chown_is_seen_by_all),
        ("supervised::a_user_from_the_start", a_user_from_the_start),
        ("supervised::su_and_back", su_and_back),
        ("supervised::what_others_make", what_others_make),
        ("supervised::setuid_bits", setuid_bits),
        ("supervised::devices", devices),
        ("supervised::the_journal_follows", the_journal_follows),
        ("supervised::links_between_steps", links_between_steps),
        ("supervised::copies", copies),
    ]
}

fn sh(sandbox: &Box, line: &str) -> Ran {
    let ran = run_spec(&sandbox.spec(&["sh", "-ec", line]));
    assert_eq!(ran.stderr, "", "{line}: {ran:?}");
    ran
}

fn as_app<'a>(sandbox: &'a Box, line: &'a str) -> Ran {
    let mut spec = sandbox.spec(&["sh", "-c", line]);
    (spec.uid, spec.gid, spec.groups) = (1500, 1501, vec![10, 20]);
    run_spec(&spec)
}

/// What the image will say.
fn meta(sandbox: &Box, path: &str) -> Meta {
    let root = Root::open(sandbox.path("upper")).unwrap();
    let root = match FileSidecar::open(sandbox.path("sidecar")) {
        Ok(sidecar) => root.with_journal(Journal::with_sidecar(Arc::new(sidecar))),
        Err(_) => root,
    };
    root.meta(&RootfsPath::new(path)).unwrap().unwrap_or_else(|| panic!("{path} is not in the layer"))
}

fn owner(sandbox: &Box, path: &str) -> (u32, u32, u32) {
    let meta = meta(sandbox, path);
    (meta.uid, meta.gid, meta.mode)
}

fn chown_is_seen_by_all() {
    let mut sandbox = Box::new();
    let ran = sh(
        &sandbox,
        "mkdir -p /srv/a/b; echo x >/srv/a/b/f; chown -R 33:34 /srv/a; chown 5 /etc/passwd; chown :6 /srv; \
         stat -c '%u:%g %a %n' /srv /srv/a /srv/a/b/f /etc/passwd; cat /srv/a/b/f",
    );
    assert_eq!(ran.stdout, "0:6 755 /srv\n33:34 755 /srv/a\n33:34 644 /srv/a/b/f\n5:0 644 /etc/passwd\nx\n");
    sandbox.upper();
    assert_eq!(owner(&sandbox, "/srv/a/b/f"), (33, 34, 0o644));
    assert_eq!(owner(&sandbox, "/etc/passwd"), (5, 0, 0o644));
    assert_eq!(owner(&sandbox, "/srv"), (0, 6, 0o755));
}

fn a_user_from_the_start() {
    let mut first = Box::new();
    sh(
        &first,
        "chown 1500:1501 /home/app; echo s >/root/s; chmod 600 /root/s; echo t >/etc/t; chmod 640 /etc/t; chown :20 /etc/t",
    );
    first.upper();
    let sandbox = Box::over(&[first.path("upper"), crate::fixture::base().to_path_buf()]);
    let ran = as_app(
        &sandbox,
        "id -u; id -g; id -G; cd; touch /home/app/f; mkdir /home/app/d; stat -c '%u:%g %a' /home/app/f /home/app/d; \
         cat /root/s || echo no; cat /etc/t; touch /etc/x || echo no; chown 0 /home/app/f || echo no; \
         chown :20 /home/app/f && stat -c %g /home/app/f; cat /proc/self/status >/dev/null && echo proc",
    );
    assert_eq!(
        ran.stdout, "1500\n1501\n1501 10 20\n1500:1501 644\n1500:1501 755\nno\nt\nno\nno\n20\nproc\n",
        "{}",
        ran.stderr
    );
}

fn su_and_back() {
    let sandbox = Box::new();
    let ran = sh(
        &sandbox,
        "su app -c 'id -u; id -g; id -G; su root -c true 2>/dev/null || echo no; sh -c \"sleep 0; id -u\"'; id -u",
    );
    assert_eq!(ran.stdout, "1500\n1501\n1501 10 20\nno\n1500\n0\n", "{ran:?}");
}

fn what_others_make() {
    let mut sandbox = Box::new();
    sh(
        &sandbox,
        "mkdir -m 2775 /srv; chown 0:50 /srv; chmod g+s /srv; mkdir /srv/d; touch /srv/f; mkdir -m 777 /open; \
         su app -c 'umask 027; cd /open; echo 1 >f; mkdir d; ln -s f l; mkfifo p; (echo 2 >g); set -C; echo 3 >h; ln f hard'",
    );
    sandbox.upper();
    assert_eq!(owner(&sandbox, "/srv/d"), (0, 50, 0o2755));
    assert_eq!(owner(&sandbox, "/srv/f"), (0, 50, 0o644));
    assert_eq!(owner(&sandbox, "/open/f"), (1500, 1501, 0o640));
    assert_eq!(owner(&sandbox, "/open/d"), (1500, 1501, 0o750));
    assert_eq!(owner(&sandbox, "/open/g"), (1500, 1501, 0o640));
    assert_eq!(owner(&sandbox, "/open/h"), (1500, 1501, 0o640));
    assert_eq!(meta(&sandbox, "/open/hard").nlink, 2);
}

fn setuid_bits() {
    let mut sandbox = Box::new();
    let ran = sh(
        &sandbox,
        "mkdir /up; cp /bin/busybox /up; chown 77:78 /up/busybox; chmod 6755 /up/busybox; stat -c %a /up/busybox; \
         cp /bin/busybox /up/su; chmod 4755 /up/su; su app -c '/up/su nobody 2>&1' || chmod 755 /up/su; \
         su app -c '/up/su nobody 2>&1' || true; \
         cp /bin/busybox /bin/was; chown 77 /bin/was; chmod 4711 /bin/was; chown 78 /bin/was; stat -c %a /bin/was; \
         chmod u-s,g-s /up/busybox; stat -c %a /up/busybox",
    );
    assert_eq!(ran.stdout, "6755\nsu: unknown user nobody\nsu: must be suid to work properly\n711\n755\n");
    sandbox.upper();
    assert_eq!(owner(&sandbox, "/up/busybox"), (77, 78, 0o755));
    assert_eq!(owner(&sandbox, "/bin/was"), (78, 0, 0o711));
}

fn devices() {
    let mut sandbox = Box::new();
    let ran = sh(
        &sandbox,
        "mknod /n c 1 3; mknod -m 600 /b b 8 300; chown 0:6 /b; stat -c '%F %t:%T %a %g' /n /b; mknod /p p; \
         su app -c 'mknod /tmp/x c 1 3 2>/dev/null || echo no'; mknod /w c 0 0",
    );
    assert_eq!(ran.stdout, "character special file 1:3 644 0\nblock special file 8:12c 600 6\nno\n");
    sandbox.upper();
    assert_eq!(meta(&sandbox, "/n").kind, FileKind::CharDevice { major: 1, minor: 3 });
    assert_eq!(meta(&sandbox, "/b").kind, FileKind::BlockDevice { major: 8, minor: 300 });
    assert_eq!(meta(&sandbox, "/w").kind, FileKind::CharDevice { major: 0, minor: 0 });
    assert_eq!(owner(&sandbox, "/b"), (0, 6, 0o600));
    assert_eq!(meta(&sandbox, "/p").kind, FileKind::Fifo);
}

fn the_journal_follows() {
    let mut sandbox = Box::new();
    sh(
        &sandbox,
        "cd /tmp; echo 1 >a; chown 7 a; mv a b; echo 2 >c; chown 8 c; mv c b; ln b d; chown 9 d; \
         echo 3 >e; chown 7 e; rm e; echo 4 >e; mkdir f; chown 7 f; rmdir f; mkdir f; chown 7:7 g 2>/dev/null || touch g; \
         echo 5 >h; chown 7:7 h; chown 0:0 h; chmod 4755 h",
    );
    sandbox.upper();
    assert_eq!(owner(&sandbox, "/tmp/b"), (9, 0, 0o644));
    assert_eq!(owner(&sandbox, "/tmp/d"), (9, 0, 0o644));
    assert_eq!(owner(&sandbox, "/tmp/e"), (0, 0, 0o644));
    assert_eq!(owner(&sandbox, "/tmp/f"), (0, 0, 0o755));
    assert_eq!(owner(&sandbox, "/tmp/g"), (0, 0, 0o644));
    assert_eq!(owner(&sandbox, "/tmp/h"), (0, 0, 0o4755));
}

/// Links carry no attribute: in memory during the run, beside the layer after it.
fn links_between_steps() {
    let mut first = Box::new();
    let sidecar = |sandbox: &Box| Arc::new(FileSidecar::open(sandbox.path("sidecar")).unwrap());
    let run_with = |sandbox: &Box, line: &str| {
        let mut spec = sandbox.spec(&["sh", "-ec", line]);
        spec.sidecar = Some(sidecar(sandbox));
        run_spec(&spec)
    };
    let ran = run_with(
        &first,
        "ln -s x /l; chown -h 5:6 /l; mkfifo /p; chown 7 /p; ln -s y /m; chown -h 8 /m; rm /m; ln -s z /m; \
         chown -h 9 /bin/ls; ln -s q /old; chown -h 3 /old; mv /old /new; stat -c '%u:%g' /l /p /m /bin/ls /new",
    );
    assert_eq!(ran.stdout, "5:6\n7:0\n0:0\n9:0\n3:0\n", "{ran:?}");
    first.upper();
    assert_eq!(owner(&first, "/l").0, 5);
    assert_eq!(owner(&first, "/p").0, 7);
    assert_eq!(owner(&first, "/m").0, 0);
    assert_eq!(owner(&first, "/bin/ls").0, 9);
    assert_eq!(owner(&first, "/new").0, 3);

    let mut second = Box::over(&[first.path("upper"), crate::fixture::base().to_path_buf()]);
    std::fs::copy(first.path("sidecar"), second.path("sidecar")).unwrap();
    let ran =
        run_with(&second, "mv /l /moved; touch -h /bin/ls; chown -h 4 /new; stat -c %u /moved /bin/ls /new");
    assert_eq!(ran.stdout, "5\n9\n4\n", "{ran:?}");
    second.upper();
    assert_eq!(owner(&second, "/moved").0, 5);
    assert_eq!(owner(&second, "/bin/ls").0, 9);
    assert_eq!(owner(&second, "/new").0, 4);
}

fn copies() {
    let mut sandbox = Box::new();
    let ran = sh(
        &sandbox,
        "mkdir -p /tmp/s/d; echo 1 >/tmp/s/f; ln -s f /tmp/s/l; chown 5:6 /tmp/s /tmp/s/f; chown 7 /tmp/s/d; chmod 4755 /tmp/s/f; \
         cp -a /tmp/s /tmp/t; tar -C /tmp/s -cf /tmp/x.tar .; mkdir /tmp/u; tar -C /tmp/u -xpf /tmp/x.tar; \
         stat -c '%u:%g %a' /tmp/t /tmp/t/f /tmp/t/d /tmp/u/f /tmp/u/d",
    );
    assert_eq!(ran.stdout, "5:6 755\n5:6 4755\n7:0 755\n5:6 4755\n7:0 755\n");
    sandbox.upper();
    assert_eq!(owner(&sandbox, "/tmp/u/f"), (5, 6, 0o4755));
}
