//! All that is wrong in a text, at once.

use crate::check::inspect_part;
use crate::dockerfile::{Reading, read};
use crate::{CheckInput, CheckSettings, Diagnostic, GraphArguments, ParseOptions, StageGraph};

/// All that can be said against a text without asking for its base images, in the order of the text: what
/// [`crate::Dockerfile::parse`] and [`StageGraph::of`] refuse, and the faults of the instructions that the target needs. For
/// editors, and for who wants to mend everything before the next try.
///
/// ```
/// use rbuild_dockerfile::{GraphArguments, ParseOptions, diagnose};
///
/// let text = "FROM a\nENV X=${Y:=z}\nRUNN make\nCOPY --from=1 . .\n";
/// let found = diagnose(text, ParseOptions::default(), &GraphArguments::default());
/// let messages: Vec<&str> = found.iter().map(|error| error.message.as_str()).collect();
/// assert_eq!(messages.len(), 3);
/// assert_eq!(messages[1], "unknown instruction: RUNN");
/// ```
pub fn diagnose(source: &str, options: ParseOptions, arguments: &GraphArguments) -> Vec<Diagnostic> {
    let Reading { dockerfile, errors: mut found, has_its_stages } = read(source, options);
    let was_read = found.is_empty();
    if has_its_stages {
        let (graph, wrong) = StageGraph::draft(&dockerfile, arguments);
        found.extend(wrong);
        match graph.plan_for(arguments.target.as_deref()) {
            Ok(plan) => {
                found.extend(graph.faults(&plan));
                let input = CheckInput { arguments, ignored: None, base_images: &|_, _| None, verify: None };
                let inspection =
                    inspect_part(&dockerfile, Some(&graph), &input, &CheckSettings::default(), was_read);
                found.extend(inspection.faults_of(&plan));
            }
            Err(error) => found.push(error),
        }
    } else {
        found.extend(dockerfile.faults);
    }
    found.sort_by_key(|error| error.span.start);
    found.dedup();
    found
}
