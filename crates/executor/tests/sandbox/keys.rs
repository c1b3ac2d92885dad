//! Keys of the kernel (keyrings(7)), which know neither mounts nor pids.

use std::ffi::CString;
use std::io;

use crate::raw::call;

/// `keyctl` operations.
const JOIN_SESSION_KEYRING: usize = 1;
const SEARCH: usize = 10;
const READ: usize = 11;
/// Keyrings by their short numbers: thread, process, session, user, user's session.
const SESSION: isize = -3;
const KEYRINGS: [isize; 5] = [-1, -2, SESSION, -4, -5];

/// A session keyring of this thread's own with a key in it that holds the word: the key's number and name.
pub(crate) fn add(word: &str) -> io::Result<(String, String)> {
    call(libc::SYS_keyctl, &[JOIN_SESSION_KEYRING, 0])?;
    let name = format!("rbuild-test-{}", std::process::id());
    let (kind, description) = (c"user", CString::new(name.clone()).expect("no NUL"));
    let arguments = [
        kind.as_ptr() as usize,
        description.as_ptr() as usize,
        word.as_ptr() as usize,
        word.len(),
        SESSION as usize,
    ];
    let serial = call(libc::SYS_add_key, &arguments)?;
    Ok((serial.to_string(), name))
}

/// By its number, by its name in every keyring, or by request. (/proc/keys, which lists names, is masked.)
pub(crate) fn reaches(serial: &str, name: &str) -> bool {
    let (kind, description) = (c"user", CString::new(name).expect("no NUL"));
    let (kind, description) = (kind.as_ptr() as usize, description.as_ptr() as usize);
    let mut bytes = [0_u8; 64];
    let serial: usize = serial.parse().expect("a number");
    let read = call(libc::SYS_keyctl, &[READ, serial, (&raw mut bytes) as usize, bytes.len()]).is_ok();
    let found = KEYRINGS
        .iter()
        .any(|&ring| call(libc::SYS_keyctl, &[SEARCH, ring as usize, kind, description, 0]).is_ok());
    let given = call(libc::SYS_request_key, &[kind, description, 0, 0]).is_ok();
    read || found || given
}
