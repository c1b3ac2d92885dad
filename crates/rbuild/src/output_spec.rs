//! `--output`, as Docker reads it.

use std::path::PathBuf;

use rbuild_engine::{CompressionChoice, Destination, Output};
use rbuild_image::Reference;
use rbuild_layer::Compression;

use crate::csv;

/// One `-o`, with what concerns the whole build taken out.
#[derive(Debug)]
pub(crate) struct OutputSpec {
    pub(crate) output: Option<Output>,
    /// More names for the image (`name=a,b`).
    pub(crate) names: Vec<Reference>,
    pub(crate) rewrite_timestamp: bool,
    pub(crate) epoch: Option<i64>,
    /// `annotation.KEY=VALUE`.
    pub(crate) annotations: Vec<(String, String)>,
}

/// Reads one `--output`; `tags` are the names given with `-t`.
///
/// # Errors
/// A sentence that names the option's faulty part and says what is possible.
pub(crate) fn parse(text: &str, tags: &[Reference]) -> Result<OutputSpec, String> {
    // Docker: a value without `=` is a folder, or standard output.
    if !text.contains('=') && !text.contains(',') {
        let output = if text == "-" { Output::Tar(Destination::Stdout) } else { Output::Local(text.into()) };
        return Ok(OutputSpec {
            output: Some(output),
            names: Vec::new(),
            rewrite_timestamp: false,
            epoch: None,
            annotations: Vec::new(),
        });
    }
    let attributes = Attributes::parse(text)?;
    let mut names = tags.to_vec();
    let mut more_names = Vec::new();
    for name in attributes.name.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty()) {
        let reference = Reference::parse(name)
            .map_err(|error| format!("`{name}` in --output is no image name: {error}"))?;
        more_names.push(reference.clone());
        names.push(reference);
    }
    let compression = attributes.compression()?;
    let output = match attributes.kind.as_str() {
        "oci" => Some(Output::Oci { to: attributes.archive()?, names, compression }),
        "docker" => Some(match &attributes.dest {
            Some(_) => Output::Docker { to: attributes.archive()?, names },
            // Without a destination, Docker loads the image into its own store; here that is the store.
            None => return attributes.rest(None, more_names),
        }),
        "local" => Some(Output::Local(
            attributes.dest.clone().ok_or("`type=local` wants a folder: add `dest=DIR`")?.into(),
        )),
        "tar" => Some(Output::Tar(attributes.archive()?)),
        "registry" => Some(Output::Registry { names, compression }),
        "image" if attributes.push => Some(Output::Registry { names, compression }),
        "image" | "cacheonly" => None,
        other => {
            return Err(format!(
                "unknown output type `{other}`; there are oci, docker, local, tar, image, registry and cacheonly"
            ));
        }
    };
    attributes.rest(output, more_names)
}

/// `--output`'s keys.
#[derive(Debug, Default)]
struct Attributes {
    kind: String,
    dest: Option<String>,
    folder: bool,
    push: bool,
    name: Option<String>,
    compression: Option<String>,
    level: Option<i32>,
    force: bool,
    rewrite_timestamp: bool,
    epoch: Option<i64>,
    annotations: Vec<(String, String)>,
}

impl Attributes {
    fn parse(text: &str) -> Result<Self, String> {
        let mut read = Attributes::default();
        for (key, value) in csv::pairs(text)? {
            let required =
                || value.clone().ok_or_else(|| format!("`{key}` in --output wants a value: `{key}=…`"));
            let flag = || boolean(&key, value.as_deref());
            let number =
                || required()?.parse::<i64>().map_err(|_| format!("`{key}` in --output wants a number"));
            match key.as_str() {
                "type" => read.kind = required()?,
                "dest" => read.dest = Some(required()?),
                "tar" => read.folder = !flag()?,
                "push" => read.push = flag()?,
                "name" => read.name = Some(required()?),
                "compression" => read.compression = Some(required()?),
                "compression-level" => read.level = Some(number()? as i32),
                "force-compression" => read.force = flag()?,
                "rewrite-timestamp" => read.rewrite_timestamp = flag()?,
                "source-date-epoch" => read.epoch = Some(number()?),
                _ if key.starts_with("annotation.") || key.starts_with("annotation-manifest.") => {
                    let name = key.split_once('.').map(|(_, name)| name.to_owned()).unwrap_or_default();
                    read.annotations.push((name, required()?));
                }
                // Keys of BuildKit's exporters that say what is done here anyway, or concern its own store.
                "oci-mediatypes"
                | "store"
                | "unpack"
                | "mode"
                | "platform-split"
                | "name-canonical"
                | "dangling-name-prefix"
                | "oci-artifact"
                | "compatibility-version"
                | "registry.insecure"
                | "attestation-prefix"
                | "prefer-nondist-layers" => {}
                _ => return Err(format!("unknown key `{key}` in --output")),
            }
        }
        if read.kind.is_empty() {
            return Err(
                "--output wants a type: `type=oci`, `type=docker`, `type=local`, `type=tar` or `type=image`"
                    .to_owned(),
            );
        }
        Ok(read)
    }

    /// A file, a folder with `tar=false`, or standard output.
    fn archive(&self) -> Result<Destination, String> {
        Ok(match (self.dest.as_deref(), self.folder) {
            (Some("-") | None, false) => Destination::Stdout,
            (Some(dest), false) => Destination::File(PathBuf::from(dest)),
            (Some(dest), true) => Destination::Folder(PathBuf::from(dest)),
            (None, true) => return Err("`tar=false` in --output wants a folder: add `dest=DIR`".to_owned()),
        })
    }

    fn compression(&self) -> Result<CompressionChoice, String> {
        let compression = match self.compression.as_deref() {
            None | Some("gzip") => match self.level {
                Some(level) => Compression::Gzip { level: level.clamp(0, 9) as u32 },
                None => Compression::DEFAULT_GZIP,
            },
            Some("zstd") => Compression::Zstd { level: self.level.unwrap_or(3).clamp(0, 22) },
            Some("uncompressed") => Compression::None,
            Some(other) => {
                return Err(format!("unknown compression `{other}`; there are gzip, zstd and uncompressed"));
            }
        };
        Ok(CompressionChoice { compression, force: self.force })
    }

    fn rest(self, output: Option<Output>, names: Vec<Reference>) -> Result<OutputSpec, String> {
        let Attributes { rewrite_timestamp, epoch, annotations, .. } = self;
        Ok(OutputSpec { output, names, rewrite_timestamp, epoch, annotations })
    }
}

/// Go's `strconv.ParseBool`; a key alone is true.
pub(crate) fn boolean(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value.map(str::to_lowercase).as_deref() {
        None | Some("1" | "t" | "true") => Ok(true),
        Some("0" | "f" | "false") => Ok(false),
        Some(other) => Err(format!("`{key}` wants true or false, not `{other}`")),
    }
}
