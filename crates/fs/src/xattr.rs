//! The extended attributes that images keep.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::error::{PathContext, PathError};
use crate::journal::proc_path;
use crate::path::RootfsPath;
use crate::root::Root;

/// Names and values of extended attributes.
pub type Xattrs = BTreeMap<OsString, Vec<u8>>;

/// The kernel's limit of a list and of a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_BYTES: usize = 65536;

const CAPABILITY: &str = "security.capability";
/// Where file capabilities are kept that the kernel refuses this process: outside of user namespaces only root may set them.
const KEPT_CAPABILITY: &str = "user.rbuild.capability";

/// Whether an image keeps this attribute: `security.capability` and `user.*`, without those of overlayfs and the
/// journal's.
pub fn kept_in_images(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == CAPABILITY.as_bytes()
        || (name.starts_with(b"user.")
            && !name.starts_with(b"user.overlay.")
            && !name.starts_with(b"user.rbuild."))
}

/// The name under which an image has an attribute of a file here; `None` for those that it does not have.
pub fn name_in_image(name: &OsStr) -> Option<&OsStr> {
    if name == KEPT_CAPABILITY { Some(OsStr::new(CAPABILITY)) } else { kept_in_images(name).then_some(name) }
}

impl Root {
    /// The attributes an image keeps of this file; a link at the path's end is not followed. Empty where the file
    /// system has none.
    pub fn xattrs(&self, path: &RootfsPath) -> Result<Xattrs, PathError> {
        let named =
            |error: Errno| PathError::new("read the extended attributes of", self.name_of(path), error);
        let (dir, name) = self.parent_at(path).map_err(named)?;
        read_all(&proc_path(dir.as_fd(), &name)).map_err(named)
    }

    /// The attributes an image keeps of a file in an open directory.
    pub fn xattrs_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<Xattrs, PathError> {
        let name = name.as_ref();
        read_all(&proc_path(dir.as_fd(), name)).on("read the extended attributes of", name)
    }

    /// One attribute of a file, whatever its name; `None` if it has no such attribute or can have none. A link at the
    /// path's end is not followed.
    pub fn xattr(
        &self,
        path: &RootfsPath,
        attribute: impl AsRef<OsStr>,
    ) -> Result<Option<Vec<u8>>, PathError> {
        let mut value = vec![0u8; MAX_BYTES];
        let read = self.parent_at(path).and_then(|(dir, name)| {
            match rustix::fs::lgetxattr(proc_path(dir.as_fd(), &name), attribute.as_ref(), &mut value[..]) {
                Ok(length) => Ok(Some(length)),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let length = read.on("read an extended attribute of", self.name_of(path))?;
        Ok(length.map(|length| value[..length].to_vec()))
    }

    /// Sets an attribute of a file; a link at the path's end is not followed.
    pub fn set_xattr(
        &self,
        path: &RootfsPath,
        attribute: impl AsRef<OsStr>,
        value: &[u8],
    ) -> Result<(), PathError> {
        let set = self.parent_at(path).and_then(|(dir, name)| {
            let host = proc_path(dir.as_fd(), &name);
            match rustix::fs::lsetxattr(&host, attribute.as_ref(), value, XattrFlags::empty()) {
                Err(Errno::PERM) if attribute.as_ref() == CAPABILITY && self.journal.keeps() => {
                    rustix::fs::lsetxattr(&host, KEPT_CAPABILITY, value, XattrFlags::empty())
                }
                answer => answer,
            }
        });
        set.on("set an extended attribute of", self.name_of(path))
    }

    /// Removes an attribute of a file; one that is not there is no error.
    pub fn remove_xattr(&self, path: &RootfsPath, attribute: impl AsRef<OsStr>) -> Result<(), PathError> {
        let removed = self.parent_at(path).and_then(|(dir, name)| {
            match rustix::fs::lremovexattr(proc_path(dir.as_fd(), &name), attribute.as_ref()) {
                Err(Errno::NODATA) => Ok(()),
                answer => answer,
            }
        });
        removed.on("remove an extended attribute of", self.name_of(path))
    }
}

fn read_all(host: &Path) -> Result<Xattrs, Errno> {
    // Nearly every file has a short list; the second call is for the rest.
    let mut short = [0u8; 512];
    let list = match rustix::fs::llistxattr(host, &mut short[..]) {
        Ok(length) => short[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut long = vec![0u8; MAX_BYTES];
            let length = rustix::fs::llistxattr(host, &mut long[..])?;
            long.truncate(length);
            long
        }
        Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
        Err(error) => return Err(error),
    };
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(OsStr::from_bytes);
    let mut found = Xattrs::new();
    for (name, in_image) in names.filter_map(|name| Some((name, name_in_image(name)?))) {
        let mut value = vec![0u8; MAX_BYTES];
        match rustix::fs::lgetxattr(host, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                value.shrink_to_fit();
                found.insert(in_image.to_owned(), value);
            }
            // Removed meanwhile, or `security.capability` of another user namespace (EOVERFLOW, capabilities(7)).
            Err(Errno::NODATA | Errno::OVERFLOW) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
