//! The marks of overlayfs in an upper or lower directory (kernel: Documentation/filesystems/overlayfs.rst),
//! in the `user.` name space that mounts with `userxattr` use.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rbuild_fs::{
    FileKind, Meta, PathContext, PathError, Root, RootfsPath, Timestamp, Xattrs, journal, kept_in_images,
    name_in_image,
};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

/// Names of overlayfs's own attributes.
const PRIVATE: &[u8] = b"user.overlay.";
/// What a command inside the mount wrote as `user.overlay.x` lies in the upper directory as
/// `user.overlay.overlay.x` (Linux 6.7).
const ESCAPED: &[u8] = b"user.overlay.overlay.";
/// `y` on a directory: nothing below shows through.
pub(crate) const OPAQUE: &str = "user.overlay.opaque";
/// On an empty regular file: a whiteout in the form that needs no device node (Linux 6.7).
const WHITEOUT: &str = "user.overlay.whiteout";

/// A layer's name for a removed file is this prefix and the name (OCI image-spec, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The entry that hides all a directory has below.
pub(crate) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// Size of the buffer for a list of names; nearly every file has a short one.
const SHORT: usize = 1024;
/// The kernel's `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const LONG: usize = 65536;

/// The attributes of an open file, sorted out.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// What goes into the layer, under the names that the file has inside the mount.
    pub(crate) kept: Xattrs,
    /// The directory is opaque.
    pub(crate) opaque: bool,
    /// The file is a whiteout if it is empty.
    pub(crate) whiteout: bool,
}

impl Attributes {
    /// Reads the attributes of an open file or directory; none where the file system has none.
    pub(crate) fn read(file: impl AsFd, name: &OsStr) -> Result<Self, PathError> {
        let mut found = Self::default();
        for attribute in list(file.as_fd()).on("read the extended attributes of", name)? {
            let bytes = attribute.as_bytes();
            if bytes == OPAQUE.as_bytes() {
                let value = value(file.as_fd(), &attribute).on("read the extended attributes of", name)?;
                // `x` marks a directory that has whiteouts in the attribute form.
                found.opaque = value.is_some_and(|value| value == b"y");
            } else if bytes == WHITEOUT.as_bytes() {
                found.whiteout = true;
            } else if let Some(inside) = name_inside(&attribute) {
                let value = value(file.as_fd(), &attribute).on("read the extended attributes of", name)?;
                found.kept.extend(value.map(|value| {
                    let plain = plain_capability(inside.as_bytes(), value);
                    (inside, plain)
                }));
            }
        }
        Ok(found)
    }
}

/// The name an attribute has inside the mount; `None` for those that never leave the machine.
fn name_inside(attribute: &OsStr) -> Option<std::ffi::OsString> {
    if let Some(inner) = attribute.as_bytes().strip_prefix(ESCAPED) {
        return Some(OsStr::from_bytes(&[PRIVATE, inner].concat()).to_owned());
    }
    name_in_image(attribute).map(OsStr::to_owned)
}

/// The name under which an attribute of a layer is stored in a lower directory; `None` if it is dropped.
/// Overlayfs's own are escaped, or a hostile layer could make directories opaque and redirect them.
pub(crate) fn name_in_lower(attribute: &OsStr) -> Option<std::ffi::OsString> {
    if let Some(inner) = attribute.as_bytes().strip_prefix(PRIVATE) {
        return Some(OsStr::from_bytes(&[ESCAPED, inner].concat()).to_owned());
    }
    debug_assert!(!kept_in_images(OsStr::new(journal::XATTR)), "a layer must not write the journal");
    kept_in_images(attribute).then(|| attribute.to_owned())
}

/// File capabilities as an image holds them: version 3 ties them to the user namespace that wrote them
/// (capabilities(7)), version 2 does not.
pub(crate) fn plain_capability(name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    const VERSION_3_LEN: usize = 24;
    const VERSION_2_LEN: usize = 20;
    if name == b"security.capability" && value.len() == VERSION_3_LEN && value[3] == 3 {
        value[3] = 2;
        value.truncate(VERSION_2_LEN);
    }
    value
}

