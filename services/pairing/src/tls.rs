//! TLS 1.3 between two controllers that have pinned each other's key.
//!
//! There are no certificates, names or authorities: each side shows its raw public key (RFC 7250) and proves that it
//! has the private one; the other side compares the key with the pinned one, byte by byte. So nothing that a stranger
//! sends is parsed but the handshake itself. Sessions are never resumed: each link proves both keys again, and nothing
//! of an older one can be replayed.

use crate::identity::{Identity, PublicKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use std::sync::Arc;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(identity: &Identity, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.pkcs8().to_vec()));
    let key = provider.key_provider.load_private_key(key)?;
    let shown = CertificateDer::from(identity.public().info());
    Ok(Arc::new(CertifiedKey::new(vec![shown], key)))
}

/// For the side that listens.
///
/// # Errors
/// The key cannot be used for TLS.
pub fn server(identity: &Identity, partner: PublicKey) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let own = AlwaysResolvesServerRawPublicKeys::new(certified(identity, &provider)?);
    let pinned = Arc::new(Pinned::new(partner, &provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(pinned)
        .with_cert_resolver(Arc::new(own));
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For the side that dials.
///
/// # Errors
/// The key cannot be used for TLS.
pub fn client(identity: &Identity, partner: PublicKey) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let own = AlwaysResolvesClientRawPublicKeys::new(certified(identity, &provider)?);
    let pinned = Arc::new(Pinned::new(partner, &provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_client_cert_resolver(Arc::new(own));
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The name that the protocol wants of whom it dials; nobody looks at it.
#[must_use]
pub fn name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}

/// Whether a failed handshake says that the other side has another key than the pinned one.
#[must_use]
pub fn is_stranger(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(_)
            | Error::AlertReceived(
                rustls::AlertDescription::CertificateUnknown
                    | rustls::AlertDescription::BadCertificate
                    | rustls::AlertDescription::AccessDenied
                    | rustls::AlertDescription::DecryptError
            )
            | Error::NoCertificatesPresented
    )
}

/// Accepts one key.
#[derive(Debug)]
struct Pinned {
    info: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(key: PublicKey, provider: &CryptoProvider) -> Self {
        Self {
            info: key.info(),
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        if shown.as_ref() == self.info {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

/// There is no TLS 1.2 here.
fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(
        rustls::PeerIncompatible::Tls13RequiredForQuic,
    ))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConnection, ServerConnection};

    struct Ends {
        a: Identity,
        b: Identity,
        stranger: Identity,
    }

    fn ends(dir: &std::path::Path) -> Ends {
        let make = |name: &str| Identity::load_or_make(&dir.join(name)).unwrap();
        Ends {
            a: make("a"),
            b: make("b"),
            stranger: make("stranger"),
        }
    }

    /// Carries what both say to the other, until nobody says anything.
    fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<(), Error> {
        let mut a = ServerConnection::new(server)?;
        let mut b = ClientConnection::new(client, name())?;
        for _ in 0..10 {
            let mut wire = Vec::new();
            b.write_tls(&mut wire).unwrap();
            a.read_tls(&mut &wire[..]).unwrap();
            a.process_new_packets()?;
            wire.clear();
            a.write_tls(&mut wire).unwrap();
            b.read_tls(&mut &wire[..]).unwrap();
            b.process_new_packets()?;
        }
        assert!(!a.is_handshaking() && !b.is_handshaking());
        Ok(())
    }

    #[test]
    fn two_that_pinned_each_other_talk_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let Ends { a, b, stranger } = ends(dir.path());
        let listen = |pinned: &Identity| server(&a, pinned.public()).unwrap();
        let dial = |own: &Identity, pinned: &Identity| client(own, pinned.public()).unwrap();
        shake(listen(&b), dial(&b, &a)).unwrap();
        for (server, client) in [
            (listen(&b), dial(&stranger, &a)),
            (listen(&b), dial(&b, &stranger)),
            (listen(&stranger), dial(&b, &a)),
        ] {
            let error = shake(server, client).unwrap_err();
            assert!(is_stranger(&error), "{error}");
        }
    }

    #[test]
    fn who_shows_no_key_or_another_protocol_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let Ends { a, b, .. } = ends(dir.path());
        let pinned = Arc::new(Pinned::new(a.public(), &provider()));
        let nobody = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(pinned)
            .with_no_client_auth();
        assert!(shake(server(&a, b.public()).unwrap(), Arc::new(nobody)).is_err());
        let mut listener = ServerConnection::new(server(&a, b.public()).unwrap()).unwrap();
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0; 64],
            b"{\"pollux_router_link\":1}\n",
        ] {
            let read = listener.read_tls(&mut &bytes[..]);
            assert!(read.is_err() || listener.process_new_packets().is_err());
        }
    }
}
