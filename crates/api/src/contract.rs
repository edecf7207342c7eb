//! Names that more than one of our programs must agree on: labels, annotations, ports, container
//! names, environment variables, paths, exit codes and the answer of the probes.
//!
//! The operator writes them into a pod, launcher and proxy read them back, so a change here is a
//! change for running clusters. `docs/environment.md` tells users what the variables mean.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// API group of our resources.
pub const GROUP: &str = "cloudstate.io";
/// The one served and stored version of [`GROUP`].
pub const VERSION: &str = "v1alpha1";

/// Field manager of every server-side apply by the operator.
pub const FIELD_MANAGER: &str = "cloudstate-operator";
/// Finalizer of a StatefulStore that stays until no service names it.
pub const STORE_FINALIZER: &str = "cloudstate.io/protect-store";

/// Labels on the objects that a StatefulService becomes.
pub mod label {
    /// Name of the StatefulService.
    pub const STATEFUL_SERVICE: &str = "cloudstate.io/statefulService";
    /// `metadata.uid` of the StatefulService; what pods are selected by.
    pub const STATEFUL_SERVICE_UID: &str = "cloudstate.io/statefulServiceUID";
    /// Name of the StatefulStore, when one is bound.
    pub const STATEFUL_STORE: &str = "cloudstate.io/statefulStore";
    /// Conventional label; set to the service's name unless the user set it.
    pub const APP: &str = "app";
    /// Conventional label, always [`MANAGED_BY_VALUE`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// Value of [`MANAGED_BY`].
    pub const MANAGED_BY_VALUE: &str = "cloudstate.io";
}

/// Annotations on the objects that a StatefulService becomes.
pub mod annotation {
    /// Hash of the object as it was last applied: tells when a field is set no more.
    pub const APPLIED_HASH: &str = "cloudstate.io/applied-hash";
    /// On a Deployment: fingerprints of what it was made from, so why its pods are started anew.
    pub const APPLIED_FROM: &str = "cloudstate.io/applied-from";
    /// On a StatefulService: which kind of proxy its sidecars are, in place of the operator's setting;
    /// see [`super::ProxyKind`].
    pub const PROXY_KIND: &str = "cloudstate.io/proxy-kind";
    /// On a StatefulService: a new value starts its pods anew.
    pub const RESTARTED_AT: &str = "cloudstate.io/restartedAt";
    /// On the pods' template: which proxies can share a store with these; see [`super::ProxyKind::protocol`].
    pub const CLUSTER_PROTOCOL: &str = "cloudstate.io/cluster-protocol";
    /// On a Deployment, while pods that speak another protocol give way: they go before new ones come.
    pub const REPLACING: &str = "cloudstate.io/replacing";
    /// On a Deployment one of whose pods came without what makes an init container stay: its sidecar is a
    /// container instead, as long as this is there.
    pub const SIDECAR_STRIPPED: &str = "cloudstate.io/native-sidecar-stripped";
    /// On a Deployment whose proxies find out how many peers they need: how many pods it was to have when that began.
    pub const INITIAL_REPLICAS: &str = "cloudstate.io/initial-replicas";
    /// On a Namespace: [`WATCH_DISABLED`] keeps the operator out of it.
    pub const WATCH: &str = "cloudstate.io/watch";
    /// Value of [`WATCH`].
    pub const WATCH_DISABLED: &str = "disabled";
}

/// Which kind of proxy a sidecar is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyKind {
    /// Our own.
    #[default]
    Native,
    /// Any proxy made of jars, such as the original one.
    Jvm,
}

impl ProxyKind {
    /// Every kind that can be named, for error messages.
    pub const ALL: [Self; 2] = [Self::Native, Self::Jvm];

    /// The value of [`annotation::PROXY_KIND`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Jvm => "jvm",
        }
    }

    /// The kind of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Value of [`annotation::CLUSTER_PROTOCOL`]. Proxies with different ones must never run side by
    /// side on one store, so that a change of this value is a change of every service's pods.
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Native => "native-1",
            Self::Jvm => "jvm-1",
        }
    }
}

/// Names of the containers in a pod of a StatefulService.
pub mod container {
    /// The user function, whatever name the user gave it.
    pub const USER: &str = "user-container";
    /// Launcher and proxy.
    pub const SIDECAR: &str = "cloudstate-sidecar";
}

