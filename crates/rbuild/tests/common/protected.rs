//! Debian's `docker-registry` behind a login.

use rbuild_testkit::registry::Login;
use std::io::Write;
use std::process::{Command, Stdio};

use rbuild_testkit::{Access, Gate, RealRegistry, TestRegistry};
use tempfile::TempDir;

use super::Test;

/// The registry; it ends with the value.
pub(crate) struct Protected {
    /// Host and port.
    pub(crate) address: String,
    /// The token server, where it wants tokens.
    pub(crate) tokens: Option<TestRegistry>,
    _server: RealRegistry,
    _folder: TempDir,
}

impl Protected {
    /// The one user.
    pub(crate) const USER: &str = "ci";
    /// The user's password.
    pub(crate) const PASSWORD: &str = "secret word";
    /// What `htpasswd -B` says of it.
    const HTPASSWD: &str = "ci:$2y$05$abcdefghijklmnopqrstuu1C7yeI3ZG3Jm.nHdnKkGJg1xTYKP9Oy\n";

    /// It wants user name and password with each request.
    pub(crate) fn start() -> Protected {
        let gate = Gate::Htpasswd(Protected::HTPASSWD.to_owned());
        Protected::behind(gate, None, tempfile::tempdir().unwrap())
    }

    /// It wants tokens of a token server, which gives them for the user's password.
    pub(crate) fn start_with_tokens() -> Protected {
        let (tokens, folder) = (TestRegistry::start(), tempfile::tempdir().unwrap());
        tokens.require(Login::Token {
            user: Some((Protected::USER.to_owned(), Protected::PASSWORD.to_owned())),
            refresh: None,
            only: None,
        });
        tokens.sign_tokens(folder.path(), "tests").unwrap();
        let gate = Gate::Tokens {
            realm: format!("http://{}/token", tokens.address()),
            service: "test-registry".to_owned(),
            issuer: "tests".to_owned(),
            certificate: folder.path().join("token.pem"),
        };
        Protected::behind(gate, Some(tokens), folder)
    }

    fn behind(gate: Gate, tokens: Option<TestRegistry>, folder: TempDir) -> Protected {
        let server = RealRegistry::start_with(&Access { gate, ..Access::default() }).unwrap();
        Protected { address: server.address().to_owned(), tokens, _server: server, _folder: folder }
    }
}

/// Logs in as the one user.
pub(crate) fn log_in(test: &Test, address: &str) {
    succeeds_with_password(test.command().args([
        "login",
        "--username",
        Protected::USER,
        "--password-stdin",
        address,
    ]));
}

/// Runs a login with the right password on its standard input.
pub(crate) fn succeeds_with_password(command: &mut Command) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{}\n", Protected::PASSWORD).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Login Succeeded\n");
}
