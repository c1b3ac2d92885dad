//! `--format`: `json`, `table`, `table` with columns of one's own, and of Go's templates what scripts use: fields, `range`,
//! `json`, `index`, `len`, `join`, `println`.

use std::fmt::Write as _;

use serde_json::Value;

use super::show;
use crate::failure::CliError;

/// How a command shows its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
    /// A template's parts, in order.
    Template(Vec<Part>),
    /// The same under headings: `table {{.ID}}\t{{.Size}}`.
    Columns(Vec<Part>),
}

/// Text, or something to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Value {
        function: Function,
        path: Vec<String>,
    },
    /// `{{range .List}}…{{end}}`
    Range {
        path: Vec<String>,
        each: Vec<Part>,
    },
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
            Some(template) => match template.strip_prefix("table ") {
                Some(columns) => parsed(columns).map(Format::Columns),
                None => parsed(template).map(Format::Template),
            },
        }
    }

    /// Documents in this form; a table is the caller's.
    pub(crate) fn show(&self, documents: &[Value]) -> Option<String> {
        let mut out = String::new();
        if let Format::Columns(parts) = self {
            return Some(columns(parts, documents));
        }
        for document in documents {
            match self {
                Format::Table | Format::Columns(_) => return None,
                Format::Json => out.push_str(&document.to_string()),
                Format::Template(parts) => parts.iter().for_each(|part| part.show(document, &mut out)),
            }
            out.push('\n');
        }
        Some(out)
    }
}

fn parsed(template: &str) -> Result<Vec<Part>, CliError> {
    let mut rest = template;
    parts(&mut rest, false).map_err(|action| {
        let failure = CliError::usage(format!("could not understand `{{{{{action}}}}}` in the format"));
        failure.help("there are `json`, fields such as `{{.Id}}`, `{{range .List}}…{{end}}`, and with a field `json`, `index`, `len`, `join`, `println`")
    })
}

/// The parts of a template, or of a range, which `{{end}}` ends; the error is the action that is not understood.
fn parts(rest: &mut &str, in_range: bool) -> Result<Vec<Part>, String> {
    // The shell leaves `\t` and `\n` as they are; Docker reads them.
    let text = |text: &str| Part::Text(text.replace("\\t", "\t").replace("\\n", "\n"));
    let mut parts = Vec::new();
    while let Some((before, after)) = rest.split_once("{{") {
        parts.push(text(before));
        let (action, after) = after.split_once("}}").ok_or_else(|| after.to_owned())?;
        let action = action.trim().trim_start_matches("- ").trim_end_matches(" -").trim();
        *rest = after;
        match action.split_once(' ').map(|(word, list)| (word, list.trim())) {
            None if action == "end" && in_range => return Ok(parts),
            Some(("range", list)) => {
                let path = path(list).ok_or_else(|| action.to_owned())?;
                parts.push(Part::Range { path, each: self::parts(rest, true)? });
            }
            _ => parts.push(value(action).ok_or_else(|| action.to_owned())?),
        }
    }
    if in_range {
        return Err("range` without `end".to_owned());
    }
    parts.push(text(rest));
    Ok(parts)
}