/// TCP ports, and the names they carry in the pod.
pub mod port {
    /// Where the user function listens unless its container declares a port.
    pub const USER_DEFAULT: u16 = 8080;
    /// Name of the user function's port.
    pub const USER_NAME: &str = "user-port";
    /// gRPC traffic into the proxy.
    pub const PROXY: u16 = 8013;
    /// Name of [`PROXY`].
    pub const PROXY_NAME: &str = "grpc-proxy";
    /// Reserved for traffic between proxies.
    pub const REMOTING: u16 = 2552;
    /// Name of [`REMOTING`].
    pub const REMOTING_NAME: &str = "remoting";
    /// The proxy's metrics.
    pub const METRICS: u16 = 9090;
    /// Name of [`METRICS`].
    pub const METRICS_NAME: &str = "metrics";
    /// The proxy's own health endpoints.
    pub const MANAGEMENT: u16 = 8558;
    /// Name of [`MANAGEMENT`].
    pub const MANAGEMENT_NAME: &str = "management";
    /// The launcher's endpoints, which the kubelet probes.
    pub const ADMIN: u16 = 8559;
    /// Name of [`ADMIN`].
    pub const ADMIN_NAME: &str = "admin";
    /// Port of the Kubernetes Service.
    pub const SERVICE: u16 = 80;
    /// Name of [`SERVICE`].
    pub const SERVICE_NAME: &str = "grpc";
}

