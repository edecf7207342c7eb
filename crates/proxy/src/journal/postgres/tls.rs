//! What rustls is told for each mode. Files are read for every connection, so a renewed certificate
//! counts without a restart; whatever cannot be honoured fails the connection.

use std::{fs, io, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::settings::{Tls, TlsMode};

/// The configuration for a connection that uses TLS.
pub(super) fn client(tls: &Tls) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let verifier = verifier(tls, provider)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificates, key)) => {
            let key_file = read(key)?;
            let key = PrivateKeyDer::from_pem_slice(&key_file)
                .or_else(|_not_pem| PrivateKeyDer::try_from(key_file).map_err(io::Error::other))
                .map_err(|error| in_file(key, error))?;
            let chain = self::certificates(certificates)?;
            builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
        }
    }
}

fn verifier(tls: &Tls, provider: Arc<CryptoProvider>) -> io::Result<Verifier> {
    let Some(path) = &tls.roots else {
        if tls.mode.verifies() {
            let mode = tls.mode.as_str();
            return Err(io::Error::other(format!("mode {mode} needs root certificates")));
        }
        return Ok(Verifier { provider, chain: None, name: false });
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| in_file(path, error))?;
    }
    let chain = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .build()
        .map_err(|error| in_file(path, error))?;
    let chain = (tls.mode.is_strict()).then_some(chain);
    Ok(Verifier { provider, chain, name: tls.mode == TlsMode::VerifyFull })
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let file = read(path)?;
    let all = CertificateDer::pem_slice_iter(&file)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| in_file(path, error))?;
    if all.is_empty() { Err(in_file(path, "no certificate in PEM")) } else { Ok(all) }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| in_file(path, error))
}

fn in_file(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("file {}: {error}", path.display()))
}

/// Looks at the server's certificate as far as the mode asks for.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Absent where any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Whether the certificate must name the host.
    name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let found =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match found {
            // The name is looked at last, so everything else about the certificate is right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            found => found,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
