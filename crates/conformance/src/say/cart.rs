//! Shopping carts.

/// Full name of the service.
pub const CART: &str = "com.example.shoppingcart.ShoppingCart";
