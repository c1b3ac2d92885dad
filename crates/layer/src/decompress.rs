//! Decompression of layers and archives, by media type or by their first bytes.

use std::io::{self, BufReader, Read};

use crate::LayerError;

/// How a stream is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Bytes as they are.
    Plain,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
    /// bzip2, any number of streams; in `ADD` only.
    Bzip2,
    /// xz, any number of streams; in `ADD` only.
    Xz,
}

/// The longest prefix that [`Encoding::sniff`] looks at.
const MAGIC: usize = 6;
/// Largest zstd window accepted, as a power of two: what `zstd -d` accepts without being asked, 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Memory for xz dictionaries, in KiB: `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;
const BUFFER: usize = 128 << 10;

impl Encoding {
    /// The encoding that a stream beginning with `prefix` has; anything unknown is [`Encoding::Plain`].
    pub fn sniff(prefix: &[u8]) -> Self {
        match prefix {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may come first (RFC 8878 3.1.2), as in zstd:chunked and pzstd files.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }

    /// The encoding that a layer's media type names (OCI image-spec 1.1, and Docker's schema 2).
    ///
    /// # Errors
    /// [`LayerError::UnknownEncoding`] for a suffix that no layer may have.
    pub fn of_media_type(media_type: &str) -> Result<Self, LayerError> {
        let (_, tail) = media_type.rsplit_once(".tar").unwrap_or(("", "?"));
        match tail {
            "" => Ok(Self::Plain),
            "+gzip" | ".gzip" => Ok(Self::Gzip),
            "+zstd" | ".zstd" => Ok(Self::Zstd),
            _ => Err(LayerError::UnknownEncoding(media_type.to_owned())),
        }
    }
}

/// A reader of the decoded bytes. Memory is bounded whatever the stream says: a few MiB, up to 128 MiB for
/// zstd and xz streams with large windows.
///
/// # Errors
/// The decoder's own set-up; damaged input shows while reading.
pub fn decompress<'a>(
    reader: impl Read + Send + 'a,
    encoding: Encoding,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let input = BufReader::with_capacity(BUFFER, reader);
    Ok(match encoding {
        Encoding::Plain => Box::new(input),
        Encoding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Encoding::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Encoding::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB)),
    })
}

/// Looks at the first bytes and decodes accordingly; says which encoding it was.
///
/// # Errors
/// Reading the first bytes.
pub fn decompress_sniffed<'a>(
    mut reader: impl Read + Send + 'a,
) -> io::Result<(Encoding, Box<dyn Read + Send + 'a>)> {
    let mut prefix = Vec::with_capacity(MAGIC);
    reader.by_ref().take(MAGIC as u64).read_to_end(&mut prefix)?;
    let encoding = Encoding::sniff(&prefix);
    let whole = io::Cursor::new(prefix).chain(reader);
    Ok((encoding, decompress(whole, encoding)?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// `printf hello | xz`, and with `world`: the encoder is not part of the build.
    const XZ_HELLO: &[u8] = &[
        253, 55, 122, 88, 90, 0, 0, 4, 230, 214, 180, 70, 2, 0, 33, 1, 12, 0, 0, 0, 143, 152, 65, 156, 1, 0,
        5, 104, 101, 108, 108, 111, 32, 0, 0, 0, 10, 176, 175, 4, 186, 5, 239, 24, 0, 1, 30, 6, 193, 47, 164,
        29, 31, 182, 243, 125, 1, 0, 0, 0, 0, 4, 89, 90,
    ];
    const XZ_WORLD: &[u8] = &[
        253, 55, 122, 88, 90, 0, 0, 4, 230, 214, 180, 70, 2, 0, 33, 1, 12, 0, 0, 0, 143, 152, 65, 156, 1, 0,
        4, 119, 111, 114, 108, 100, 0, 0, 0, 0, 248, 88, 225, 84, 250, 252, 16, 62, 0, 1, 29, 5, 184, 45,
        128, 175, 31, 182, 243, 125, 1, 0, 0, 0, 0, 4, 89, 90,
    ];

    fn all(bytes: &[u8]) -> io::Result<(Encoding, Vec<u8>)> {
        let (encoding, mut reader) = decompress_sniffed(bytes)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((encoding, out))
    }

    #[test]
    fn every_encoding_is_recognised_and_its_members_are_joined() {
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        type Encode<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
        let table: [(Encoding, Encode<'_>); 5] = [
            (Encoding::Plain, &|bytes| bytes.to_vec()),
            (Encoding::Gzip, &gzip),
            (Encoding::Zstd, &zstd),
            (Encoding::Bzip2, &bzip2),
            (Encoding::Xz, &|bytes| if bytes == b"world" { XZ_WORLD.to_vec() } else { XZ_HELLO.to_vec() }),
        ];
        for (encoding, encode) in table {
            let twice = [encode(b"hello "), encode(b"world")].concat();
            assert_eq!(all(&twice).unwrap(), (encoding, b"hello world".to_vec()));
        }
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let content = b"some text that is long enough to be cut ".repeat(100);
        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        for encoded in [gzip(&content), zstd, bzip2(&content), XZ_HELLO.to_vec()] {
            assert!(all(&encoded[..encoded.len() - 5]).is_err(), "{:?}", Encoding::sniff(&encoded));
        }
    }

    #[test]
    fn short_and_empty_streams_are_plain() {
        for bytes in [&b""[..], b"B", b"\x1f", b"BZh"] {
            assert_eq!(all(bytes).unwrap(), (Encoding::Plain, bytes.to_vec()));
        }
    }

    #[test]
    fn media_types() {
        let of = |text: &str| Encoding::of_media_type(text).ok();
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar"), Some(Encoding::Plain));
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar+gzip"), Some(Encoding::Gzip));
        assert_eq!(of("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"), Some(Encoding::Zstd));
        assert_eq!(of("application/vnd.docker.image.rootfs.diff.tar.gzip"), Some(Encoding::Gzip));
        assert_eq!(of("application/vnd.docker.image.rootfs.diff.tar"), Some(Encoding::Plain));
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar+lz4"), None);
        assert_eq!(of("text/plain"), None);
    }
}
