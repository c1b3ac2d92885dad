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
        /// The refresh token that the OAuth form must carry; who asks for an offline token with the right password gets it.
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
    let dialect = &state.dialect;
    let challenge = match &state.login {
        Login::Open => return None,
        Login::Basic(user, password) if given == basic(user, password) => return None,
        Login::Basic(..) => match dialect.expired.filter(|_| !given.is_empty()) {
            Some((status, body)) => return Some(Response::json(status, body)),
            None => dialect.basic.to_owned(),
        },
        Login::Token { .. } => {
            let token = given.strip_prefix("Bearer ").unwrap_or_default();
            let allowed = state.tokens.get(token);
            if allowed.is_some_and(|allowed| scopes.iter().all(|scope| covers(allowed, scope))) {
                return None;
            }
            let host = if dialect.realm_elsewhere { shared.elsewhere } else { shared.address };
            let mut challenge =
                format!("Bearer realm=\"http://{host}{}\",service=\"{}\"", dialect.realm, dialect.service);
            if dialect.names_scope && !scopes.is_empty() {
                challenge.push_str(&format!(",scope=\"{}\"", scopes.join(" ")));
            }
            if allowed.is_some() {
                challenge.push_str(dialect.insufficient);
            }
            challenge
        }
    };
    Some(Response::json(401, dialect.unauthorized).with("WWW-Authenticate", &challenge))
}

/// `repository:a:pull,push` covers `repository:a:pull`.
fn covers(allowed: &[String], scope: &str) -> bool {
    let Some((name, actions)) = scope.rsplit_once(':') else { return false };
    allowed.iter().filter_map(|known| known.rsplit_once(':')).any(|(known, known_actions)| {
        known == name
            && actions.split(',').all(|action| known_actions.split(',').any(|known| known == action))
    })
}

/// Is this a request to the token server, not to the registry?
pub(super) fn is_token_server(state: &State, request: &Request) -> bool {
    request.path() == state.dialect.realm && request.elsewhere == state.dialect.realm_elsewhere
}

/// The token server: GET with Basic, or OAuth's POST.
pub(super) fn token(state: &mut State, request: &Request) -> Response {
    let Login::Token { user, refresh, only } = state.login.clone() else {
        return Response::error(404, "UNKNOWN", "no token server");
    };
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let is_form = request.method == "POST";
    let fields = parameters(if is_form { &form } else { request.query() });
    let has = |name: &str, value: &str| fields.iter().any(|(known, is)| known == name && is == value);
    let given = request.header("authorization");
    let granted = match (is_form, &user) {
        (true, _) => {
            let right = refresh.as_deref().is_some_and(|refresh| has("refresh_token", refresh));
            right && has("grant_type", "refresh_token") && has("service", state.dialect.service)
        }
        (false, None) => true,
        (false, Some((user, password))) => given == Some(&basic(user, password)),
    };
    let powerless = !granted && !is_form && given.is_none() && state.dialect.strangers.is_none();
    if !granted && !powerless {
        let stranger = state.dialect.strangers.filter(|_| given.is_none() && !is_form);
        let (status, body) = stranger.unwrap_or(state.dialect.wrong_login);
        return Response::json(status, body);
    }
    let asked = fields.iter().filter(|(name, _)| name == "scope").flat_map(|(_, scopes)| scopes.split(' '));
    let scopes = asked.filter(|_| granted).map(|scope| match (&only, scope.rsplit_once(':')) {
        (Some(actions), Some((name, _))) => format!("{name}:{actions}"),
        _ => scope.to_owned(),
    });
    let scopes: Vec<String> = scopes.collect();
    state.next_number += 1;
    let token = match &state.signer {
        Some(signer) => signer.sign(state.dialect.service, &scopes, state.next_number),
        None => format!("secret-token-{}", state.next_number),
    };
    state.tokens.insert(token.clone(), scopes);
    let key = if is_form { "access_token" } else { "token" };
    let mut answer = serde_json::json!({ key: token, "expires_in": 300 });
    if let Some(refresh) = refresh.filter(|_| has("offline_token", "true")) {
        answer["refresh_token"] = refresh.into();
    }
    Response::json(200, &answer.to_string())
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
