//! What is mounted where, as this process sees it (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPoint {
    pub(crate) path: PathBuf,
    /// What part of its file system is shown: `/` is all of it.
    pub(crate) part: PathBuf,
    pub(crate) fs_type: String,
    pub(crate) source: String,
}

/// Every mount of a mountinfo file, `/` included, in its order: a later one may cover an earlier one.
pub(crate) fn mount_points(text: &str) -> Vec<MountPoint> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<MountPoint> {
    let mut fields = line.split(' ');
    let (part, path) = (fields.nth(3)?, fields.next()?);
    // Optional fields end with a dash; the type and the source follow.
    let mut fields = fields.skip_while(|field| *field != "-").skip(1);
    let (fs_type, source) = (fields.next()?.to_owned(), fields.next()?.to_owned());
    Some(MountPoint { path: unescaped(path), part: unescaped(part), fs_type, source })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = bytes.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(value.unwrap_or(byte));
        at += if value.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let text = "22 1 0:21 / / rw,relatime shared:1 master:2 - overlay overlay rw,lowerdir=/a\n\
                    30 22 8:1 /var/lib/x\\040y/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n\
                    broken line\n";
        let found = mount_points(text);
        assert_eq!(found.len(), 2);
        let root = ("/".into(), "/".into(), "overlay".to_owned(), "overlay".to_owned());
        let of_root = found[0].clone();
        assert_eq!((of_root.path, of_root.part, of_root.fs_type, of_root.source), root);
        assert_eq!(found[1].part, PathBuf::from("/var/lib/x y/hosts"));
        assert_eq!((found[1].path.clone(), &*found[1].source), ("/etc/hosts".into(), "/dev/sda1"));
    }
}
