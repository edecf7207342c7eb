//! Fields that we apply and that another has claimed as well, by an update. Server-side apply keeps a field as long as anybody
//! claims it, so what we take out of an object later would stay there: after a restore from a backup, for instance,
//! all fields are claimed by the tool that restored them. Pure.
//!
//! [Field management](https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management) tells of
//! the format: a tree of the fields, whose leaves are empty.

use api::contract::FIELD_MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use serde_json::{Map, Value};

type Fields = Map<String, Value>;

/// Who claims the fields of an object that is ours.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Claims {
    /// Nothing is to be done.
    Settled,
    /// Others do, and we do not, as when it was put there again from a copy: it is to be applied, whether or not
    /// something differs.
    OfOthers,
    /// Updates claim what we apply as well. These are all claims without that.
    Shared(Vec<ManagedFieldsEntry>),
}

impl Claims {
    /// What is to be done about these. What others apply is left to them, since they would claim it again.
    pub(crate) fn of(claims: &[ManagedFieldsEntry]) -> Self {
        let is_ours = |claim: &&ManagedFieldsEntry| {
            claim.manager.as_deref() == Some(FIELD_MANAGER) && is(claim, "Apply")
        };
        let Some(ours) = claims.iter().find(is_ours).and_then(fields) else {
            // Of what the API server does not tell nothing is known.
            return if claims.is_empty() { Self::Settled } else { Self::OfOthers };
        };
        let mut is_shared = false;
        let mut kept = Vec::with_capacity(claims.len());
        for claim in claims {
            let mut claim = claim.clone();
            if is(&claim, "Update")
                && let Some(theirs) = fields(&claim)
            {
                let left = without(theirs, ours);
                if left != *theirs {
                    is_shared = true;
                    if left.is_empty() {
                        continue;
                    }
                    claim.fields_v1 = Some(FieldsV1(Value::Object(left)));
                }
            }
            kept.push(claim);
        }
        if is_shared { Self::Shared(kept) } else { Self::Settled }
    }
}

/// Whether that is a claim to the object itself, made in that way.
fn is(claim: &ManagedFieldsEntry, operation: &str) -> bool {
    claim.operation.as_deref() == Some(operation)
        && claim.subresource.as_deref().unwrap_or_default().is_empty()
}

fn fields(claim: &ManagedFieldsEntry) -> Option<&Fields> {
    claim.fields_v1.as_ref()?.0.as_object()
}

/// Their fields without ours. What one claims as a whole and the other in parts stays.
fn without(theirs: &Fields, ours: &Fields) -> Fields {
    let mut left = Fields::new();
    for (field, theirs) in theirs {
        let kept = match (theirs, ours.get(field)) {
            (Value::Object(theirs), Some(Value::Object(ours)))
                if theirs.is_empty() == ours.is_empty() =>
            {
                let inner = without(theirs, ours);
                if inner.is_empty() {
                    continue;
                }
                Value::Object(inner)
            }
            _ => theirs.clone(),
        };
        left.insert(field.clone(), kept);
    }
    left
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(manager: &str, operation: &str, fields: &Value) -> Value {
        json!({
            "manager": manager, "operation": operation, "apiVersion": "apps/v1",
            "fieldsType": "FieldsV1", "fieldsV1": fields,
        })
    }

    fn of(claims: &Value) -> Claims {
        let claims: Vec<ManagedFieldsEntry> = serde_json::from_value(claims.clone()).unwrap();
        Claims::of(&claims)
    }

    fn shared(left: &Value) -> Claims {
        Claims::Shared(serde_json::from_value(left.clone()).unwrap())
    }

    /// As a Deployment has them that a tool has restored.
    #[test]
    fn what_we_apply_is_claimed_by_no_update_any_more() {
        let container = |fields: Value| json!({ "k:{\"name\":\"user-container\"}": fields });
        let ours = claim(
            FIELD_MANAGER,
            "Apply",
            &json!({
                "f:metadata": { "f:labels": { "f:app": {} } },
                "f:spec": {
                    "f:replicas": {},
                    "f:containers": container(json!({ ".": {}, "f:name": {}, "f:image": {} })),
                    "f:nodeSelector": {},
                },
            }),
        );
        let theirs = claim(
            "velero-server",
            "Update",
            &json!({
                "f:metadata": { "f:labels": { ".": {}, "f:app": {}, "f:restored": {} } },
                "f:spec": {
                    "f:replicas": {},
                    "f:containers": container(json!({ ".": {}, "f:name": {}, "f:image": {} })),
                    "f:nodeSelector": {},
                },
            }),
        );
        let left = claim(
            "velero-server",
            "Update",
            &json!({ "f:metadata": { "f:labels": { ".": {}, "f:restored": {} } } }),
        );
        let whole = claim("former", "Update", &json!({ "f:spec": { "f:replicas": {} } }));
        assert_eq!(of(&json!([ours, theirs, whole])), shared(&json!([ours, left])));
        assert_eq!(of(&json!([ours, left])), Claims::Settled);
        assert_eq!(of(&json!([theirs])), Claims::OfOthers);
        assert_eq!(of(&json!([])), Claims::Settled);
    }

    #[test]
    fn what_others_apply_or_report_is_theirs() {
        let fields = json!({ "f:spec": { "f:replicas": {} } });
        let ours = claim(FIELD_MANAGER, "Apply", &fields);
        let applied = claim("argocd", "Apply", &fields);
        let mut scaled = claim("kubectl", "Update", &fields);
        scaled["subresource"] = json!("scale");
        assert_eq!(of(&json!([ours, applied, scaled])), Claims::Settled);
    }

    #[test]
    fn what_one_claims_as_a_whole_and_the_other_in_parts_stays() {
        let ours =
            claim(FIELD_MANAGER, "Apply", &json!({ "f:a": {}, "f:b": { "f:c": {} }, "f:d": {} }));
        let theirs = claim("x", "Update", &json!({ "f:a": { "f:x": {} }, "f:b": {}, "f:d": {} }));
        let left = claim("x", "Update", &json!({ "f:a": { "f:x": {} }, "f:b": {} }));
        assert_eq!(of(&json!([ours, theirs])), shared(&json!([ours, left])));
    }
}