/// Makes a whiteout: a 0:0 device, or an empty file with the attribute where such a node is refused (in a user namespace
/// on the overlay of a container).
pub(crate) fn make_whiteout(root: &Root, path: &RootfsPath) -> Result<(), PathError> {
    let node = |kind| Meta::new(kind, 0o600, 0, 0, Timestamp::from_seconds(0));
    root.make(path, &node(FileKind::CharDevice { major: 0, minor: 0 }), None)?;
    let (dir, name) = root.parent_of(path)?;
    if is_device_node(dir.as_fd(), &name) {
        return Ok(());
    }
    root.make(path, &node(FileKind::File), None)?;
    root.set_xattr(path, WHITEOUT, b"y")
}

/// Whether a name of the tree is a whiteout of either form.
pub(crate) fn is_whiteout(root: &Root, path: &RootfsPath, meta: &Meta) -> Result<bool, PathError> {
    if meta.is_file() && meta.size == 0 {
        return Ok(root.xattr(path, WHITEOUT)?.is_some());
    }
    let (dir, name) = root.parent_of(path)?;
    Ok(meta.is_whiteout() && is_device_node(dir.as_fd(), &name))
}

/// Whether nothing below shows through a directory.
pub(crate) fn is_opaque(root: &Root, path: &RootfsPath) -> Result<bool, PathError> {
    Ok(root.xattr(path, OPAQUE)?.is_some_and(|value| value == b"y"))
}

/// Whether a 0:0 device is a node of the kernel's, and so a whiteout; a device of that number that a layer
/// really holds is a placeholder with the journal's entry.
pub(crate) fn is_device_node(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice)
}

fn list(file: BorrowedFd<'_>) -> Result<Vec<std::ffi::OsString>, Errno> {
    let mut short = [0_u8; SHORT];
    let names = match rustix::fs::flistxattr(file, &mut short[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(length) => short[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut long = vec![0_u8; LONG];
            let length = rustix::fs::flistxattr(file, &mut long[..])?;
            long.truncate(length);
            long
        }
        Err(error) => return Err(error),
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
}

/// The value, or `None` if it is gone or not for this user namespace (EOVERFLOW, capabilities(7)).
fn value(file: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0_u8; LONG];
    match rustix::fs::fgetxattr(file, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            value.shrink_to_fit();
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OVERFLOW) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlayfs_s_own_attributes_are_hidden_and_escaped() {
        let inside = |name: &str| name_inside(OsStr::new(name)).map(|name| name.into_string().unwrap());
        assert_eq!(inside("user.overlay.origin"), None);
        assert_eq!(inside("user.rbuild.meta"), None);
        assert_eq!(inside("trusted.x"), None);
        assert_eq!(inside("user.note").as_deref(), Some("user.note"));
        assert_eq!(inside("user.overlay.overlay.opaque").as_deref(), Some("user.overlay.opaque"));
        for name in ["user.overlay.opaque", "user.overlay.overlay.opaque", "user.note", "security.capability"]
        {
            let stored = name_in_lower(OsStr::new(name)).unwrap();
            assert_eq!(inside(stored.to_str().unwrap()).as_deref(), Some(name));
        }
        assert_eq!(name_in_lower(OsStr::new("user.rbuild.meta")), None);
        assert_eq!(name_in_lower(OsStr::new("security.selinux")), None);
    }

    #[test]
    fn capabilities_lose_the_namespace_they_were_written_in() {
        let mut three = vec![1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0];
        let two = plain_capability(b"security.capability", three.clone());
        assert_eq!(two, [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(plain_capability(b"security.capability", two.clone()), two);
        three.truncate(10);
        assert_eq!(plain_capability(b"user.x", three.clone()), three);
    }
}
