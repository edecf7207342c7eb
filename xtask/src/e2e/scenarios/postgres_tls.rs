//! A cart on a Postgres over TLS, with certificates from a Secret.

use anyhow::{Context as _, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::{
    manifests::{DEPLOYMENT, SERVICE, STORE, edited, on_postgres},
    postgres::{DATABASE, tells},
};
use crate::e2e::{calls::Caller, namespace::Namespace};

/// Holds the server's certificate and key, and the authority's certificate.
const SECRET: &str = "carts-db-tls";

/// With `verify-full` a server that another authority signed for is refused, and the right one is spoken to over TLS.
pub(super) fn cart_on_postgres_over_tls(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let (certificate, key) = authority.sign(DATABASE)?;
    let secret = |root: &Authority| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET},
            "stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": root.certificate()},
        })
        .to_string()
    };
    namespace.apply(&secret(&stranger))?;
    namespace.apply(&with_tls(&on_postgres(namespace.cluster)?)?)?;
    tells(namespace, &["StoreUnreachable", "certificate", STORE])?;

    namespace.apply(&secret(&authority))?;
    // Its own proxy reads the files for each new connection; the kubelet takes a minute to bring them up to date.
    namespace.kubectl(&["rollout", "restart", &format!("deployment/{DEPLOYMENT}")])?;
    let took = namespace.ready(SERVICE)?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")?;
    let sessions = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE client_addr IS NOT NULL";
    let ask = format!(
        "PGPASSWORD=$POSTGRES_PASSWORD psql -h /tmp -U $POSTGRES_USER -d $POSTGRES_DB -tAc \"{sessions}\""
    );
    let answer = namespace.kubectl(&["exec", &format!("{DATABASE}-0"), "--", "sh", "-c", &ask])?;
    let (encrypted, all) = answer.trim().split_once('|').context("psql counts no sessions")?;
    ensure!(encrypted == all && encrypted != "0", "{encrypted} of {all} sessions use TLS");
    namespace.note(format!(
        "serves calls {took:.1?} after the authority was put right; {encrypted} of {all} sessions use TLS"
    ));
    Ok(())
}

/// The sample with a server that takes TLS, and a store that insists on it.
fn with_tls(manifest: &str) -> anyhow::Result<String> {
    let mut manifest = manifest.to_owned();
    for (old, new) in [
        (
            "        env:\n        - name: POSTGRES_DB\n".to_owned(),
            "        args: [-c, ssl=on, -c, ssl_cert_file=/tls/tls.crt, -c, ssl_key_file=/tls/tls.key]\n",
        ),
        (
            "        - name: run\n          mountPath: /var/run/postgresql\n".to_owned(),
            "        - name: tls\n          mountPath: /tls\n          readOnly: true\n",
        ),
        (
            "      - name: run\n        emptyDir: {}\n".to_owned(),
            // The group may read, and nobody else: Postgres insists on that.
            "      - name: tls\n        secret: {secretName: carts-db-tls, defaultMode: 0440}\n",
        ),
        (
            format!("    credentialsFromSecret:\n      name: {DATABASE}\n"),
            "    ssl: {mode: verify-full, secret: carts-db-tls, rootCert: ca.crt}\n",
        ),
    ] {
        manifest = edited(&manifest, &old, &format!("{new}{old}"))?;
    }
    Ok(manifest)
}

/// Signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?))
    }

    fn certificate(&self) -> String {
        self.0.pem()
    }

    /// A certificate for that name, and its key.
    fn sign(&self, name: &str) -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.0)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}
