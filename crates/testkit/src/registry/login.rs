//! Who may come in, and the token server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::http::{Request, Response};
use super::{Shared, State};

/// The registry's rule.
#[derive(Clone, Debug, Default)]
pub enum Login {
    /// Everyone.
    #[default]
    Open,
    /// User name and password with each request.
    Basic(String, String),
    /// Bearer tokens. With a user, the token server wants the user's password or, as OAuth, a refresh token.
    Token {
        /// User name and password; none gives tokens to everyone.
        user: Option<(String, String)>,
        /// The refresh token that the OAuth form must carry.
        refresh: Option<String>,
        /// Tokens allow these actions only, whatever is asked (`pull`).
        only: Option<String>,
    },
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// None if the request may go on; else the 401.
pub(super) fn check(
    shared: &Shared,
    state: &State,
    request: &Request,
    scopes: &[String],
) -> Option<Response> {
    let given = request.header("authorization").unwrap_or_default();
    let challenge = match &state.login {
        Login::Open => return None,
        Login::Basic(user, password) if given == basic(user, password) => return None,
        Login::Basic(..) => "Basic realm=\"test\"".to_owned(),
        Login::Token { .. } => {
            let token = given.strip_prefix("Bearer ").unwrap_or_default();
            let allowed = state.tokens.get(token);
            if allowed.is_some_and(|allowed| scopes.iter().all(|scope| covers(allowed, scope))) {
                return None;
            }
            let scope = scopes.join(" ");
            format!(
                "Bearer realm=\"http://{}/token\",service=\"test-registry\",scope=\"{scope}\"",
                shared.address
            )
        }
    };
    Some(Response::error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", &challenge))
}

/// `repository:a:pull,push` covers `repository:a:pull`.
fn covers(allowed: &[String], scope: &str) -> bool {
    let Some((name, actions)) = scope.rsplit_once(':') else { return false };
    allowed.iter().filter_map(|known| known.rsplit_once(':')).any(|(known, known_actions)| {
        known == name
            && actions.split(',').all(|action| known_actions.split(',').any(|known| known == action))
    })
}

/// `/token`: GET with Basic, or OAuth's POST.
pub(super) fn token(state: &mut State, request: &Request) -> Response {
    let Login::Token { user, refresh, only } = state.login.clone() else {
        return Response::error(404, "UNKNOWN", "no token server");
    };
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let (fields, granted) = match request.method.as_str() {
        "POST" => {
            let fields = parameters(&form);
            let right =
                refresh.is_some_and(|refresh| fields.contains(&("refresh_token".to_owned(), refresh)));
            (fields, right)
        }
        _ => {
            let right = user.is_none_or(|(user, password)| {
                request.header("authorization") == Some(&basic(&user, &password))
            });
            (parameters(request.query()), right)
        }
    };
    if !granted {
        return Response::new(401).body(r#"{"details":"incorrect username or password"}"#.as_bytes());
    }
    let asked = fields.iter().filter(|(name, _)| name == "scope").flat_map(|(_, scopes)| scopes.split(' '));
    let scopes = asked.map(|scope| match (&only, scope.rsplit_once(':')) {
        (Some(actions), Some((name, _))) => format!("{name}:{actions}"),
        _ => scope.to_owned(),
    });
    let scopes: Vec<String> = scopes.collect();
    state.next_number += 1;
    let token = format!("secret-token-{}", state.next_number);
    state.tokens.insert(token.clone(), scopes);
    let key = if request.method == "POST" { "access_token" } else { "token" };
    Response::new(200).body(format!(r#"{{"{key}":"{token}","expires_in":300}}"#).as_bytes())
}

/// The decoded parameters of a query or form.
pub(super) fn parameters(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = || u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok();
        match (first, code()) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
