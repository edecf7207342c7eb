//! A cart on a Postgres whose data outlives its pod.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::{
    manifests::{SERVICE, edited, on_postgres},
    postgres::{CALLERS, DATABASE, loaded_on, takes_connections},
};
use crate::{
    e2e::{calls::Caller, load, namespace::Namespace, wait::until},
    layout,
};

/// Whom the database runs as, by the sample.
const POSTGRES: u32 = 999;

/// The pod of the database is deleted while carts are filled; another one finds the data on the volume.
pub(super) fn postgres_pod_deleted_under_load(namespace: &mut Namespace<'_>) -> anyhow::Result<()> {
    let volume = Volume::create(namespace)?;
    let manifest = edited(
        &on_postgres(namespace.cluster)?,
        "      - name: data\n        emptyDir: {}\n",
        &format!("      - name: data\n        persistentVolumeClaim: {{claimName: {DATABASE}}}\n"),
    )?;
    let load = loaded_on(namespace, &manifest)?;
    Caller::of(namespace, SERVICE)?.fill_and_read("anna")?;
    let pod = format!("{DATABASE}-0");
    let old = namespace.get("pod", &pod)?;

    let deleted = load::now();
    namespace.kubectl(&["delete", "pod", &pod, "--wait=false"])?;
    let (address, _) =
        until("another pod of Postgres takes connections", Duration::from_mins(2), || {
            let Ok(new) = namespace.get("pod", &pod) else {
                return Ok(Err("there is none".to_owned()));
            };
            let ip = new["status"]["podIP"].as_str().unwrap_or_default();
            let address = format!("{ip}:5432").parse::<SocketAddr>();
            Ok(match address {
                Ok(address) if new["metadata"]["uid"] != old["metadata"]["uid"] => {
                    if takes_connections(address) {
                        Ok(address)
                    } else {
                        Err(format!("{address} takes none"))
                    }
                }
                _ => Err("the old one is still there".to_owned()),
            })
        })?;
    let back = load::now();
    let last = load.served_since(back, Duration::from_secs(20))?;
    namespace.note(format!(
        "Postgres was at {address} {:.1?} after its pod was deleted; {last:.1?} after that, each of {CALLERS} callers \
         had been served",
        back.saturating_sub(deleted)
    ));
    let summary = load.end()?;
    namespace.note(summary.to_string());

    let cart = Caller::of(namespace, SERVICE)?.cart("anna")?;
    ensure!(cart == [("apples".to_owned(), 2), ("pears".to_owned(), 3)], "the cart holds {cart:?}");
    let claim = namespace.get("persistentvolumeclaim", DATABASE)?;
    ensure!(claim["spec"]["volumeName"] == volume.name, "{}", claim["spec"]);
    volume.remove(namespace)
}

/// A folder of the only node, as a volume of the cluster.
struct Volume {
    name: String,
    folder: PathBuf,
}

impl Volume {
    /// Makes the folder, the volume, and the claim in the namespace that gets it.
    fn create(namespace: &Namespace<'_>) -> anyhow::Result<Self> {
        let name = namespace.name.clone();
        let folder = Path::new(layout::STATE).join("volumes").join(&name);
        let volume = Self { name, folder };
        // What an earlier run may have left.
        volume.forget(namespace)?;
        let Self { name, folder } = &volume;
        let failed = || format!("cannot make {}", folder.display());
        fs::create_dir_all(folder).with_context(failed)?;
        // Kubernetes gives folders of the node to nobody by itself.
        chown(folder, Some(POSTGRES), Some(POSTGRES)).with_context(failed)?;
        let (path, claimed) = (folder.display(), &namespace.name);
        namespace.apply(&format!(
            "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: \"\"
  persistentVolumeReclaimPolicy: Retain
  claimRef: {{namespace: {claimed}, name: {DATABASE}}}
  hostPath: {{path: {path}, type: Directory}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {DATABASE}}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: \"\"
  volumeName: {name}
  resources: {{requests: {{storage: 1Gi}}}}
"
        ))?;
        Ok(volume)
    }

    /// Takes the volume out of the cluster, which lets it go together with the namespace. The folder goes with the next
    /// run, or with the cluster: until the pod has ended, it is in use.
    fn remove(&self, namespace: &Namespace<'_>) -> anyhow::Result<()> {
        namespace.kubectl(&["delete", "persistentvolume", &self.name, "--wait=false"]).map(drop)
    }

    fn forget(&self, namespace: &Namespace<'_>) -> anyhow::Result<()> {
        let name = &self.name;
        namespace.kubectl(&[
            "delete",
            "persistentvolume",
            name,
            "--ignore-not-found",
            "--timeout=20s",
        ])?;
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        Ok(())
    }
}
