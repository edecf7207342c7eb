//! The first calls to the sample, from this machine, and what to type next.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cluster::Handle, install::SAMPLE, progress::Progress};

/// The sample's gRPC service.
const CART: &str = "com.example.shoppingcart.ShoppingCart";

/// Adds two items to a cart, reads it, and says what to type next.
///
/// # Errors
/// When a call fails, or the cart does not hold what was put in.
pub fn make(progress: &Progress, handle: &Handle) -> Result<()> {
    let cluster_ip = handle.ask(&["get", "service", SAMPLE, "-o", "jsonpath={.spec.clusterIP}"])?;
    let route = Route::to(progress, handle, &cluster_ip)?;
    // A cart of its own for each run, so that what is read can be compared with what was put in.
    let seconds =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let user = format!("user-{seconds}");
    progress.say(&format!("calling {CART} at {}", route.address));
    for (product, name, quantity) in [("apples", "Apples", 3), ("pears", "Pears", 2)] {
        let item = serde_json::json!({
            "userId": user, "productId": product, "name": name, "quantity": quantity
        });
        call(handle, &route.address, "AddItem", &item)?;
    }
    let cart = call(handle, &route.address, "GetCart", &serde_json::json!({ "userId": user }))?;
    ensure!(holds_both(&cart), "the cart does not hold what was put in: {cart}");
    println!("\nThe cart of {user}:\n{cart}\n");
    println!("Ready after {} s. What to type next:", progress.elapsed().as_secs());
    println!(
        "  export KUBECONFIG={} PATH={}:$PATH",
        handle.kubeconfig.display(),
        handle.bin.display()
    );
    println!("  kubectl get statefulservices");
    if let Some(forward) = &route.forward_command {
        println!("  {forward} &");
    }
    println!(
        "  {} -plaintext -d '{{\"userId\": \"{user}\"}}' {} {CART}/GetCart",
        handle.grpcurl.display(),
        route.address
    );
    if handle.own {
        println!("  cargo xtask down");
    }
    Ok(())
}

fn call(
    handle: &Handle,
    address: &str,
    method: &str,
    request: &serde_json::Value,
) -> Result<String> {
    let output = Command::new(&handle.grpcurl)
        .args([
            "-plaintext",
            "-connect-timeout",
            "5",
            "-max-time",
            "10",
            "-d",
            &request.to_string(),
            address,
        ])
        .arg(format!("{CART}/{method}"))
        .output()
        .with_context(|| format!("start {}", handle.grpcurl.display()))?;
    if !output.status.success() {
        bail!("{CART}/{method} at {address}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn holds_both(cart: &str) -> bool {
    let cart: serde_json::Value = serde_json::from_str(cart).unwrap_or_default();
    let items = cart["items"].as_array().cloned().unwrap_or_default();
    let quantity = |product: &str| {
        items
            .iter()
            .find(|item| item["productId"] == product)
            .and_then(|item| item["quantity"].as_i64())
    };
    items.len() == 2 && quantity("apples") == Some(3) && quantity("pears") == Some(2)
}

/// How this machine reaches the sample's Service.
struct Route {
    address: String,
    /// What the user has to run to go the same way.
    forward_command: Option<String>,
    forward: Option<Child>,
}

impl Route {
    /// The Service's own address where it can be reached, else a forwarded port.
    fn to(progress: &Progress, handle: &Handle, cluster_ip: &str) -> Result<Self> {
        let address = format!("{cluster_ip}:80");
        let direct = (cluster_ip, 80);
        let reaches = |limit| {
            let ip: Ipv4Addr = direct.0.parse().ok()?;
            TcpStream::connect_timeout(&(ip, direct.1).into(), limit).ok()
        };
        if handle.own || reaches(Duration::from_secs(2)).is_some() {
            return Ok(Self { address, forward_command: None, forward: None });
        }
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?.port();
        let forward = handle
            .kubectl(&["port-forward", &format!("service/{SAMPLE}"), &format!("{port}:80")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start kubectl port-forward")?;
        let route = Self {
            address: format!("127.0.0.1:{port}"),
            forward_command: Some(format!("kubectl port-forward service/{SAMPLE} {port}:80")),
            forward: Some(forward),
        };
        progress.wait_until("the forwarded port answers", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port))
                .map(drop)
                .context("connect to the forwarded port")
        })?;
        Ok(route)
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        if let Some(forward) = &mut self.forward {
            let _gone = forward.kill();
            let _reaped = forward.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cart_must_hold_exactly_what_was_put_in() {
        let full = r#"{"items": [{"productId": "apples", "quantity": 3}, {"productId": "pears", "quantity": 2}]}"#;
        assert!(holds_both(full));
        assert!(!holds_both(r#"{"items": [{"productId": "apples", "quantity": 3}]}"#));
        assert!(!holds_both("{}"));
    }
}