/// Environment variables.
pub mod env {
    /// In the user container: the port that the user function must listen on.
    pub const PORT: &str = "PORT";
    /// Port for gRPC traffic into the proxy.
    pub const HTTP_PORT: &str = "HTTP_PORT";
    /// Address that the user function listens on; loopback unless set.
    pub const USER_FUNCTION_HOST: &str = "USER_FUNCTION_HOST";
    /// Port that the user function listens on; equals [`PORT`].
    pub const USER_FUNCTION_PORT: &str = "USER_FUNCTION_PORT";
    /// Port for metrics.
    pub const METRICS_PORT: &str = "METRICS_PORT";
    /// Port for traffic between proxies.
    pub const REMOTING_PORT: &str = "REMOTING_PORT";
    /// Port of the proxy's health endpoints.
    pub const MANAGEMENT_PORT: &str = "MANAGEMENT_PORT";
    /// Label key that the pods of this service share.
    pub const SELECTOR_LABEL: &str = "SELECTOR_LABEL";
    /// Label value that the pods of this service share: the StatefulService's name.
    pub const SELECTOR_LABEL_VALUE: &str = "SELECTOR_LABEL_VALUE";
    /// How many peers a proxy made of jars must find before it forms a cluster.
    pub const REQUIRED_CONTACT_POINT_NR: &str = "REQUIRED_CONTACT_POINT_NR";
    /// Whether a proxy made of jars scales its own Deployment; the operator never has it do so.
    pub const AUTOSCALER_ENABLED: &str = "AUTOSCALER_ENABLED";
    /// Heap flags for a proxy made of jars.
    pub const JAVA_OPTS: &str = "JAVA_OPTS";
    /// `spec.sidecarJvmMemory`, only when the user set it: the memory budget of a native proxy.
    pub const SIDECAR_JVM_MEMORY: &str = "CLOUDSTATE_SIDECAR_JVM_MEMORY";
    /// The store's kind; see [`super::Store`].
    pub const STORE: &str = "CLOUDSTATE_STORE";
    /// Host name or address of Cassandra.
    pub const CASSANDRA_CONTACT_POINTS: &str = "CASSANDRA_CONTACT_POINTS";
    /// Keyspace in Cassandra.
    pub const CASSANDRA_KEYSPACE: &str = "CASSANDRA_KEYSPACE";
    /// Port of Cassandra; 9042 unless set.
    pub const CASSANDRA_PORT: &str = "CASSANDRA_PORT";
    /// Role to log in as.
    pub const CASSANDRA_USERNAME: &str = "CASSANDRA_USERNAME";
    /// Password of that role.
    pub const CASSANDRA_PASSWORD: &str = "CASSANDRA_PASSWORD";
    /// Idle time after which an entity is passivated, when the operator's settings say one.
    pub const PASSIVATION_TIMEOUT: &str = "CLOUDSTATE_PROXY_PASSIVATION_TIMEOUT";
    /// How Postgres is reached, as one URL that may hold the password; what it leaves out, and nothing else, the
    /// other variables say.
    pub const POSTGRES_URL: &str = "POSTGRES_URL";
    /// Host name or address of Postgres.
    pub const POSTGRES_SERVICE: &str = "POSTGRES_SERVICE";
    /// Port of Postgres; 5432 unless set.
    pub const POSTGRES_PORT: &str = "POSTGRES_PORT";
    /// Database in Postgres.
    pub const POSTGRES_DATABASE: &str = "POSTGRES_DATABASE";
    /// Role to log in as.
    pub const POSTGRES_USERNAME: &str = "POSTGRES_USERNAME";
    /// Password of that role.
    pub const POSTGRES_PASSWORD: &str = "POSTGRES_PASSWORD";
    /// Schema for our tables; the role's own unless set.
    pub const POSTGRES_SCHEMA: &str = "POSTGRES_SCHEMA";
    /// Whether and how far TLS is insisted on, in the words of libpq's `sslmode`.
    pub const POSTGRES_SSL_MODE: &str = "POSTGRES_SSL_MODE";
    /// File with the certificates that the server's must lead to.
    pub const POSTGRES_SSL_ROOT_CERT: &str = "POSTGRES_SSL_ROOT_CERT";
    /// File with our certificate.
    pub const POSTGRES_SSL_CERT: &str = "POSTGRES_SSL_CERT";
    /// File with the key to our certificate.
    pub const POSTGRES_SSL_KEY: &str = "POSTGRES_SSL_KEY";
    /// Whether TLS is wanted, in one word; [`POSTGRES_SSL_MODE`] says it precisely.
    pub const POSTGRES_SSL: &str = "POSTGRES_SSL";
    /// Project that a Spanner database belongs to; read by a proxy made of jars.
    pub const GCP_PROJECT: &str = "GCP_PROJECT";
    /// Instance of Spanner; read by a proxy made of jars.
    pub const SPANNER_INSTANCE: &str = "SPANNER_INSTANCE";
    /// Window of the request rate, for the autoscaler in a proxy made of jars.
    pub const REQUEST_RATE_WINDOW: &str = "REQUEST_RATE_WINDOW";
    /// What the key to [`POSTGRES_SSL_CERT`] would be encrypted with; such a key is refused.
    pub const POSTGRES_SSL_PASSWORD: &str = "POSTGRES_SSL_PASSWORD";
    /// File of the store `sqlite`.
    pub const SQLITE_PATH: &str = "CLOUDSTATE_SQLITE_PATH";
    /// Set by Kubernetes in every pod: tells that this is one.
    pub const KUBERNETES_SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";
    /// Where images keep a JVM.
    pub const JAVA_HOME: &str = "JAVA_HOME";
    /// Options that `java` itself reads; weaker than its arguments.
    pub const JDK_JAVA_OPTIONS: &str = "JDK_JAVA_OPTIONS";
    /// Options that every JVM reads; weaker still.
    pub const JAVA_TOOL_OPTIONS: &str = "JAVA_TOOL_OPTIONS";
    /// A JVM prefers it to its own command line, so the heap that was chosen would silently not be had.
    pub const OVERRIDING_JAVA_OPTIONS: &str = "_JAVA_OPTIONS";
    /// The pod's grace period in seconds, when the pod sets one.
    pub const TERMINATION_GRACE_PERIOD_SECONDS: &str = "TERMINATION_GRACE_PERIOD_SECONDS";
    /// Name of the pod.
    pub const POD_NAME: &str = "POD_NAME";
    /// Namespace of the pod.
    pub const POD_NAMESPACE: &str = "POD_NAMESPACE";
    /// Address of the pod.
    pub const POD_IP: &str = "POD_IP";
    /// Memory limit of the sidecar in bytes.
    pub const MEMORY_LIMIT: &str = "MEMORY_LIMIT";
    /// Prefix of the launcher's own settings; none of them reaches the proxy.
    pub const LAUNCHER_PREFIX: &str = "CLOUDSTATE_LAUNCHER_";
    /// How long the proxy lets calls finish once it is told to leave; the launcher says it unless somebody
    /// else does.
    pub const GRACEFUL_TERMINATION_TIMEOUT: &str = "CLOUDSTATE_PROXY_GRACEFUL_TERMINATION_TIMEOUT";
    /// Prefix of the proxy's own settings.
    pub const PROXY_PREFIX: &str = "CLOUDSTATE_PROXY_";
    /// After the name of a secret variable: the file to read it from instead.
    pub const FILE_SUFFIX: &str = "_FILE";
    /// File for the last words of a container; [`super::TERMINATION_PATH`] unless set.
    pub const TERMINATION_PATH: &str = "CLOUDSTATE_TERMINATION_PATH";
}

/// Where Kubernetes reads a container's last words.
pub const TERMINATION_PATH: &str = "/dev/termination-log";

/// The launcher's settings as a file, unless another one is named.
pub const LAUNCHER_CONFIG: &str = "/etc/cloudstate/launcher.toml";

/// The proxy's program in the sidecar image.
pub const PROXY_COMMAND: &str = "/proxy";

