//! `RUN --mount`: a line of comma-separated values, each `key=value`.

use serde::Serialize;

use crate::{Diagnostic, Span, Word, parse_bool};

/// What is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the flag's own values")]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl MountKind {
    const NAMES: [(&'static str, MountKind); 5] = [
        ("bind", MountKind::Bind),
        ("cache", MountKind::Cache),
        ("secret", MountKind::Secret),
        ("ssh", MountKind::Ssh),
        ("tmpfs", MountKind::Tmpfs),
    ];

    /// The name in a Dockerfile.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("bind", |(name, _)| name)
    }
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Another one gets a cache of its own.
    Private,
    /// Another one waits.
    Locked,
}

const SHARINGS: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

/// The meaning of a mount's fields. Defaults that depend on more than the mount (its target relative to the working
/// directory, say) are left to who mounts it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MountSpec {
    /// `type`
    pub kind: MountKind,
    /// `target`, `dst`, `destination`
    pub target: Option<String>,
    /// `source`, `src`
    pub source: Option<String>,
    /// `from`: a stage, its number, an image or a named context.
    pub from: Option<String>,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// `required` (secret, ssh)
    pub required: bool,
    /// `id` (cache, secret, ssh)
    pub id: Option<String>,
    /// `sharing` (cache)
    pub sharing: Option<Sharing>,
    /// `size` in bytes (tmpfs)
    pub size: Option<u64>,
    /// `mode` (cache, secret, ssh)
    pub mode: Option<u32>,
    /// `uid` (cache, secret, ssh)
    pub uid: Option<u32>,
    /// `gid` (cache, secret, ssh)
    pub gid: Option<u32>,
    /// `env` (secret): the variable that holds the secret
    pub env: Option<String>,
}

/// A `--mount` flag.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mount {
    /// The flag's value as written, and where.
    pub text: Word,
    /// The fields in order: key in lower case, value.
    pub fields: Vec<(String, Option<String>)>,
    /// What they mean. Before expansion, fields whose values hold variables are not in it.
    pub spec: MountSpec,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

