//! All six modes, against a server with TLS, one without, and ones whose certificates are wrong.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::*;

/// An authority and what it signed, as files.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer =
            CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("root.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// A certificate for that name, and its key, in PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Which connections the server takes.
const TLS_ONLY: &str = "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
const PLAIN_ONLY: &str = "local all postgres trust\nhostnossl all all 127.0.0.1/32 scram-sha-256\n";
const BOTH: &str = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
const CLIENT_CERTIFICATE: &str =
    "local all postgres trust\nhostssl all all 127.0.0.1/32 cert clientname=CN\n";

/// A server that shows a certificate for that name, or for its own.
async fn server(authority: &Authority, name: Option<&str>) -> Server {
    let server = Server::start().await.unwrap();
    let (certificate, key) = authority.sign(name.unwrap_or(&server.host()));
    server.write("server.crt", &certificate).unwrap();
    server.write("server.key", &key).unwrap();
    server.write("root.crt", &authority.issuer.pem()).unwrap();
    server.configure("ssl = on\nssl_ca_file = 'root.crt'").unwrap();
    server.restart().await.unwrap();
    server
}

async fn rules(server: &Server, rules: &str) {
    server.write("pg_hba.conf", rules).unwrap();
    server.execute("SELECT pg_reload_conf()").await.unwrap();
    let seen = "SELECT count(*) FROM pg_hba_file_rules";
    server.client().await.unwrap().query_one(seen, &[]).await.unwrap();
}

/// Whether the connection uses TLS, or why there is none.
async fn connect(server: &Server, tls: Tls) -> Result<bool, String> {
    let settings = Settings { tls, ..settings(server) };
    let store =
        Postgres::open(settings, "cart").await.map_err(|error| api::Chain(&error).to_string())?;
    let taken = store.reader.pool().take().await.unwrap();
    let rows = taken
        .link()
        .query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[])
        .await
        .unwrap();
    Ok(rows[0].get(0))
}

fn mode(mode: TlsMode, roots: Option<PathBuf>) -> Tls {
    Tls { mode, roots, identity: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_insists_on_what_it_says_and_no_less() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let good = server(&authority, None).await;
    let root = || Some(authority.root());

    rules(&good, BOTH).await;
    assert_eq!(connect(&good, mode(TlsMode::Disable, None)).await, Ok(false));
    assert_eq!(connect(&good, mode(TlsMode::Allow, None)).await, Ok(false));
    assert_eq!(connect(&good, mode(TlsMode::Prefer, None)).await, Ok(true));
    assert_eq!(connect(&good, mode(TlsMode::Require, None)).await, Ok(true));
    assert_eq!(connect(&good, mode(TlsMode::VerifyCa, root())).await, Ok(true));
    assert_eq!(connect(&good, mode(TlsMode::VerifyFull, root())).await, Ok(true));
    let strange = || Some(stranger.root());
    for strict in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        let said = connect(&good, mode(strict, strange())).await.unwrap_err();
        assert!(said.contains("certificate"), "{said}");
    }
    let said = connect(&good, mode(TlsMode::VerifyFull, None)).await.unwrap_err();
    assert!(said.contains("root certificates"), "{said}");
    let missing = Some(PathBuf::from("/nowhere/root.pem"));
    let said = connect(&good, mode(TlsMode::VerifyCa, missing)).await.unwrap_err();
    assert!(said.contains("/nowhere/root.pem"), "{said}");

    rules(&good, TLS_ONLY).await;
    assert_eq!(connect(&good, mode(TlsMode::Allow, None)).await, Ok(true));
    let said = connect(&good, mode(TlsMode::Disable, None)).await.unwrap_err();
    assert!(said.contains("no encryption"), "{said}");

    rules(&good, PLAIN_ONLY).await;
    assert_eq!(connect(&good, mode(TlsMode::Prefer, None)).await, Ok(false));
    for strict in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        assert!(connect(&good, mode(strict, root())).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_verify_full_looks_at_the_name() {
    let authority = Authority::new();
    let server = server(&authority, Some("elsewhere.example")).await;
    let root = || Some(authority.root());
    assert_eq!(connect(&server, mode(TlsMode::VerifyCa, root())).await, Ok(true));
    assert_eq!(connect(&server, mode(TlsMode::Require, root())).await, Ok(true));
    let said = connect(&server, mode(TlsMode::VerifyFull, root())).await.unwrap_err();
    assert!(said.contains("elsewhere.example") && said.contains(&server.host()), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_refused_where_tls_is_insisted_on() {
    let server = Server::shared().await;
    for lax in [TlsMode::Disable, TlsMode::Allow, TlsMode::Prefer] {
        assert_eq!(connect(server, mode(lax, None)).await, Ok(false));
    }
    let root = Authority::new();
    for strict in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        let said = connect(server, mode(strict, Some(root.root()))).await.unwrap_err();
        assert!(said.contains("does not support TLS"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_ours_stands_for_a_password() {
    let authority = Authority::new();
    let server = server(&authority, None).await;
    rules(&server, CLIENT_CERTIFICATE).await;
    let (certificate, key) = authority.sign(NAME);
    let files = ["client.crt", "client.key"].map(|name| authority.folder.path().join(name));
    fs::write(&files[0], certificate).unwrap();
    fs::write(&files[1], key).unwrap();
    let with =
        |identity| Tls { mode: TlsMode::VerifyFull, roots: Some(authority.root()), identity };
    let [certificate, key] = files;
    assert_eq!(connect(&server, with(Some((certificate, key)))).await, Ok(true));
    let said = connect(&server, with(None)).await.unwrap_err();
    assert!(said.contains("certificate"), "{said}");
}
