//! `--cache-from`, `--cache-to` and their like for cache mounts, as Docker reads them.

use rbuild_engine::{CacheExport, CachePlace, CacheTarget, CompressionChoice};
use rbuild_image::Reference;
use rbuild_layer::Compression;

use crate::csv;

/// The keys of one option.
#[derive(Debug, Default)]
struct Attributes {
    kind: String,
    reference: Option<String>,
    /// `src` or `dest`.
    folder: Option<String>,
    max: bool,
    compression: Option<String>,
    level: Option<i32>,
    force: bool,
}

/// Reads a place to take from: `type=registry,ref=NAME`, `type=local,src=DIR`, or an image's name alone.
///
/// # Errors
/// A sentence that names the option's faulty part and says what is possible.
pub(crate) fn import(option: &str, text: &str) -> Result<CachePlace, String> {
    place(option, &Attributes::parse(option, text, "src")?, "src")
}

/// Reads a place to give to: `type=registry,ref=NAME`, `type=local,dest=DIR`, or a repository's name alone.
///
/// # Errors
/// As [`import`].
pub(crate) fn export_place(option: &str, text: &str) -> Result<CachePlace, String> {
    place(option, &Attributes::parse(option, text, "dest")?, "dest")
}

/// Reads `--cache-to`: the same, or `type=inline`; with `mode=max` and how layers are packed.
///
/// # Errors
/// As [`import`].
pub(crate) fn export(text: &str) -> Result<CacheExport, String> {
    let attributes = Attributes::parse("--cache-to", text, "dest")?;
    let to = match attributes.kind.as_str() {
        "inline" if attributes.max => {
            return Err(
                "`type=inline` in --cache-to has no `mode=max`: an image says only what its own layers are"
                    .to_owned(),
            );
        }
        "inline" => CacheTarget::Inline,
        _ => CacheTarget::Place(place("--cache-to", &attributes, "dest")?),
    };
    Ok(CacheExport { to, max: attributes.max, compression: attributes.compression()? })
}

fn place(option: &str, attributes: &Attributes, folder_key: &str) -> Result<CachePlace, String> {
    match attributes.kind.as_str() {
        "registry" => {
            let name = attributes
                .reference
                .as_ref()
                .ok_or_else(|| format!("`type=registry` in {option} wants a repository: add `ref=NAME`"))?;
            let reference = Reference::parse(name)
                .map_err(|error| format!("`{name}` in {option} is no image name: {error}"))?;
            Ok(CachePlace::Registry(reference))
        }
        "local" => {
            let folder = attributes
                .folder
                .as_ref()
                .ok_or_else(|| format!("`type=local` in {option} wants a folder: add `{folder_key}=DIR`"))?;
            let path = std::path::absolute(folder).map_err(|error| {
                format!("could not understand the folder `{folder}` in {option}: {error}")
            })?;
            Ok(CachePlace::Folder(path))
        }
        other => Err(format!(
            "unknown type `{other}` in {option}; there are registry, local and, for --cache-to, inline"
        )),
    }
}

impl Attributes {
    fn parse(option: &str, text: &str, folder_key: &str) -> Result<Self, String> {
        let mut read = Attributes::default();
        if !text.contains('=') && !text.contains(',') {
            // Docker: a name alone is an image's.
            return Ok(Attributes { kind: "registry".to_owned(), reference: Some(text.to_owned()), ..read });
        }
        for (key, value) in csv::pairs(text)? {
            let value = value.ok_or_else(|| format!("`{key}` in {option} wants a value: `{key}=…`"))?;
            match key.as_str() {
                "type" => read.kind = value,
                "ref" => read.reference = Some(value),
                _ if key == folder_key => read.folder = Some(value),
                "mode" => match value.as_str() {
                    "min" => read.max = false,
                    "max" => read.max = true,
                    _ => return Err(format!("`mode` in {option} is `min` or `max`")),
                },
                "compression" => read.compression = Some(value),
                "compression-level" => {
                    let wrong = |_| format!("`compression-level` in {option} wants a number");
                    read.level = Some(value.parse().map_err(wrong)?);
                }
                "force-compression" => read.force = value == "true",
                // Keys of BuildKit's caches that say what is done here anyway.
                "image-manifest" | "oci-mediatypes" | "ignore-error" | "registry.insecure" | "tag"
                | "digest" => {}
                other => return Err(format!("unknown key `{other}` in {option}")),
            }
        }
        Ok(read)
    }

    fn compression(&self) -> Result<CompressionChoice, String> {
        let compression = match self.compression.as_deref() {
            None | Some("gzip" | "estargz") => match self.level {
                None => Compression::DEFAULT_GZIP,
                Some(level) => Compression::Gzip { level: level.clamp(0, 9).unsigned_abs() },
            },
            Some("zstd") => match self.level {
                None => Compression::DEFAULT_ZSTD,
                Some(level) => Compression::Zstd { level: level.clamp(1, 22) },
            },
            Some("uncompressed") => Compression::None,
            Some(other) => {
                return Err(format!(
                    "unknown compression `{other}` in --cache-to; there are gzip, zstd and uncompressed"
                ));
            }
        };
        Ok(CompressionChoice { compression, force: self.force })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for text in
            ["r.io/c", "type=registry,ref=r.io/c", "type=registry,mode=max,ref=r.io/c,image-manifest=true"]
        {
            let place = import("--cache-from", text).unwrap();
            assert_eq!(place, CachePlace::Registry(Reference::parse("r.io/c").unwrap()), "{text}");
        }
        assert_eq!(import("--cache-from", "type=local,src=/c"), Ok(CachePlace::Folder("/c".into())));
        assert_eq!(
            export_place("--cache-mounts-to", "type=local,dest=/c"),
            Ok(CachePlace::Folder("/c".into()))
        );
        let inline = export("type=inline").unwrap();
        assert!(matches!(inline.to, CacheTarget::Inline) && !inline.max);
        assert!(export("type=registry,ref=r.io/c,mode=max,compression=zstd").unwrap().max);
    }

    #[test]
    fn faults_name_what_is_wrong() {
        for (text, words) in [
            ("type=gha", "unknown type `gha`"),
            ("type=registry", "add `ref=NAME`"),
            ("type=local", "add `dest=DIR`"),
            ("type=inline,mode=max", "no `mode=max`"),
            ("type=registry,ref=r.io/c,mode=most", "`min` or `max`"),
            ("type=registry,ref=r.io/c,x=y", "unknown key `x`"),
            ("type=registry,ref=R.io/C", "is no image name"),
            ("type=local,dest=/c,compression=lz4", "unknown compression `lz4`"),
        ] {
            let message = export(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
