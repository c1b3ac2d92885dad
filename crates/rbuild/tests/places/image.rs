//! A flattened image, as `-o type=tar` writes it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Contents up to this size are shown whole.
const SHORT: usize = 200;

/// Absolute path to what lies there.
pub(crate) struct Image(BTreeMap<String, String>);

impl Image {
    /// `None` where there is no such archive.
    pub(crate) fn read(archive: &Path) -> Option<Image> {
        let mut archive = tar::Archive::new(File::open(archive).ok()?);
        Some(Image(archive.entries().ok()?.map(|entry| described(entry.expect("a whole archive"))).collect()))
    }

    /// What differs, a few lines of it; nothing where both are the same.
    pub(crate) fn differences(&self, other: &Image) -> String {
        let paths = self.0.keys().chain(other.0.keys().filter(|path| !self.0.contains_key(*path)));
        let none = "nothing".to_owned();
        let lines = paths.filter_map(|path| {
            let (expected, found) = (self.0.get(path).unwrap_or(&none), other.0.get(path).unwrap_or(&none));
            (expected != found).then(|| format!("  {path}\n    root's: {expected}\n    here:   {found}"))
        });
        lines.take(12).collect::<Vec<_>>().join("\n")
    }
}

/// Type, mode, owner, size, content, link, device and attributes; no time.
fn described(mut entry: tar::Entry<'_, File>) -> (String, String) {
    let mut content = Vec::new();
    entry.read_to_end(&mut content).expect("a whole archive");
    let mut attributes = String::new();
    if let Some(records) = entry.pax_extensions().expect("records") {
        for record in records.map(|record| record.expect("a record")) {
            if let Some(name) = record.key().expect("a name").strip_prefix("SCHILY.xattr.") {
                attributes += &format!(" {name}={:02x?}", record.value_bytes());
            }
        }
    }
    let header = entry.header();
    let device = |number: std::io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
    let text = format!(
        "{:?} {:04o} {}:{} link {:?} device {}:{}{attributes}",
        header.entry_type(),
        header.mode().expect("a mode") & 0o7777,
        header.uid().expect("an owner"),
        header.gid().expect("a group"),
        entry.link_name().expect("a link").map(|link| link.display().to_string()).unwrap_or_default(),
        device(header.device_major()),
        device(header.device_minor()),
    ) + &identity(content);
    (entry.path().expect("a path").display().to_string(), text)
}

/// What tells a content from all others: a short one itself, else its size and a number. Comparing bytes costs a test that is
/// not optimised far less than digesting them.
fn identity(content: Vec<u8>) -> String {
    static KNOWN: Mutex<Option<HashMap<usize, Vec<Vec<u8>>>>> = Mutex::new(None);
    if content.len() <= SHORT {
        return format!(" {:?}", String::from_utf8_lossy(&content));
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let same_size = known.get_or_insert_default().entry(content.len()).or_default();
    let size = content.len();
    let number = same_size.iter().position(|other| *other == content).unwrap_or_else(|| {
        same_size.push(content);
        same_size.len() - 1
    });
    format!(" {size} bytes, number {number}")
}
