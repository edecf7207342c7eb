//! Calls as a user makes them: `grpcurl` to the address of the Service, which describes itself.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{cluster::Cluster, namespace::Namespace, wait::until};

/// The sample's service, as its user function describes it.
const CART: &str = "com.example.shoppingcart.ShoppingCart";

/// A caller of one shopping cart service.
pub(super) struct Caller<'a> {
    cluster: &'a Cluster,
    pub(super) address: String,
}

impl<'a> Caller<'a> {
    /// Looks the Service's address up, and waits until the node sends connections on. The service
    /// being ready and kube-proxy knowing it are two things; calls are not tried twice.
    pub(super) fn of(namespace: &Namespace<'a>, service: &str) -> anyhow::Result<Self> {
        let object = namespace.get("service", service)?;
        let ip = object["spec"]["clusterIP"].as_str().context("the Service has no address")?;
        let port = &object["spec"]["ports"][0]["port"];
        let address = format!("{ip}:{port}");
        let socket: SocketAddr = address.parse().with_context(|| format!("address {address}"))?;
        let what = format!("the Service's address {address} takes connections");
        until(&what, Duration::from_secs(5), || {
            let connected = TcpStream::connect_timeout(&socket, Duration::from_secs(1));
            Ok(connected.map(drop).map_err(|error| error.to_string()))
        })?;
        Ok(Self { cluster: namespace.cluster, address })
    }

    /// Adds to the user's cart.
    pub(super) fn add(&self, user: &str, product: &str, quantity: u32) -> anyhow::Result<()> {
        let item =
            json!({"userId": user, "productId": product, "name": product, "quantity": quantity});
        self.call("AddItem", &item).map(drop)
    }

    /// What is in the user's cart, as pairs of product and quantity.
    pub(super) fn cart(&self, user: &str) -> anyhow::Result<Vec<(String, u64)>> {
        let cart = self.call("GetCart", &json!({"userId": user}))?;
        let items = cart["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|item| {
                let product = item["productId"].as_str().context("an item without product")?;
                let quantity = item["quantity"].as_u64().context("an item without quantity")?;
                Ok((product.to_owned(), quantity))
            })
            .collect()
    }

    /// Two items in, both read back.
    pub(super) fn fill_and_read(&self, user: &str) -> anyhow::Result<()> {
        self.add(user, "apples", 2)?;
        self.add(user, "pears", 3)?;
        let cart = self.cart(user)?;
        let expected = [("apples".to_owned(), 2), ("pears".to_owned(), 3)];
        ensure!(cart == expected, "the cart of {user} holds {cart:?}");
        Ok(())
    }

    /// What the server says of itself: `list`, or `describe` and what.
    pub(super) fn reflect(&self, question: &[&str]) -> anyhow::Result<String> {
        let output = self
            .cluster
            .grpcurl()
            .args(["-plaintext", "-connect-timeout", "2", "-max-time", "5", &self.address])
            .args(question)
            .output()
            .context("cannot run grpcurl")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "grpcurl {}: {}", question.join(" "), errors.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One call, once.
    pub(super) fn call(&self, method: &str, message: &Value) -> anyhow::Result<Value> {
        let output = self
            .cluster
            .grpcurl()
            .args(["-plaintext", "-connect-timeout", "2", "-max-time", "5"])
            .args(["-d", &message.to_string(), &self.address, &format!("{CART}/{method}")])
            .output()
            .context("cannot run grpcurl")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{method} {message} at {}: {}",
            self.address,
            errors.trim()
        );
        serde_json::from_slice(&output.stdout).context("grpcurl prints no JSON")
    }
}
