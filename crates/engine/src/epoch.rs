//! `SOURCE_DATE_EPOCH`: before anything is built it becomes a number of seconds, or nothing.
//!
//! It may name what has a time of its own: the build context, a named context, a stage that is one ADD from elsewhere. Of
//! git that is the commit's time; of a URL the server's `Last-Modified`, else the newest file of the archive behind it. A
//! folder of this machine and an image have none: then there is no epoch, as in the reference. What is found holds for the
//! whole build, whatever its platforms.

use rbuild_dockerfile::{
    CopyKind, DateSource, DateSourceError, Diagnostic, Dockerfile, SOURCE_DATE_EPOCH, Word, date_source,
};

use crate::error::{AtSpan, BuildError, Failure, FailureKind, Result};
use crate::event::{Event, EventSink, Steps};
use crate::remote::Fetcher;
use crate::request::{BuildRequest, Context, NamedContext};
use crate::steps::{Remote, remote_source};
use crate::{Tools, graph_arguments};

const HELP: &str = "write seconds since 1970, such as `git log -1 --format=%ct` prints, `context`, or the name of a stage or of a named context";

/// Where the time comes from.
///
/// # Errors
/// A value that means nothing, and a stage that has no time.
pub(crate) fn source(request: &BuildRequest, dockerfile: &Dockerfile) -> Result<Option<DateSource>> {
    date_source(dockerfile, &graph_arguments(request)).map_err(|error| match error {
        DateSourceError::Stage(fault) => BuildError::Dockerfile(vec![*fault]),
        DateSourceError::Unknown { value, span, near } => {
            let message = format!("invalid SOURCE_DATE_EPOCH: {value}");
            let help = near.map_or_else(|| HELP.to_owned(), |near| format!("did you mean `{near}`?"));
            match span {
                Some(span) => BuildError::Dockerfile(vec![Diagnostic::error(message, span).help(help)]),
                None => Failure::new(FailureKind::Usage, message).help(help).into(),
            }
        }
    })
}

/// The request and the Dockerfile with the epoch settled: what asks for `SOURCE_DATE_EPOCH` finds the seconds, or that it
/// is not set.
///
/// # Errors
/// Those of [`source`]; what cannot be fetched.
pub(crate) fn settle(
    request: &BuildRequest,
    mut dockerfile: Dockerfile,
    tools: Tools<'_>,
    events: &dyn EventSink,
    steps: &Steps,
) -> Result<(BuildRequest, Dockerfile)> {
    let mut settled = request.clone();
    let given = request.build_args.get(SOURCE_DATE_EPOCH);
    match (source(request, &dockerfile)?, given) {
        (Some(source), _) => {
            let seconds = Clock::new(request, tools, events, steps).time_of(&source, &mut settled)?;
            if let (None, Some(given)) = (seconds, given) {
                let text =
                    format!("`SOURCE_DATE_EPOCH={given}` has no effect: it names nothing that has a time");
                events.event(Event::Warning { text: &text });
            }
            put(&mut settled, &mut dockerfile, seconds);
        }
        // An empty build arg takes away what the Dockerfile says.
        (None, Some(_)) => put(&mut settled, &mut dockerfile, None),
        (None, None) => {}
    }
    Ok((settled, dockerfile))
}

/// Both places that may give the build arg now say what it has become.
fn put(request: &mut BuildRequest, dockerfile: &mut Dockerfile, seconds: Option<i64>) {
    let text = seconds.map(|seconds| seconds.to_string());
    dockerfile.set_global_default(SOURCE_DATE_EPOCH, text.as_deref());
    if request.build_args.remove(SOURCE_DATE_EPOCH).is_some() {
        request.build_args.extend(text.map(|text| (SOURCE_DATE_EPOCH.to_owned(), text)));
    }
    request.epoch = request.epoch.or(seconds);
}

/// Finds the time of things, which may have to be fetched for it.
struct Clock<'a> {
    request: &'a BuildRequest,
    fetcher: Fetcher<'a>,
    events: &'a dyn EventSink,
    steps: &'a Steps,
}

impl<'a> Clock<'a> {
    fn new(
        request: &'a BuildRequest,
        tools: Tools<'a>,
        events: &'a dyn EventSink,
        steps: &'a Steps,
    ) -> Clock<'a> {
        let Tools { store, client, place, .. } = tools;
        let fetcher = Fetcher { store, client, place, git_environment: &request.git_environment };
        Clock { request, fetcher, events, steps }
    }

    /// Seconds since 1970. What had to be fetched whole takes the place of its address in `settled`: the build uses the
    /// very files whose time this is.
    fn time_of(&self, source: &DateSource, settled: &mut BuildRequest) -> Result<Option<i64>> {
        match source {
            DateSource::Seconds(seconds) => Ok(Some(*seconds)),
            DateSource::Context => Ok(match &self.request.context {
                Context::Unpacked(context) => context.time,
                Context::Directory(_) | Context::Empty => None,
            }),
            DateSource::Named(key) => {
                let Some(context) = settled.named_contexts.get_mut(key) else { return Ok(None) };
                let strict = self.request.strict_docker;
                let Some(fetched) = self.fetcher.named(context, strict, self.events, self.steps)? else {
                    return Ok(None);
                };
                *context = NamedContext::Unpacked(fetched.folder);
                Ok(fetched.time)
            }
            DateSource::Added { source, checksum } => self.of_added(source, checksum.as_ref()),
        }
    }

    /// The time of what an ADD fetches. The ADD itself is carried out only if the target needs its stage.
    fn of_added(&self, source: &Word, checksum: Option<&Word>) -> Result<Option<i64>> {
        let name = format!("[internal] time of {}", source.text);
        let checksum = checksum.map(|word| word.text.as_str());
        let work = || match remote_source(CopyKind::Add, &source.text)? {
            Some(Remote::Http) => self.fetcher.time_of_url(&source.text, checksum),
            Some(Remote::Git(reference)) => self.fetcher.time_of_git(&reference, checksum).map(Some),
            None => {
                let message = "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD";
                Err(Failure::new(FailureKind::Build, message)
                    .help("add from a URL or a git repository: a file of the build context has no time of its own")
                    .into())
            }
        };
        self.steps.carry_out(self.events, &name, work).at(source.span)
    }
}
