//! The distribution protocol: resolve, pull, push, log in; mirrors, retries.
//!
//! One synchronous [`Client`] is shared by all threads of a build; how many transfers run at a time is the caller's choice. Each
//! transfer holds one buffer, whatever the blob's size. Where an image lives is decided by [`RegistriesConf`], who
//! asks for it by [`CredentialStore`]; neither reads the environment, the caller names the files.
//!
//! Rules kept here: every byte from outside is checked against a digest before it counts; what can succeed later is tried
//! again ([`RetryPolicy`]), what can't is not; an `Authorization` header never goes to another host than the one that asked for it.

mod auth;
mod base;
mod client;
mod credentials;
mod error;
mod fetch;
mod http;
mod lanes;
mod login;
mod manifest;
mod options;
mod pace;
mod pull;
mod push;
mod registries;
mod retry;
mod tags;
mod tls;
mod url;

pub use client::Client;
pub use credentials::{Credential, CredentialStore, HelperOutput, HelperRunner};
pub use error::{ErrorKind, RegistryError, Result};
pub use fetch::{HttpRequest, HttpResponse};
pub use login::{LoginPlace, forget_login, keep_login, registry_name};
pub use manifest::{Fetched, ResolvedImage};
pub use options::{ClientOptions, ProxyConf, RetryPolicy};
pub use pull::BlobSink;
pub use push::Pushed;
pub use registries::{Endpoint, RegistriesConf};
