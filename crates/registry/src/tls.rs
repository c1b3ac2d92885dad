//! Which certificates are trusted and shown, host by host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};

use crate::{ClientOptions, RegistryError, Result};

/// The authorities for every host, read when the first TLS connection needs them (parsing the system's takes milliseconds).
#[derive(Debug)]
pub(crate) struct Trust {
    extra: Vec<Certificate<'static>>,
    certs_dirs: Vec<PathBuf>,
    cert_dir: Option<PathBuf>,
    system: OnceLock<Vec<Certificate<'static>>>,
}

impl Trust {
    pub(crate) fn new(options: &ClientOptions) -> Result<Trust> {
        let mut extra = Vec::new();
        for pem in &options.extra_roots {
            let found = certificates(pem).map_err(|reason| RegistryError::Tls { reason })?;
            if found.is_empty() {
                return Err(RegistryError::Tls {
                    reason: "an extra authority's file holds no certificate".to_owned(),
                });
            }
            extra.extend(found);
        }
        let (certs_dirs, cert_dir) = (options.certs_dirs.clone(), options.cert_dir.clone());
        Ok(Trust { extra, certs_dirs, cert_dir, system: OnceLock::new() })
    }

    /// The set-up for `domain` (`host[:port]`).
    pub(crate) fn config(&self, domain: &str, insecure: bool) -> Result<TlsConfig> {
        let own = self.own_files(domain)?;
        let mut builder = TlsConfig::builder().disable_verification(insecure).client_cert(own.client);
        if !insecure {
            let mut roots = own.authorities;
            roots.extend(self.extra.iter().cloned());
            roots.extend(self.system().iter().cloned());
            if roots.is_empty() {
                let reason = "the system has no certificate authorities (package ca-certificates)".to_owned();
                return Err(RegistryError::Tls { reason });
            }
            builder = builder.root_certs(RootCerts::Specific(Arc::new(roots)));
        }
        Ok(builder.build())
    }

    /// The system's, read once.
    pub(crate) fn system(&self) -> &[Certificate<'static>] {
        self.system.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
        })
    }

    fn own_files(&self, domain: &str) -> Result<OwnFiles> {
        let mut own = OwnFiles::default();
        let of_domain = self.certs_dirs.iter().map(|folder| folder.join(domain));
        for folder in of_domain.filter(|folder| folder.is_dir()).chain(self.cert_dir.clone()) {
            own.read(&folder)?;
        }
        Ok(own)
    }
}

/// What a folder of certs.d holds for one registry.
#[derive(Default)]
struct OwnFiles {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl OwnFiles {
    /// `*.crt` are authorities; `x.cert` with `x.key` is what we show (dockerd's rule).
    fn read(&mut self, folder: &Path) -> Result<()> {
        let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        let list = |source| RegistryError::File { action: "list", path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(list)? {
            let path = entry.map_err(list)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "crt" || extension == "cert" || extension == "key")
            {
                let read = |source| RegistryError::File { action: "read", path: path.clone(), source };
                let bytes = fs::read(&path).map_err(read)?;
                files.insert(path, bytes);
            }
        }
        for (path, bytes) in &files {
            let wrong = |reason| RegistryError::Configuration { path: path.clone(), reason };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.extend(certificates(bytes).map_err(wrong)?),
                Some("cert") => {
                    let key = files
                        .get(&path.with_extension("key"))
                        .ok_or_else(|| wrong("its key is missing beside it".to_owned()))?;
                    let key =
                        PrivateKey::from_pem(key).map_err(|_| wrong("its key can't be read".to_owned()))?;
                    self.client = Some(ClientCert::new_with_certs(&certificates(bytes).map_err(wrong)?, key));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(format!("not PEM: {error}")),
        }
    }
    Ok(found)
}
