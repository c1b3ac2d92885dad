//! `--call=outline` and `--call=targets`: what a Dockerfile offers, as BuildKit prints it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rbuild_dockerfile::{Dockerfile, LineIndex, Outline, OutlineMount, Target};
use rbuild_engine::{BuildError, BuildRequest};
use serde_json::{Map, Value, json};

use crate::check::{location, pretty, print};
use crate::failure::CliError;

/// Prints what the target can be given.
pub(crate) fn outline(json: bool, request: &BuildRequest) -> Result<(), CliError> {
    let shown = |error| CliError::Build {
        error,
        source: request.dockerfile.clone(),
        name: request.dockerfile_name.clone(),
    };
    let dockerfile =
        Dockerfile::parse(&request.dockerfile).map_err(|errors| shown(BuildError::Dockerfile(errors)))?;
    let (graph, plan) = rbuild_engine::plan(&dockerfile, request).map_err(shown)?;
    let arguments = rbuild_engine::graph_arguments(request);
    let Some(found) = rbuild_dockerfile::outline(&dockerfile, &graph, plan.target, &arguments) else {
        return Ok(());
    };
    print(&if json { pretty(&outline_json(&found, request)) } else { outline_text(&found) });
    Ok(())
}

/// Prints the stages.
pub(crate) fn targets(json: bool, request: &BuildRequest) -> Result<(), CliError> {
    let dockerfile = Dockerfile::parse(&request.dockerfile).map_err(|errors| CliError::Build {
        error: BuildError::Dockerfile(errors),
        source: request.dockerfile.clone(),
        name: request.dockerfile_name.clone(),
    })?;
    let found = rbuild_dockerfile::targets(&dockerfile);
    print(&if json { pretty(&targets_json(&found, request)) } else { targets_text(&found) });
    Ok(())
}

fn outline_text(outline: &Outline<'_>) -> String {
    let mut text = String::new();
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    if outline.target.name.is_some() || outline.target.description.is_some() {
        let mut rows = vec![row(&["TARGET:", outline.target.name.unwrap_or("(default)")])];
        rows.extend(outline.target.description.map(|description| row(&["DESCRIPTION:", description])));
        text += &format!("{}\n", table(&rows, 1));
    }
    if !outline.args.is_empty() {
        let mut rows = vec![row(&["BUILD ARG", "VALUE", "DESCRIPTION"])];
        let args = outline.args.iter();
        rows.extend(
            args.map(|arg| row(&[&arg.name, &arg.value, arg.description.as_deref().unwrap_or_default()])),
        );
        text += &format!("{}\n", table(&rows, 3));
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !mounts.is_empty() {
            let mut rows = vec![row(&[title, "REQUIRED"])];
            rows.extend(
                mounts.iter().map(|mount| row(&[&mount.id, if mount.required { "true" } else { "" }])),
            );
            text += &format!("{}\n", table(&rows, 3));
        }
    }
    text
}

fn targets_text(targets: &[Target<'_>]) -> String {
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for target in targets {
        let name = match (target.name, target.is_default) {
            (None, true) => "(default)".to_owned(),
            (Some(name), true) => format!("{name} (default)"),
            (name, false) => name.unwrap_or_default().to_owned(),
        };
        rows.push(vec![name, target.description.unwrap_or_default().to_owned()]);
    }
    table(&rows, 1)
}

/// Columns as Go's tabwriter aligns them: each as wide as its widest cell and `gap` spaces, the last as it is.
fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + gap;
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text += cell;
            if column + 1 < columns {
                text.extend(std::iter::repeat_n(' ', width(column) - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

fn outline_json(outline: &Outline<'_>, request: &BuildRequest) -> Value {
    let lines = LineIndex::new(&request.dockerfile);
    let mut document = Map::new();
    set(&mut document, "name", outline.target.name);
    set(&mut document, "description", outline.target.description);
    let args = outline.args.iter().map(|arg| {
        let mut object = Map::new();
        object.insert("name".to_owned(), arg.name.as_str().into());
        set(&mut object, "description", arg.description.as_deref());
        set(&mut object, "value", Some(arg.value.as_str()));
        object.insert("location".to_owned(), location(arg.span, &lines));
        Value::Object(object)
    });
    list(&mut document, "args", args.collect());
    let mount = |mount: &OutlineMount, name: &str| {
        let mut object = Map::new();
        object.insert(name.to_owned(), mount.id.as_str().into());
        if mount.required {
            object.insert("required".to_owned(), true.into());
        }
        object.insert("location".to_owned(), location(mount.span, &lines));
        Value::Object(object)
    };
    list(&mut document, "secrets", outline.secrets.iter().map(|found| mount(found, "name")).collect());
    list(&mut document, "ssh", outline.ssh.iter().map(|found| mount(found, "name")).collect());
    list(&mut document, "cache", outline.caches.iter().map(|found| mount(found, "ID")).collect());
    document.insert("sources".to_owned(), json!([BASE64.encode(&request.dockerfile)]));
    Value::Object(document)
}

fn targets_json(targets: &[Target<'_>], request: &BuildRequest) -> Value {
    let lines = LineIndex::new(&request.dockerfile);
    let target = |target: &Target<'_>| {
        let mut object = Map::new();
        set(&mut object, "name", target.name);
        if target.is_default {
            object.insert("default".to_owned(), true.into());
        }
        set(&mut object, "description", target.description);
        set(&mut object, "base", Some(target.base));
        set(&mut object, "platform", target.platform);
        object.insert("location".to_owned(), location(target.span, &lines));
        Value::Object(object)
    };
    json!({
        "targets": targets.iter().map(target).collect::<Vec<_>>(),
        "sources": [BASE64.encode(&request.dockerfile)],
    })
}

/// Empty texts are left out, as Go's `omitempty` does.
fn set(object: &mut Map<String, Value>, name: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        object.insert(name.to_owned(), value.into());
    }
}

fn list(object: &mut Map<String, Value>, name: &str, values: Vec<Value>) {
    if !values.is_empty() {
        object.insert(name.to_owned(), values.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "LONG", "X"], ["abc", "", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows, 3), "A     LONG   X\nabc          \n");
    }
}
