//! What a test may do to a request.

use std::time::Duration;

/// The next `times` requests of `method` whose target contains `text` are answered by `effect`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(crate) method: String,
    pub(crate) text: String,
    pub(crate) times: u32,
    pub(crate) effect: Effect,
}

impl Fault {
    /// A fault for the next request only.
    pub fn once(method: &str, text: &str, effect: Effect) -> Fault {
        Fault { method: method.to_owned(), text: text.to_owned(), times: 1, effect }
    }

    /// The same for the next `times` requests.
    #[must_use]
    pub fn times(self, times: u32) -> Fault {
        Fault { times, ..self }
    }
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Another status, with headers and a body.
    Status(u16, Vec<(String, String)>, String),
    /// The connection is closed without an answer, and nothing is done.
    Close,
    /// What was asked is done, but the connection is closed without an answer.
    LostAnswer,
    /// The right answer's header, and the first bytes of its body; then the connection is closed.
    Cut(usize),
    /// As [`Effect::Cut`], but instead of closing nothing comes for a while.
    Stall(usize, Duration),
    /// The right answer, its body a byte at a time with this pause after each.
    Drip(Duration),
    /// The first bytes of the request's body are read; then the connection is closed.
    CutRequest(usize),
    /// The body's last byte is another.
    Altered,
    /// More (or less) bytes than there should be, with a Content-Length that says so.
    Resized(i64),
    /// The range that was asked for, under a Content-Range that names another.
    LyingRange,
    /// The whole content in spite of a Range.
    IgnoreRange,
    /// The right answer without one of its headers.
    Without(String),
    /// The right answer with one header changed or added.
    With(String, String),
    /// A redirect (307) to this URL.
    Redirect(String),
}

impl Effect {
    /// A status with the registry's usual error body.
    pub fn status(status: u16) -> Effect {
        let body = format!(r#"{{"errors":[{{"code":"TEST","message":"scripted {status}"}}]}}"#);
        Effect::Status(status, Vec::new(), body)
    }

    /// 429 with a `Retry-After`.
    pub fn too_many_requests(retry_after: &str) -> Effect {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#.to_owned();
        Effect::Status(429, vec![("Retry-After".to_owned(), retry_after.to_owned())], body)
    }
}
