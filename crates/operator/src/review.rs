//! Asks the API server what this operator may do. Everybody may ask that of himself, and a refusal for each right that an
//! operator is mostly not given would look like an attack in the audit log.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Resource};

use crate::context::Shared;
use crate::error::Error;

/// Whether objects of that kind may be used like that, in that namespace or in all.
pub(crate) async fn may<K: Resource<DynamicType = ()>>(
    shared: &Shared,
    verb: &str,
    namespace: Option<&str>,
) -> Result<bool, Error> {
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(K::group(&()).into_owned()),
        resource: Some(K::plural(&()).into_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api = Api::<SelfSubjectAccessReview>::all(shared.client.clone());
    let parameters = PostParams::default();
    let asked = api.create(&parameters, &review);
    let answer = shared.calls.read("ask for", "SelfSubjectAccessReview", "", asked).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
