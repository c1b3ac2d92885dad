//! `--format`: `json`, `table`, and of Go's templates what scripts use: fields, `json`, `index`, `len`, `join`, `println`.

use std::fmt::Write as _;

use serde_json::Value;

use crate::failure::CliError;

/// How a command shows its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
    /// A template's parts, in order.
    Template(Vec<Part>),
}

/// Text, or something to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Value { function: Function, path: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Function {
    Plain,
    Json,
    Len,
    Line,
    /// `index .List 0`, `index .Map "key"`.
    Index(String),
    Join(String),
}

impl Format {
    /// What `--format` says; a table without it.
    pub(crate) fn parse(text: Option<&str>) -> Result<Format, CliError> {
        match text.map(str::trim) {
            None | Some("table") => Ok(Format::Table),
            Some("json" | "{{json .}}") => Ok(Format::Json),
            Some(template) => parts(template).map(Format::Template).map_err(|action| {
                let failure = CliError::usage(format!("could not understand `{{{{{action}}}}}` in the format"));
                failure.help("there are `json`, fields such as `{{.Id}}`, and with a field `json`, `index`, `len`, `join`, `println`")
            }),
        }
    }

    /// Documents in this form; a table is the caller's.
    pub(crate) fn show(&self, documents: &[Value]) -> Option<String> {
        let mut out = String::new();
        for document in documents {
            match self {
                Format::Table => return None,
                Format::Json => out.push_str(&document.to_string()),
                Format::Template(parts) => parts.iter().for_each(|part| part.show(document, &mut out)),
            }
            out.push('\n');
        }
        Some(out)
    }
}

fn parts(template: &str) -> Result<Vec<Part>, String> {
    // The shell leaves `\t` and `\n` as they are; Docker reads them.
    let text = |text: &str| Part::Text(text.replace("\\t", "\t").replace("\\n", "\n"));
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        parts.push(text(before));
        let (action, after) = after.split_once("}}").ok_or_else(|| after.to_owned())?;
        let action = action.trim().trim_start_matches("- ").trim_end_matches(" -").trim();
        parts.push(value(action).ok_or_else(|| action.to_owned())?);
        rest = after;
    }
    parts.push(text(rest));
    Ok(parts)
}

fn value(action: &str) -> Option<Part> {
    let words: Vec<&str> = action.split_whitespace().collect();
    let unquoted = |word: &str| word.trim_matches(['"', '`']).to_owned();
    let (function, path) = match words[..] {
        [path] => (Function::Plain, path),
        ["json", path] => (Function::Json, path),
        ["len", path] => (Function::Len, path),
        ["println", path] => (Function::Line, path),
        ["index", path, key] => (Function::Index(unquoted(key)), path),
        ["join", path, ..] => {
            let (_, separator) = action.split_once(path)?;
            (Function::Join(unquoted(separator.trim())), path)
        }
        _ => return None,
    };
    let path = path.strip_prefix('.')?;
    let path = path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Some(Part::Value { function, path })
}

impl Part {
    fn show(&self, document: &Value, out: &mut String) {
        let (function, path) = match self {
            Part::Text(text) => return out.push_str(text),
            Part::Value { function, path } => (function, path),
        };
        let found = path.iter().try_fold(document, |value, name| value.get(name)).unwrap_or(&Value::Null);
        // Writing to a string does not fail.
        let _ = match function {
            Function::Plain => write!(out, "{}", plain(found)),
            Function::Json => write!(out, "{found}"),
            Function::Line => writeln!(out, "{}", plain(found)),
            Function::Len => write!(out, "{}", length(found)),
            Function::Index(key) => {
                let at = key.parse::<usize>().ok().and_then(|index| found.get(index));
                write!(out, "{}", plain(at.or_else(|| found.get(key)).unwrap_or(&Value::Null)))
            }
            Function::Join(separator) => {
                let words: Vec<String> = found.as_array().into_iter().flatten().map(plain).collect();
                write!(out, "{}", words.join(separator))
            }
        };
    }
}

/// As Go prints it: `[a b]`, `map[k:v]`.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", plain(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

fn length(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.len(),
        Value::Object(map) => map.len(),
        Value::String(text) => text.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_scripts_use() {
        let document = serde_json::json!({
            "Id": "sha256:1", "RepoDigests": ["a@1", "b@2"], "Config": { "Env": ["A=b"], "Labels": { "x.y": "z" } }, "Size": 7
        });
        for (template, shown) in [
            ("{{.Id}}", "sha256:1\n"),
            ("{{ .Id }}\\t{{.Size}}", "sha256:1\t7\n"),
            ("{{index .RepoDigests 1}}", "b@2\n"),
            ("{{index .Config.Labels \"x.y\"}}", "z\n"),
            ("{{json .Config.Env}}", "[\"A=b\"]\n"),
            ("{{.Config.Env}} {{len .RepoDigests}}", "[A=b] 2\n"),
            ("{{join .RepoDigests \", \"}}", "a@1, b@2\n"),
            ("{{.Config.Labels}} {{.None.At.All}}", "map[x.y:z] <no value>\n"),
        ] {
            let format = Format::parse(Some(template)).unwrap();
            assert_eq!(format.show(std::slice::from_ref(&document)).unwrap(), shown, "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for wrong in ["{{range .X}}", "{{.Id", "{{Id}}", "{{}}"] {
            assert!(Format::parse(Some(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(Format::parse(None).unwrap().show(&[]), Some(String::new()));
        assert_eq!(Format::parse(Some("table")).unwrap(), Format::Table);
    }
}
