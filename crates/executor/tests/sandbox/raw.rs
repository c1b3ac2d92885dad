//! System calls as a hostile program makes them, and a kernel that denies some.

#![expect(unsafe_code, reason = "system calls that no library wraps; tests only")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// A system call with numbers and addresses as they come.
pub(crate) fn call(number: i64, arguments: &[usize]) -> io::Result<i64> {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: callers pass addresses of values that outlive the call, and numbers.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// What the kernel is made to deny.
pub(crate) const PIVOT_ROOT: &str = "pivot_root";
/// As a security module that lets the namespace come to be and then takes its capabilities.
pub(crate) const MOUNTS: &str = "mounts";
/// A write of as many bytes as the line of the id map has; the number follows.
pub(crate) const ID_MAP: &str = "id-map:";

/// `--deny WHAT PROGRAM ARGUMENT…`: becomes that program, which has to live with it. As root only, so that programs may still
/// change their user.
pub(crate) fn denied() -> ExitCode {
    let mut words = std::env::args().skip_while(|word| word != "--deny").skip(1);
    let (what, program) = (words.next().expect("what"), words.next().expect("a program"));
    deny(&what).expect("a seccomp filter");
    panic!("{program}: {}", Command::new(&program).args(words).exec())
}

fn deny(what: &str) -> io::Result<()> {
    let (calls, length) = match what {
        PIVOT_ROOT => (&[libc::SYS_pivot_root][..], None),
        MOUNTS => (&[libc::SYS_mount, libc::SYS_fsopen, libc::SYS_open_tree, libc::SYS_move_mount][..], None),
        other => {
            (&[libc::SYS_write][..], other.strip_prefix(ID_MAP).map(|text| text.parse().expect("a number")))
        }
    };
    // Of `struct seccomp_data`: the call's number, and the third argument, of which 32 bits are enough.
    let (number, third) = (0, 32);
    let op = |code: u32, k: u32, yes: u8, no: u8| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let load = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let equals = |value, yes, no| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, yes, no);
    let answer = |value| op(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    let mut filter = vec![load(number)];
    for (index, call) in calls.iter().enumerate() {
        let rest = (calls.len() - index - 1) as u8;
        filter.push(equals(*call as u32, rest + 1, 0));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    if let Some(length) = length {
        filter.extend([load(third), equals(length, 1, 0), answer(libc::SECCOMP_RET_ALLOW)]);
    }
    filter.push(answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
    call(libc::SYS_seccomp, &[mode, 0, &raw const program as usize]).map(drop)
}