impl Mount {
    /// Reads the value of a `--mount` flag.
    pub(crate) fn parse(text: Word) -> Result<Mount, Diagnostic> {
        let fields = split_csv(&text.text).map_err(|reason| {
            Diagnostic::error(format!("failed to parse csv mounts: {reason}"), text.span)
                .help("a value with a comma or a quote is put in double quotes, a quote in it doubled")
        })?;
        let fields = fields.into_iter().map(|field| match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.to_ascii_lowercase(), None),
        });
        let mut mount = Mount { text, fields: fields.collect(), spec: MountSpec::default() };
        mount.spec = mount.read(|value| value.contains('$'))?;
        Ok(mount)
    }

    /// The mount with each value put through `expand`.
    pub(crate) fn expanded<E>(&self, mut expand: E) -> Result<Mount, Diagnostic>
    where
        E: FnMut(&str, Span) -> Result<String, Diagnostic>,
    {
        let mut mount = self.clone();
        for (_, value) in &mut mount.fields {
            if let Some(value) = value.as_mut().filter(|value| value.contains(['$', '\\', '\'', '"'])) {
                *value = expand(value, self.text.span)?;
            }
        }
        mount.spec = mount.read(|_| false)?;
        Ok(mount)
    }

    /// Whether the name of what is mounted from holds a variable.
    pub(crate) fn has_variable_source(&self) -> bool {
        // A dollar sign at the very end is no variable.
        let variable = |value: &str| value.find('$').is_some_and(|at| at + 1 != value.len());
        self.fields.iter().any(|(key, value)| key == "from" && value.as_deref().is_some_and(variable))
    }

    fn error(&self, message: String) -> Diagnostic {
        Diagnostic::error(message, self.text.span)
    }

    /// An error in the last field of that name, where its place is known: not in quotes, not over several lines.
    fn error_in(&self, key: &str, message: String) -> Diagnostic {
        let (text, span) = (&self.text.text, self.text.span);
        let mut at = span.start;
        let mut place = None;
        for field in text.split(',') {
            let name = field.split_once('=').map_or(field, |(name, _)| name);
            if name.eq_ignore_ascii_case(key) {
                place = Some(Span::new(at, at + field.len()));
            }
            at += field.len() + 1;
        }
        let is_plain = span.len() == text.len() && !text.contains('"');
        Diagnostic::error(message, place.filter(|_| is_plain).unwrap_or(span))
    }

    /// Reads the fields, except those for which `later` says that their value is not known yet.
    fn read(&self, later: impl Fn(&str) -> bool) -> Result<MountSpec, Diagnostic> {
        let mut spec = MountSpec::default();
        let mut read_only = None;
        let unknown_yet = self.fields.iter().any(|(_, value)| value.as_deref().is_some_and(&later));
        let kind_of = |(key, value): &(String, Option<String>)| match (key.as_str(), value) {
            ("type", Some(value)) if !later(value) => Some(self.kind(value)),
            _ => None,
        };
        if let Some(kind) = self.fields.iter().filter_map(kind_of).last() {
            spec.kind = kind?;
        }
        for (key, value) in &self.fields {
            match value.as_deref() {
                Some(value) if later(value) => self.check_key(key)?,
                value => self.read_field(key, value, &mut spec, &mut read_only, unknown_yet)?,
            }
        }
        spec.read_only = read_only.unwrap_or(!matches!(spec.kind, MountKind::Cache | MountKind::Tmpfs));
        match unknown_yet {
            true => Ok(spec),
            false => self.check_together(spec),
        }
    }

    fn kind(&self, value: &str) -> Result<MountKind, Diagnostic> {
        MountKind::NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(value))
            .map(|(_, kind)| *kind)
            .ok_or_else(|| {
                let error = self.error_in("type", format!("unsupported mount type \"{value}\""));
                error.one_of(value, &MountKind::NAMES.map(|(name, _)| name))
            })
    }

    fn check_key(&self, key: &str) -> Result<(), Diagnostic> {
        match KEYS.contains(&key) {
            true => Ok(()),
            false => Err(self.unexpected_key(key)),
        }
    }

    fn unexpected_key(&self, key: &str) -> Diagnostic {
        let field = self.fields.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.as_ref());
        let field = field.map_or(key.to_owned(), |value| format!("{key}={value}"));
        self.error_in(key, format!("unexpected key '{key}' in '{field}'")).one_of(key, &KEYS)
    }

    fn read_field(
        &self,
        key: &str,
        value: Option<&str>,
        spec: &mut MountSpec,
        read_only: &mut Option<bool>,
        kind_unknown: bool,
    ) -> Result<(), Diagnostic> {
        let agent_or_secret = matches!(spec.kind, MountKind::Secret | MountKind::Ssh);
        let Some(value) = value else {
            match key {
                "readonly" | "ro" => *read_only = Some(true),
                "readwrite" | "rw" => *read_only = Some(false),
                "required" if agent_or_secret || kind_unknown => spec.required = true,
                "required" => return Err(self.wrong_kind(key, spec.kind)),
                key if KEYS.contains(&key) => {
                    let error = self.error_in(key, format!("invalid field '{key}' must be a key=value pair"));
                    return Err(error.help(format!("write {key}=value")));
                }
                key => return Err(self.unexpected_key(key)),
            }
            return Ok(());
        };
        match key {
            "type" => {}
            "from" => spec.from = Some(value.to_owned()),
            "source" | "src" => spec.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => spec.target = Some(value.to_owned()),
            "readonly" | "ro" => *read_only = Some(self.boolean(key, value)?),
            "readwrite" | "rw" => *read_only = Some(!self.boolean(key, value)?),
            "required" if agent_or_secret || kind_unknown => spec.required = self.boolean(key, value)?,
            "size" if spec.kind == MountKind::Tmpfs || kind_unknown => {
                let wrong =
                    || self.error_in(key, format!("invalid value for {key}: {value}")).help("try 64m, or 1g");
                spec.size = Some(parse_size(value).ok_or_else(wrong)?);
            }
            "required" | "size" => return Err(self.wrong_kind(key, spec.kind)),
            "id" => spec.id = Some(value.to_owned()),
            "sharing" => spec.sharing = Some(self.sharing(value)?),
            "mode" => spec.mode = Some(self.number(key, value, 8)?),
            "uid" => spec.uid = Some(self.number(key, value, 10)?),
            "gid" => spec.gid = Some(self.number(key, value, 10)?),
            "env" => spec.env = Some(value.to_owned()),
            key => return Err(self.unexpected_key(key)),
        }
        Ok(())
    }

    fn wrong_kind(&self, key: &str, kind: MountKind) -> Diagnostic {
        let kinds = if key == "size" { "tmpfs" } else { "secret and ssh" };
        self.error_in(key, format!("unexpected key '{key}' for mount type '{}'", kind.as_str()))
            .help(format!("`{key}` is for mounts of type {kinds}"))
    }

    fn sharing(&self, value: &str) -> Result<Sharing, Diagnostic> {
        let found = SHARINGS.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
        found.map(|(_, sharing)| *sharing).ok_or_else(|| {
            let error = self.error_in("sharing", format!("unsupported sharing value \"{value}\""));
            error.one_of(value, &SHARINGS.map(|(name, _)| name))
        })
    }

    fn boolean(&self, key: &str, value: &str) -> Result<bool, Diagnostic> {
        parse_bool(value).ok_or_else(|| {
            let error = self.error_in(key, format!("invalid value for {key}: {value}"));
            error.help("write true or false")
        })
    }

    fn number(&self, key: &str, value: &str, base: u32) -> Result<u32, Diagnostic> {
        let help =
            if base == 8 { "write octal digits: 0755" } else { "write a number; names are not looked up" };
        let wrong = || self.error_in(key, format!("invalid value {value} for {key}")).help(help);
        if value.starts_with('+') {
            return Err(wrong());
        }
        u32::from_str_radix(value, base).map_err(|_| wrong())
    }

    fn check_together(&self, spec: MountSpec) -> Result<MountSpec, Diagnostic> {
        let kind = spec.kind;
        let has_inode = matches!(kind, MountKind::Cache | MountKind::Secret | MountKind::Ssh);
        let inode = [("mode", spec.mode), ("uid", spec.uid), ("gid", spec.gid)];
        if let Some((key, _)) = inode.iter().find(|(_, value)| value.is_some() && !has_inode) {
            let message = format!("{key} not allowed for \"{}\" type mounts", kind.as_str());
            let help = format!("`{key}` is for mounts of type cache, secret and ssh");
            return Err(self.error_in(key, message).help(help));
        }
        if spec.sharing.is_some() && kind != MountKind::Cache {
            let message = format!("invalid cache sharing set for {} mount", kind.as_str());
            return Err(self.error_in("sharing", message).help("`sharing` is for mounts of type cache"));
        }
        let is_set = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
        let (source, target, id) = (is_set(&spec.source), is_set(&spec.target), is_set(&spec.id));
        let is_root =
            |path: &String| path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "."));
        if spec.target.as_ref().is_some_and(is_root) {
            let error = self.error("invalid mount target \"/\"".to_owned());
            return Err(error.help("nothing can be mounted over the root; name a folder in it"));
        }
        let (message, help) = match kind {
            MountKind::Secret if is_set(&spec.from) => {
                ("secret mount should not have a from", "secrets come from --secret id=…,src=…")
            }
            MountKind::Secret if !source && !target && !id => {
                ("invalid secret mount. one of source, target required", "write type=secret,id=name")
            }
            MountKind::Secret if source && id => {
                ("both source and id can't be set", "they mean the same; write id=name")
            }
            MountKind::Ssh if source => {
                ("ssh does not support source", "name an agent by id; the command line has --ssh id=socket")
            }
            _ => return Ok(spec),
        };
        Err(self.error(message.to_owned()).help(help))
    }
}

