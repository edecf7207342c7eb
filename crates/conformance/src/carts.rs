//! Shopping carts on the libraries of three languages: what callers and journals owe them is the same.

use anyhow::{Result, bail, ensure};
use tokio::time;
use tonic::{Code, Status, transport::Channel};

use crate::{
    caller::outcome,
    function::Function,
    models::cart::{
        self, AddLineItem, GetShoppingCart, LineItem, RemoveLineItem,
        shopping_cart_client::ShoppingCartClient,
    },
    report::Report,
    stand::{Parts, Setup, Stand},
    wire::PATIENCE,
};

/// What is checked of each cart, in this order: each user's cart lasts from step to step.
pub const STEPS: &[&str] = &[
    "items_are_added_and_removed",
    "a_refusal_reaches_the_caller",
    "carts_do_not_mix",
    "the_cart_outlives_the_user_function",
    "the_cart_outlives_the_proxy",
    "the_proxy_serves_and_leaves",
];

/// Whose cart it is.
const USER: &str = "somebody";

/// A cart, and how the proxy in front of it is set up.
#[derive(Debug)]
pub struct Cart {
    pub name: &'static str,
    pub function: Function,
    pub settings: &'static [(&'static str, &'static str)],
}

impl Cart {
    /// Whether any step is wanted; then all are taken.
    pub fn is_wanted(&self, wanted: impl Fn(&str) -> bool) -> bool {
        STEPS.iter().any(|step| wanted(&self.row(step)))
    }

    fn row(&self, step: &str) -> String {
        format!("{}::{step}", self.name)
    }

    /// Takes all steps, with one setup and a user function of its own.
    pub async fn check(&self, parts: &Parts, setup: Setup) -> Report {
        let mut report = Report::new(setup);
        let outcome = self.in_one_life(parts, setup, &mut report).await;
        report.add(&self.row("the_proxy_serves_and_leaves"), &outcome);
        report
    }

    async fn in_one_life(&self, parts: &Parts, setup: Setup, report: &mut Report) -> Result<()> {
        let mut function = self.function.clone().start().await?;
        let mut stand = Stand::start(parts, setup, function.address, self.settings).await?;
        let mut add = |step: &str, outcome: Result<()>| report.add(&self.row(step), &outcome);
        let outcome = items_are_added_and_removed(&stand).await;
        add("items_are_added_and_removed", stand.explained(outcome, &mut function));
        let outcome = a_refusal_reaches_the_caller(&stand).await;
        add("a_refusal_reaches_the_caller", stand.explained(outcome, &mut function));
        let outcome = carts_do_not_mix(&stand).await;
        add("carts_do_not_mix", stand.explained(outcome, &mut function));
        function.replace().await?;
        let outcome = is_still_there(&stand).await;
        add("the_cart_outlives_the_user_function", stand.explained(outcome, &mut function));
        stand.replace_proxy().await?;
        let outcome = is_still_there(&stand).await;
        add("the_cart_outlives_the_proxy", stand.explained(outcome, &mut function));
        stand.leave().await
    }
}

fn item(product: &str, quantity: i32) -> LineItem {
    LineItem { product_id: product.to_owned(), name: product.to_uppercase(), quantity }
}

fn addition(user: &str, product: &str, quantity: i32) -> AddLineItem {
    let LineItem { product_id, name, quantity } = item(product, quantity);
    AddLineItem { user_id: user.to_owned(), product_id, name, quantity }
}

fn removal(product: &str) -> RemoveLineItem {
    RemoveLineItem { user_id: USER.to_owned(), product_id: product.to_owned() }
}

async fn client(stand: &Stand) -> Result<ShoppingCartClient<Channel>> {
    Ok(ShoppingCartClient::new(stand.channel().await?))
}

async fn get(stand: &Stand, user: &str) -> Result<Result<cart::Cart, Status>> {
    let request = GetShoppingCart { user_id: user.to_owned() };
    let cart = outcome(client(stand).await?.get_cart(request)).await?;
    Ok(cart.map(tonic::Response::into_inner))
}

async fn holds(stand: &Stand, user: &str, items: &[LineItem]) -> Result<()> {
    let cart = get(stand, user).await??;
    ensure!(cart.items == items, "the cart holds {:?}", cart.items);
    Ok(())
}

async fn items_are_added_and_removed(stand: &Stand) -> Result<()> {
    let mut client = client(stand).await?;
    holds(stand, USER, &[]).await?;
    for (product, quantity) in [("apple", 2), ("pear", 1), ("apple", 3)] {
        outcome(client.add_item(addition(USER, product, quantity))).await??;
    }
    holds(stand, USER, &[item("apple", 5), item("pear", 1)]).await?;
    outcome(client.remove_item(removal("pear"))).await??;
    holds(stand, USER, &[item("apple", 5)]).await
}

async fn a_refusal_reaches_the_caller(stand: &Stand) -> Result<()> {
    let mut client = client(stand).await?;
    for refusal in [
        outcome(client.remove_item(removal("plum"))).await?,
        outcome(client.add_item(addition(USER, "plum", 0))).await?,
    ] {
        match refusal {
            Ok(_) => bail!("the cart took what it must refuse"),
            Err(status) => ensure!(
                status.code() == Code::Unknown && status.message().contains("plum"),
                "the caller got {status:?}"
            ),
        }
    }
    holds(stand, USER, &[item("apple", 5)]).await
}

async fn carts_do_not_mix(stand: &Stand) -> Result<()> {
    let mut client = client(stand).await?;
    for user in ["anna", "berta", "clara"] {
        outcome(client.add_item(addition(user, user, 1))).await??;
    }
    for user in ["anna", "berta", "clara"] {
        holds(stand, user, &[item(user, 1)]).await?;
    }
    holds(stand, USER, &[item("apple", 5)]).await
}

/// A process is new: callers may be told that it is not reachable yet, or that the old one ended.
async fn is_still_there(stand: &Stand) -> Result<()> {
    let asking = async {
        loop {
            match get(stand, USER).await? {
                Err(status) if status.code() == Code::Unavailable => {}
                Err(status) if status.message() == "Unexpected entity termination" => {}
                answer => return anyhow::Ok(answer?),
            }
        }
    };
    let cart = time::timeout(PATIENCE, asking).await;
    let Ok(cart) = cart else { bail!("the cart is not reachable after {PATIENCE:?}") };
    let cart = cart?;
    ensure!(cart.items == [item("apple", 5)], "the cart holds {:?}", cart.items);
    // It goes on from there.
    let mut client = client(stand).await?;
    outcome(client.add_item(addition(USER, "fig", 1))).await??;
    outcome(client.remove_item(removal("fig"))).await??;
    holds(stand, USER, &[item("apple", 5)]).await
}
