"""A shopping cart for the PyPI package `cloudstate` 0.1.1: one event sourced entity for each user."""

import os

# The library's generated modules are of an older kind, which only this implementation still reads.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

import grpc
import google.api.annotations_pb2  # The library adds it to its description, and does not load it.
from google.protobuf.empty_pb2 import Empty

from cloudstate.cloudstate import CloudState
from cloudstate.event_sourced_context import EventSourcedCommandContext
from cloudstate.event_sourced_entity import EventSourcedEntity

api = grpc.protos("shoppingcart.proto")
domain = grpc.protos("domain.proto")

carts = EventSourcedEntity(
    api.DESCRIPTOR.services_by_name["ShoppingCart"],
    [api.DESCRIPTOR, domain.DESCRIPTOR],
    lambda entity_id: domain.Cart(),
    persistence_id="shopping-cart-python",
)


@carts.command_handler("AddItem")
def add_item(command: api.AddLineItem, context: EventSourcedCommandContext):
    if command.quantity <= 0:
        context.fail(f"quantity of {command.product_id} is {command.quantity}: add at least one")
    else:
        item = domain.LineItem(
            productId=command.product_id, name=command.name, quantity=command.quantity
        )
        context.emit(domain.ItemAdded(item=item))
    return Empty()


@carts.command_handler("RemoveItem")
def remove_item(cart: domain.Cart, command: api.RemoveLineItem, context: EventSourcedCommandContext):
    if all(item.productId != command.product_id for item in cart.items):
        context.fail(f"{command.product_id} is not in the cart")
    else:
        context.emit(domain.ItemRemoved(productId=command.product_id))
    return Empty()


@carts.command_handler("GetCart")
def get_cart(cart: domain.Cart):
    items = [
        api.LineItem(product_id=item.productId, name=item.name, quantity=item.quantity)
        for item in cart.items
    ]
    return api.Cart(items=items)


@carts.event_handler(domain.ItemAdded)
def item_added(cart: domain.Cart, event: domain.ItemAdded):
    for item in cart.items:
        if item.productId == event.item.productId:
            item.quantity += event.item.quantity
            return cart
    cart.items.append(event.item)
    return cart


@carts.event_handler(domain.ItemRemoved)
def item_removed(cart: domain.Cart, event: domain.ItemRemoved):
    kept = [item for item in cart.items if item.productId != event.productId]
    return domain.Cart(items=kept)


if __name__ == "__main__":
    CloudState().register_event_sourced_entity(carts).start()