/// One line of Go's `encoding/csv`.
fn split_csv(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, behind) = quoted_field(quoted)?;
            fields.push(field);
            match behind.strip_prefix(',') {
                Some(next) => rest = next,
                None if behind.is_empty() => return Ok(fields),
                None => return Err("extraneous or missing \" in quoted-field"),
            }
            continue;
        }
        let (field, next) = match rest.split_once(',') {
            Some((field, next)) => (field, Some(next)),
            None => (rest, None),
        };
        if field.contains('"') {
            return Err("bare \" in non-quoted-field");
        }
        fields.push(field.to_owned());
        match next {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// The field up to its closing quote (`""` is a quote), and what follows.
fn quoted_field(text: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, behind) = rest.split_once('"').ok_or("extraneous or missing \" in quoted-field")?;
        field.push_str(part);
        match behind.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Ok((field, behind)),
        }
    }
}

/// Bytes of `64m`, `1.5GiB`, `100`; units are powers of 1024, as in `docker run --shm-size`.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let fraction = match fraction.is_empty() {
        true => 0.0,
        false => format!("0.{fraction}").parse::<f64>().ok()?,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction below 2^50")]
    whole.checked_add((fraction * (1_u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountSpec, String> {
        Mount::parse(Word::new(text, Span::new(0, text.len()))).map(|mount| mount.spec).map_err(|e| e.message)
    }

    #[test]
    fn fields_and_defaults() {
        let spec = parse("type=cache,target=/c,id=x,sharing=locked,mode=0700,uid=1,gid=2").unwrap();
        assert_eq!(
            (spec.kind, spec.sharing, spec.mode),
            (MountKind::Cache, Some(Sharing::Locked), Some(0o700))
        );
        assert!(!spec.read_only);
        let spec = parse("target=/x").unwrap();
        assert_eq!((spec.kind, spec.read_only), (MountKind::Bind, true));
        assert!(!parse("dst=/x,RW").unwrap().read_only);
        assert_eq!(parse("type=tmpfs,target=/x,size=1.5k").unwrap().size, Some(1536));
        assert_eq!(parse("\"target=/a,b\",type=tmpfs").unwrap().target.as_deref(), Some("/a,b"));
        assert_eq!(parse("type=cache,target=/c,sharing=Locked").unwrap().sharing, Some(Sharing::Locked));
        // Without a target the working directory is meant.
        assert_eq!(parse("type=bind").unwrap().target, None);
        assert!(parse("type=secret,id=a,required").unwrap().required);
        assert_eq!(parse("type=$T,mode=$M,target=/x").unwrap().mode, None);
    }

    #[test]
    fn wrong_mounts() {
        for (text, message) in [
            ("type=bnd,target=/x", "unsupported mount type \"bnd\""),
            ("tpye=bind,target=/x", "unexpected key 'tpye' in 'tpye=bind'"),
            ("target=/x,foo", "unexpected key 'foo' in 'foo'"),
            ("target", "invalid field 'target' must be a key=value pair"),
            ("target=/x,ro=maybe", "invalid value for ro: maybe"),
            ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
            ("target=/x,uid=1", "uid not allowed for \"bind\" type mounts"),
            ("target=/x,sharing=locked", "invalid cache sharing set for bind mount"),
            ("type=cache,target=/x,sharing=none", "unsupported sharing value \"none\""),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,source=b", "both source and id can't be set"),
            ("type=secret,id=a,from=b", "secret mount should not have a from"),
            ("target=/x,required", "unexpected key 'required' for mount type 'bind'"),
            ("target=/x,size=3", "unexpected key 'size' for mount type 'bind'"),
            ("type=tmpfs,target=/x,size=big", "invalid value for size: big"),
            ("type=ssh,source=x", "ssh does not support source"),
            ("type=tmpfs,target=/./", "invalid mount target \"/\""),
            ("a\"b", "failed to parse csv mounts: bare \" in non-quoted-field"),
            ("\"a\"b", "failed to parse csv mounts: extraneous or missing \" in quoted-field"),
        ] {
            assert_eq!(parse(text), Err(message.to_owned()), "{text}");
        }
    }
}
