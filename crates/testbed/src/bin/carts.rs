//! Callers of a shopping cart, and the ledger of what they were promised: `carts <address> <callers>`.
//!
//! Each caller has a cart and a connection of its own, and adds one thing after the other. It behaves as gRPC
//! clients with retries do: a call that is answered UNAVAILABLE, or whose connection breaks, is made again after a
//! pause. Whoever started us reads lines:
//!
//! - `ack <caller> <began> <ended> <attempts>` when an addition was acknowledged; times in µs since 1970
//! - `failed <caller> <why>` when it was not, within [`PATIENCE`] or for another status
//! - `end <caller> <acknowledged> <attempts> <quantity>` what the cart holds at the end, after standard input was closed
//!
//! An attempt without an answer may count or not, so a cart holds as many as were acknowledged or more, and never
//! more than were attempted.

use std::{
    io::Read as _,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use prost::Message as _;
use testbed::load::{Answer, Broken, Connection, Path, frame};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time,
};

const SERVICE: &str = "com.example.shoppingcart.ShoppingCart";
/// The gRPC status of a call that may be made again.
const UNAVAILABLE: u8 = 14;
/// The pause before a call is made again doubles from one to the other.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a caller tries.
const PATIENCE: Duration = Duration::from_secs(30);
/// From one addition of a caller to the next.
const THINK: Duration = Duration::from_millis(10);

/// Adds to a cart.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct AddLineItem {
    #[prost(string, tag = "1")]
    user_id: String,
    #[prost(string, tag = "2")]
    product_id: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(int32, tag = "4")]
    quantity: i32,
}

/// Asks for a cart.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct GetShoppingCart {
    #[prost(string, tag = "1")]
    user_id: String,
}

/// What is in a cart.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Cart {
    #[prost(message, repeated, tag = "1")]
    items: Vec<LineItem>,
}

/// One product of a cart; the fields that nobody here reads are left out.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct LineItem {
    #[prost(int32, tag = "3")]
    quantity: i32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr =
        arguments.next().context("say whom to call, such as 10.96.0.7:80")?.parse()?;
    let callers: u32 = arguments.next().context("say how many callers there are")?.parse()?;

    let (stop, stopped) = watch::channel(false);
    let mut working = JoinSet::new();
    for number in 0..callers {
        working.spawn(Caller::new(address, number).run(stopped.clone()));
    }
    // The end of input is the word to stop, also when whoever holds it was killed.
    spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await?
        .context("read standard input")?;
    stop.send_replace(true);
    while let Some(ended) = working.join_next().await {
        ended.context("a caller panicked")?;
    }
    Ok(())
}

/// One caller with its cart.
struct Caller {
    address: SocketAddr,
    number: u32,
    user: String,
    connection: Option<Connection>,
    acknowledged: u64,
    attempts: u64,
}

#[expect(clippy::print_stdout, reason = "whoever started us reads the ledger there")]
impl Caller {
    fn new(address: SocketAddr, number: u32) -> Self {
        let user = format!("load-{}-{number}", std::process::id());
        Self { address, number, user, connection: None, acknowledged: 0, attempts: 0 }
    }

    async fn run(mut self, stopped: watch::Receiver<bool>) {
        let (add, get) = (Path::new(SERVICE, "AddItem"), Path::new(SERVICE, "GetCart"));
        let product = String::from("apples");
        let item = AddLineItem {
            user_id: self.user.clone(),
            product_id: product.clone(),
            name: product,
            quantity: 1,
        };
        while !*stopped.borrow() {
            let began = now();
            match self.insist(&add, &item).await {
                Ok((_, attempts)) => {
                    self.acknowledged += 1;
                    self.attempts += attempts;
                    println!("ack {} {began} {} {attempts}", self.number, now());
                }
                Err((why, attempts)) => {
                    self.attempts += attempts;
                    println!("failed {} {why}", self.number);
                }
            }
            time::sleep(THINK).await;
        }
        let user_id = self.user.clone();
        match self.insist(&get, &GetShoppingCart { user_id }).await {
            Ok((answer, _)) => {
                let quantity = Cart::decode(answer.payload).map_or(-1, |cart| {
                    cart.items.iter().map(|item| i64::from(item.quantity)).sum()
                });
                let Self { number, acknowledged, attempts, .. } = self;
                println!("end {number} {acknowledged} {attempts} {quantity}");
            }
            Err((why, _)) => println!("failed {} at the end: {why}", self.number),
        }
    }

    /// Calls until there is an answer that is not UNAVAILABLE. Says how often it called as well.
    async fn insist(
        &mut self,
        path: &Path,
        message: &impl prost::Message,
    ) -> Result<(Answer, u64), (String, u64)> {
        let (begun, framed) = (Instant::now(), frame(message));
        let (mut attempts, mut pause) = (0, PAUSE_MIN);
        loop {
            attempts += 1;
            let again = match self.attempt(path, framed.clone()).await {
                Ok(answer) if answer.code == 0 => return Ok((answer, attempts)),
                Ok(Answer { code: UNAVAILABLE, message, .. }) => message,
                Ok(Answer { code, message, .. }) => {
                    return Err((format!("status {code}: {message}"), attempts));
                }
                Err(error) => format!("{error:#}"),
            };
            if begun.elapsed() + pause > PATIENCE {
                return Err((format!("still UNAVAILABLE after {PATIENCE:?}: {again}"), attempts));
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One call. A connection that broke is opened anew for the next.
    async fn attempt(&mut self, path: &Path, framed: bytes::Bytes) -> Result<Answer> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        let answer = connection.call(path, framed).await;
        if !matches!(answer, Err(Broken::Connection(_) | Broken::Late(_))) {
            self.connection = Some(connection);
        }
        Ok(answer?)
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros()
}