/// HTTP paths of the probes, the same on proxy (management port) and launcher (admin port).
pub mod probe {
    /// 200 while the process works at all.
    pub const ALIVE: &str = "/alive";
    /// 200 while calls are served, else 503 with a [`super::NotReady`] as JSON.
    pub const READY: &str = "/ready";
    /// 200 once the sidecar has started. The launcher's never waits for the user function; the proxy's own does.
    pub const STARTUP: &str = "/startup";
}

/// Path on the launcher's admin port that answers once no call is under way in a pod that is being stopped.
pub const WAIT_FOR_DRAIN: &str = "/wait-for-drain";

/// The launcher's program in the sidecar's image.
pub const LAUNCHER_COMMAND: &str = "/proxy-launcher";

/// The launcher's command that begins the end of a pod ahead of TERM.
pub const DRAIN: &str = "drain";

/// How long the launcher's proxy has from INT, which comes from a person who waits at a terminal, to KILL. The proxy is
/// given INT as well, and keeps within it.
pub const INTERRUPT_STOP: Duration = Duration::from_secs(5);

/// Path on the proxy's management port that the launcher uses during a drain ahead of TERM. POST has the proxy take no
/// new calls, finish those under way, give its entities up and stay; DELETE has it serve again, for which it leaves
/// with [`exit::RESTART`].
pub const HOLD: &str = "/hold";

/// Exit codes that the launcher understands from the proxy.
pub mod exit {
    /// Something went wrong that a new start may mend.
    pub const FAILURE: u8 = 1;
    /// Wrong command line.
    pub const USAGE: u8 = 64;
    /// Asks for a fresh start, e.g. since the user function describes other entities now.
    pub const RESTART: u8 = 75;
    /// Configuration or user function refused: starting again without a change cannot help.
    /// The reason stands in the termination file as a [`super::NotReady`] in JSON.
    pub const CONFIG: u8 = 78;
}

/// Why calls are not served: the body of a 503 from [`probe::READY`], and the last words of a proxy
/// that leaves with [`exit::CONFIG`]. The operator shows it in the condition `Ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReady {
    /// One of the reasons of `docs/conditions.md`, such as [`reason::USER_FUNCTION_UNREACHABLE`].
    pub reason: String,
    /// What is wrong with which object, field and value, and what to do, for a person.
    pub message: String,
}

impl NotReady {
    /// Kubernetes keeps 4,096 bytes of last words; escaping in JSON can double a message, so half of
    /// that is safe.
    const MESSAGE_MAX: usize = 1_900;

    /// The same with its message cut to what fits into a container's last words.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.message.truncate(self.message.floor_char_boundary(Self::MESSAGE_MAX));
        self
    }
}

/// Reasons in [`NotReady`] that come out of the sidecar.
pub mod reason {
    /// The proxy is not up yet, or is being started again.
    pub const PROXY_STARTING: &str = "ProxyStarting";
    /// Nothing answers at the user function's address.
    pub const USER_FUNCTION_UNREACHABLE: &str = "UserFunctionUnreachable";
    /// The user function answered, and its description cannot be served.
    pub const USER_FUNCTION_REFUSED: &str = "UserFunctionRefused";
    /// An environment variable of the sidecar is missing or malformed.
    pub const CONFIGURATION_REFUSED: &str = "ConfigurationRefused";
    /// The proxy ended more often than its restart budget allows, or could not be started.
    pub const PROXY_CRASHED: &str = "ProxyCrashed";
    /// The store does not answer.
    pub const STORE_UNREACHABLE: &str = "StoreUnreachable";
    /// Another proxy owns the entities, or is about to.
    pub const OWNERSHIP_PENDING: &str = "OwnershipPending";
    /// The pod is on its way out.
    pub const DRAINING: &str = "Draining";
}

/// Kind of store behind the proxy: the value of [`env::STORE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// No store: entity types that need one are refused.
    None,
    /// A journal in the proxy's memory, gone with the process.
    InMemory,
    /// A file beside the proxy; for work without Kubernetes.
    Sqlite,
    /// A Postgres database, reached as the variables `POSTGRES_…` say.
    Postgres,
    /// A Cassandra, reached as the variables `CASSANDRA_…` say. Our own proxy does not serve it yet.
    Cassandra,
}

impl Store {
    /// Every store that can be named, for error messages.
    pub const ALL: [Self; 5] =
        [Self::None, Self::InMemory, Self::Sqlite, Self::Postgres, Self::Cassandra];

    /// The value of [`env::STORE`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::InMemory => "in-memory",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Cassandra => "cassandra",
        }
    }

    /// The store of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|store| store.as_str() == name)
    }
}
