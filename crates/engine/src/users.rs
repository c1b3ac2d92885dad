//! Users and groups of an image, from its own `/etc/passwd` and `/etc/group`.

use rbuild_executor::{User, UserDatabase};
use rbuild_fs::{Root, RootfsPath};

use crate::error::{Explain, Failure, FailureKind, Result};
use crate::state::Rootfs;

/// A database larger than this is not read: it is no user database.
const MOST: u64 = 16 << 20;

/// The user that `USER` text names in this tree.
pub(crate) fn of(root: &Root, user: &str) -> Result<User> {
    database(root)?.resolve(user).explain(FailureKind::Build, || format!("could not find the user `{user}`"))
}

/// Numbers for `--chown=user[:group]` and for the folders of WORKDIR.
pub(crate) fn for_chown(root: &Root, text: &str) -> Result<(u32, u32)> {
    Ok(owner(&database(root)?, text))
}

/// As the reference works them out (client/llb `WithUser`, solver/llbsolver/ops/user_linux.go): a number stands for
/// the group too, a name that is not there is root, a group that is not there changes nothing, an empty one is 0.
fn owner(database: &UserDatabase, text: &str) -> (u32, u32) {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let (uid, gid) = match plain_id(user) {
        Some(id) => (id, id),
        None => (database.uid(user).unwrap_or(0), database.primary_gid(user).unwrap_or(0)),
    };
    let group = group.map(|group| plain_id(group).or_else(|| database.gid(group).ok()));
    (uid, group.flatten().unwrap_or(gid))
}

/// Refuses names where there is no file at all to find them in.
pub(crate) fn can_be_found(text: &str, rootfs: &Rootfs) -> Result<()> {
    if is_named(text) && matches!(rootfs, Rootfs::Empty) {
        return Err(Failure::new(
            FailureKind::Build,
            format!(
                "could not find the owner `{text}`: there is no /etc/passwd and no /etc/group in scratch"
            ),
        )
        .help("give numbers: --chown=1000:1000")
        .into());
    }
    Ok(())
}

/// Whether a part of `user[:group]` has to be looked up in the image.
fn is_named(text: &str) -> bool {
    text.split(':').any(|part| plain_id(part).is_none())
}

fn plain_id(text: &str) -> Option<u32> {
    match text {
        "" | "root" => Some(0),
        digits => digits.parse::<i32>().ok().and_then(|id| u32::try_from(id).ok()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_as_the_reference_reads_them() {
        let passwd = "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n3000:x:77:88::/:/bin/sh\n";
        let database = UserDatabase::parse(passwd, "staff:x:50:app\n");
        for (text, expected) in [
            ("app", (1000, 1001)),
            ("app:staff", (1000, 50)),
            ("app:7", (1000, 7)),
            ("app:", (1000, 0)),
            ("app:none", (1000, 1001)),
            (":staff", (0, 50)),
            ("1000", (1000, 1000)),
            ("1000:none", (1000, 1000)),
            ("3000", (3000, 3000)),
            ("root", (0, 0)),
            ("none", (0, 0)),
        ] {
            assert_eq!(owner(&database, text), expected, "{text}");
        }
    }

    #[test]
    fn what_has_to_be_looked_up() {
        for (text, named) in [
            ("5", false),
            ("5:6", false),
            ("root:root", false),
            ("5:", false),
            ("app", true),
            ("5:staff", true),
        ] {
            assert_eq!(is_named(text), named, "{text}");
        }
    }
}