/// `.Config.Env`; `.` alone is the document, or what a range is at.
fn path(text: &str) -> Option<Vec<String>> {
    let names = text.strip_prefix('.').filter(|names| !names.contains(char::is_whitespace))?;
    Some(names.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Rows under headings. Columns are what stands between tabs.
fn columns(parts: &[Part], documents: &[Value]) -> String {
    let mut headings = String::new();
    parts.iter().for_each(|part| match part {
        Part::Text(text) => headings.push_str(text),
        Part::Value { path, .. } | Part::Range { path, .. } => {
            headings.push_str(&heading(path.last().map_or("", String::as_str), documents.first()));
        }
    });
    let headings: Vec<&str> = headings.split('\t').collect();
    let row = |document: &Value| {
        let mut out = String::new();
        parts.iter().for_each(|part| part.show(document, &mut out));
        let mut cells: Vec<String> = out.split('\t').map(|cell| cell.replace('\n', " ")).collect();
        // A value may hold a tab itself.
        cells.resize(headings.len(), String::new());
        cells
    };
    show::table(&headings, &documents.iter().map(row).collect::<Vec<_>>())
}

/// What Docker writes above a column.
fn heading(field: &str, document: Option<&Value>) -> String {
    let has = |name: &str| document.is_some_and(|document| document.get(name).is_some());
    match field {
        "ID" if has("Names") => "CONTAINER ID".to_owned(),
        "ID" if has("CreatedBy") => "IMAGE".to_owned(),
        "ID" => "IMAGE ID".to_owned(),
        "CreatedSince" | "RunningFor" => "CREATED".to_owned(),
        words => {
            let mut heading = String::new();
            for letter in words.chars() {
                if letter.is_uppercase() && !heading.is_empty() {
                    heading.push(' ');
                }
                heading.extend(letter.to_uppercase());
            }
            heading
        }
    }
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
    Some(Part::Value { function, path: self::path(path)? })
}

impl Part {
    fn show(&self, document: &Value, out: &mut String) {
        let at = |path: &[String]| {
            path.iter().try_fold(document, |value, name| value.get(name)).unwrap_or(&Value::Null)
        };
        let (function, found) = match self {
            Part::Text(text) => return out.push_str(text),
            Part::Value { function, path } => (function, at(path)),
            Part::Range { path, each } => {
                let values: Vec<&Value> = match at(path) {
                    Value::Array(values) => values.iter().collect(),
                    Value::Object(map) => map.values().collect(),
                    _ => Vec::new(),
                };
                return values.iter().for_each(|value| each.iter().for_each(|part| part.show(value, out)));
            }
        };
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
            ("{{range .RepoDigests}}{{println .}}{{end}}", "a@1\nb@2\n\n"),
            ("{{range .RepoDigests}}<{{.}}>{{end}} {{range .None}}x{{end}}", "<a@1><b@2> \n"),
            ("{{range .Config.Labels}}{{.}}{{end}}", "z\n"),
        ] {
            let format = Format::parse(Some(template)).unwrap();
            assert_eq!(format.show(std::slice::from_ref(&document)).unwrap(), shown, "{template}");
        }
    }

    #[test]
    fn tables_with_columns_of_ones_own() {
        let documents = [
            serde_json::json!({ "ID": "1", "Repository": "long/name", "CreatedSince": "now" }),
            serde_json::json!({ "ID": "22", "Repository": "a\tb", "CreatedSince": "then" }),
        ];
        let format = Format::parse(Some("table {{.Repository}}\\t{{.ID}}\\t{{.CreatedSince}}")).unwrap();
        let shown =
            "REPOSITORY   IMAGE ID   CREATED\nlong/name    1          now\na            b          22\n";
        assert_eq!(format.show(&documents).unwrap(), shown);
        assert_eq!(format.show(&[]).unwrap(), "REPOSITORY   IMAGE ID   CREATED\n");
        let container = [serde_json::json!({ "ID": "1", "Names": "n" })];
        let format = Format::parse(Some("table {{.ID}}: {{.Names}}")).unwrap();
        assert_eq!(format.show(&container).unwrap(), "CONTAINER ID: NAMES\n1: n\n");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for wrong in [
            "{{range .X}}",
            "{{range}}{{end}}",
            "{{end}}",
            "{{if .X}}y{{end}}",
            "table {{.A",
            "{{.Id",
            "{{Id}}",
            "{{}}",
        ] {
            assert!(Format::parse(Some(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(Format::parse(None).unwrap().show(&[]), Some(String::new()));
        assert_eq!(Format::parse(Some("table")).unwrap(), Format::Table);
    }
}
