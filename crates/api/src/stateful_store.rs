//! `StatefulStore`: where stateful services of a namespace keep their state.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printer column has a type of its own, which the lint takes for one attribute"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema;

/// A store for the stateful services of its namespace.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, JsonSchema,
)]
#[kube(
    group = "cloudstate.io",
    version = "v1alpha1",
    kind = "StatefulStore",
    plural = "statefulstores",
    shortname = "cstore",
    category = "cloudstate",
    namespaced,
    status = "StatefulStoreStatus",
    derive = "PartialEq",
    doc = "A store for the stateful services of its namespace.",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Dependents", type_ = "integer", json_path = ".status.dependents"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message(
        "metadata.name becomes the value of a label: use at most 63 characters"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct StatefulStoreSpec {
    /// `Postgres`: state lives in a Postgres database that is there already. `InMemory`: it lives in
    /// the proxy's memory and is gone with it. `Cassandra`: proxies made of jars are told of it; our own
    /// one keeps nothing there yet, and says so. Another type is taken in, and refused in the condition
    /// `StatefulStoreValid`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,

    /// How the store is run: `Unmanaged`, by somebody else. Of no meaning for `InMemory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,

    /// How the store is reached. For `Postgres`: `service`, `port`, `credentialsFromSecret` with the
    /// `name` of a Secret that has the keys `database`, `username` and `password` (or others, named in
    /// `databaseKey`, `usernameKey`, `passwordKey` and `schemaKey`), `credentials` in plain text, and
    /// `ssl`. For `Cassandra`: `service` and `port`, and a `username` and `password` likewise, from a
    /// Secret only where their keys are named. Of no meaning for `InMemory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_object")]
    pub config: Option<Map<String, Value>>,
}

/// What the operator knows about a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatefulStoreStatus {
    /// `Ready` and `StatefulStoreValid`, and `ConfigurationDeprecated` and `Stalled` when they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The type in effect.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,

    /// How many StatefulServices name this store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependents: Option<i32>,

    /// `Ready`, or the reason why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}
