//! Keys and certificates: one per component, so that every rule about who may do what is really in force.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::net;

/// Who a certificate speaks for.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    /// File name without ending.
    file: &'static str,
    /// Kubernetes takes this for the user's name.
    common_name: &'static str,
    /// Kubernetes takes this for the user's group.
    organization: Option<&'static str>,
    /// Names and addresses that it may serve under; empty for mere clients.
    serves: Vec<&'static str>,
    /// Which authority signs it.
    authority: &'static str,
}

/// etcd has an authority of its own: whoever reads etcd reads every secret, and only the API server may.
const AUTHORITIES: [&str; 2] = ["ca", "etcd-ca"];

fn identities() -> Vec<Identity> {
    let client = |file, common_name, organization| Identity {
        file,
        common_name,
        organization,
        serves: Vec::new(),
        authority: "ca",
    };
    vec![
        Identity {
            serves: vec![
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                net::API_SERVICE_IP,
                net::NODE_IP,
                "127.0.0.1",
            ],
            ..client("apiserver", "kube-apiserver", None)
        },
        client("apiserver-kubelet", "kube-apiserver-kubelet-client", Some("system:masters")),
        client("admin", "cloudstate-dev-admin", Some("system:masters")),
        client("kube-controller-manager", "system:kube-controller-manager", None),
        client("kube-scheduler", "system:kube-scheduler", None),
        client("kube-proxy", "system:kube-proxy", None),
        Identity {
            serves: vec![super::NODE, net::NODE_IP],
            ..client("kubelet", super::NODE_USER, Some("system:nodes"))
        },
        Identity {
            serves: vec!["127.0.0.1"],
            authority: "etcd-ca",
            ..client("etcd", "etcd", None)
        },
        Identity { authority: "etcd-ca", ..client("apiserver-etcd", "kube-apiserver", None) },
    ]
}

/// Makes all keys and certificates in `folder`, unless they are there.
///
/// The keys of the authorities are thrown away: nothing is signed later.
///
/// # Errors
/// When the folder cannot be written.
pub fn ensure(folder: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    for authority in AUTHORITIES {
        let key = KeyPair::generate().context("generate a key")?;
        let params = authority_params(authority)?;
        let certificate = params.self_signed(&key).context("sign an authority")?;
        write(&partial.join(format!("{authority}.crt")), &certificate.pem())?;
        let issuer = Issuer::new(params, key);
        for identity in identities().iter().filter(|identity| identity.authority == authority) {
            let key = KeyPair::generate().context("generate a key")?;
            let certificate =
                params_of(identity)?.signed_by(&key, &issuer).context("sign a certificate")?;
            write(&partial.join(format!("{}.crt", identity.file)), &certificate.pem())?;
            write(&partial.join(format!("{}.key", identity.file)), &key.serialize_pem())?;
        }
    }
    let tokens = KeyPair::generate().context("generate a key")?;
    write(&partial.join("service-accounts.key"), &tokens.serialize_pem())?;
    write(&partial.join("service-accounts.pub"), &tokens.public_key_pem())?;
    fs::rename(&partial, folder).with_context(|| format!("move {} into place", partial.display()))
}

fn authority_params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("cloudstate-dev {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params_of(identity: &Identity) -> Result<CertificateParams> {
    let names: Vec<String> = identity.serves.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, identity.common_name);
    if let Some(organization) = identity.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !identity.serves.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    Ok(params)
}

/// Writes a file that only its owner can read.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let open =
        fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_administrator_and_the_api_server_are_masters() {
        let masters: Vec<_> = identities()
            .into_iter()
            .filter(|identity| identity.organization == Some("system:masters"))
            .map(|identity| identity.file)
            .collect();
        assert_eq!(masters, ["apiserver-kubelet", "admin"]);
    }

    #[test]
    fn only_the_api_server_and_etcd_itself_are_trusted_by_etcd() {
        let trusted: Vec<_> = identities()
            .into_iter()
            .filter(|identity| identity.authority == "etcd-ca")
            .map(|identity| identity.file)
            .collect();
        assert_eq!(trusted, ["etcd", "apiserver-etcd"]);
    }

    #[test]
    fn the_node_is_who_the_node_authorizer_expects() {
        let kubelet = identities().into_iter().find(|identity| identity.file == "kubelet").unwrap();
        assert_eq!(kubelet.common_name, format!("system:node:{}", super::super::NODE));
        assert_eq!(kubelet.organization, Some("system:nodes"));
    }

    #[test]
    fn keys_are_private_and_are_made_once() {
        let folder = std::env::temp_dir().join(format!("xtask-pki-{}", std::process::id()));
        ensure(&folder).unwrap();
        let key = folder.join("admin.key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&key).unwrap();
        ensure(&folder).unwrap();
        assert_eq!(fs::read(&key).unwrap(), before);
        for identity in identities() {
            assert!(folder.join(format!("{}.crt", identity.file)).exists(), "{}", identity.file);
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
