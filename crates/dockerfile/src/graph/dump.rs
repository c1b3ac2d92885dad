//! The stage graph as text, JSON, DOT and Mermaid.

use std::fmt::Write;

use super::{Source, StageGraph, StageNode};

/// An edge: who needs, what, and whether as its base.
struct Edge<'a> {
    stage: &'a StageNode,
    source: &'a Source,
    is_base: bool,
}

impl StageGraph {
    /// A line for each stage, and below it what it needs.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for stage in &self.stages {
            let _ = writeln!(text, "{} {}", stage.id.0, stage.label());
            for edge in edges(stage) {
                let verb = if edge.is_base { "from" } else { "reads" };
                let _ = writeln!(text, "  {verb} {}", self.describe(edge.source));
            }
        }
        text
    }

    /// The graph as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The graph in Graphviz' language; a stage points to what it needs, dashed where it only copies or mounts.
    pub fn to_dot(&self) -> String {
        let mut dot = String::from("digraph stages {\n  rankdir=BT;\n");
        for stage in &self.stages {
            let _ = writeln!(dot, "  s{} [shape=box, label={}];", stage.id.0, quote(&stage.label()));
        }
        for edge in self.stages.iter().flat_map(edges) {
            let to = match edge.source {
                Source::Stage(id) => format!("s{}", id.0),
                other => quote(&self.describe(other)),
            };
            let style = if edge.is_base { "" } else { " [style=dashed]" };
            let _ = writeln!(dot, "  s{} -> {to}{style};", edge.stage.id.0);
        }
        dot.push_str("}\n");
        dot
    }

    /// The graph in Mermaid's language; drawn as in [`StageGraph::to_dot`].
    pub fn to_mermaid(&self) -> String {
        let mut text = String::from("flowchart BT\n");
        let mut others: Vec<&Source> = Vec::new();
        for stage in &self.stages {
            let _ = writeln!(text, "  s{}[\"{}\"]", stage.id.0, escape_mermaid(&stage.label()));
        }
        for source in self.stages.iter().flat_map(StageNode::sources) {
            if !matches!(source, Source::Stage(_)) && !others.contains(&source) {
                let _ =
                    writeln!(text, "  o{}([\"{}\"])", others.len(), escape_mermaid(&self.describe(source)));
                others.push(source);
            }
        }
        for edge in self.stages.iter().flat_map(edges) {
            let to = match edge.source {
                Source::Stage(id) => format!("s{}", id.0),
                other => format!("o{}", others.iter().position(|known| *known == other).unwrap_or_default()),
            };
            let arrow = if edge.is_base { "-->" } else { "-.->" };
            let _ = writeln!(text, "  s{} {arrow} {to}", edge.stage.id.0);
        }
        text
    }

    fn describe(&self, source: &Source) -> String {
        match source {
            Source::Stage(id) => {
                let label = self.stages.get(id.0).map(StageNode::label).unwrap_or_default();
                format!("stage {} {label}", id.0)
            }
            Source::Image { name, platform: None } => format!("image {name}"),
            Source::Image { name, platform: Some(platform) } => format!("image {name} ({platform})"),
            Source::Context(name) => format!("context {name}"),
            Source::Scratch => "scratch".to_owned(),
        }
    }
}

/// The edges of a stage, each once.
fn edges(stage: &StageNode) -> Vec<Edge<'_>> {
    let mut edges = vec![Edge { stage, source: &stage.base, is_base: true }];
    for dependency in &stage.dependencies {
        if !edges.iter().any(|edge| !edge.is_base && edge.source == &dependency.source) {
            edges.push(Edge { stage, source: &dependency.source, is_base: false });
        }
    }
    edges
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn escape_mermaid(text: &str) -> String {
    text.replace('"', "#quot;")
}
