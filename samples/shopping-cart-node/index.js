// A shopping cart for the npm package `cloudstate` 0.0.3: one event sourced entity for each user.
"use strict";

const { EventSourced } = require("cloudstate");

const persistence = "com.example.shoppingcart.persistence";

const carts = new EventSourced(
  ["shoppingcart.proto", "domain.proto"],
  "com.example.shoppingcart.ShoppingCart",
  { persistenceId: "shopping-cart-node", snapshotEvery: 5 },
);

const Cart = carts.lookupType(`${persistence}.Cart`);
const ItemAdded = carts.lookupType(`${persistence}.ItemAdded`);
const ItemRemoved = carts.lookupType(`${persistence}.ItemRemoved`);

function addItem({ productId, name, quantity }, _cart, context) {
  if (quantity <= 0) {
    context.fail(`quantity of ${productId} is ${quantity}: add at least one`);
    return;
  }
  context.emit(ItemAdded.create({ item: { productId, name, quantity } }));
  return {};
}

function removeItem({ productId }, cart, context) {
  if (!cart.items.some(item => item.productId === productId)) {
    context.fail(`${productId} is not in the cart`);
    return;
  }
  context.emit(ItemRemoved.create({ productId }));
  return {};
}

function itemAdded({ item }, cart) {
  const present = cart.items.find(({ productId }) => productId === item.productId);
  if (present) {
    present.quantity += item.quantity;
  } else {
    cart.items.push(item);
  }
  return cart;
}

function itemRemoved({ productId }, cart) {
  cart.items = cart.items.filter(item => item.productId !== productId);
  return cart;
}

carts.setInitial(() => Cart.create({ items: [] }));
carts.setBehavior(() => ({
  commandHandlers: { AddItem: addItem, RemoveItem: removeItem, GetCart: (_request, cart) => cart },
  eventHandlers: { ItemAdded: itemAdded, ItemRemoved: itemRemoved },
}));

carts.start({
  bindAddress: process.env.HOST || "127.0.0.1",
  bindPort: Number(process.env.PORT || 8080),
});
