//! What a caller learns from the address alone.

use anyhow::ensure;
use serde_json::json;

use super::manifests::{SERVICE, sample};
use crate::e2e::{calls::Caller, namespace::Namespace};

const CART: &str = "com.example.shoppingcart.ShoppingCart";

/// `grpcurl` without any proto file: which services there are, what they look like, and a call.
pub(super) fn service_describes_itself_to_grpcurl(
    namespace: &mut Namespace<'_>,
) -> anyhow::Result<()> {
    namespace.apply(&sample(namespace.cluster)?)?;
    namespace.ready(SERVICE)?;
    let caller = Caller::of(namespace, SERVICE)?;
    let services = caller.reflect(&["list"])?;
    ensure!(services.lines().any(|line| line == CART), "not listed:\n{services}");
    let methods = caller.reflect(&["list", CART])?;
    for method in ["AddItem", "RemoveItem", "GetCart"] {
        let method = format!("{CART}.{method}");
        ensure!(methods.lines().any(|line| line == method), "no {method} in\n{methods}");
    }
    let service = caller.reflect(&["describe", CART])?;
    ensure!(service.contains("rpc AddItem ( .com.example.shoppingcart.AddLineItem )"), "{service}");
    let message = caller.reflect(&["describe", "com.example.shoppingcart.AddLineItem"])?;
    ensure!(
        message.contains("string user_id = 1") && message.contains("int32 quantity = 4"),
        "{message}"
    );
    caller.fill_and_read("anna")?;
    let cart = caller.call("GetCart", &json!({ "userId": "anna" }))?;
    namespace.note(format!(
        "services: {}; the cart of anna: {cart}",
        services.trim().replace('\n', ", ")
    ));
    Ok(())
}
