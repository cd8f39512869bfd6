//! What the management address shows: a certificate of its own making, or the operator's.
//!
//! Made at the first start, in the key store, and kept for ever: nobody signs it and nobody renews it, so whoever
//! connects compares its fingerprint once, with the journal or with `pollux management`, and pins it.
//!
//! ```text
//! web.key   ECDSA P-256 (PKCS #8, PEM), readable by its owner alone; never leaves the controller
//! web.crt   the certificate (PEM); what `curl --cacert` is given
//! ```
//!
//! P-256 because every browser takes it; Ed25519 few do. It must never replace a certificate that is there.

use pollux_platform::file::replace;
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::Management;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use ring::digest::{SHA256, digest};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ServerConfig};

/// Name of the certificate's file in the key store.
pub const CERTIFICATE: &str = "web.crt";
/// Name of its key's.
pub const KEY: &str = "web.key";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the key.
    #[error("{} has mode {mode:03o}: others may have read it; make it 600, with a new key", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not what it should be.
    #[error("{} is not {wanted}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What should be there.
        wanted: &'static str,
        /// What the library said.
        why: String,
    },
    /// Certificate and key do not fit each other, or cannot be used for TLS.
    #[error("{} cannot be used: {source}; it and {} must belong together", certificate.display(), key.display())]
    Tls {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the library said.
        source: rustls::Error,
    },
    /// None could be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What is shown, and how.
pub(super) struct Shown {
    pub(super) path: PathBuf,
    /// SHA-256 of the certificate, `AB:CD:...`.
    pub(super) fingerprint: String,
    pub(super) tls: Arc<ServerConfig>,
}

/// The certificate of a controller; made if there is none. Waits for the disk.
pub(super) fn load_or_make(
    config: &ControllerConfig,
    management: &Management,
) -> Result<Shown, CertificateError> {
    let keys = &config.paths.keys;
    let (certificate, key) = match (&management.certificate, &management.key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ => {
            let own = (keys.join(CERTIFICATE), keys.join(KEY));
            // The certificate is written last: without it nobody has seen the key.
            if !own.0.exists() {
                make(&own.0, &own.1, config, management)?;
            }
            own
        }
    };
    load(certificate, key)
}

fn make(
    certificate: &Path,
    key: &Path,
    config: &ControllerConfig,
    management: &Management,
) -> Result<(), CertificateError> {
    let mut names = vec![config.front.address.to_string(), "localhost".to_owned()];
    if !management.address.is_unspecified() {
        names.insert(0, management.address.to_string());
    }
    names.dedup();
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names)?;
    let name = format!("pollux {} controller {}", config.array, config.controller);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let made = params.self_signed(&pair)?;
    for (path, text) in [(key, pair.serialize_pem()), (certificate, made.pem())] {
        replace(path, text.as_bytes(), 0o600).map_err(|source| CertificateError::Io {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn load(certificate: PathBuf, key: PathBuf) -> Result<Shown, CertificateError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| CertificateError::Io {
            path: path.to_owned(),
            source,
        })
    };
    let malformed = |path: &Path, wanted, why: String| CertificateError::Malformed {
        path: path.to_owned(),
        wanted,
        why,
    };
    let metadata = std::fs::metadata(&key).map_err(|source| CertificateError::Io {
        path: key.clone(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CertificateError::Exposed { path: key, mode });
    }
    let wanted = "a certificate in PEM";
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(&certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|why| malformed(&certificate, wanted, why.to_string()))?;
    let Some(first) = chain.first() else {
        return Err(malformed(&certificate, wanted, "there is none in it".to_owned()));
    };
    let fingerprint = fingerprint(first);
    let private = PrivateKeyDer::from_pem_slice(&read(&key)?)
        .map_err(|why| malformed(&key, "a private key in PEM", why.to_string()))?;
    match tls(chain, private) {
        Ok(tls) => Ok(Shown {
            path: certificate,
            fingerprint,
            tls,
        }),
        Err(source) => Err(CertificateError::Tls {
            certificate,
            key,
            source,
        }),
    }
}

fn tls(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Nothing is kept between two connections, and nothing of an older one can be played again.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let hash = digest(&SHA256, certificate);
    let digits: Vec<String> = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    digits.join(":")
}
