//! Users and groups of an image, from its own `/etc/passwd` and `/etc/group`.

use rbuild_executor::{User, UserDatabase};
use rbuild_fs::{Root, RootfsPath};

use crate::error::{Explain, FailureKind, Result};

/// A database larger than this is not read: it is no user database.
const MOST: u64 = 16 << 20;

/// The user that `USER` text names in this tree.
pub(crate) fn of(root: &Root, user: &str) -> Result<User> {
    database(root)?.resolve(user).explain(FailureKind::Build, || format!("could not find the user `{user}`"))
}

/// Numbers for `--chown=user[:group]`. A name that is not there counts as 0 and a missing group as the user's number,
/// as in the reference (solver/llbsolver/ops/user_linux.go).
pub(crate) fn for_chown(root: &Root, text: &str) -> Result<(u32, u32)> {
    let database = database(root)?;
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let uid = database.uid(user).unwrap_or(0);
    let gid = match group {
        Some(group) => database.gid(group).unwrap_or(0),
        None if user.bytes().all(|byte| byte.is_ascii_digit()) => uid,
        None => database.primary_gid(user).unwrap_or(uid),
    };
    Ok((uid, gid))
}

pub(crate) fn database(root: &Root) -> Result<UserDatabase> {
    let read = |path: &str| -> Result<String> {
        let path = RootfsPath::new(path);
        let fault = || "could not read the image's users".to_owned();
        match root.meta_follow(&path).explain(FailureKind::Build, fault)? {
            Some(meta) if meta.is_file() => {
                let bytes = root.read(&path, MOST).explain(FailureKind::Build, fault)?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ => Ok(String::new()),
        }
    };
    Ok(UserDatabase::parse(&read("/etc/passwd")?, &read("/etc/group")?))
}
