//! How registries differ: the words, places and limits of one, around the protocol that all share.

/// The manners of a registry. [`Dialect::default`] is the distribution project's own server; the others follow what the
/// registry of that name answers.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// Path of the token server.
    pub realm: &'static str,
    /// The token server is at the registry's other host.
    pub realm_elsewhere: bool,
    /// What the registry is called at the token server.
    pub service: &'static str,
    /// The challenge says which scope is missing.
    pub names_scope: bool,
    /// Follows in the challenge to a token that does not allow enough.
    pub insufficient: &'static str,
    /// The whole challenge of a registry without tokens.
    pub basic: &'static str,
    /// Of a registry without tokens, its answer to a password that is not (any more) the right one: status and body, no
    /// challenge. Without it that is a 401 as for strangers.
    pub expired: Option<(u16, &'static str)>,
    /// Body of a 401 of the registry.
    pub unauthorized: &'static str,
    /// The token server's answer to a wrong login: status and body.
    pub wrong_login: (u16, &'static str),
    /// The token server's answer to strangers where a login is wanted; none gives them a token that allows nothing.
    pub strangers: Option<(u16, &'static str)>,
    /// Body of the 404 for a manifest.
    pub no_manifest: &'static str,
    /// Blobs lie at the registry's other host, behind a signed URL: the status of the redirect.
    pub storage: Option<u16>,
    /// Uploads are begun with 202 instead of a mount, as by registries that can't mount.
    pub mounts: bool,
    /// Uploads can be ended by DELETE.
    pub cancels: bool,
    /// Where an upload goes on: before `/<repository>/`, and after it.
    pub uploads: (&'static str, &'static str),
    /// The Location of an upload is a whole URL.
    pub whole_location: bool,
    /// The answer to an upload in one piece, where that is not taken.
    pub monolithic: Option<u16>,
    /// The largest body that is taken; more is answered by 413.
    pub largest_body: Option<u64>,
    /// `OCI-Chunk-Min-Length`.
    pub smallest_chunk: Option<u64>,
    /// Headers of each manifest.
    pub on_manifests: &'static [(&'static str, &'static str)],
}

/// What the distribution project's server says to strangers; most took it over.
const AUTHENTICATE: &str =
    r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#;

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect {
            realm: "/token",
            realm_elsewhere: false,
            service: "test-registry",
            names_scope: true,
            insufficient: "",
            basic: r#"Basic realm="test""#,
            expired: None,
            unauthorized: AUTHENTICATE,
            wrong_login: (401, r#"{"details":"incorrect username or password"}"#),
            strangers: Some((401, r#"{"details":"incorrect username or password"}"#)),
            no_manifest: r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            storage: None,
            mounts: true,
            cancels: true,
            uploads: ("/v2", "blobs/uploads"),
            whole_location: false,
            monolithic: None,
            largest_body: None,
            smallest_chunk: None,
            on_manifests: &[],
        }
    }
}

impl Dialect {
    /// Docker Hub: tokens from another host, strangers get one that allows nothing private, pulls are counted.
    pub fn docker_hub() -> Dialect {
        Dialect {
            realm: "/token",
            realm_elsewhere: true,
            service: "registry.docker.io",
            insufficient: r#",error="insufficient_scope""#,
            strangers: None,
            storage: Some(307),
            on_manifests: &[
                ("ratelimit-limit", "100;w=21600"),
                ("ratelimit-remaining", "76;w=21600"),
                ("docker-ratelimit-source", "203.0.113.7"),
            ],
            ..Dialect::default()
        }
    }

    /// Amazon's: no tokens but Basic with the user AWS; no mounts, no DELETE of uploads, whole URLs.
    pub fn ecr() -> Dialect {
        Dialect {
            basic: r#"Basic realm="https://123456789012.dkr.ecr.eu-central-1.amazonaws.com/",service="ecr.amazonaws.com""#,
            expired: Some((
                403,
                r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#,
            )),
            unauthorized: "Not Authorized\n",
            no_manifest: r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"Requested image not found"}]}"#,
            storage: Some(307),
            mounts: false,
            cancels: false,
            whole_location: true,
            ..Dialect::default()
        }
    }

    /// Azure's: identity tokens are exchanged at `/oauth2/token`.
    pub fn acr() -> Dialect {
        Dialect {
            realm: "/oauth2/token",
            service: "team.azurecr.io",
            unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, visit https://aka.ms/acr/authorization for more information.","detail":[{"Type":"repository","Name":"app","Action":"pull"}]}]}"#,
            wrong_login: (
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, visit https://aka.ms/acr/authorization for more information. CorrelationId: 1"}]}"#,
            ),
            storage: Some(307),
            ..Dialect::default()
        }
    }

    /// GitHub's: the token server itself denies packages that a stranger may not see or that do not exist.
    pub fn ghcr() -> Dialect {
        const DENIED: &str =
            r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
        Dialect {
            service: "ghcr.io",
            wrong_login: (403, r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#),
            strangers: Some((403, DENIED)),
            storage: Some(307),
            uploads: ("/v2", "blobs/upload"),
            ..Dialect::default()
        }
    }

    /// GitLab's: tokens come from the web application, at another host.
    pub fn gitlab() -> Dialect {
        Dialect {
            realm: "/jwt/auth",
            realm_elsewhere: true,
            service: "container_registry",
            insufficient: r#",error="insufficient_scope""#,
            wrong_login: (
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect or you're required to use a token instead of a password."}]}"#,
            ),
            strangers: Some((403, r#"{"errors":[{"code":"DENIED","message":"access forbidden"}]}"#)),
            storage: Some(307),
            ..Dialect::default()
        }
    }

    /// Harbor.
    pub fn harbor() -> Dialect {
        Dialect {
            realm: "/service/token",
            service: "harbor-registry",
            unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized to access repository: library/app, action: push: unauthorized to access repository: library/app, action: push"}]}"#,
            wrong_login: (401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized"}]}"#),
            strangers: None,
            no_manifest: r#"{"errors":[{"code":"NOT_FOUND","message":"artifact library/app:none not found"}]}"#,
            ..Dialect::default()
        }
    }

    /// Quay: the message comes last and `detail` is an object; blobs are at a content network by 302.
    pub fn quay() -> Dialect {
        Dialect {
            realm: "/v2/auth",
            service: "quay.io",
            unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","detail":{},"message":"access to the requested resource is not authorized"}]}"#,
            wrong_login: (
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","detail":{},"message":"Could not find robot with specified username"}]}"#,
            ),
            strangers: None,
            no_manifest: r#"{"errors":[{"code":"MANIFEST_UNKNOWN","detail":{},"message":"manifest unknown"}]}"#,
            storage: Some(302),
            ..Dialect::default()
        }
    }

    /// Artifactory: the first part of a repository's path is a repository of its own, uploads go on below its API.
    pub fn artifactory() -> Dialect {
        Dialect {
            realm: "/artifactory/api/docker/docker-local/v2/token",
            service: "team.jfrog.io",
            unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#,
            wrong_login: (401, r#"{"errors" : [ {"status" : 401, "message" : "Wrong username was used"} ]}"#),
            strangers: Some((401, r#"{"errors" : [ {"status" : 401, "message" : "Bad credentials"} ]}"#)),
            no_manifest: r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"The named manifest is not known to the registry.","detail":{"manifest":"team/app/none"}}]}"#,
            storage: Some(302),
            uploads: ("/artifactory/api/docker/v2", "blobs/uploads"),
            whole_location: true,
            ..Dialect::default()
        }
    }
}
